//! `make bench`: what a refresh costs, as a ratio to a bare UPDATE of the same table measured in the same run.
//!
//! README.md beside this file says what is measured and how; this file is the order of the day.

mod http;
mod load;
mod measure;
mod sessions;

use auth_sessions_tests::TestDb;
use clap::Parser;

/// Measures refreshes in SQL and over HTTP, on a private cluster, and prints tables.
#[derive(Parser)]
struct Options {
    /// Sessions in the table.
    #[arg(long, default_value_t = 500_000)]
    sessions: usize,
    /// Database clients that work at once.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// How often each measurement is repeated; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Refreshes of every session before growth is looked at.
    #[arg(long, default_value_t = 20)]
    passes: usize,
    /// HTTP clients that work at once.
    #[arg(long, default_value_t = 16)]
    http_clients: usize,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    sessions::prepare_server(&admin).await;
    // No client refreshes as often as these: the limit is computed, as always, and never reached.
    db.set("auth_sessions.refresh_burst", "1000000").await;
    db.set("auth_sessions.refresh_period", "1s").await;
    let mut sessions = sessions::fill(&admin, options.sessions).await;
    eprintln!("warm-up: one refresh of every session, so that every page's full-page image is written");
    let warm_up = load::Statement::Rotation { audit_level: "security" };
    load::pass(&db, &mut sessions, options.clients, warm_up).await;

    let mut database_rate = 0.0;
    for synchronous_commit in ["on", "off"] {
        let table = measure::compare(&db, &admin, &mut sessions, &options, synchronous_commit).await;
        database_rate = if synchronous_commit == "on" { table.rotation_rate() } else { database_rate };
        println!("{table}");
    }
    println!("{}", measure::growth(&db, &admin, &mut sessions, &options).await);
    println!("{}", http::measure(&db, &options, database_rate).await);
}
