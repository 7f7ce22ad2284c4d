//! Many sessions: ten millions against one, and a million that are cleaned away beside those that are refreshed.

use std::time::Duration;

use auth_sessions_tests::TestDb;

use crate::budget::Budgets;
use crate::client;
use crate::load::{self, Statement};
use crate::{Options, http, sessions};

/// Expired sessions that are cleaned away.
const EXPIRED: usize = 1_000_000;
/// Refreshes a second beside it: about a third of what two cores can do.
const BESIDE_CLEANING: f64 = 1_500.0;

/// The rate with `options.many` sessions against a tenth of them, in turns. Both tables are all in use: each refresh is
/// of another session, in an order that looks random.
pub async fn sizes(db: &TestDb, options: &Options, budgets: &mut Budgets) -> String {
    let server = db.superuser().await;
    let sizes = [options.many / 10, options.many];
    // A warm-up that refreshes ten million sessions, so that each page has been logged whole, would take too long: none is
    // logged whole. And the log of the filling is not kept.
    for setting in ["full_page_writes = off", "max_wal_size = '4GB'"] {
        server.batch_execute(&format!("alter system set {setting}")).await.expect(setting);
    }
    server.batch_execute("select pg_reload_conf()").await.expect("reload");
    let databases = [TestDb::create().await, TestDb::create().await];
    let mut tables = Vec::new();
    for (db, count) in databases.iter().zip(sizes) {
        db.set("auth_sessions.refresh_burst", "1000000").await;
        db.set("auth_sessions.refresh_period", "1s").await;
        let sessions = sessions::fill(db, count).await;
        let admin = db.superuser().await;
        // Vacuuming what has just been filled is not what is asked.
        admin.batch_execute("alter table auth.sessions set (autovacuum_enabled = off)").await.expect("alter table");
        tables.push((db, sessions, Vec::new()));
        server.batch_execute("checkpoint").await.expect("checkpoint");
    }
    for synchronous_commit in ["off", "on"] {
        for round in 0..=options.rounds {
            for (db, sessions, rates) in &mut tables {
                eprintln!("{} sessions, synchronous_commit {synchronous_commit}, round {round}", sessions.len());
                let statement = Statement::Rotation { audit_level: "security" };
                let time = Duration::from_secs(options.seconds);
                let done = load::during(db, sessions, options.clients, statement, synchronous_commit, time).await;
                // The first is the warm-up.
                if round > 0 {
                    rates.push((synchronous_commit, done.refreshes as f64 / done.elapsed.as_secs_f64()));
                }
            }
        }
    }
    let mut said = String::new();
    for synchronous_commit in ["on", "off"] {
        let rate = |rates: &[(&str, f64)]| {
            let mut rates: Vec<f64> =
                rates.iter().filter(|(setting, _)| *setting == synchronous_commit).map(|(_, rate)| *rate).collect();
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let (few, many) = (rate(&tables[0].2), rate(&tables[1].2));
        budgets.at_least(
            format!("{} sessions, of the rate of {} (sync {synchronous_commit})", sizes[1], sizes[0]),
            0.9,
            many / few,
        );
        said += &format!(
            "synchronous_commit {synchronous_commit}: {few:.0} refreshes per second of {} sessions, {many:.0} of {}\n",
            sizes[0], sizes[1]
        );
    }
    said
}

/// Times of refreshes over HTTP, alone and while a million expired sessions are deleted, batch after batch.
pub async fn cleaning(db: &TestDb, options: &Options, budgets: &mut Budgets) -> String {
    let admin = db.superuser().await;
    sessions::fill_expired(&admin, EXPIRED).await;
    let server = http::start(db, &[]).await;
    let mut clients = http::clients(&server, "beside", 64).await;
    let time = Duration::from_secs(options.seconds);
    let mut refresh =
        |time: Duration| tokio::task::block_in_place(|| client::open_loop(&mut clients, BESIDE_CLEANING, time));
    refresh(Duration::from_secs(2));
    let before = refresh(time);
    let operator = db.connect_as("auth_operator").await;
    let cleaner = tokio::spawn(async move {
        let (started, mut removed) = (std::time::Instant::now(), 0_i64);
        loop {
            let row = operator.query_one("select auth.cleanup_expired_sessions()", &[]).await.expect("cleaning");
            match row.get::<_, i64>(0) {
                0 => return (removed, started.elapsed()),
                batch => removed += batch,
            }
        }
    });
    let mut during = Vec::new();
    while !cleaner.is_finished() {
        during.extend(refresh(Duration::from_secs(1)));
    }
    during.sort_unstable();
    let (removed, took) = cleaner.await.expect("cleaner");
    assert!(removed >= EXPIRED as i64, "{removed} sessions were cleaned away");
    let after = refresh(time);
    let p99 = |times: &[Duration]| client::percentile(times, 0.99);
    // Not the one after: vacuuming what was deleted begins then.
    let moved = p99(&during) / p99(&before);
    budgets.below(format!("cleaning {EXPIRED} expired: p99 of refreshes, of that before"), 2.0, moved, "×");
    format!(
        "{BESIDE_CLEANING:.0} refreshes per second over HTTP: p99 {:.2} ms before, {:.2} ms while {removed} sessions are \
         cleaned away in {:.0} s, {:.2} ms after\n",
        p99(&before),
        p99(&during),
        took.as_secs_f64(),
        p99(&after),
    )
}
