//! The outbox of alerts in SQL: what is queued with its cause, how a wave becomes a few webhooks, who may do what with it,
//! and what is left.

use auth_sessions_tests::sql::{connections, race, refusal, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{log_in, rotate, rotate_times, sign_up};
use auth_sessions_tests::{OwnCluster, TestDb, eventually};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

const THIS: &str = env!("CARGO_PKG_VERSION");

/// What a mailer is given: id, kind and body.
async fn claimed(mailer: &Client) -> Vec<(Uuid, String, Value)> {
    let claim = "select id, kind, payload from auth.claim_alerts(1000, '1 minute', $1) order by kind";
    let rows = mailer.query(claim, &[&THIS]).await.expect("claim_alerts");
    let payload = |text: &str| serde_json::from_str(text).expect("JSON");
    rows.iter().map(|row| (row.get(0), row.get(1), payload(row.get(2)))).collect()
}

/// Kind and number of events of each webhook that a mailer is given, and delivers.
async fn told(mailer: &Client) -> Vec<String> {
    let mut told = Vec::new();
    for (id, kind, payload) in claimed(mailer).await {
        finish(mailer, &id).await;
        told.push(format!("{kind} {}", payload["data"]["times"]));
    }
    told
}

async fn finish(mailer: &Client, id: &Uuid) {
    assert!(value::<bool>(mailer, "select auth.finish_alert($1)", &[id]).await);
}

/// So many events of an action, as security decisions write them.
async fn happens(admin: &Client, action: &str, times: i32) {
    let event = "select count(auth.record_event($1, 'critical', false, gen_random_uuid())) from generate_series(1, $2)";
    value::<i64>(admin, event, &[&action, &times]).await;
}

/// So much time passes for the alerts: every time in them moves back.
async fn let_time_pass(admin: &Client, interval: &str) {
    for statement in [
        "update auth.alert_events set at = at - $1::text::interval",
        "update auth.alert_outbox
            set composed_at = composed_at - $1::text::interval, released_at = released_at - $1::text::interval,
                expires_at = expires_at - $1::text::interval, next_attempt_at = next_attempt_at - $1::text::interval,
                leased_until = leased_until - $1::text::interval, sent_at = sent_at - $1::text::interval,
                failed_at = failed_at - $1::text::interval",
    ] {
        run(admin, statement, &[&interval]).await;
    }
}

/// What the queue says, as who may only watch.
async fn queue(db: &TestDb) -> Vec<String> {
    let said = "select format('%s %s %s of %s', state, kind, alerts, events) from auth.alert_queue order by 1";
    values(&db.connect_as("auth_watcher").await, said, &[]).await
}

#[tokio::test]
async fn a_replay_is_queued_with_it_or_not_at_all_and_names_nobody_but_by_id() {
    let db = TestDb::create().await;
    let (admin, mut service, mailer) =
        (db.superuser().await, db.connect_as("auth_service").await, db.connect_as("auth_mail_service").await);
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 3).await;

    let undone = service.transaction().await.unwrap();
    assert_eq!(rotate(undone.client(), &tokens[0]).await.outcome, "replayed");
    // Who sends does not wait for it, nor it for who sends.
    assert_eq!(told(&mailer).await, Vec::<String>::new());
    undone.rollback().await.unwrap();
    assert_eq!(told(&mailer).await, Vec::<String>::new());
    assert_eq!(queue(&db).await, Vec::<String>::new());

    assert_eq!(rotate(&service, &tokens[0]).await.outcome, "replayed");
    assert_eq!(queue(&db).await, ["queued token_replay 1 of 1"]);
    let (id, kind, payload) = claimed(&mailer).await.remove(0);
    let row = admin
        .query_one("select user_id::text, family_id::text, organization_id::text from auth.sessions", &[])
        .await
        .unwrap();
    let time = payload["timestamp"].clone();
    let expected = json!({
        "type": "auth.token_replay", "version": 1, "timestamp": time,
        "data": {"times": 1, "firstAt": time, "lastAt": time, "events": [
            {"at": time, "userId": row.get::<_, String>(0), "familyId": row.get::<_, String>(1), "sessionId": tokens[0].session_id}]},
    });
    assert_eq!((kind.as_str(), row.get::<_, Option<String>>(2)), ("token_replay", None));
    assert_eq!(payload, expected);
    assert!(time.as_str().unwrap().ends_with('Z') && time.as_str().unwrap().len() == 24, "{time}");
    assert_eq!(queue(&db).await, ["sending token_replay 1 of 1"]);
    finish(&mailer, &id).await;
    assert!(!value::<bool>(&mailer, "select auth.finish_alert($1)", &[&id]).await, "it is over");
    assert_eq!(queue(&db).await, ["sent token_replay 1 of 1"]);
    // The same family again is refused as revoked: no alert.
    assert_eq!(rotate(&service, &tokens[1]).await.outcome, "revoked");
    assert_eq!(told(&mailer).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_wave_is_told_at_once_and_then_ever_more_seldom() {
    let db = TestDb::create().await;
    let (admin, mailer) = (db.superuser().await, db.connect_as("auth_mail_service").await);
    happens(&admin, "token_replay_detected", 1).await;
    assert_eq!(told(&mailer).await, ["token_replay 1"]);
    // It goes on: held, in one webhook, for one minute, then two, four … up to an hour.
    for (minutes, times) in [(1, 700), (2, 21), (4, 1), (8, 1), (16, 1), (32, 1), (60, 1), (60, 1)] {
        for _ in 0..2 {
            happens(&admin, "token_replay_detected", times).await;
            assert_eq!(told(&mailer).await, Vec::<String>::new(), "{minutes}");
        }
        assert!(queue(&db).await.contains(&format!("held token_replay 1 of {}", 2 * times)), "{:?}", queue(&db).await);
        let_time_pass(&admin, &format!("{} seconds", minutes * 60 - 20)).await;
        assert_eq!(told(&mailer).await, Vec::<String>::new(), "{minutes}");
        let_time_pass(&admin, "20 seconds").await;
        let (id, kind, payload) = claimed(&mailer).await.remove(0);
        finish(&mailer, &id).await;
        let (said, events) = (&payload["data"]["times"], payload["data"]["events"].as_array().unwrap());
        assert_eq!((kind.as_str(), said), ("token_replay", &json!(2 * times)));
        assert_eq!(events.len(), 20.min(2 * times as usize), "a few of them, the first");
        assert_eq!(events[0]["at"], payload["data"]["firstAt"]);
        let sorted = events.windows(2).all(|pair| pair[0]["at"].as_str() <= pair[1]["at"].as_str());
        assert!(sorted && payload["data"]["firstAt"].as_str() < payload["data"]["lastAt"].as_str(), "{payload}");
    }
    // Other kinds do not wait for this one.
    happens(&admin, "token_ahead_of_database", 2).await;
    assert_eq!(told(&mailer).await, ["token_ahead_of_database 2"]);
    // When it has been quiet for long enough, the next one is told at once again, and the one after it in a minute.
    let_time_pass(&admin, "121 minutes").await;
    happens(&admin, "token_replay_detected", 1).await;
    assert!(told(&mailer).await.contains(&"token_replay 1".to_owned()));
    let_time_pass(&admin, "60 seconds").await;
    happens(&admin, "token_replay_detected", 1).await;
    assert!(told(&mailer).await.contains(&"token_replay 1".to_owned()));
}

#[tokio::test]
async fn what_everybody_does_now_and_then_is_told_when_it_comes_in_a_burst() {
    let db = TestDb::create().await;
    let (admin, service, mailer) =
        (db.superuser().await, db.connect_as("auth_service").await, db.connect_as("auth_mail_service").await);
    for (action, kind, threshold) in
        [("user_login_failed", "failed_logins", 100), ("user_account_locked", "lock_outs", 10)]
    {
        happens(&admin, action, threshold - 1).await;
        assert_eq!(told(&mailer).await, Vec::<String>::new(), "{kind}");
        let_time_pass(&admin, "301 seconds").await;
        happens(&admin, action, threshold - 1).await;
        assert_eq!(told(&mailer).await, Vec::<String>::new(), "{kind}: those of before are forgotten");
        happens(&admin, action, 1).await;
        assert_eq!(told(&mailer).await, [format!("{kind} {threshold}")]);
        assert_eq!(value::<i64>(&admin, "select count(*) from auth.alert_events", &[]).await, 0);
    }
    // Not made up: what a wrong password writes.
    sign_up(&service, "ada@example.org").await;
    for _ in 0..10 {
        log_in(&service, "ada@example.org", "wrong").await;
    }
    let queued: Vec<String> =
        values(&admin, "select kind || ' ' || count(*) from auth.alert_events group by kind order by 1", &[]).await;
    assert_eq!(queued, ["failed_logins 10", "lock_outs 1"]);
    happens(&admin, "suspicious_activity_detected", 1).await;
    assert_eq!(told(&mailer).await, ["suspicious_activity 1"]);
    happens(&admin, "user_logged_in", 200).await;
    assert_eq!(told(&mailer).await, Vec::<String>::new(), "nothing of the kind");
}

#[tokio::test]
async fn what_was_given_to_a_mailer_does_not_change_any_more() {
    let db = TestDb::create().await;
    let (admin, mailer) = (db.superuser().await, db.connect_as("auth_mail_service").await);
    happens(&admin, "token_replay_detected", 2).await;
    let first = claimed(&mailer).await;
    let attempts = "select attempts from auth.alert_outbox where id = $1";
    happens(&admin, "token_replay_detected", 3).await;
    assert_eq!(told(&mailer).await, Vec::<String>::new(), "leased; and the others are held");

    // Who has lost the lease neither hastens nor gives up what another one sends.
    let id = first[0].0;
    let fail = "select auth.fail_alert($1, $2, $3, $4, $5)";
    let_time_pass(&admin, "50 seconds").await;
    run(&admin, "update auth.alert_outbox set leased_until = now() where id = $1", &[&id]).await;
    assert_eq!(claimed(&mailer).await, first, "to the letter");
    let lost: String = value(&mailer, fail, &[&id, &1_i32, &"why", &true, &vec!["one"]]).await;
    assert_eq!((lost.as_str(), value::<i32>(&admin, attempts, &[&id]).await), ("lost", 2));
    // But who has it has it; and what a receiver says may be anything.
    let error = "it\r\nsaid whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD.";
    let became: String = value(&mailer, fail, &[&id, &2_i32, &error, &false, &vec!["two"]]).await;
    let row =
        admin.query_one("select delivered_to, last_error from auth.alert_outbox where id = $1", &[&id]).await.unwrap();
    assert_eq!((became.as_str(), row.get::<_, Vec<String>>(0)), ("retried", vec!["one".to_owned(), "two".to_owned()]));
    assert_eq!(row.get::<_, String>(1), "it said whsec_….");
    assert_eq!(queue(&db).await, ["held token_replay 1 of 3", "retrying token_replay 1 of 2"]);
    let_time_pass(&admin, "1 hour").await;
    let both = claimed(&mailer).await;
    assert_eq!((both.len(), both.contains(&first[0])), (2, true));
}

#[tokio::test]
async fn what_nobody_takes_is_given_up_visibly_and_forgotten_later() {
    let db = TestDb::create().await;
    let (admin, mailer, watcher) =
        (db.superuser().await, db.connect_as("auth_mail_service").await, db.connect_as("auth_watcher").await);
    let doctor = async || -> Vec<String> {
        let found = "select severity || ' ' || finding from auth.check_upkeep() where finding ~ '^alerts'";
        values(&watcher, found, &[]).await
    };
    happens(&admin, "token_replay_detected", 1).await;
    for attempt in 1..=20 {
        let (id, ..) = claimed(&mailer).await.remove(0);
        let became: String =
            value(&mailer, "select auth.fail_alert($1, $2, 'it answered 500', false, '{}')", &[&id, &attempt]).await;
        assert_eq!(became, if attempt < 20 { "retried" } else { "given_up" });
        if attempt == 3 {
            assert_eq!(doctor().await, Vec::<String>::new(), "it may come yet");
            run(&admin, "update auth.alert_outbox set first_at = first_at - interval '20 minutes'", &[]).await;
            assert_eq!(doctor().await, ["warning alerts do not arrive: it answered 500"]);
        }
        run(&admin, "update auth.alert_outbox set next_attempt_at = now()", &[]).await;
    }
    assert_eq!(queue(&db).await, ["given_up token_replay 1 of 1"]);
    assert_eq!(doctor().await, ["warning alerts do not arrive: it answered 500"]);
    let_time_pass(&admin, "25 hours").await;
    assert_eq!(doctor().await, Vec::<String>::new());

    // One who dies at each attempt ends like one that fails at each.
    happens(&admin, "token_replay_detected", 1).await;
    let (id, ..) = claimed(&mailer).await.remove(0);
    run(&admin, "update auth.alert_outbox set attempts = 20, leased_until = now() where id = $1", &[&id]).await;
    assert_eq!(told(&mailer).await, Vec::<String>::new());
    assert_eq!(queue(&db).await, ["given_up token_replay 2 of 2"]);

    let more = "select bool_or(more) from auth.run_maintenance()";
    while value::<bool>(&admin, more, &[]).await {}
    // Where nobody sends, each kind has one, which takes in everything until it is too old.
    for _ in 0..5 {
        happens(&admin, "token_ahead_of_database", 100).await;
        run(&admin, "select auth.run_maintenance()", &[]).await;
    }
    assert_eq!(queue(&db).await[1], "waiting token_ahead_of_database 1 of 500");
    let_time_pass(&admin, "20 minutes").await;
    assert_eq!(
        doctor().await.last().unwrap(),
        "note alerts have been waiting for up to 00:20:00, and nobody sends them"
    );
    let_time_pass(&admin, "24 hours").await;
    assert_eq!(told(&mailer).await, Vec::<String>::new());
    let error = "select last_error from auth.alert_outbox where kind = 'token_ahead_of_database'";
    assert_eq!(value::<String>(&admin, error, &[]).await, "expired: nobody sent it");

    for (passed, left) in [("28 days", &["token_ahead_of_database", "token_replay"][..]), ("2 days", &[])] {
        let_time_pass(&admin, passed).await;
        while value::<bool>(&admin, more, &[]).await {}
        let kept: Vec<String> = values(&admin, "select kind from auth.alert_outbox order by 1", &[]).await;
        assert_eq!(kept, left, "30 days after it was released");
    }
}

#[tokio::test]
async fn each_event_is_told_once_however_many_compose_and_send() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    db.set("auth_sessions.alert_interval", "1s").await;
    let clients = connections(&db, "auth_mail_service", 4).await;
    let others = connections(&db, "postgres", 4).await;
    let producing = async {
        race(&others, |_, client| async move {
            for _ in 0..40 {
                happens(&client, "token_replay_detected", 5).await;
            }
        })
        .await
    };
    let sending = race(&clients, |_, mailer| async move {
        let mut given = Vec::new();
        for _ in 0..40 {
            given.extend(claimed(&mailer).await);
        }
        given
    });
    let (_, given) = tokio::join!(producing, sending);
    let mut given = given.concat();
    let_time_pass(&admin, "2 hours").await;
    run(
        &admin,
        "update auth.alert_outbox set leased_until = now() + interval '1 hour' where leased_until is not null",
        &[],
    )
    .await;
    given.extend(claimed(&clients[0]).await);
    let times: i64 = given.iter().map(|(.., payload)| payload["data"]["times"].as_i64().unwrap()).sum();
    assert_eq!(times, 4 * 40 * 5);
    let mut ids: Vec<Uuid> = given.iter().map(|(id, ..)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), given.len());
}

#[tokio::test]
async fn nobody_but_the_mailer_works_it_and_it_waits_for_nobody() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    happens(&admin, "token_replay_detected", 1).await;
    for (login, may) in [
        ("auth_service", &["auth.report_failed_maintenance()"][..]),
        ("auth_watcher", &["* from auth.alert_queue", "events from auth.alert_outbox", "data from auth.alert_events"]),
        (
            "auth_operator",
            &[
                "auth.queue_test_alert()",
                "* from auth.alert_queue",
                "events from auth.alert_outbox",
                "data from auth.alert_events",
            ],
        ),
        (
            "auth_mail_service",
            &[
                "auth.claim_alerts(1, '1 minute', '1')",
                "auth.finish_alert(gen_random_uuid())",
                "auth.fail_alert(gen_random_uuid(), 1, 'x', true, '{}')",
            ],
        ),
        ("auth_federation_service", &[]),
    ] {
        let client = db.connect_as(login).await;
        for statement in [
            "auth.claim_alerts(1, '1 minute', '1')",
            "auth.finish_alert(gen_random_uuid())",
            "auth.fail_alert(gen_random_uuid(), 1, 'x', true, '{}')",
            "auth.queue_alert('token_replay', '{}')",
            "auth.compose_alerts()",
            "auth.forget_alerts(1)",
            "auth.queue_test_alert()",
            "auth.report_failed_maintenance()",
            "* from auth.alert_queue",
            "events from auth.alert_outbox",
            "data from auth.alert_events",
        ] {
            let expected = if may.contains(&statement) { "00000" } else { "42501" };
            assert_eq!(sqlstate(&client, &format!("select {statement}")).await, expected, "{login}: {statement}");
        }
        for statement in [
            "delete from auth.alert_events",
            "update auth.alert_outbox set sent_at = now()",
            "do $$ begin lock table auth.instance in share update exclusive mode; end $$",
        ] {
            assert_eq!(sqlstate(&client, statement).await, "42501", "{login}: {statement}");
        }
    }

    // A cause that has not committed, and a mailer that has not, hold up nobody.
    let (cause, slow, other) =
        (db.superuser().await, db.connect_as("auth_mail_service").await, db.connect_as("auth_mail_service").await);
    for client in [&other, &admin] {
        client.batch_execute("set lock_timeout = '2s'").await.unwrap();
    }
    cause.batch_execute("begin").await.unwrap();
    happens(&cause, "token_ahead_of_database", 1).await;
    happens(&admin, "suspicious_activity_detected", 1).await;
    slow.batch_execute("begin").await.unwrap();
    assert!(!claimed(&slow).await.is_empty());
    happens(&admin, "token_ahead_of_database", 1).await;
    assert_eq!(told(&other).await, Vec::<String>::new(), "somebody is at it");
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(told(&other).await, ["token_ahead_of_database 1"]);
    cause.batch_execute("commit").await.unwrap();
    let_time_pass(&admin, "61 seconds").await;
    assert!(told(&other).await.contains(&"token_ahead_of_database 1".to_owned()));
}

/// Who has broken into the service may take every lock that anybody may.
#[tokio::test]
async fn nobody_silences_it_by_holding_a_lock() {
    let db = TestDb::create().await;
    let (admin, mailer, service) =
        (db.superuser().await, db.connect_as("auth_mail_service").await, db.connect_as("auth_service").await);
    let lock = "select pg_advisory_lock(hashtextextended('auth_sessions.compose_alerts', 0))";
    service.batch_execute(lock).await.unwrap();
    happens(&admin, "token_replay_detected", 1).await;
    assert_eq!(told(&mailer).await, ["token_replay 1"]);
}

#[tokio::test]
async fn who_asks_in_vain_takes_no_lock_and_reads_nothing_that_is_over() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    run(
        &admin,
        "insert into auth.alert_outbox (id, kind, times, first_at, last_at, events, composed_at, released_at, hold, expires_at,
                                        next_attempt_at, sent_at)
         select gen_random_uuid(), 'token_replay', 1, at, at, '[{}]', at, at, '1 minute', at + interval '1 day', at, at
           from (select now() - interval '1 minute' * n as at from generate_series(1, 20000) n) t",
        &[],
    )
    .await;
    run(
        &admin,
        "insert into auth.mail_outbox (id, kind, created_at, expires_at, next_attempt_at, sent_at)
         select gen_random_uuid(), 'verify_email', at, at + interval '1 day', at, at
           from (select now() - interval '1 minute' * n as at from generate_series(1, 20000) n) t",
        &[],
    )
    .await;
    admin.batch_execute("analyze auth.alert_outbox, auth.mail_outbox").await.unwrap();
    for claim in ["claim_alerts(1000, '1 minute', auth.extension_version())", "claim_mail(1000, '1 minute')"] {
        admin.batch_execute("begin").await.unwrap();
        assert_eq!(value::<i64>(&admin, &format!("select count(*) from auth.{claim}"), &[]).await, 0);
        let read =
            "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_xact_all_tables
                     where relname in ('alert_outbox', 'alert_events', 'mail_outbox')";
        assert_eq!(value::<i64>(&admin, read, &[]).await, 0, "{claim} reads what is over");
        let locks = "select count(*) from pg_locks where pid = pg_backend_pid() and mode = 'ShareUpdateExclusiveLock'";
        assert_eq!(value::<i64>(&admin, locks, &[]).await, 0, "{claim}");
        admin.batch_execute("commit").await.unwrap();
    }
}

#[tokio::test]
async fn with_an_interval_of_zero_nothing_is_queued() {
    let db = TestDb::create().await;
    db.set("auth_sessions.alert_interval", "0").await;
    let admin = db.superuser().await;
    happens(&admin, "token_replay_detected", 1).await;
    assert!(!value::<bool>(&db.connect_as("auth_operator").await, "select auth.queue_test_alert()", &[]).await);
    assert_eq!(queue(&db).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_bad_argument_is_refused_with_a_hint() {
    let db = TestDb::create().await;
    let mailer = db.connect_as("auth_mail_service").await;
    for (call, code) in [
        ("claim_alerts(null, '1 minute', '1')", "22004"),
        ("claim_alerts(1, '1 minute', null)", "22004"),
        ("claim_alerts(0, '1 minute', '1')", "22023"),
        ("claim_alerts(1, '1 day', '1')", "22023"),
        ("claim_alerts(1, '1 minute', repeat('1', 51))", "22023"),
        ("finish_alert(null)", "22004"),
        ("fail_alert(null, 1, 'x', true, '{}')", "22004"),
        ("fail_alert(gen_random_uuid(), 1, 'x', true, null)", "22004"),
    ] {
        let refused = refusal(mailer.execute(&format!("select auth.{call}"), &[]).await);
        assert_eq!(refused.code, code, "{call}: {refused:?}");
        assert_ne!(refused.hint, "", "{call}: {refused:?}");
    }
}

#[tokio::test]
async fn maintenance_that_fails_and_versions_that_differ_are_told_and_not_again_and_again() {
    let cluster = OwnCluster::preloaded().await;
    let admin = cluster.connect("postgres", "auth").await;
    let mailer = cluster.connect("auth_mail_service", "auth").await;
    while value::<bool>(&admin, "select bool_or(more) from auth.run_maintenance()", &[]).await {}
    assert_eq!(told(&mailer).await, Vec::<String>::new());

    // One task of it: with what the others did.
    run(&admin, "alter function auth.forget_mail(int) rename to forget_no_mail", &[]).await;
    run(&admin, "select auth.run_maintenance()", &[]).await;
    let (id, kind, payload) = claimed(&mailer).await.remove(0);
    finish(&mailer, &id).await;
    let event = payload["data"]["events"][0].as_object().unwrap().clone();
    assert_eq!(
        (kind.as_str(), &event["task"], &event["sqlstate"]),
        ("maintenance_failed", &json!("mail"), &json!("42883"))
    );
    assert_eq!((event.len(), &payload["data"]["times"]), (3, &json!(1)));
    assert_eq!(told(&mailer).await, Vec::<String>::new(), "what is counted was told already");
    run(&admin, "alter function auth.forget_no_mail(int) rename to forget_mail", &[]).await;

    // A whole turn of the worker: what it would have queued is gone with it.
    run(&admin, "alter function auth.run_maintenance rename to nothing_of_the_kind", &[]).await;
    cluster.set("auth_sessions.cleanup_interval", "1d").await;
    cluster.set("auth_sessions.cleanup_database", "auth").await;
    eventually("a turn has failed", async || {
        value::<i64>(&admin, "select maintenance_failures from auth.session_statistics", &[]).await >= 2
    })
    .await;
    cluster.set("auth_sessions.cleanup_database", "").await;
    let_time_pass(&admin, "10 minutes").await;
    let mut given = Vec::new();
    eventually("it is told", async || {
        given.extend(claimed(&mailer).await);
        !given.is_empty()
    })
    .await;
    let event = &given[0].2["data"]["events"][0];
    assert_eq!((&event["task"], &event["sqlstate"]), (&Value::Null, &json!("42883")));

    // Once a day for the same versions.
    run(&admin, "update pg_extension set extversion = '0.0.9' where extname = 'auth_sessions'", &[]).await;
    let (_, kind, payload) = claimed(&mailer).await.remove(0);
    let versions = payload["data"]["events"][0].clone();
    assert_eq!(kind, "version_mismatch");
    for (name, version) in [("serviceVersion", THIS), ("libraryVersion", THIS), ("extensionVersion", "0.0.9")] {
        assert_eq!(versions[name], version, "{payload}");
    }
    let_time_pass(&admin, "23 hours").await;
    told(&mailer).await;
    let mismatches = "select count(*) from auth.alert_outbox where kind = 'version_mismatch'";
    assert_eq!(value::<i64>(&admin, mismatches, &[]).await, 1);
    let_time_pass(&admin, "2 hours").await;
    told(&mailer).await;
    assert_eq!(value::<i64>(&admin, mismatches, &[]).await, 2);
}
