//! How often one session may be refreshed: a limit in its own row, that loses no session, burns none, and keeps no retry
//! from its answer.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{audit_trail, connections, race, run, session_row, value};
use auth_sessions_tests::tokens::{Token, rotate, rotate_times, sign_up};
use tokio_postgres::Client;

/// A database whose sessions may be refreshed three times at once, and once more every twenty minutes.
async fn database() -> (TestDb, Client, Client) {
    let db = TestDb::create().await;
    db.set("auth_sessions.refresh_burst", "3").await;
    db.set("auth_sessions.refresh_period", "1h").await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    (db, service, admin)
}

async fn limited(service: &Client, token: &Token) -> f64 {
    let answer = rotate(service, token).await;
    assert_eq!(answer.outcome, "limited");
    assert!(answer.token.is_none() && answer.user_id.is_none() && answer.session_id.is_none());
    answer.retry_after.expect("when to come back")
}

async fn let_time_pass(admin: &Client, seconds: f64) {
    let back = "update auth.sessions set refreshes_full_at = refreshes_full_at - make_interval(secs => $1)";
    run(admin, back, &[&seconds]).await;
}

#[tokio::test]
async fn a_session_that_is_refreshed_too_often_waits_and_lives_on() {
    let (_db, service, admin) = database().await;
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 3).await;
    let (previous, current) = (&tokens[2], &tokens[3]);
    let before = session_row(&admin, current.session_id).await;
    let wait = limited(&service, current).await;
    assert!((1190.0..=1200.0).contains(&wait), "{wait}");
    for _ in 0..9 {
        limited(&service, current).await;
    }
    assert_eq!(session_row(&admin, current.session_id).await, before, "nothing changed");
    let trail = audit_trail(&admin, current.session_id).await;
    assert_eq!(trail.iter().filter(|action| *action == "rate_limit_exceeded").count(), 4, "1, 2, 4, 8: {trail:?}");

    // A lost answer is still repeated: a retry makes no work that counts.
    let retried = rotate(&service, previous).await;
    assert_eq!(retried.outcome, "retried");
    assert_eq!(&retried.token(), current);
    // Others are not concerned.
    assert_eq!(rotate(&service, &sign_up(&service, "bob@example.org").await).await.outcome, "rotated");

    let_time_pass(&admin, wait).await;
    let next = rotate(&service, current).await;
    assert_eq!(next.outcome, "rotated", "who waits as long as he is told");
    let next = next.token();
    limited(&service, &next).await;
    // All of it comes back in its time, and no more than all of it.
    let_time_pass(&admin, 10_000.0).await;
    let tokens = rotate_times(&service, next, 3).await;
    limited(&service, &tokens[3]).await;
    // A replay is one also while the session waits.
    assert_eq!(rotate(&service, &tokens[0]).await.outcome, "replayed");
}

#[tokio::test]
async fn of_many_at_once_one_takes_the_last_and_the_others_are_answered_like_it() {
    let (db, service, _) = database().await;
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 2).await;
    let clients = connections(&db, "auth_service", 16).await;
    let present = async |token: &Token| {
        race(&clients, |_, client| {
            let token = token.clone();
            async move { rotate(&client, &token).await }
        })
        .await
    };
    let answers = present(&tokens[2]).await;
    assert_eq!(answers.iter().filter(|answer| answer.outcome == "rotated").count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.outcome == "retried").count(), 15);
    let next = answers[0].clone().token();
    assert!(answers.into_iter().all(|answer| answer.token() == next));
    let answers = present(&next).await;
    assert!(answers.iter().all(|answer| answer.outcome == "limited"), "{answers:?}");
}

#[tokio::test]
async fn the_setting_counts_at_once_and_zero_turns_it_off() {
    let (db, service, admin) = database().await;
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 3).await;
    limited(&service, &tokens[3]).await;
    // A shorter period: what the longer one left in the row shuts nobody out.
    db.set("auth_sessions.refresh_period", "1min").await;
    let service = db.connect_as("auth_service").await;
    let tokens = rotate_times(&service, tokens[3].clone(), 1).await;
    let ahead: f64 = value(
        &admin,
        "select extract(epoch from refreshes_full_at - clock_timestamp())::float8 from auth.sessions",
        &[],
    )
    .await;
    assert!(ahead <= 20.0, "{ahead}");
    db.set("auth_sessions.refresh_burst", "0").await;
    let service = db.connect_as("auth_service").await;
    rotate_times(&service, tokens[1].clone(), 50).await;
}

#[tokio::test]
async fn the_limit_holds_where_a_replay_ends_everything_of_a_user() {
    // Then every refresh goes the slow way first.
    let (db, _, _) = database().await;
    db.set("auth_sessions.replay_scope", "user").await;
    let service = db.connect_as("auth_service").await;
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 3).await;
    limited(&service, &tokens[3]).await;
    assert_eq!(rotate(&service, &tokens[2]).await.outcome, "retried");
}
