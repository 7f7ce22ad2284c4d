//! The whole way: keep-alive clients, the service, the database, all on this machine's cores.

use std::time::Duration;

use auth_sessions_tests::{Server, TestDb};

use crate::Options;
use crate::budget::Budgets;
use crate::client::{self, HttpClient};
use crate::load::{self, Statement};
use crate::sessions::Session;

/// Clients of the open loop: so many refreshes can be under way at once.
const OPEN_LOOP_CLIENTS: usize = 64;

/// The service as in production; a limit by address would stop what comes from one.
pub async fn start(db: &TestDb, settings: &[(&str, &str)]) -> Server {
    // A debug line a request would be measured too.
    let usual = [("RUST_LOG", "info"), ("LOG_FORMAT", "json"), ("RATE_LIMIT_REFRESH", "1000000/1s")];
    Server::start(db, &[&usual[..], settings].concat()).await
}

/// So many connections, each with a session of its own.
pub async fn clients(server: &Server, name: &str, count: usize) -> Vec<HttpClient> {
    let mut clients = Vec::new();
    for number in 0..count {
        let session = server.api().signup(&format!("{name}{number}@bench.test")).await;
        clients.push(HttpClient::connect(server.address(), &session.refresh_token));
    }
    clients
}

/// The rate at full load in turns with the rate of the same in SQL, then times at 70 % of it; the median rounds count.
pub async fn measure(db: &TestDb, sessions: &mut [Session], options: &Options, budgets: &mut Budgets) -> String {
    let server = start(db, &[]).await;
    let mut closed = clients(&server, "closed", options.http_clients).await;
    let seconds = Duration::from_secs(options.seconds);
    eprintln!("HTTP: {} keep-alive clients without pause", options.http_clients);
    tokio::task::block_in_place(|| client::closed_loop(&mut closed, Duration::from_secs(2)));
    let (mut rates, mut database_rates, mut full) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let rotation = Statement::Rotation { audit_level: "security" };
        let done = load::during(db, sessions, options.clients, rotation, "on", seconds).await;
        database_rates.push(done.refreshes as f64 / done.elapsed.as_secs_f64());
        full = tokio::task::block_in_place(|| client::closed_loop(&mut closed, seconds));
        rates.push(full.len() as f64 / seconds.as_secs_f64());
    }
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (rate, database_rate) = (median(rates), median(database_rates));
    eprintln!("HTTP: {:.0} refreshes per second, arriving at random", 0.7 * rate);
    // Connected only now: the service closes what idles for half a minute.
    let mut open = clients(&server, "open", OPEN_LOOP_CLIENTS).await;
    let mut ratios = Vec::new();
    for _ in 0..options.rounds {
        let times = tokio::task::block_in_place(|| client::open_loop(&mut open, 0.7 * rate, seconds));
        ratios.push((client::percentile(&times, 0.5), client::percentile(&times, 0.99)));
    }
    ratios.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let (p50, p99) = ratios[ratios.len() / 2];
    budgets.at_least("HTTP refreshes, of the rate in SQL", 0.5, rate / database_rate);
    budgets.below("HTTP at 70 % load (open loop): p99 of p50", 5.0, p99 / p50, "×");
    format!(
        "over HTTP, {} keep-alive clients on the same cores: {rate:.0} refreshes per second ({:.2} of the {database_rate:.0} in SQL), \
         p50 {:.2} ms, p99 {:.2} ms\nat 70 % of that, arriving at random, timed from when they were due: p50 {p50:.2} ms, \
         p99 {p99:.2} ms\n",
        options.http_clients,
        rate / database_rate,
        client::percentile(&full, 0.50),
        client::percentile(&full, 0.99),
    )
}
