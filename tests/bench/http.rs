//! The whole way: keep-alive clients, the service, the database, all on this machine's cores.

use std::sync::Arc;
use std::time::{Duration, Instant};

use auth_sessions_tests::{Api, Server, TestDb};

use crate::Options;

/// Refreshes per second over HTTP, and how long they took.
pub async fn measure(db: &TestDb, options: &Options, database_rate: f64) -> String {
    // Logging as in production: a debug line a request would be measured too.
    let server =
        Server::start(db, &[("RUST_LOG", "info"), ("LOG_FORMAT", "json"), ("RATE_LIMIT_REFRESH", "1000000/1s")]).await;
    eprintln!("HTTP: {} keep-alive clients", options.http_clients);
    let barrier = Arc::new(tokio::sync::Barrier::new(options.http_clients + 1));
    let mut workers = Vec::new();
    for client in 0..options.http_clients {
        let api = server.api();
        let token = api.signup(&format!("http{client}@bench.test")).await.refresh_token;
        let (barrier, time) = (barrier.clone(), Duration::from_secs(options.seconds));
        workers.push(tokio::spawn(async move {
            refresh_for(&api, token.clone(), Duration::from_secs(1)).await;
            let token = api.login(&format!("http{client}@bench.test"), auth_sessions_tests::http::PASSWORD).await;
            barrier.wait().await;
            refresh_for(&api, token.session().refresh_token, time).await
        }));
    }
    barrier.wait().await;
    let start = Instant::now();
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await.expect("a client"));
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let percentile = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    format!(
        "over HTTP, {} keep-alive clients on the same cores: {rate:.0} refreshes per second ({:.2} of the database alone), \
         p50 {:.2} ms, p99 {:.2} ms\n",
        options.http_clients,
        rate / database_rate,
        percentile(0.50),
        percentile(0.99),
    )
}

/// One refresh after the other; how long each took.
async fn refresh_for(api: &Api, mut token: String, time: Duration) -> Vec<Duration> {
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed() < time {
        let sent = Instant::now();
        let answer = api.refresh(&token).await;
        times.push(sent.elapsed());
        token = answer.expect(200).session().refresh_token;
    }
    times
}
