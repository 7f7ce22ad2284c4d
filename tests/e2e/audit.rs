//! The audit log: append-only for everybody, partitioned by month, and losing no event.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{connections, race, refusal, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{sign_up, try_sign_up};
use tokio_postgres::Client;

const COUNT: &str = "select count(*) from auth.audit_log";
const PARTITIONS: &str =
    "select inhrelid::regclass::text from pg_inherits where inhparent = 'auth.audit_log'::regclass order by 1";

/// Every partition and the log itself, with an event in this month's partition and one in the default one.
async fn filled(db: &TestDb, admin: &Client) -> Vec<String> {
    run(admin, "select auth.maintain_audit_partitions()", &[]).await;
    sign_up(&db.connect_as("auth_service").await, "ada@example.org").await;
    let old =
        "insert into auth.audit_log (action, severity, success, created_at) values ('x', 'info', true, '2020-02-29')";
    run(admin, old, &[]).await;
    let mut tables: Vec<String> = values(admin, PARTITIONS, &[]).await;
    tables.push("auth.audit_log".to_owned());
    tables
}

#[tokio::test]
async fn nobody_changes_or_removes_a_row_not_even_a_superuser() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let tables = filled(&db, &admin).await;
    let rows: i64 = value(&admin, COUNT, &[]).await;
    assert!(rows >= 3);
    for role in ["auth_owner", "auth_api", "auth_monitor", "auth_admin", "auth_mailer", "auth_federation", "postgres"] {
        admin.batch_execute(&format!("set role {role}")).await.unwrap();
        for table in &tables {
            for statement in [
                format!("update {table} set action = 'nothing happened'"),
                format!("delete from {table}"),
                format!("truncate {table}"),
                format!("truncate {table} cascade"),
                format!("merge into {table} t using (values (1)) v on true when matched then delete"),
            ] {
                let code = sqlstate(&admin, &statement).await;
                let empty = role == "auth_owner" || role == "postgres";
                // A row trigger has nothing to refuse in a partition without rows.
                let harmless = empty && code == "00000" && !statement.starts_with("truncate");
                assert!(code == "42501" || harmless, "{role}: {statement}: {code}");
            }
        }
        admin.batch_execute("reset role").await.unwrap();
    }
    assert_eq!(value::<i64>(&admin, COUNT, &[]).await, rows);
    let said = refusal(admin.execute("delete from auth.audit_log", &[]).await);
    assert!(said.message.contains("append-only"), "{said:?}");
    assert_ne!(said.hint, "");
}

#[tokio::test]
async fn no_role_but_the_owner_reads_a_partition_by_its_own_name() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let tables = filled(&db, &admin).await;
    for login in ["auth_service", "auth_operator", "auth_watcher"] {
        let client = db.connect_as(login).await;
        for partition in tables.iter().filter(|table| *table != "auth.audit_log") {
            for statement in [
                format!("select from {partition}"),
                format!("copy {partition} to stdout"),
                format!("table {partition}"),
            ] {
                assert_eq!(sqlstate(&client, &statement).await, "42501", "{login}: {statement}");
            }
            let insert = format!("insert into {partition} (action, severity, success) values ('forged', 'info', true)");
            assert_eq!(sqlstate(&client, &insert).await, "42501", "{login}: {insert}");
        }
        let insert = "insert into auth.audit_log (action, severity, success) values ('forged', 'info', true)";
        assert_eq!(sqlstate(&client, insert).await, "42501", "{login}");
        let detach = format!("alter table auth.audit_log detach partition {}", tables[0]);
        assert_eq!(sqlstate(&client, &detach).await, "42501", "{login}");
    }
}

#[tokio::test]
async fn operators_read_everything_and_a_user_their_own() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    filled(&db, &admin).await;
    let bob = try_sign_up(&service, "bob@example.org", None).await.unwrap();
    let all: i64 = value(&admin, COUNT, &[]).await;
    for login in ["auth_operator", "auth_watcher"] {
        assert_eq!(value::<i64>(&db.connect_as(login).await, COUNT, &[]).await, all, "{login}");
    }
    assert_eq!(value::<i64>(&service, COUNT, &[]).await, 0);
    service.batch_execute("begin").await.unwrap();
    run(&service, "select from auth.assume_session($1, $2)", &[&bob.session_id, &bob.jti]).await;
    let own: Vec<String> = values(&service, "select action from auth.security_events order by id", &[]).await;
    assert_eq!(own, ["user_created", "auth_session_created"]);
    service.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn a_month_without_a_partition_still_takes_rows_and_keeps_them() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    assert_eq!(values::<String>(&admin, PARTITIONS, &[]).await, ["auth.audit_log_default"], "none is made yet");
    sign_up(&service, "ada@example.org").await;
    let events: i64 = value(&admin, COUNT, &[]).await;
    assert!(events > 0);

    // This month has rows in the default partition, so it stays there; the next three get their own.
    assert_eq!(value::<i32>(&service, "select auth.maintain_audit_partitions()", &[]).await, 3);
    assert_eq!(value::<i64>(&admin, COUNT, &[]).await, events);
    sign_up(&service, "bob@example.org").await;
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.audit_log_default", &[]).await, 2 * events);
}

#[tokio::test]
async fn partitions_are_made_for_this_month_and_the_next_three_in_utc_once() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    // Whatever the session's time zone says.
    service.batch_execute("set timezone = 'Pacific/Kiritimati'").await.unwrap();
    assert_eq!(value::<i32>(&service, "select auth.maintain_audit_partitions()", &[]).await, 4);
    assert_eq!(value::<i32>(&service, "select auth.maintain_audit_partitions()", &[]).await, 0, "again: nothing to do");
    let bounds: Vec<bool> = values(
        &admin,
        "select pg_get_expr(c.relpartbound, c.oid) = format('FOR VALUES FROM (%L) TO (%L)',
                  to_char(month, 'YYYY-MM-DD 00:00:00+00'), to_char(month + interval '1 month', 'YYYY-MM-DD 00:00:00+00'))
           from generate_series(0, 3) n,
                lateral (select date_trunc('month', now() at time zone 'UTC') + make_interval(months => n)) m (month)
           left join pg_class c on c.oid = to_regclass('auth.audit_log_' || to_char(month, 'YYYY_MM'))",
        &[],
    )
    .await;
    let utc: String = value(&admin, "show timezone", &[]).await;
    if utc == "UTC" || utc == "Etc/UTC" {
        assert_eq!(bounds, [true; 4]);
    }
    sign_up(&service, "ada@example.org").await;
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.audit_log_default", &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn makers_of_partitions_and_writers_of_the_log_do_not_disturb_each_other() {
    for round in 0..6 {
        let db = TestDb::create().await;
        let admin = db.superuser().await;
        let racers = connections(&db, "auth_service", 12).await;
        let made = race(&racers, |n, racer| async move {
            if n % 3 == 0 {
                return value(&racer, "select auth.maintain_audit_partitions()", &[]).await;
            }
            for m in 0..5 {
                sign_up(&racer, &format!("user-{n}-{m}@example.org")).await;
            }
            0
        })
        .await;
        let made: i32 = made.iter().sum();
        assert!(made == 3 || made == 4, "round {round}: {made} were made");
        assert_eq!(value::<i64>(&admin, COUNT, &[]).await, 8 * 5 * 2, "round {round}: no event is lost");
    }
}

#[tokio::test]
async fn a_partition_can_be_dropped_as_a_whole_by_its_owner() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let tables = filled(&db, &admin).await;
    for login in ["auth_service", "auth_operator"] {
        let drop = format!("drop table {}", tables[0]);
        assert_eq!(sqlstate(&db.connect_as(login).await, &drop).await, "42501", "{login}");
    }
    admin.batch_execute("set role auth_owner").await.unwrap();
    let newest = tables.iter().rfind(|table| !table.ends_with("default") && *table != "auth.audit_log").unwrap();
    assert_eq!(sqlstate(&admin, &format!("drop table {newest}")).await, "00000");
}
