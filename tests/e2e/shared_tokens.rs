//! Tabs share a browser's cookie: one may show the token that another was given a moment ago, and a slow one the token
//! before that. None of them is a thief. So a shared token is rotated no more often than once a retry window.

use std::collections::BTreeMap;

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{connections, let_time_pass, race, run, value};
use auth_sessions_tests::tokens::{Token, rotate, sign_up, tally};
use tokio_postgres::Client;

async fn sign_up_sharing(service: &Client, admin: &Client, email: &str) -> Token {
    let token = sign_up(service, email).await;
    run(admin, "update auth.sessions set is_shared = true where id = $1", &[&token.session_id]).await;
    token
}

async fn generation(admin: &Client, token: &Token) -> i32 {
    value(admin, "select generation from auth.sessions where id = $1", &[&token.session_id]).await
}

#[tokio::test]
async fn it_stays_for_a_retry_window_and_then_moves_on() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let first = sign_up_sharing(&service, &admin, "ada@example.org").await;
    let rotated = rotate(&service, &first).await;
    assert_eq!(rotated.outcome, "rotated", "a login's token is nobody's second");
    let jti = rotated.jti;
    let second = rotated.token();

    for _ in 0..3 {
        let retained = rotate(&service, &second).await;
        assert_eq!((retained.outcome.as_str(), retained.generation, retained.jti), ("retained", Some(1), jti));
        assert_eq!(retained.ticket.as_ref(), Some(&second.ticket), "what was shown stays the current one");
        assert_eq!(
            rotate(&service, &first).await.outcome,
            "retried",
            "the window is not closed by the successor's use"
        );
    }
    let_time_pass(&admin, first.session_id, "59 seconds").await;
    assert_eq!(rotate(&service, &second).await.outcome, "retained");
    let_time_pass(&admin, first.session_id, "2 seconds").await;
    assert_eq!(rotate(&service, &second).await.outcome, "rotated");
    // The window has passed, and a replay is a replay.
    assert_eq!(rotate(&service, &first).await.outcome, "replayed");
    assert_eq!(rotate(&service, &second).await.outcome, "revoked");
}

#[tokio::test]
async fn a_session_of_a_program_rotates_each_time() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let first = sign_up(&service, "ada@example.org").await;
    let second = rotate(&service, &first).await.token();
    assert_eq!(rotate(&service, &second).await.outcome, "rotated");
    assert_eq!(rotate(&service, &first).await.outcome, "replayed");

    // Nor is there anything to retain without a window.
    db.set("auth_sessions.retry_window", "0").await;
    let service = db.connect_as("auth_service").await;
    let first = sign_up_sharing(&service, &admin, "bob@example.org").await;
    let second = rotate(&service, &first).await.token();
    assert_eq!(rotate(&service, &second).await.outcome, "rotated");
}

#[tokio::test]
async fn a_retained_token_is_an_identity_and_opens_nothing_that_has_ended() {
    let db = TestDb::create().await;
    let (mut service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let first = sign_up_sharing(&service, &admin, "ada@example.org").await;
    let second = rotate(&service, &first).await.token();
    let transaction = service.transaction().await.expect("begin");
    let retained = rotate(transaction.client(), &second).await;
    let user: Option<uuid::Uuid> = value(transaction.client(), "select auth.current_user_id()", &[]).await;
    assert_eq!((retained.outcome.as_str(), user), ("retained", retained.user_id));
    transaction.rollback().await.expect("rollback");
    run(&admin, "select auth.revoke_session_family($1)", &[&first.session_id]).await;
    assert_eq!(rotate(&service, &second).await.outcome, "revoked");
}

/// What a laptop's tabs do when it wakes up: some hold the token of before, some the one that the first of them was just
/// given, in any order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tabs_in_any_order_are_all_answered_and_nobody_is_logged_out() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let tabs = connections(&db, "auth_service", 40).await;
    for round in 0..20 {
        let first = sign_up_sharing(&service, &admin, &format!("ada{round}@example.org")).await;
        let second = rotate(&service, &first).await.token();
        let outcomes = race(&tabs, |n, tab| {
            let token = if n % 2 == 0 { first.clone() } else { second.clone() };
            async move { rotate(&tab, &token).await }
        })
        .await;
        assert_eq!(tally(&outcomes), BTreeMap::from([("retained", 20), ("retried", 20)]), "round {round}");
        assert_eq!(generation(&admin, &first).await, 1, "round {round}");
    }
}
