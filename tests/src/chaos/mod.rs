//! Chaos: clients refresh without pause while the service, PostgreSQL and what is between them fail in every way we can
//! make. At the end nobody is logged out, and every answer is one that the decision table gives.
//!
//! | module | |
//! |---|---|
//! | [`clients`] | 64 sessions, with four ways of trying again |
//! | [`disasters`] | what goes wrong |
//! | [`proxy`] | the weather between the service and PostgreSQL, and where clients find the service |
//! | [`history`] | what the clients saw, against the decision table |

pub mod clients;
pub mod disasters;
pub mod history;
pub mod proxy;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{OwnCluster, Server};
use clients::{Client, Manners};
use disasters::{Disaster, SmallDisk, World};
use history::{Answer, State, follow};
use proxy::Proxy;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long things go wrong.
    pub time: Duration,
    /// How many clients.
    pub clients: usize,
    /// The same number brings the same disasters in the same order.
    pub seed: u64,
    /// The longest that one thing is broken.
    pub longest: Duration,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How often each thing went wrong.
    pub disasters: BTreeMap<Disaster, u32>,
    /// What could not be made to happen here.
    pub left_out: Vec<Disaster>,
    /// Refreshes that were acknowledged.
    pub refreshes: usize,
    /// Attempts without an answer.
    pub unanswered: usize,
    /// Tokens that a thief showed, and how many of the thefts burnt their family.
    pub thefts: (usize, usize),
    /// Clients that were refused, or could not refresh in fair weather at the end.
    pub logged_out: Vec<String>,
    /// Sessions revoked though nobody robbed them.
    pub burnt_by_mistake: Vec<String>,
    /// Sessions whose row is older than an acknowledged refresh.
    pub lost_refreshes: Vec<String>,
    /// Sessions that gave two tokens of one generation.
    pub forks: Vec<String>,
    /// Sessions whose history no order of events by the decision table explains.
    pub impossible: Vec<String>,
}

impl Report {
    /// Whether all is as promised.
    pub fn is_clean(&self) -> bool {
        let faults = [&self.logged_out, &self.burnt_by_mistake, &self.lost_refreshes, &self.forks, &self.impossible];
        faults.iter().all(|fault| fault.is_empty()) && self.thefts.0 == self.thefts.1
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (disaster, times) in &self.disasters {
            writeln!(f, "  {times:>5}  {disaster:?}")?;
        }
        for disaster in &self.left_out {
            writeln!(f, "      -  {disaster:?}: cannot be made to happen here (only root can)")?;
        }
        writeln!(f, "{:>7}  refreshes acknowledged", self.refreshes)?;
        writeln!(f, "{:>7}  attempts without an answer", self.unanswered)?;
        writeln!(f, "{:>7}  thefts, of which {} were found", self.thefts.0, self.thefts.1)?;
        for (what, sessions) in [
            ("clients logged out", &self.logged_out),
            ("families burnt by mistake", &self.burnt_by_mistake),
            ("acknowledged refreshes lost", &self.lost_refreshes),
            ("sessions with two live lines", &self.forks),
            ("histories that the decision table does not explain", &self.impossible),
        ] {
            writeln!(f, "{:>7}  {what}", sessions.len())?;
            for session in sessions {
                writeln!(f, "         {session}")?;
            }
        }
        Ok(())
    }
}

/// Runs it, on a cluster and a service of its own.
pub async fn run(options: Options, mut progress: impl FnMut(String)) -> Report {
    let disk = SmallDisk::mount(OwnCluster::next_path("disk"), 700);
    let cluster = match &disk {
        Some(disk) => OwnCluster::create_in(disk.path()),
        None => OwnCluster::create(),
    };
    // Refreshed without pause, for the length of an outage: what no client does, and no limit expects.
    let admin = cluster.connect("postgres", "auth").await;
    admin.batch_execute("alter database auth set auth_sessions.refresh_burst = 0").await.expect("alter database");
    drop(admin);
    let proxy = Proxy::start(cluster.port()).await;
    let through_proxy =
        format!("postgresql://auth_service:{}@127.0.0.1:{}/auth", cluster.password("auth_service"), proxy.port());
    let server = Server::start_at(&through_proxy, &[("RUST_LOG", "error")]).await;
    let front = Proxy::start(server.port()).await;
    let mut random = fastrand::Rng::with_seed(options.seed);

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for number in 0..options.clients {
        let manners = Manners::ALL[number % Manners::ALL.len()];
        clients.push(Client::new(&front.url(), number, manners, random.u64(..)).await);
    }
    // One in eight is robbed, some time on the way.
    let lives: Vec<_> = (clients.into_iter().enumerate())
        .map(|(number, client)| {
            let theft = (number % 8 == 5).then(|| options.time.mul_f64(0.2 + 0.6 * random.f64()));
            tokio::spawn(client.live(stop.clone(), theft))
        })
        .collect();

    let mut world = World { cluster, server, front, proxy, disk, random };
    let left_out = Disaster::ALL.into_iter().filter(|disaster| !world.has(*disaster)).collect();
    let mut report = Report { left_out, ..Report::default() };
    let end = Instant::now() + options.time;
    // Each once, in a random order, however long that takes, so that a short run has seen them all; and again.
    'time: loop {
        let mut order: Vec<_> = Disaster::ALL.into_iter().filter(|disaster| world.has(*disaster)).collect();
        world.random.shuffle(&mut order);
        for disaster in order {
            if Instant::now() >= end && report.disasters.contains_key(&disaster) {
                break 'time;
            }
            progress(format!("{disaster:?}"));
            world.strike(disaster, options.longest).await;
            *report.disasters.entry(disaster).or_default() += 1;
            // Fair weather for a while, so that clients get on between two disasters, and not too long.
            tokio::time::sleep(options.longest.mul_f64(world.random.f64())).await;
        }
    }
    progress("fair weather".to_owned());
    stop.store(true, Ordering::Relaxed);
    for life in lives {
        let mut client = life.await.expect("a client");
        settle(&world, &mut client, &mut report).await;
    }
    report
}

/// In fair weather: is the client still logged in, and does what it saw hang together?
async fn settle(world: &World, client: &mut Client, report: &mut Report) {
    let name = format!("{} ({:?})", client.session_id, client.manners);
    if !client.was_robbed && (client.was_logged_out || !client.is_logged_in().await) {
        report.logged_out.push(name.clone());
    }
    let admin = world.cluster.connect("postgres", "auth").await;
    let row = admin
        .query_one("select generation, revoked_reason from auth.sessions where id = $1", &[&client.session_id])
        .await
        .expect("the session's row");
    let (generation, revoked_reason): (i32, Option<String>) = (row.get(0), row.get(1));

    let granted = |attempt: &history::Attempt| match attempt.answer {
        Answer::Granted(generation, token) => Some((generation, token)),
        _ => None,
    };
    let mut by_generation = BTreeMap::<i32, u64>::new();
    for (generation, token) in client.attempts.iter().filter_map(granted) {
        if *by_generation.entry(generation).or_insert(token) != token {
            report.forks.push(format!("{name}: two tokens of generation {generation}"));
        }
    }
    let newest = by_generation.keys().max().copied().unwrap_or(0);
    if generation < newest {
        report.lost_refreshes.push(format!("{name}: {newest} acknowledged, {generation} in the row"));
    }
    if client.was_robbed {
        report.thefts.0 += 1;
        report.thefts.1 += usize::from(revoked_reason.as_deref() == Some("token_replay"));
    } else if let Some(reason) = &revoked_reason {
        report.burnt_by_mistake.push(format!("{name}: {reason}"));
    }
    match follow(client.login, &client.attempts) {
        Ok(states) => {
            let is_there =
                |state: &State| state.generation == generation && state.is_revoked == revoked_reason.is_some();
            if !states.iter().any(is_there) {
                report.impossible.push(format!("{name}: generation {generation} in the row, but {states:?}"));
            }
        }
        Err(why) => report.impossible.push(format!("{name}: {why}")),
    }
    report.refreshes += by_generation.len();
    report.unanswered += client.attempts.iter().filter(|attempt| attempt.answer == Answer::Nothing).count();
}
