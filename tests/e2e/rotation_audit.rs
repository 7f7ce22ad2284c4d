//! What a decision about a session leaves behind: its audit rows, once, in the same transaction; and notifications.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{Listener, audit_trail, let_time_pass, run, value};
use auth_sessions_tests::tokens::{PASSWORD, log_in, rotate, rotate_times, sign_up};
use serde_json::Value;

#[tokio::test]
async fn every_decision_is_logged_once() {
    let db = TestDb::create().await;
    let (service, operator) = (db.connect_as("auth_service").await, db.connect_as("auth_operator").await);
    let admin = db.superuser().await;
    let start = async || log_in(&service, "ada@example.org", PASSWORD).await;
    sign_up(&service, "ada@example.org").await;
    let opened = ["auth_session_created", "user_logged_in"];

    let refreshed = rotate_times(&service, start().await.token(), 3).await[0].session_id;
    assert_eq!(audit_trail(&admin, refreshed).await, opened, "plain refreshes are routine");

    let tokens = rotate_times(&service, start().await.token(), 2).await;
    for outcome in ["replayed", "revoked", "revoked"] {
        assert_eq!(rotate(&service, &tokens[0]).await.outcome, outcome);
    }
    let trail = audit_trail(&admin, tokens[0].session_id).await;
    assert_eq!(trail[2..], ["token_replay_detected", "session_family_revoked"], "{trail:?}");

    let token = start().await.token();
    run(&operator, "select auth.revoke_session_family($1, 'support')", &[&token.session_id]).await;
    run(&operator, "select auth.revoke_session_family($1, 'support')", &[&token.session_id]).await;
    assert_eq!(audit_trail(&admin, token.session_id).await[2..], ["session_family_revoked"]);

    let token = start().await.token();
    for _ in 0..2 {
        let proof = token.secret.proof();
        run(
            &service,
            "select auth.end_session($1, $2, $3, $4)",
            &[&token.session_id, &token.generation, &token.ticket, &proof],
        )
        .await;
    }
    assert_eq!(audit_trail(&admin, token.session_id).await[2..], ["user_logged_out"]);

    let token = start().await.token();
    let_time_pass(&admin, token.session_id, "7 days").await;
    rotate(&service, &token).await;
    assert_eq!(audit_trail(&admin, token.session_id).await[2..], ["session_expired"]);
}

#[tokio::test]
async fn an_event_says_who_what_and_in_which_request() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let first = sign_up(&service, "ada@example.org").await;
    rotate_times(&service, first.clone(), 2).await;
    let presented = "select from auth.rotate_session_token($1, 0, $2, $3, $4, $5, ip => $6::text::inet,
                                                           user_agent => $7, correlation_id => 'request 17')";
    let long_agent = "ü".repeat(400);
    let (proof, next, nonce) = (first.secret.proof(), vec![0_u8; 32], vec![0_u8; 16]);
    run(
        &service,
        presented,
        &[&first.session_id, &first.ticket, &proof, &next, &nonce, &"2001:db8:1:2:3:4:5:6", &long_agent],
    )
    .await;

    let row = admin
        .query_one(
            "select a.severity, a.success, a.actor, a.correlation_id, a.ip_cidr::text, a.user_agent,
                    a.details ->> 'generation_distance', a.session_id = s.id and a.family_id = s.family_id and a.user_id = s.user_id
               from auth.audit_log a, auth.sessions s where a.action = 'token_replay_detected'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("critical", false));
    assert_eq!((row.get::<_, &str>(2), row.get::<_, &str>(3)), ("auth_service", "request 17"));
    assert_eq!(row.get::<_, &str>(4), "2001:db8:1:2::/64", "never the full address");
    assert_eq!(row.get::<_, &str>(5), "ü".repeat(256), "512 bytes, cut between characters");
    assert_eq!(row.get::<_, &str>(6), "2");
    assert!(row.get::<_, bool>(7));
}

#[tokio::test]
async fn a_decision_that_is_rolled_back_leaves_no_trace() {
    let db = TestDb::create().await;
    db.set("auth_sessions.audit_level", "all").await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let mut listener = Listener::connect(&db.url("postgres")).await;
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 2).await;
    let before = audit_trail(&admin, tokens[0].session_id).await;
    listener.so_far().await;

    service.batch_execute("begin").await.unwrap();
    rotate(&service, &tokens[2]).await;
    assert_eq!(rotate(&service, &tokens[0]).await.outcome, "replayed");
    service.batch_execute("rollback").await.unwrap();

    assert_eq!(audit_trail(&admin, tokens[0].session_id).await, before);
    assert!(listener.so_far().await.is_empty());
    assert_eq!(rotate(&service, &tokens[2]).await.outcome, "rotated", "and the session is as it was");
}

#[tokio::test]
async fn audit_level_all_logs_plain_refreshes_and_retries_too_and_security_does_not() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    for (level, expected) in [
        ("security", &["auth_session_created"][..]),
        ("all", &["auth_session_created", "token_refreshed", "token_refreshed", "token_retry_served"]),
    ] {
        db.set("auth_sessions.audit_level", level).await;
        let service = db.connect_as("auth_service").await;
        let tokens = rotate_times(&service, sign_up(&service, &format!("{level}@example.org")).await, 2).await;
        assert_eq!(rotate(&service, &tokens[1]).await.outcome, "retried");
        assert_eq!(audit_trail(&admin, tokens[0].session_id).await, expected, "audit_level = {level}");
    }
    let routine: i64 = value(
        &admin,
        "select count(*) from auth.security_events where action in ('token_refreshed', 'token_retry_served')",
        &[],
    )
    .await;
    assert_eq!(routine, 0, "whoever looks for security events is not shown the routine");
}

#[tokio::test]
async fn revocations_and_replays_notify_and_a_refresh_does_not() {
    let db = TestDb::create().await;
    db.set("auth_sessions.audit_level", "all").await;
    let (service, operator) = (db.connect_as("auth_service").await, db.connect_as("auth_operator").await);
    let mut listener = Listener::connect(&db.url("postgres")).await;
    let replayed = rotate_times(&service, sign_up(&service, "ada@example.org").await, 5).await;
    let revoked = log_in(&service, "ada@example.org", PASSWORD).await.token();
    assert_eq!(rotate(&service, &replayed[4]).await.outcome, "retried");
    assert!(listener.so_far().await.is_empty(), "sign-up, login, refresh and retry are silent");

    rotate(&service, &replayed[0]).await;
    rotate(&service, &replayed[0]).await;
    run(&operator, "select auth.revoke_session_family($1)", &[&revoked.session_id]).await;
    run(&operator, "select auth.revoke_session_family($1)", &[&revoked.session_id]).await;
    let heard: Vec<Value> = listener.so_far().await.iter().map(|payload| payload.parse().expect("JSON")).collect();
    let sessions: Vec<_> = heard.iter().map(|event| event["session_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(sessions, [replayed[0].session_id.to_string(), revoked.session_id.to_string()], "each once");
    for event in &heard {
        let mut keys: Vec<_> = event.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["action", "family_id", "session_id", "sessions", "user_id"], "ids only");
    }
}

#[tokio::test]
async fn a_notification_is_short_enough_for_any_number_of_sessions() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    run(
        &admin,
        "insert into auth.sessions (family_id, user_id, created_at, auth_time, expires_at, idle_ttl, amr, lineage_key,
                                    last_used_at, idle_expires_at, token_verifier)
         select gen_random_uuid(), user_id, created_at, auth_time, expires_at, idle_ttl, amr, lineage_key,
                last_used_at, idle_expires_at, token_verifier
           from auth.sessions, generate_series(1, 2000)",
        &[],
    )
    .await;
    let mut listener = Listener::connect(&db.url("postgres")).await;

    run(&admin, "update auth.users set disabled_at = now()", &[]).await;
    let heard = listener.so_far().await;
    assert_eq!(heard.len(), 1, "one decision, one notification");
    assert_eq!(heard[0].parse::<Value>().unwrap()["sessions"], 2001);
}
