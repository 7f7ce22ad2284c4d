//! A refresh that was under way while its client gave up, tried again and went on: by the time it is carried out its token
//! is two generations old, and shown by nobody any more. It must burn nothing, and grant nothing; and a thief, who shows
//! his token after the session moved on, must not be taken for it.

use std::time::{Duration, SystemTime};

use auth_sessions_tests::chaos::proxy::Proxy;
use auth_sessions_tests::sql::{until_waiting_for_locks, value};
use auth_sessions_tests::tokens::{Token, random_bytes, rotate, rotate_received_at, rotate_times, sign_up};
use auth_sessions_tests::{Api, Server, TestDb, eventually};
use tokio_postgres::Client;

async fn clock(client: &Client) -> SystemTime {
    value(client, "select clock_timestamp()", &[]).await
}

async fn audited(admin: &Client, action: &str) -> i64 {
    value(admin, "select count(*) from auth.audit_log where action = $1", &[&action]).await
}

#[tokio::test]
async fn what_was_shown_before_the_session_moved_on_burns_nothing() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let admin = db.superuser().await;
    let first = sign_up(&service, "ada@example.org").await;
    let received_at = clock(&service).await;
    let tokens = rotate_times(&service, first, 2).await;

    for _ in 0..3 {
        assert_eq!(rotate_received_at(&service, &tokens[0], Some(received_at)).await, "overtaken");
    }
    assert_eq!(audited(&admin, "token_overtaken").await, 2, "the first and the second; from then on rarer");
    assert_eq!(audited(&admin, "token_replay_detected").await, 0);
    let tokens = rotate_times(&service, tokens[2].clone(), 1).await;

    // It opens no door to one that is nobody's.
    let forged = Token { ticket: random_bytes(16), generation: 0, ..tokens[0].clone() };
    assert_eq!(rotate_received_at(&service, &forged, Some(received_at)).await, "unknown");

    // Shown after the session moved on, it is a thief's.
    assert_eq!(rotate_received_at(&service, &tokens[0], Some(clock(&service).await)).await, "retried");
    let next = rotate(&service, &tokens[1]).await.token();
    assert_eq!(rotate_received_at(&service, &tokens[0], Some(clock(&service).await)).await, "replayed");
    assert_eq!(rotate(&service, &next).await.outcome, "revoked");
}

#[tokio::test]
async fn a_time_to_come_is_no_later_than_now() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let tokens = {
        let first = sign_up(&service, "ada@example.org").await;
        rotate_times(&service, first, 2).await
    };
    let tomorrow = clock(&service).await + Duration::from_secs(86_400);
    assert_eq!(rotate_received_at(&service, &tokens[0], Some(tomorrow)).await, "replayed");
}

#[tokio::test]
async fn the_retry_window_is_not_longer_for_who_waited() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let admin = db.superuser().await;
    let tokens = {
        let first = sign_up(&service, "ada@example.org").await;
        rotate_times(&service, first, 1).await
    };
    let rotated_at = "update auth.sessions set rotated_at = rotated_at - interval '61 seconds' returning rotated_at";
    let rotated_at: SystemTime = value(&admin, rotated_at, &[]).await;
    // Within the window when it was shown: no thief. After it now: nothing is granted.
    let within = rotated_at + Duration::from_secs(59);
    assert_eq!(rotate_received_at(&service, &tokens[0], Some(within)).await, "overtaken");
    assert_eq!(rotate(&service, &tokens[0]).await.outcome, "replayed");
}

/// Without anybody's clock but the database's own: a statement that waits for a lock was shown before it waited.
#[tokio::test]
async fn a_statement_that_waited_for_the_row_is_judged_by_when_it_began() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let first = sign_up(&service, "ada@example.org").await;
    let second = rotate(&service, &first).await.token();

    let mut holder = db.superuser().await;
    let holding = holder.transaction().await.expect("begin");
    holding.execute("select from auth.sessions for update", &[]).await.expect("locked");
    let late = tokio::spawn({
        let (service, first) = (db.connect_as("auth_service").await, first.clone());
        async move { rotate(&service, &first).await }
    });
    let observer = db.superuser().await;
    until_waiting_for_locks(&observer, 1).await;
    // The lock's holder is the first to go on with the session: as the client that was answered does.
    let third = rotate(holding.client(), &second).await.token();
    holding.commit().await.expect("commit");
    assert_eq!(late.await.expect("a task").outcome, "overtaken");
    assert_eq!(rotate(&service, &third).await.outcome, "rotated");
}

/// The same with everything real: the statement stands still between the service and PostgreSQL, as a lost packet that is
/// sent again, while its client gives up and goes on.
#[tokio::test]
async fn a_client_that_gave_up_and_went_on_is_not_burnt_by_its_own_first_try() {
    let db = TestDb::create().await;
    let proxy = Proxy::start(db.cluster().port()).await;
    let url = db.url("auth_service").replace(&format!(":{}/", db.cluster().port()), &format!(":{}/", proxy.port()));
    let server = Server::start_at(&url, &[]).await;
    let first = server.api().signup("ada@example.org").await;

    proxy.hold(1);
    let late = tokio::spawn({
        let (api, token) = (server.api(), first.refresh_token.clone());
        async move { api.refresh(&token).await }
    });
    eventually("the first try stands still", async || proxy.waiting() > 0).await;
    let impatient = Api::with_timeout(server.url(), Duration::from_secs(1));
    let second = loop {
        // Until it gets a connection that nobody holds.
        let request = impatient.request(reqwest::Method::POST, "/api/auth/refresh");
        let body = serde_json::json!({"refreshToken": first.refresh_token});
        if let Ok(answer) = impatient.try_send(request.json(&body)).await {
            break answer.expect(200).session();
        }
    };
    let third = server.api().refresh(&second.refresh_token).await.expect(200).session();
    proxy.release();
    late.await.expect("a task").expect_problem(409, "refresh_overtaken");
    let fourth = server.api().refresh(&third.refresh_token).await.expect(200).session();

    // And who shows it now is a thief.
    server.api().refresh(&first.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    server.api().refresh(&fourth.refresh_token).await.expect_problem(401, "invalid_refresh_token");
}
