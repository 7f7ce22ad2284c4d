//! `make chaos`: see `tests/src/chaos`.

use std::process::ExitCode;
use std::time::Duration;

use auth_sessions_tests::chaos::{Options, run};
use clap::Parser;

/// Lets the service, PostgreSQL and their connections die while clients refresh, and checks that nobody was logged out.
#[derive(Parser)]
struct Arguments {
    /// Seconds that things go wrong.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Clients that refresh without pause.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// The same seed brings the same disasters in the same order; by default another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// The longest that one thing is broken, in seconds.
    #[arg(long, default_value_t = 5)]
    longest: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        time: Duration::from_secs(arguments.seconds),
        clients: arguments.clients,
        seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
        longest: Duration::from_secs(arguments.longest),
    };
    println!("seed {}: {} clients, {} seconds", options.seed, options.clients, arguments.seconds);
    let start = std::time::Instant::now();
    let report = run(options, |what| eprintln!("{:>6.1} s  {what}", start.elapsed().as_secs_f64())).await;
    print!("{report}");
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
