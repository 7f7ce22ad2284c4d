//! What the service costs beside refreshes: connections that idle, tokens that are garbage, passwords.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use auth_sessions_tests::TestDb;
use auth_sessions_tests::http::PASSWORD;

use crate::budget::Budgets;
use crate::client::{self, HttpClient};
use crate::http;
use crate::process::Process;

/// Connections that idle.
const IDLE: usize = 200;
/// Garbage tokens.
const GARBAGE: usize = 40_000;

/// Memory of connections that have refreshed once and stay open.
pub async fn idle_connections(db: &TestDb, budgets: &mut Budgets) -> String {
    let server = http::start(db, &[]).await;
    let process = Process(server.id());
    // What the first requests bring into memory for good is not the connections'.
    let mut first = http::clients(&server, "warm", 8).await;
    client::closed_loop(&mut first, Duration::from_secs(2));
    let before = process.resident_megabytes();
    let mut idle = http::clients(&server, "idle", IDLE).await;
    idle.iter_mut().for_each(HttpClient::refresh);
    let after = process.resident_megabytes();
    budgets.below(format!("memory of {IDLE} idle connections"), 50.0, after - before, "MB");
    format!("{IDLE} idle connections: the service has {before:.1} MB without, {after:.1} MB with them\n")
}

/// CPU time of the service for a refresh token that nobody issued: the whole request, reading and answering it included.
pub async fn garbage(db: &TestDb, budgets: &mut Budgets) -> String {
    let server = http::start(db, &[]).await;
    let process = Process(server.id());
    let garbage = format!("asr_{}", "A".repeat(118));
    let refused = client::refresh_request(server.address(), &garbage);
    let alive = format!("GET /health/live HTTP/1.1\r\nhost: {}\r\n\r\n", server.address());
    let cost = |request: &str, expected: u16| {
        let mut client = HttpClient::connect(server.address(), "");
        let pipelined = request.repeat(100);
        client.send_pipelined(&pipelined, 100, expected);
        let before = process.cpu();
        for _ in 0..GARBAGE / 100 {
            client.send_pipelined(&pipelined, 100, expected);
        }
        let pipelined = (process.cpu() - before).as_secs_f64() * 1e6 / GARBAGE as f64;
        let before = process.cpu();
        for _ in 0..GARBAGE {
            assert_eq!(client.send(request), expected);
        }
        (pipelined, (process.cpu() - before).as_secs_f64() * 1e6 / GARBAGE as f64)
    };
    let (garbage_pipelined, garbage_alone) = cost(&refused, 401);
    let (alive_pipelined, alive_alone) = cost(&alive, 200);
    budgets.below(
        "a garbage token: CPU of the service beyond the emptiest request",
        20.0,
        garbage_alone - alive_alone,
        "µs",
    );
    budgets.below("a garbage token in a flood (pipelined): CPU, the whole request", 20.0, garbage_pipelined, "µs");
    format!(
        "a garbage token costs the service {garbage_alone:.1} µs of CPU with its request, one at a time, and \
         {garbage_pipelined:.1} µs pipelined; the emptiest request there is (GET /health/live) {alive_alone:.1} and \
         {alive_pipelined:.1} µs\n"
    )
}

/// Refreshes while logins hash passwords on every core.
pub async fn beside_argon2(db: &TestDb, seconds: u64, budgets: &mut Budgets) -> String {
    // The service's defaults, not the tests' cheap parameters.
    let own = [("ARGON2_MEMORY_KIB", "65536"), ("ARGON2_ITERATIONS", "3"), ("ARGON2_PARALLELISM", "1")];
    let server = http::start(db, &own).await;
    let mut clients = http::clients(&server, "argon", 32).await;
    let process = Process(server.id());
    let stop = AtomicBool::new(false);
    let logins = async {
        let one = |number: usize| {
            let (api, stop) = (server.api(), &stop);
            async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    api.login(&format!("argon{number}@bench.test"), PASSWORD).await.expect(200);
                    count += 1;
                }
                count
            }
        };
        // More than there are cores: what cannot be hashed at once waits in the service's queue.
        futures_util::future::join_all((0..8).map(one)).await.into_iter().sum::<u64>()
    };
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let (time, stop) = (Duration::from_secs(seconds), &stop);
    let before = process.cpu();
    let refreshes = async {
        tokio::task::spawn_blocking({
            let mut clients = std::mem::take(&mut clients);
            move || client::open_loop(&mut clients, 200.0, time)
        })
        .await
        .expect("clients")
    };
    let (logins, times) = futures_util::future::join(logins, async {
        let times = refreshes.await;
        stop.store(true, Ordering::Relaxed);
        times
    })
    .await;
    let busy = (process.cpu() - before).as_secs_f64() / time.as_secs_f64();
    let (p50, p99) = (client::percentile(&times, 0.5), client::percentile(&times, 0.99));
    budgets.below("refreshes while argon2 has every core: p99", 100.0, p99, "ms");
    format!(
        "with {:.0} passwords a second being hashed ({busy:.1} of {cores} cores), 200 refreshes a second take p50 {p50:.2} ms, \
         p99 {p99:.2} ms\n",
        logins as f64 / time.as_secs_f64()
    )
}

/// The same, for those who start it.
pub async fn measure(db: &TestDb, seconds: u64, budgets: &mut Budgets) -> String {
    let mut said = idle_connections(db, budgets).await;
    said += &garbage(db, budgets).await;
    said += &beside_argon2(db, seconds, budgets).await;
    said
}
