//! `make failover`: see `tests/src/failover`.

use std::process::ExitCode;

use auth_sessions_tests::failover::{Loss, Options, run};
use clap::Parser;

/// Lets databases die under load and others take over that are behind, in every way and again and again, and checks that
/// nobody is logged out inside a recovery window and that nothing is burnt.
#[derive(Parser)]
struct Arguments {
    /// Clients that refresh without pause.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How often each kind of it happens.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { clients, rounds } = Arguments::parse();
    let kinds = [
        (Loss::Standby, true, false),
        (Loss::Standby, true, true),
        (Loss::Standby, false, false),
        (Loss::Crash, true, false),
        (Loss::Crash, false, false),
        (Loss::Backup, true, false),
        (Loss::Backup, true, true),
        (Loss::Backup, false, false),
    ];
    let mut faults = 0;
    for round in 1..=rounds {
        for (loss, window, long_outage) in kinds {
            let report = run(Options { loss, clients, window, long_outage }).await;
            print!("{round}/{rounds} {report}");
            if !report.is_clean() {
                println!("  NOT as promised");
                faults += 1;
            }
        }
    }
    println!("{} failovers, {faults} not as promised", rounds * kinds.len());
    if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
