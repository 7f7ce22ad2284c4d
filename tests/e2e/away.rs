//! The database does not answer: everybody is told so in time, and when it is back nothing has to be mended.

use std::time::Duration;

use auth_sessions_tests::chaos::proxy::Proxy;
use auth_sessions_tests::sql::{until_waiting_for_locks, value};
use auth_sessions_tests::{Server, TestDb, all_at_once, eventually};

#[tokio::test]
async fn without_a_connection_a_request_is_told_so_and_does_not_hang() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[("DB_POOL_SIZE", "2")]).await;
    let mut sessions = Vec::new();
    for name in ["ada", "bob", "carol"] {
        sessions.push(server.api().signup(&format!("{name}@example.org")).await);
    }
    let mut admin = db.superuser().await;
    let held = admin.transaction().await.expect("begin");
    held.execute("select from auth.sessions for update", &[]).await.expect("locked");
    let under_way: Vec<_> = (sessions[..2].iter())
        .map(|session| {
            let (api, token) = (server.api(), session.refresh_token.clone());
            tokio::spawn(async move { api.refresh(&token).await })
        })
        .collect();
    let observer = db.superuser().await;
    until_waiting_for_locks(&observer, 2).await;

    // Many at once, refreshes and everything else alike.
    let token = sessions[2].refresh_token.clone();
    let answers = all_at_once(20, |number, start| {
        let (api, token) = (server.api(), token.clone());
        async move {
            start.wait().await;
            if number % 2 == 0 { api.refresh(&token).await } else { api.login("ada@example.org", "any password").await }
        }
    });
    for answer in answers.await {
        let retry_after = answer.header("retry-after").map(str::to_owned);
        answer.expect_problem(503, "overloaded");
        assert!(retry_after.is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
    }
    server.api().get("/health/live", "").await.expect(200);

    held.commit().await.expect("released");
    for answer in under_way {
        answer.await.expect("a task").expect(200);
    }
    server.api().refresh(&sessions[2].refresh_token).await.expect(200);
}

/// The network swallows everything, and nobody says so: neither an answer comes nor an error.
#[tokio::test]
async fn a_connection_that_went_silent_is_given_up() {
    let db = TestDb::create().await;
    let proxy = Proxy::start(db.cluster().port()).await;
    let url = db.url("auth_service").replace(&format!(":{}/", db.cluster().port()), &format!(":{}/", proxy.port()));
    let server = Server::start_at(&url, &[("DB_POOL_SIZE", "2")]).await;
    let ada = server.api().signup("ada@example.org").await;
    // Both connections of the pool are there.
    let pool = "select count(*) from pg_stat_activity where datname = current_database() and usename = 'auth_service'";
    let admin = db.superuser().await;
    eventually("the pool is full", async || {
        let asked = (0..4).map(|_| async { server.api().get("/health/ready", "").await.expect(200) });
        futures_util::future::join_all(asked).await;
        value::<i64>(&admin, pool, &[]).await == 2
    })
    .await;

    proxy.hold(1);
    let silent = all_at_once(2, |_, start| {
        let (api, token) = (server.api(), ada.refresh_token.clone());
        async move {
            start.wait().await;
            api.refresh(&token).await
        }
    });
    for answer in silent.await {
        answer.expect_problem(503, "timeout");
    }
    // Nobody else waits behind them, although they are still silent.
    let again = tokio::time::timeout(Duration::from_secs(20), server.api().refresh(&ada.refresh_token)).await;
    let next = again.expect("an answer").expect(200).session();
    proxy.release();
    server.api().refresh(&next.refresh_token).await.expect(200);
}
