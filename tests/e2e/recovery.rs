//! The database fell behind its clients, as after a failover to a late standby: tokens that are newer than the row, and
//! forks. Made here as they come about: a rotation whose answer is kept and whose transaction is rolled back.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{audit_trail, let_time_pass, refusal, revoked_reason, run, session_row, value};
use auth_sessions_tests::tokens::{Secret, Token, random_bytes, rotate, rotate_times, sign_up};
use tokio_postgres::Client;

/// Rotates `count` times in commits that the database then loses. What the client holds afterwards.
async fn rotate_and_lose(service: &Client, token: &Token, count: usize) -> Token {
    service.batch_execute("begin").await.unwrap();
    let newest = rotate_times(service, token.clone(), count).await.pop().unwrap();
    service.batch_execute("rollback").await.unwrap();
    newest
}

async fn open_window(db: &TestDb, max_gap: i32) {
    let operator = db.connect_as("auth_operator").await;
    run(&operator, "select auth.open_recovery_window('1 hour', $1)", &[&max_gap]).await;
}

#[tokio::test]
async fn a_token_newer_than_the_database_is_refused_audited_and_changes_nothing() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let kept = sign_up(&service, "ada@example.org").await;
    let newer = rotate_and_lose(&service, &kept, 3).await;
    let before = session_row(&admin, kept.session_id).await;

    let refused = rotate(&service, &newer).await;
    assert_eq!(refused.outcome, "ahead");
    assert!(refused.token.is_none() && refused.user_id.is_none());
    assert_eq!(session_row(&admin, kept.session_id).await, before);
    let details: String = value(
        &admin,
        "select details ->> 'presented_generation' || ' of ' || (details ->> 'current_generation')
           from auth.security_events where action = 'token_ahead_of_database' and severity = 'critical' and not success",
        &[],
    )
    .await;
    assert_eq!(details, "3 of 0");
    assert_eq!(rotate(&service, &kept).await.outcome, "rotated", "whoever holds the kept one goes on");
}

#[tokio::test]
async fn inside_a_recovery_window_the_session_goes_on_from_where_its_client_is() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 2).await;
    let newer = rotate_and_lose(&service, &tokens[2], 3).await;
    open_window(&db, 3).await;

    let rotated = rotate(&service, &newer).await;
    assert_eq!((rotated.outcome.as_str(), rotated.generation), ("rotated", Some(6)));
    assert_eq!(rotate(&service, &newer).await.token, rotated.token, "a retry is one here too");
    let trail = audit_trail(&admin, newer.session_id).await;
    assert_eq!(trail, ["auth_session_created", "session_fast_forwarded"]);
    // The lost generations are as much history as the kept ones.
    assert_eq!(rotate(&service, &rotated.token()).await.outcome, "rotated");
    assert_eq!(rotate(&service, &tokens[1]).await.outcome, "replayed");
}

#[tokio::test]
async fn a_window_accepts_no_larger_gap_than_it_was_opened_for_and_nothing_forged() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let kept = sign_up(&service, "ada@example.org").await;
    let newer = rotate_and_lose(&service, &kept, 3).await;
    open_window(&db, 2).await;
    let before = session_row(&admin, kept.session_id).await;

    assert_eq!(rotate(&service, &newer).await.outcome, "ahead");
    for forged in [
        Token { ticket: random_bytes(16), ..newer.clone() },
        Token { secret: Secret::random(), ..newer.clone() },
        Token { generation: 2, ..newer.clone() },
        Token { generation: 1, ..newer.clone() },
    ] {
        assert_eq!(rotate(&service, &forged).await.outcome, "unknown");
    }
    assert_eq!(session_row(&admin, kept.session_id).await, before);
}

#[tokio::test]
async fn a_window_ends_by_itself() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let kept = sign_up(&service, "ada@example.org").await;
    let newer = rotate_and_lose(&service, &kept, 1).await;
    open_window(&db, 10).await;
    run(&admin, "update auth.recovery_windows set closes_at = closes_at - interval '1 hour'", &[]).await;

    assert_eq!(rotate(&service, &newer).await.outcome, "ahead");
}

#[tokio::test]
async fn a_fork_is_a_replay_and_inside_a_window_nobodys_fault() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    for (email, window, outcome, after) in
        [("ada@example.org", false, "replayed", "revoked"), ("bob@example.org", true, "revoked", "rotated")]
    {
        let kept = sign_up(&service, email).await;
        // Two genuine tokens of generation 1: one whose commit was lost, one of the line that went on.
        let lost = rotate_and_lose(&service, &kept, 1).await;
        let current = rotate(&service, &kept).await.token();
        assert_eq!((lost.generation, current.generation), (1, 1));
        if window {
            open_window(&db, 5).await;
        }

        assert_eq!(rotate(&service, &lost).await.outcome, outcome, "window: {window}");
        let reason = revoked_reason(&admin, kept.session_id).await;
        assert_eq!(reason.as_deref(), (!window).then_some("token_replay"));
        assert_eq!(rotate(&service, &current).await.outcome, after, "window: {window}");
    }
}

#[tokio::test]
async fn a_window_does_not_bring_back_what_was_revoked_or_expired() {
    let db = TestDb::create().await;
    let (service, operator) = (db.connect_as("auth_service").await, db.connect_as("auth_operator").await);
    let admin = db.superuser().await;
    open_window(&db, 10).await;
    let revoked = sign_up(&service, "ada@example.org").await;
    let newer = rotate_and_lose(&service, &revoked, 2).await;
    run(&operator, "select auth.revoke_session_family($1)", &[&revoked.session_id]).await;
    assert_eq!(rotate(&service, &newer).await.outcome, "revoked");

    let expired = sign_up(&service, "bob@example.org").await;
    let newer = rotate_and_lose(&service, &expired, 2).await;
    let past = "update auth.sessions set idle_expires_at = clock_timestamp() where id = $1";
    run(&admin, past, &[&expired.session_id]).await;
    assert_eq!(rotate(&service, &newer).await.outcome, "expired");
}

#[tokio::test]
async fn only_an_operator_opens_a_window_and_it_is_audited() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    for login in ["auth_service", "auth_watcher"] {
        let client = db.connect_as(login).await;
        let refused = client.execute("select auth.open_recovery_window('1 hour', 10)", &[]).await;
        assert_eq!(refusal(refused).code, "42501", "{login}");
    }
    let operator = db.connect_as("auth_operator").await;
    for (arguments, code) in [
        ("null, 10", "22004"),
        ("'1 hour', null", "22004"),
        ("'-1 hour', 10", "22023"),
        ("'8 days', 10", "22023"),
        ("'1 hour', 0", "22023"),
        ("'1 hour', 1, now() + interval '1 minute'", "22023"),
    ] {
        let call = format!("select auth.open_recovery_window({arguments})");
        let refused = refusal(operator.execute(&call, &[]).await);
        assert_eq!(refused.code, code, "{call}");
        assert_ne!(refused.hint, "", "{call}");
    }
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.recovery_windows", &[]).await, 0);

    open_window(&db, 7).await;
    let event: String = value(
        &admin,
        "select actor || ': ' || severity || ' ' || (details ->> 'max_gap') from auth.security_events
          where action = 'recovery_window_opened'",
        &[],
    )
    .await;
    assert_eq!(event, "auth_operator: critical 7");
}

#[tokio::test]
async fn a_window_that_is_closed_early_opens_nothing_any_more() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let operator = db.connect_as("auth_operator").await;
    let close = "select auth.close_recovery_window()";
    assert!(!value::<bool>(&operator, close, &[]).await, "there is none");
    let kept = sign_up(&service, "ada@example.org").await;
    let newer = rotate_and_lose(&service, &kept, 3).await;
    // An older one must not come to light under the newest.
    open_window(&db, 3).await;
    open_window(&db, 5).await;

    assert!(value::<bool>(&operator, close, &[]).await);
    assert!(!value::<bool>(&operator, close, &[]).await, "it is closed");
    assert_eq!(rotate(&service, &newer).await.outcome, "ahead");
    let events =
        "select string_agg(action, ' ' order by created_at) from auth.security_events where action like 'recovery%'";
    let events: String = value(&admin, events, &[]).await;
    assert_eq!(events, "recovery_window_opened recovery_window_opened recovery_window_closed");
    for login in ["auth_service", "auth_watcher"] {
        let client = db.connect_as(login).await;
        assert_eq!(refusal(client.execute(close, &[]).await).code, "42501", "{login}");
    }
}

/// A shared token is not made new while it is fresh; by the clock of the server that is left, one that the other server
/// made may seem so.
#[tokio::test]
async fn a_shared_session_goes_on_too_whatever_the_other_servers_clock_said() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let kept = rotate_times(&service, sign_up(&service, "ada@example.org").await, 1).await.pop().unwrap();
    run(&admin, "update auth.sessions set is_shared = true", &[]).await;
    admin.batch_execute("begin").await.unwrap();
    let_time_pass(&admin, kept.session_id, "5 minutes").await;
    let newer = rotate(&admin, &kept).await.token();
    admin.batch_execute("rollback").await.unwrap();
    open_window(&db, 10).await;

    let rotated = rotate(&service, &newer).await;
    assert_eq!((rotated.outcome.as_str(), rotated.generation), ("rotated", Some(3)));
    assert_eq!(rotate(&service, &newer).await.token, rotated.token);
}

/// Who had not got its answer when everything stopped gets it whenever it comes back, inside the window; who could not
/// retry any more then cannot now.
#[tokio::test]
async fn an_outage_stops_the_time_in_which_a_client_may_retry() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let operator = db.connect_as("auth_operator").await;
    // Rotated 59 and 61 seconds before everything stopped, which is an hour ago.
    for (email, before, window, outcome) in [
        ("ada@example.org", "59 seconds", true, "retried"),
        ("bob@example.org", "61 seconds", true, "replayed"),
        ("cy@example.org", "59 seconds", false, "replayed"),
    ] {
        let tokens = rotate_times(&service, sign_up(&service, email).await, 1).await;
        let_time_pass(&admin, tokens[0].session_id, "1 hour").await;
        let_time_pass(&admin, tokens[0].session_id, before).await;
        run(&admin, "delete from auth.recovery_windows", &[]).await;
        if window {
            let open = "select auth.open_recovery_window('1 hour', 1, now() - interval '1 hour')";
            run(&operator, open, &[]).await;
        }
        let retried = rotate(&service, &tokens[0]).await;
        assert_eq!(retried.outcome, outcome, "{email}");
        if outcome == "retried" {
            assert_eq!(retried.token().secret, tokens[1].secret, "the same successor");
            // Used, it is no longer the one before.
            assert_eq!(rotate(&service, &tokens[1]).await.outcome, "rotated");
            assert_eq!(rotate(&service, &tokens[0]).await.outcome, "replayed");
        }
    }
    // What is rotated after the window was opened has the usual time.
    let tokens = rotate_times(&service, sign_up(&service, "dee@example.org").await, 1).await;
    run(&operator, "select auth.open_recovery_window('1 hour', 1, now() - interval '1 hour')", &[]).await;
    let_time_pass(&admin, tokens[0].session_id, "61 seconds").await;
    assert_eq!(rotate(&service, &tokens[0]).await.outcome, "replayed");
}
