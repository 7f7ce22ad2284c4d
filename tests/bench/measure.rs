//! The database side: rates, write-ahead log, HOT share, growth.

use std::fmt;
use std::time::Duration;

use auth_sessions_tests::TestDb;
use tokio_postgres::Client;

use crate::Options;
use crate::budget::Budgets;
use crate::load::{self, Statement};
use crate::sessions::Session;

const VARIANTS: [(&str, Statement); 4] = [
    ("a  bare UPDATE of one column", Statement::BareUpdate),
    ("b  rotate_session_token", Statement::Rotation { audit_level: "security" }),
    ("c  the same, audit_level all", Statement::Rotation { audit_level: "all" }),
    ("d  client-side transaction", Statement::ClientSide),
];

/// One line of the table.
struct Figures {
    name: &'static str,
    rate: f64,
    wal_bytes: f64,
    full_page_bytes: f64,
    hot_share: f64,
}

/// One table.
pub struct Comparison {
    synchronous_commit: &'static str,
    lines: Vec<Figures>,
}

impl Comparison {
    /// Rotation against the bare UPDATE, beside what was promised.
    pub fn judge(&self, budgets: &mut Budgets) {
        let promised = if self.synchronous_commit == "on" { [0.70, 0.58] } else { [0.60, 0.50] };
        for (line, promised) in self.lines[1..].iter().zip(promised) {
            let what = format!("SQL, of the bare UPDATE (sync {}): {}", self.synchronous_commit, &line.name[3..]);
            budgets.at_least(what, promised, line.rate / self.lines[0].rate);
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "synchronous_commit = {}", self.synchronous_commit)?;
        writeln!(
            out,
            "{:<30} {:>10} {:>8} {:>10} {:>12} {:>8}",
            "", "per second", "of a", "WAL bytes", "+ page images", "HOT"
        )?;
        for line in &self.lines {
            writeln!(
                out,
                "{:<30} {:>10.0} {:>8.2} {:>10.0} {:>12.0} {:>7.2}%",
                line.name,
                line.rate,
                line.rate / self.lines[0].rate,
                line.wal_bytes,
                line.full_page_bytes,
                100.0 * line.hot_share
            )?;
        }
        Ok(())
    }
}

/// All variants, round by round (so that a slow minute of the machine hits all of them); the median round counts.
pub async fn compare(
    db: &TestDb,
    admin: &Client,
    sessions: &mut [Session],
    options: &Options,
    synchronous_commit: &'static str,
) -> Comparison {
    let mut rounds: Vec<Vec<Figures>> = VARIANTS.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (variant, (name, statement)) in VARIANTS.into_iter().enumerate() {
            eprintln!("synchronous_commit {synchronous_commit}, round {round} of {}: {name}", options.rounds);
            let (lsn, before) = (current_lsn(admin).await, Updates::read(admin).await);
            let time = Duration::from_secs(options.seconds);
            let done = load::during(db, sessions, options.clients, statement, synchronous_commit, time).await;
            let count = done.refreshes as f64;
            let (record_bytes, page_bytes) = wal_since(admin, &lsn).await;
            let after = Updates::at_least(admin, before.all + done.refreshes as i64).await;
            rounds[variant].push(Figures {
                name,
                rate: count / done.elapsed.as_secs_f64(),
                wal_bytes: record_bytes / count,
                full_page_bytes: page_bytes / count,
                hot_share: (after.hot - before.hot) as f64 / (after.all - before.all) as f64,
            });
        }
    }
    let median = |mut figures: Vec<Figures>| {
        figures.sort_by(|x, y| x.rate.total_cmp(&y.rate));
        figures.remove(figures.len() / 2)
    };
    Comparison { synchronous_commit, lines: rounds.into_iter().map(median).collect() }
}

/// How much table and indexes have grown when every session was refreshed so often.
pub async fn growth(db: &TestDb, admin: &Client, sessions: &mut [Session], options: &Options) -> String {
    let before = sizes(admin).await;
    for pass in 1..=options.passes {
        eprintln!("growth: refresh {pass} of {} of every session", options.passes);
        load::pass(db, sessions, options.clients, Statement::Rotation { audit_level: "security" }).await;
    }
    let after = sizes(admin).await;
    let percent = |after: i64, before: i64| 100.0 * (after - before) as f64 / before as f64;
    format!(
        "growth after {} refreshes of each of {} sessions: table {:+.1} % ({} MB), indexes {:+.1} % ({} MB)\n",
        options.passes,
        options.sessions,
        percent(after.0, before.0),
        after.0 >> 20,
        percent(after.1, before.1),
        after.1 >> 20,
    )
}

async fn sizes(admin: &Client) -> (i64, i64) {
    let sizes = "select pg_table_size('auth.sessions'), pg_indexes_size('auth.sessions')";
    let row = admin.query_one(sizes, &[]).await.expect("sizes");
    (row.get(0), row.get(1))
}

async fn current_lsn(admin: &Client) -> String {
    let row = admin.query_one("select pg_current_wal_flush_lsn()::text", &[]).await.expect("lsn");
    row.get(0)
}

/// Bytes of records, and of full-page images, written since then.
async fn wal_since(admin: &Client, lsn: &str) -> (f64, f64) {
    // Not everything is flushed with synchronous_commit off; a forced commit flushes what is before it.
    admin.batch_execute("create table flushed (); drop table flushed").await.expect("flush");
    let sums = "select sum(record_size)::float8, sum(fpi_size)::float8
                  from pg_get_wal_stats($1::text::pg_lsn, pg_current_wal_flush_lsn(), true)";
    let row = admin.query_one(sums, &[&lsn]).await.expect("pg_walinspect");
    (row.get(0), row.get(1))
}

/// Updates of the table so far.
struct Updates {
    all: i64,
    hot: i64,
}

impl Updates {
    async fn read(admin: &Client) -> Self {
        let query = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relid = 'auth.sessions'::regclass";
        let row = admin.query_one(query, &[]).await.expect("statistics");
        Self { all: row.get(0), hot: row.get(1) }
    }

    /// Backends report their counters when they end, a moment after their clients have gone.
    async fn at_least(admin: &Client, all: i64) -> Self {
        loop {
            let updates = Self::read(admin).await;
            if updates.all >= all {
                return updates;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
