//! `make bench`: what a refresh costs, as a ratio to a bare UPDATE of the same table measured in the same run, and what
//! else was promised, each promise beside its measurement.
//!
//! README.md beside this file says what is measured and how; this file is the order of the day.

mod budget;
mod client;
mod http;
mod load;
mod measure;
mod process;
mod scale;
mod service;
mod sessions;

use auth_sessions_tests::TestDb;
use budget::Budgets;
use clap::{Parser, ValueEnum};

/// Measures refreshes in SQL and over HTTP, on a private cluster, and prints tables.
#[derive(Parser)]
struct Options {
    /// Only these parts; without it, all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Sessions in the table.
    #[arg(long, default_value_t = 300_000)]
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
    #[arg(long, default_value_t = 5)]
    passes: usize,
    /// HTTP clients that work at once.
    #[arg(long, default_value_t = 16)]
    http_clients: usize,
    /// Sessions of the large table; the small one has a tenth.
    #[arg(long, default_value_t = 10_000_000)]
    many: usize,
}

/// A part of it.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// Rates in SQL, of the bare UPDATE.
    Sql,
    /// Growth of table and indexes.
    Growth,
    /// Rates and times over HTTP.
    Http,
    /// Memory and CPU of the service.
    Service,
    /// Refreshes beside cleaning.
    Cleaning,
    /// Ten times as many sessions.
    Sizes,
}

impl Options {
    fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let mut budgets = Budgets::default();
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    sessions::prepare_server(&admin).await;
    // No client refreshes as often as these: the limit is computed, as always, and never reached.
    db.set("auth_sessions.refresh_burst", "1000000").await;
    db.set("auth_sessions.refresh_period", "1s").await;

    if [Part::Sql, Part::Growth, Part::Http, Part::Cleaning].into_iter().any(|part| options.has(part)) {
        let mut sessions = sessions::fill(&db, options.sessions).await;
        admin.batch_execute("checkpoint").await.expect("checkpoint");
        eprintln!("warm-up: one refresh of every session, so that every page's full-page image is written");
        let warm_up = load::Statement::Rotation { audit_level: "security" };
        load::pass(&db, &mut sessions, options.clients, warm_up).await;
        if options.has(Part::Sql) {
            for synchronous_commit in ["on", "off"] {
                let table = measure::compare(&db, &admin, &mut sessions, &options, synchronous_commit).await;
                table.judge(&mut budgets);
                println!("{table}");
            }
        }
        if options.has(Part::Growth) {
            println!("{}", measure::growth(&db, &admin, &mut sessions, &options).await);
        }
        if options.has(Part::Http) {
            println!("{}", http::measure(&db, &mut sessions, &options, &mut budgets).await);
        }
    }
    if options.has(Part::Service) {
        println!("{}", service::measure(&db, options.seconds, &mut budgets).await);
    }
    if options.has(Part::Cleaning) {
        println!("{}", scale::cleaning(&db, &options, &mut budgets).await);
    }
    if options.has(Part::Sizes) {
        println!("{}", scale::sizes(&db, &options, &mut budgets).await);
    }
    println!("{budgets}");
}
