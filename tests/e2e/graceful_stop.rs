//! A graceful stop: what is under way is answered, nothing new is taken, the exit code is 0.

use auth_sessions_tests::{Server, TestDb, eventually};
use tokio::net::TcpStream;

#[tokio::test]
async fn requests_under_way_are_answered_before_the_service_ends() {
    let db = TestDb::create().await;
    let mut server = Server::start(&db, &[]).await;
    let api = server.api();
    let first = api.signup("ada@example.org").await;
    let idle = TcpStream::connect(server.address()).await.expect("connects");

    // The refresh hangs in the database, at a row that somebody else holds.
    let mut admin = db.superuser().await;
    let held = admin.transaction().await.expect("begin");
    held.execute("select from auth.sessions for update", &[]).await.expect("locked");
    let under_way = tokio::spawn({
        let (api, token) = (server.api(), first.refresh_token.clone());
        async move { api.refresh(&token).await }
    });
    let observer = db.superuser().await;
    auth_sessions_tests::sql::until_waiting_for_locks(&observer, 1).await;

    server.terminate();
    let address = server.address().to_owned();
    eventually("new connections are refused", async || TcpStream::connect(&address).await.is_err()).await;
    assert!(!under_way.is_finished());
    // A second signal, as Ctrl-C in a terminal with `make run` sends it, does not cut it short.
    server.terminate();
    held.commit().await.expect("released");

    let second = under_way.await.expect("a task").expect(200).session();
    assert_eq!(server.ended().await.code(), Some(0));
    drop(idle);

    // And what it answered is true.
    let next = Server::start(&db, &[]).await;
    next.api().refresh(&second.refresh_token).await.expect(200);
}

#[tokio::test]
async fn an_idle_service_ends_at_once() {
    let db = TestDb::create().await;
    let mut server = Server::start(&db, &[]).await;
    let api = server.api();
    api.get("/health/live", "").await.expect(200); // its connection stays open

    let started = std::time::Instant::now();
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_killed_service_loses_nothing() {
    let db = TestDb::create().await;
    let mut server = Server::start(&db, &[]).await;
    let first = server.api().signup("ada@example.org").await;
    let second = server.api().refresh(&first.refresh_token).await.expect(200).session();
    server.kill().await;

    let server = Server::start(&db, &[]).await;
    let retried = server.api().refresh(&first.refresh_token).await.expect(200).session();
    assert_eq!(retried.refresh_token, second.refresh_token);
    server.api().refresh(&second.refresh_token).await.expect(200);
}
