//! Tamper evidence: months of the audit log that are over are sealed, a change of them is found, and retention keeps the
//! chain.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::audit_log::{make_past_month, write_past_events};
use auth_sessions_tests::eventually;
use auth_sessions_tests::sql::{Listener, refusal, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{sha256, sign_up};
use tokio_postgres::Client;

const SEAL: &str = "select auth.seal_audit_log()";
/// What a superuser does who wants to leave no trace: triggers and foreign keys are off.
const UNSEEN: &str = "set session_replication_role = replica";

/// Three months with events, made and sealed: their partitions, the oldest first.
async fn sealed_months(admin: &Client) -> Vec<String> {
    let mut partitions = Vec::new();
    for (months_back, events) in [(4, 3), (3, 5), (2, 1)] {
        partitions.push(make_past_month(admin, months_back).await);
        write_past_events(admin, months_back, events).await;
    }
    run(admin, SEAL, &[]).await;
    partitions
}

/// What verification says of each seal that is not intact.
async fn findings(client: &Client) -> Vec<String> {
    values(client, "select partition || ' ' || outcome from auth.verify_audit_log() where not intact", &[]).await
}

#[tokio::test]
async fn a_month_that_is_over_is_sealed_once_and_everybody_is_told() {
    let db = TestDb::create().await;
    let (admin, operator) = (db.superuser().await, db.connect_as("auth_operator").await);
    let mut listener = Listener::connect(&db.url("auth_operator")).await;
    let partitions = sealed_months(&admin).await;
    assert_eq!(value::<i32>(&operator, SEAL, &[]).await, 0, "again: nothing to do");

    let seals =
        admin.query("select partition, row_count, encode(digest, 'hex') from auth.audit_seals order by number", &[]);
    let seals: Vec<(String, i64, String)> =
        seals.await.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!((seals[0].0.as_str(), seals[0].1), ("audit_log_default", 0), "what was before the first month");
    let months: Vec<_> = seals[1..4].iter().map(|(partition, rows, _)| (partition.clone(), *rows)).collect();
    assert_eq!(months, partitions.into_iter().zip([3, 5, 1]).collect::<Vec<_>>());

    let (heard, log) = (listener.so_far().await, db.log());
    for (number, (partition, rows, digest)) in seals.iter().enumerate() {
        let said = format!("seal {} of the audit log: {partition}, {rows} rows, digest {digest}", number + 1);
        assert!(log.contains(&said), "{said}: {log}");
        assert!(
            heard.iter().any(|payload| payload.contains(digest) && payload.contains("audit_log_sealed")),
            "{heard:?}"
        );
        let event =
            "select count(*) from auth.audit_log where action = 'audit_log_sealed' and details ->> 'digest' = $1";
        assert_eq!(value::<i64>(&admin, event, &[digest]).await, 1, "{partition}");
    }
    assert_eq!(findings(&operator).await, Vec::<String>::new());
    assert_eq!(value::<i64>(&operator, "select count(*) from auth.verify_audit_log()", &[]).await, seals.len() as i64);
}

#[tokio::test]
async fn seals_follow_each_other_without_a_gap_and_as_many_at_a_time_as_asked() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    for months_back in [3, 2] {
        make_past_month(&admin, months_back).await;
    }
    for expected in 1..=3_i64 {
        assert_eq!(value::<i32>(&admin, "select auth.seal_audit_log(1)", &[]).await, 1);
        assert_eq!(value::<i64>(&admin, "select count(*) from auth.audit_seals", &[]).await, expected);
    }
    let gaps: i64 = value(
        &admin,
        "select count(*) from auth.audit_seals s left join auth.audit_seals former on former.number = s.number - 1
          where (s.from_time, s.previous_digest) is distinct from (coalesce(former.to_time, '-infinity'), former.digest)",
        &[],
    )
    .await;
    assert_eq!(gaps, 0);
    // The month that is not over, and the one that was over a moment ago, stay open.
    run(&admin, SEAL, &[]).await;
    let newest: bool =
        value(&admin, "select max(to_time) = auth.month_of(now() - interval '1 day') from auth.audit_seals", &[]).await;
    assert!(newest);
    assert_eq!(sqlstate(&admin, "select auth.seal_audit_log(0)").await, "22023");
}

#[tokio::test]
async fn an_auditor_makes_the_same_digest_without_us() {
    let db = TestDb::create().await;
    let (admin, watcher) = (db.superuser().await, db.connect_as("auth_watcher").await);
    sealed_months(&admin).await;
    // Whatever the auditor's settings are.
    watcher
        .batch_execute("set timezone = 'Pacific/Kiritimati'; set datestyle = 'German'; set intervalstyle = 'iso_8601'; set bytea_output = 'escape'; set extra_float_digits = 0")
        .await
        .unwrap();
    let seals: Vec<i32> = values(&watcher, "select number from auth.audit_seals order by number", &[]).await;
    assert!(seals.len() >= 4);
    for number in seals {
        let header = "select auth.seal_header(number, from_time, to_time, previous_digest) from auth.audit_seals where number = $1";
        let lines = "select auth.audit_line(a) from auth.audit_log a, auth.audit_seals s
                      where s.number = $1 and a.created_at >= s.from_time and a.created_at < s.to_time order by a.created_at, a.id";
        let mut text = value::<String>(&watcher, header, &[&number]).await + "\n";
        for line in values::<String>(&watcher, lines, &[&number]).await {
            assert!(!line.contains('\n'), "{line}");
            text = text + &line + "\n";
        }
        let kept: Vec<u8> = value(&watcher, "select digest from auth.audit_seals where number = $1", &[&number]).await;
        assert_eq!(sha256(text.as_bytes()), kept, "{text}");
    }
}

#[tokio::test]
async fn a_line_says_every_column_in_words_that_no_version_or_setting_changes() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let columns: i64 = value(
        &admin,
        "select count(*) from pg_attribute where attrelid = 'auth.audit_log'::regclass and attnum > 0 and not attisdropped",
        &[],
    )
    .await;
    assert_eq!(columns, 15, "a new column needs a new seal format: months that are sealed must go on verifying");
    let line: String = value(
        &admin,
        r#"select auth.audit_line(row(7, '2026-02-03 04:05:06.7+00', 'a', 'info', true, '00000000-0000-8000-8000-000000000001', null, null, null,
                                      'auth_api', null, e'x\n"', '192.0.2.0/24', 'é', '{"b": 1.50, "a": [true, null]}'::jsonb)::auth.audit_log)"#,
        &[],
    )
    .await;
    assert_eq!(
        line,
        r#"[7, "2026-02-03T04:05:06.700000Z", "a", "info", true, "00000000-0000-8000-8000-000000000001", null, null, null, "auth_api", null, "x\n\"", "192.0.2.0/24", "é", {"a": [true, null], "b": 1.50}]"#
    );
}

#[tokio::test]
async fn verification_names_what_was_changed_by_whoever_it_was() {
    let db = TestDb::create().await;
    let (admin, watcher) = (db.superuser().await, db.connect_as("auth_watcher").await);
    let partitions = sealed_months(&admin).await;
    let [first, second, third] = &partitions[..] else { panic!("{partitions:?}") };
    for (tampering, expected) in [
        (format!("update auth.{second} set success = not success where id = (select min(id) from auth.{second})"), format!("{second} changed")),
        (format!("update auth.{second} set details = details || '{{\"n\": 9}}' where id = (select min(id) from auth.{second})"), format!("{second} changed")),
        (format!("update auth.{second} set user_agent = null where id = (select min(id) from auth.{second})"), format!("{second} changed")),
        (format!("delete from auth.{first} where id = (select min(id) from auth.{first})"), format!("{first} changed")),
        (format!("delete from auth.{third}"), format!("{third} missing")),
        (
            format!("insert into auth.{second} (action, severity, success, created_at) select 'forged', 'info', true, min(created_at) from auth.{second}"),
            format!("{second} changed"),
        ),
        // The same rows in another order of events.
        (format!("update auth.{first} set id = (select min(id) + max(id) from auth.{first}) - id"), format!("{first} changed")),
        (format!("drop table auth.{second}"), format!("{second} missing")),
        (format!("alter table auth.audit_log detach partition auth.{second}"), format!("{second} missing")),
        // A row of long ago, which DEFAULT takes.
        ("insert into auth.audit_log (action, severity, success, created_at) values ('forged', 'info', true, '1999-12-31')".to_owned(), "audit_log_default changed".to_owned()),
        // Seals.
        ("update auth.audit_seals set digest = sha256('other') where number = 1".to_owned(), format!("audit_log_default changed,{first} chain_broken")),
        ("delete from auth.audit_seals where number = 2".to_owned(), format!("{second} chain_broken")),
        // Who makes a new seal over what was changed breaks the chain after it.
        (
            format!("update auth.{second} set success = not success;
                     update auth.audit_seals s set digest = (auth.digest_of_seal(s)).digest where partition = '{second}'"),
            format!("{third} chain_broken"),
        ),
    ] {
        admin.batch_execute(&format!("begin; {UNSEEN}; {tampering}")).await.unwrap_or_else(|error| panic!("{tampering}: {error:?}"));
        assert_eq!(findings(&admin).await.join(","), expected, "{tampering}");
        admin.batch_execute("rollback").await.unwrap();
    }
    assert_eq!(findings(&watcher).await, Vec::<String>::new());
    // Only what was asked for is read.
    admin.batch_execute(&format!("{UNSEEN}; update auth.{first} set success = not success")).await.unwrap();
    assert_eq!(findings(&watcher).await, [format!("{first} changed")]);
    let later = "select count(*), count(*) filter (where not intact) from auth.verify_audit_log(
                   (select to_time from auth.audit_seals where number = 2))";
    let later = watcher.query_one(later, &[]).await.unwrap();
    assert!(later.get::<_, i64>(0) >= 2);
    assert_eq!(later.get::<_, i64>(1), 0);
    assert_eq!(sqlstate(&watcher, "select from auth.verify_audit_log(null)").await, "22004");
}

#[tokio::test]
async fn a_sealed_month_takes_no_more_rows_and_open_ones_do() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let partitions = sealed_months(&admin).await;
    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
    for partition in &partitions {
        let insert = format!(
            "insert into auth.audit_log (action, severity, success, created_at) select 'late', 'info', true, max(created_at) from auth.{partition}"
        );
        let refused = refusal(admin.execute(&insert, &[]).await);
        assert_eq!(refused.code, "55000", "{refused:?}");
        assert!(refused.message.contains(partition.as_str()), "{refused:?}");
        assert_ne!(refused.hint, "");
    }
    sign_up(&service, "ada@example.org").await;
    assert_eq!(findings(&admin).await, Vec::<String>::new());
}

#[tokio::test]
async fn whoever_is_still_writing_into_a_month_is_waited_for() {
    for own_partition in [true, false] {
        let db = TestDb::create().await;
        let (writer, sealer, admin) = (db.superuser().await, db.superuser().await, db.superuser().await);
        if own_partition {
            make_past_month(&admin, 2).await;
        }
        writer.batch_execute("begin").await.unwrap();
        write_past_events(&writer, 2, 7).await;
        // Nobody is kept waiting for long.
        assert_eq!(refusal(sealer.execute(SEAL, &[]).await).code, "55P03", "own partition {own_partition}");

        let sealing = tokio::spawn(async move { sealer.execute(SEAL, &[]).await });
        eventually("the sealer waits", async || {
            let waits = "select exists (select from pg_locks where not granted and relation::regclass::text like 'auth.audit_log_%'
                                           and database = (select oid from pg_database where datname = current_database()))";
            value(&admin, waits, &[]).await
        })
        .await;
        writer.batch_execute("commit").await.unwrap();
        sealing.await.unwrap().expect("sealed after the writer");
        assert_eq!(value::<i64>(&admin, "select sum(row_count)::bigint from auth.audit_seals", &[]).await, 7);
        assert_eq!(findings(&admin).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_older_snapshot_seals_nothing() {
    let db = TestDb::create().await;
    let operator = db.connect_as("auth_operator").await;
    operator.batch_execute("begin isolation level repeatable read").await.unwrap();
    let refused = refusal(operator.execute(SEAL, &[]).await);
    assert_eq!(refused.code, "0A000", "{refused:?}");
    assert_ne!(refused.hint, "");
}

#[tokio::test]
async fn nobody_changes_a_seal() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    sealed_months(&admin).await;
    for role in ["auth_owner", "auth_admin", "auth_monitor", "auth_api", "postgres"] {
        for statement in [
            "update auth.audit_seals set digest = sha256('')",
            "update auth.audit_seals set to_time = to_time + interval '1 s'",
            "update auth.audit_seals set row_count = 0, dropped_at = now()",
            "delete from auth.audit_seals",
            "truncate auth.audit_seals",
        ] {
            assert_eq!(
                sqlstate(&admin, &format!("set role {role}; {statement}")).await,
                "42501",
                "{role}: {statement}"
            );
        }
    }
    for login in ["auth_service", "auth_mail_service", "auth_federation_service"] {
        let client = db.connect_as(login).await;
        assert_eq!(sqlstate(&client, "select from auth.audit_seals").await, "42501", "{login}");
        assert_eq!(sqlstate(&client, "select from auth.verify_audit_log()").await, "42501", "{login}");
    }
}

#[tokio::test]
async fn retention_drops_sealed_months_only_and_the_chain_goes_on() {
    let db = TestDb::create().await;
    let (admin, operator) = (db.superuser().await, db.connect_as("auth_operator").await);
    // So long that the newest of the three stays, whatever day it is today.
    let drop = "select auth.drop_audit_partitions(now() - (date_trunc('month', now() at time zone 'UTC') - interval '2 months') at time zone 'UTC' - interval '1 hour')";
    let partitions = sealed_months(&admin).await;
    let unsealed = make_past_month(&admin, 9).await;
    let one = drop.replace("'1 hour')", "'1 hour', 1)");
    assert_eq!(value::<i32>(&operator, &one, &[]).await, 1);
    assert_eq!(value::<i32>(&operator, drop, &[]).await, 1);
    assert_eq!(value::<i32>(&operator, drop, &[]).await, 0, "again: nothing to do");
    let exists =
        async |name: &String| value::<bool>(&admin, "select to_regclass('auth.' || $1) is not null", &[name]).await;
    assert!(!exists(&partitions[0]).await && !exists(&partitions[1]).await);
    assert!(exists(&partitions[2]).await);
    assert!(exists(&unsealed).await, "not under a seal of its own: it stays");

    let verified: Vec<String> =
        values(&operator, "select outcome from auth.verify_audit_log() where partition <> 'audit_log_default'", &[])
            .await;
    assert_eq!(verified, ["dropped", "dropped", "intact"]);
    assert_eq!(findings(&operator).await, Vec::<String>::new());
    let events: i64 =
        value(&admin, "select count(*) from auth.audit_log where action = 'audit_partition_dropped'", &[]).await;
    assert_eq!(events, 2);
    // The note that a month was dropped does not cover the one that comes in its place.
    admin
        .batch_execute(&format!(
            "{UNSEEN}; insert into auth.audit_log (action, severity, success, created_at)
        select 'forged', 'info', true, from_time from auth.audit_seals where partition = '{}'",
            partitions[0]
        ))
        .await
        .unwrap();
    assert_eq!(findings(&operator).await, [format!("{} changed", partitions[0])]);
    for retention in ["null", "'29 days'", "'-1 year'", "'1 year', 0"] {
        let refused = refusal(operator.execute(&format!("select auth.drop_audit_partitions({retention})"), &[]).await);
        assert_eq!(refused.code, "22023", "{retention}");
        assert_ne!(refused.hint, "");
    }
}
