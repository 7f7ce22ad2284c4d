//! `auth.run_maintenance`: what is due is done, in bounded parts, one at a time, whoever calls; and holds up nobody.

use auth_sessions_tests::audit_log::{make_past_month, write_past_events};
use auth_sessions_tests::sql::{connections, fill_with_dead_sessions, race, refusal, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{PASSWORD, log_in, rotate, sign_up};
use auth_sessions_tests::{Server, TestDb, eventually};
use tokio_postgres::Client;

const DEAD: &str = "select count(*) from auth.sessions where least(idle_expires_at, expires_at) < now()";
const MONTHS: &str = "select inhrelid::regclass::text from pg_inherits where inhparent = 'auth.audit_log'::regclass
                         and inhrelid <> 'auth.audit_log_default'::regclass order by 1";

/// The rows of one call, as `task outcome amount`, `+` when there is more; what was done to nothing is left out.
async fn maintain(client: &Client, batch_size: i32) -> Vec<String> {
    values(
        client,
        "select format('%s %s %s%s', task, outcome, amount, case when more then ' +' end)
           from auth.run_maintenance($1) where outcome <> 'done' or amount > 0 or more",
        &[&batch_size],
    )
    .await
}

/// Calls until nothing is left; the log is made ready for what is tested.
async fn maintain_all(client: &Client) {
    let call = "select bool_or(more) from auth.run_maintenance()";
    while value::<bool>(client, call, &[]).await {}
}

#[tokio::test]
async fn everything_that_is_due_is_done_in_parts() {
    let db = TestDb::create().await;
    let (admin, operator) = (db.superuser().await, db.connect_as("auth_operator").await);
    let live = sign_up(&db.connect_as("auth_service").await, "ada@example.org").await;
    let used = "select count(*) from auth.audit_log_default";
    assert!(value::<i64>(&admin, used, &[]).await > 0);
    fill_with_dead_sessions(&admin, 15, 10).await;
    admin
        .batch_execute(
            "insert into auth.attempts (key, updated_at)
             select sha256(n::text::bytea), now() - interval '3 days' from generate_series(1, 12) n;
             insert into auth.mail_outbox (kind, recipient, variables, created_at, expires_at, next_attempt_at, sent_at)
             select 'password_reset', null, null, now() - interval '40 days', now(), now(), now() from generate_series(1, 3);
             insert into auth.accepted_id_tokens (digest, expires_at)
             select sha256(n::text::bytea), now() - interval '1 day' from generate_series(1, 4) n",
        )
        .await
        .unwrap();
    // What locks the log goes first, and alone. This month has events already, and keeps them where they are.
    assert_eq!(maintain(&operator, 10).await, ["partitions done 3 +"]);
    // What was before the first month is sealed, and a month of its own on the first day of one.
    let mut done = maintain(&operator, 10).await;
    assert_eq!(done, ["seals done 1 +"]);
    while done == ["seals done 1 +"] {
        done = maintain(&operator, 10).await;
    }
    assert_eq!(done, ["sessions done 10 +", "counters done 10 +", "mail done 3", "id_tokens done 4", "samples done 1"]);
    assert_eq!(maintain(&operator, 10).await, ["sessions done 10 +", "counters done 2"]);
    assert_eq!(maintain(&operator, 10).await, ["sessions done 5"]);
    assert_eq!(maintain(&operator, 10).await, Vec::<String>::new());
    let all = values::<String>(&operator, "select task from auth.run_maintenance()", &[]).await;
    assert_eq!(
        all,
        ["partitions", "seals", "retention", "sessions", "counters", "mail", "alerts", "id_tokens", "samples"]
    );
    assert_eq!(values::<uuid::Uuid>(&admin, "select id from auth.sessions", &[]).await, [live.session_id]);

    for (batch_size, code) in [("null", "22004"), ("0", "22023"), ("100001", "22023")] {
        let refused = refusal(admin.execute(&format!("select auth.run_maintenance({batch_size})"), &[]).await);
        assert_eq!(refused.code, code, "{batch_size}");
        assert_ne!(refused.hint, "", "{batch_size}");
    }
    for login in ["auth_watcher", "auth_mail_service", "auth_federation_service"] {
        let code = sqlstate(&db.connect_as(login).await, "select auth.run_maintenance()").await;
        assert_eq!(code, "42501", "{login}");
    }
}

/// The months of the log, oldest first, as so many months back from this one.
async fn months(admin: &Client) -> Vec<i32> {
    let back = "select (extract(year from age) * 12 + extract(month from age))::int from (
                  select age(date_trunc('month', now() at time zone 'UTC'), to_date(right(relname, 7), 'YYYY_MM')) as age
                    from pg_inherits join pg_class c on c.oid = inhrelid
                   where inhparent = 'auth.audit_log'::regclass and relname <> 'audit_log_default') months order by 1 desc";
    values(admin, back, &[]).await
}

#[tokio::test]
async fn months_older_than_the_retention_are_dropped_one_by_one_when_they_are_sealed() {
    let db = TestDb::create().await;
    db.set("auth_sessions.audit_retention", "0").await;
    let admin = db.superuser().await;
    for months_back in [20, 14, 3] {
        make_past_month(&admin, months_back).await;
        write_past_events(&admin, months_back, 2).await;
    }
    let older = "insert into auth.audit_log (action, severity, success, created_at)
                 values ('past_event', 'info', true, '2018-02-03')";
    run(&admin, older, &[]).await;
    // For ever.
    maintain_all(&admin).await;
    assert_eq!(months(&admin).await, [20, 14, 3, 0, -1, -2, -3]);

    // To the day: a month is dropped when its *end* is older. Less than a month counts as one.
    let end = "select extract(epoch from now() - auth.month_of(now() - interval '13 months'))::bigint";
    let end: i64 = value(&admin, end, &[]).await;
    // Wherever the caller lives.
    admin.batch_execute("set timezone = 'Pacific/Kiritimati'; set datestyle = 'SQL, DMY'").await.unwrap();
    for (retention, left) in [
        (end + 86_400, &[14, 3, 0, -1, -2, -3][..]),
        (end - 86_400, &[3, 0, -1, -2, -3]),
        (365 * 86_400, &[3, 0, -1, -2, -3]),
        (1, &[0, -1, -2, -3]),
    ] {
        admin.batch_execute(&format!("set auth_sessions.audit_retention = {retention}")).await.unwrap();
        if months(&admin).await != left {
            assert_eq!(maintain(&admin, 10).await, ["retention done 1 +"], "{retention}");
        }
        assert_eq!(maintain(&admin, 10).await, Vec::<String>::new(), "{retention}");
        assert_eq!(months(&admin).await, left, "{retention}");
    }
    let past = "select count(*) from auth.audit_log where action = 'past_event'";
    assert_eq!(value::<i64>(&admin, past, &[]).await, 1, "what the DEFAULT partition holds stays");
    let verified =
        "select count(*) filter (where outcome = 'dropped') = 3 and bool_and(intact) from auth.verify_audit_log()";
    assert!(value::<bool>(&admin, verified, &[]).await);
}

#[tokio::test]
async fn a_log_in_use_is_left_for_the_next_call_and_the_rest_is_done() {
    let db = TestDb::create().await;
    db.set("auth_sessions.audit_retention", "0").await;
    let (admin, caller) = (db.superuser().await, db.superuser().await);
    make_past_month(&admin, 14).await;
    maintain_all(&admin).await;
    caller.batch_execute("set auth_sessions.audit_retention = '365d'").await.unwrap();
    fill_with_dead_sessions(&admin, 3, 0).await;
    // A report that goes on and on.
    let reader = db.connect_as("auth_watcher").await;
    reader.batch_execute("begin; select count(*) from auth.audit_log").await.unwrap();
    assert_eq!(maintain(&caller, 10).await, ["retention postponed 0", "sessions done 3"]);
    assert_eq!(sqlstate(&reader, "commit").await, "00000");
    assert_eq!(maintain(&caller, 10).await, ["retention done 1 +"]);
}

#[tokio::test]
async fn a_task_that_fails_keeps_no_other_from_its_work() {
    let db = TestDb::create().await;
    let (admin, operator) = (db.superuser().await, db.connect_as("auth_operator").await);
    maintain_all(&admin).await;
    admin
        .batch_execute(
            "create function public.fail() returns trigger language plpgsql as $$ begin raise 'broken'; end $$;
             create trigger fail before delete on auth.sessions for each statement execute function public.fail();
             insert into auth.attempts (key, updated_at) values ('x', now() - interval '3 days')",
        )
        .await
        .unwrap();
    fill_with_dead_sessions(&admin, 3, 0).await;
    assert_eq!(maintain(&operator, 10).await, ["sessions failed 0", "counters done 1"]);
    let why = "select detail from auth.run_maintenance() where outcome = 'failed'";
    assert_eq!(value::<String>(&operator, why, &[]).await, "broken");
    assert!(db.log().contains("WARNING:  auth_sessions: maintenance task \"sessions\" failed: broken"));
    run(&admin, "drop trigger fail on auth.sessions", &[]).await;
    assert_eq!(maintain(&operator, 10).await, ["sessions done 3"]);
}

#[tokio::test]
async fn one_at_a_time_and_no_refresh_waits_for_it() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    maintain_all(&admin).await;
    let token = sign_up(&service, "ada@example.org").await;
    fill_with_dead_sessions(&admin, 100, 100).await;

    let (first, second) = (db.connect_as("auth_operator").await, db.connect_as("auth_service").await);
    first.batch_execute("begin").await.unwrap();
    assert_eq!(maintain(&first, 100).await, ["sessions done 100 +"]);
    // Neither waits for the other, nor does anybody else, while the batch is not committed.
    for client in [&service, &second] {
        client.batch_execute("set lock_timeout = '1ms'").await.unwrap();
    }
    assert_eq!(maintain(&second, 100).await, ["all busy 0"]);
    let refreshed = rotate(&service, &token).await;
    assert_eq!(refreshed.outcome, "rotated");
    assert_eq!(log_in(&service, "ada@example.org", PASSWORD).await.outcome, "logged_in");
    first.batch_execute("rollback").await.unwrap();
    assert_eq!(maintain(&second, 100).await, ["sessions done 100 +"]);
    assert_eq!(maintain(&second, 100).await, ["sessions done 100 +"]);
    assert_eq!(maintain(&second, 100).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_dead_sessions_go_in_bounded_batches_beside_cleaners_and_refreshes() {
    const MILLION: i32 = 1_000_000;
    let db = TestDb::create().await;
    db.set("auth_sessions.refresh_burst", "0").await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    maintain_all(&admin).await;
    fill_with_dead_sessions(&admin, MILLION / 2, MILLION / 2).await;
    let mut live = Vec::new();
    for n in 0..4 {
        live.push(sign_up(&service, &format!("user-{n}@example.org")).await);
    }
    let mut racers = connections(&db, "auth_service", live.len()).await;
    racers.extend(connections(&db, "auth_operator", 2).await);
    let (done, left) = tokio::sync::watch::channel(2);
    let done = std::sync::Arc::new(done);
    let removed = race(&racers, |n, racer| {
        let (token, left, done) = (live.get(n).cloned(), left.clone(), done.clone());
        async move {
            let mut removed = 0;
            if let Some(mut token) = token {
                // As long as anybody cleans.
                racer.batch_execute("set lock_timeout = '5s'").await.unwrap();
                while *left.borrow() > 0 {
                    token = rotate(&racer, &token).await.token();
                }
                return 0;
            }
            loop {
                let batch: i64 = value(&racer, "select auth.cleanup_expired_sessions()", &[]).await;
                assert!(batch <= 10_000, "{batch}");
                removed += batch;
                if batch == 0 {
                    done.send_modify(|left| *left -= 1);
                    return removed;
                }
            }
        }
    })
    .await;
    assert_eq!(removed.iter().sum::<i64>(), i64::from(MILLION), "each is counted once");
    assert_eq!(value::<i64>(&admin, DEAD, &[]).await, 0);
    let said =
        "select sum((details ->> 'removed')::bigint)::bigint from auth.audit_log where action = 'session_cleanup'";
    assert_eq!(value::<i64>(&admin, said, &[]).await, i64::from(MILLION));
    let rotations = "select min(generation) > 0 and count(*) = 4 from auth.sessions where revoked_at is null";
    assert!(value::<bool>(&admin, rotations, &[]).await, "refreshes went on meanwhile");
}

#[tokio::test]
async fn the_service_maintains_the_database_when_it_is_asked() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let call = "select task, outcome, amount, more, detail from auth.run_maintenance()";
    let asked = [("MAINTENANCE_INTERVAL_SECONDS", "1")];
    // Two processes: the one that finds the other at work leaves it to it.
    let (first, _second) = (Server::start(&db, &asked).await, Server::start(&db, &asked).await);
    for _ in 0..2 {
        fill_with_dead_sessions(&admin, 10, 10).await;
        eventually("it has cleaned", async || value::<i64>(&admin, DEAD, &[]).await == 0).await;
    }
    assert_eq!(values::<String>(&admin, MONTHS, &[]).await.len(), 4);
    assert!(db.statements().await[call] >= 3);

    // What cannot be done is said, and tried again.
    admin
        .batch_execute(
            "create function public.fail() returns trigger language plpgsql as $$ begin raise 'broken'; end $$;
             create trigger fail before delete on auth.sessions for each statement execute function public.fail()",
        )
        .await
        .unwrap();
    fill_with_dead_sessions(&admin, 10, 10).await;
    eventually("the log tells", async || {
        first.log().lines().any(|line| line.contains("a maintenance task failed") && line.contains("broken"))
    })
    .await;
    run(&admin, "drop trigger fail on auth.sessions", &[]).await;
    eventually("it has cleaned", async || value::<i64>(&admin, DEAD, &[]).await == 0).await;

    let unasked = TestDb::create().await;
    let server = Server::start(&unasked, &[]).await;
    eventually("it has looked after the partitions", async || {
        unasked.statements().await.contains_key("select auth.maintain_audit_partitions()")
    })
    .await;
    assert!(!unasked.statements().await.contains_key(call));
    drop(server);
}

/// What sql/dba/tune.md says of every setting is what the server says.
#[tokio::test]
async fn every_setting_is_in_the_manual_with_its_default() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    run(&admin, "load 'auth_sessions'", &[]).await;
    let mut known: Vec<String> = values(
        &admin,
        "select format('%s|%s|%s', name, current_setting(name), case context when 'sighup' then 'server' else 'anywhere' end)
           from pg_settings where name like 'auth\\_sessions.%'",
        &[],
    )
    .await;
    let manual = std::env::var("AUTH_TEST_ROOT").expect("make test") + "/sql/dba/tune.md";
    let manual = std::fs::read_to_string(manual).expect("the manual");
    let rows = manual.lines().filter(|line| line.starts_with("| `auth_sessions."));
    let mut told: Vec<String> = rows
        .map(|row| {
            row.split('|').skip(1).take(3).map(|cell| cell.trim().trim_matches('`')).collect::<Vec<_>>().join("|")
        })
        .collect();
    told.sort_unstable();
    known.sort_unstable();
    assert_eq!(told, known);
}
