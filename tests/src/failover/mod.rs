//! Failover: clients refresh without pause while their database dies and another one takes over that is behind. Inside a
//! recovery window nobody whose login is in it is logged out; outside one, whoever is newer than it is refused, and
//! nothing is burnt.
//!
//! Nothing is pretended: the write-ahead log is lost because the process that would have sent or written it stands still
//! when every process of the server is killed; the service is the same process all along (but for a restored backup,
//! where it is started again with another `DATABASE_URL`).

mod clients;
mod report;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use tokio_postgres::Client as Connection;

use crate::sql::{run as execute, value};
use crate::{Api, OwnCluster, Server, eventually};
use clients::Client;
pub use clients::{Manners, Weather};
pub use report::Report;

/// How the commits get lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The primary dies while its asynchronous standby is behind, and that is promoted.
    Standby,
    /// The server dies with `auth_sessions.rotation_synchronous_commit = off`, and recovers from its own log.
    Crash,
    /// The server dies for good, and a base backup is restored.
    Backup,
}

/// What is to happen.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How the commits get lost.
    pub loss: Loss,
    /// How many clients are logged in before.
    pub clients: usize,
    /// Whether the operator opens a recovery window before the service is let in.
    pub window: bool,
    /// Whether five minutes pass before anybody is answered again: longer than any retry waits.
    pub long_outage: bool,
}

/// A session that ended in what was lost, and somebody who came in what was lost.
struct Bystanders {
    leavers: Vec<crate::Session>,
    latecomers: Vec<crate::Session>,
}

/// Runs it, on clusters and a service of its own.
pub async fn run(options: Options) -> Report {
    let old = OwnCluster::create();
    let admin = old.connect("postgres", "auth").await;
    // Refreshed without pause: what no client does, and no limit expects.
    execute(&admin, "alter database auth set auth_sessions.refresh_burst = 0", &[]).await;
    if options.loss == Loss::Crash {
        execute(&admin, "alter database auth set auth_sessions.rotation_synchronous_commit = off", &[]).await;
    }
    let standby = (options.loss == Loss::Standby).then(|| OwnCluster::standby_of(&old));
    let mut server = Server::start_at(&service_url(&old, standby.as_ref()), &[("RUST_LOG", "error")]).await;

    let weather = Arc::new(Weather::default());
    let (url, api) = (server.url().to_owned(), server.api());
    let manners = if options.loss == Loss::Crash { &Manners::ASKING_ONCE[..] } else { &Manners::ALL };
    let residents = (0..options.clients)
        .map(|n| Client::sign_up(&url, n, manners[n % manners.len()], weather.clone()))
        .collect::<Vec<_>>();
    let residents = join_all(residents).await;
    let leavers = sign_up_many(&api, "leaver", options.clients / 4).await;
    let sleepers = residents.iter().filter(|client| client.manners == Manners::Sleeper).count();
    let lives: Vec<_> = residents.into_iter().map(|client| tokio::spawn(client.live())).collect();
    let refreshed = async |more: usize| {
        let enough = weather.refreshes.load(Ordering::Relaxed) + more;
        eventually("clients have refreshed", async || weather.refreshes.load(Ordering::Relaxed) >= enough).await;
    };
    refreshed(options.clients * 4).await;
    weather.may_sleep.store(true, Ordering::Release);
    eventually("all sleep who sleep", async || weather.asleep.load(Ordering::Acquire) == sleepers).await;

    // From here on what is committed gets lost.
    let mut held = Vec::new();
    let mut left = None;
    match options.loss {
        Loss::Standby => {
            let standby = standby.expect("made above");
            catch_up(&admin, &standby.connect("postgres", "auth").await).await;
            held.push(old.hold("walsender").await);
            left = Some(standby);
        }
        Loss::Backup => left = Some(OwnCluster::backup_of(&old)),
        Loss::Crash => {}
    }
    let latecomers = sign_up_many(&api, "latecomer", options.clients / 4).await;
    for leaver in &leavers {
        let body = serde_json::json!({"refreshToken": leaver.refresh_token});
        api.post("/api/auth/logout", &body, "").await.expect(200);
    }
    if options.loss == Loss::Crash {
        // Whoever signs up or leaves waits for the disk, and takes along what came before.
        held.push(old.hold("background writer").await);
        held.push(old.hold("walwriter").await);
    }
    refreshed(options.clients * 4).await;
    drop(admin);
    old.crash();
    drop(held);

    // Nobody is let in before all is ready: otherwise the service is faster than the operator.
    let left = left.unwrap_or(old);
    left.shut_out("auth_service");
    match options.loss {
        Loss::Standby => {
            let admin = left.connect("postgres", "auth").await;
            eventually("it follows its access rules", async || left.is_shut_out("auth_service").await).await;
            execute(&admin, "select pg_promote()", &[]).await;
            let in_recovery = "select pg_is_in_recovery()";
            eventually("it is a primary", async || !value::<bool>(&admin, in_recovery, &[]).await).await;
        }
        Loss::Crash | Loss::Backup => left.start(),
    }
    if options.loss == Loss::Backup {
        let address = server.address().to_owned();
        server.kill().await;
        let settings = [("RUST_LOG", "error"), ("AUTH_LISTEN", &address)];
        server = Server::start_at(&service_url(&left, None), &settings).await;
    }
    let mut report = Report::new(options, &left).await;
    if options.long_outage {
        report.let_five_minutes_pass().await;
    }
    if options.window {
        report.open_window().await;
    }
    weather.is_over.store(true, Ordering::Release);
    left.let_in("auth_service").await;
    let mut residents = Vec::new();
    for life in lives {
        residents.push(life.await.expect("a client"));
    }
    report.refreshes = weather.refreshes.load(Ordering::Relaxed);
    report.look_at(&mut residents, &Bystanders { leavers, latecomers }, &server.api()).await;
    report
}

/// The service's login at one cluster, or at whichever of two takes writes.
fn service_url(cluster: &OwnCluster, other: Option<&OwnCluster>) -> String {
    let Some(other) = other else { return cluster.url("auth_service", "auth") };
    format!(
        "postgresql://auth_service:{}@127.0.0.1:{},127.0.0.1:{}/auth?target_session_attrs=read-write",
        cluster.password("auth_service"),
        cluster.port(),
        other.port()
    )
}

async fn sign_up_many(api: &Api, name: &str, count: usize) -> Vec<crate::Session> {
    join_all((0..count).map(async |n| api.signup(&format!("{name}{n}@example.org")).await)).await
}

/// Waits until the standby has replayed what the primary has committed.
pub async fn catch_up(primary: &Connection, standby: &Connection) {
    let written: String = value(primary, "select pg_current_wal_flush_lsn()::text", &[]).await;
    let replayed = "select coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)";
    eventually("the standby has caught up", async || value(standby, replayed, &[&written]).await).await;
}
