//! A failover, a crash without synchronous commits and a restored backup, each under load: what tests/src/failover does,
//! with few clients. `make failover` does it with many, again and again.

use auth_sessions_tests::failover::{Loss, Options, run};

const WITH_A_WINDOW: Options = Options { loss: Loss::Standby, clients: 8, window: true, long_outage: false };

async fn is_clean(options: Options) {
    let report = run(options).await;
    println!("{report}");
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
async fn a_failover_to_a_standby_that_is_behind_logs_nobody_out_inside_a_window() {
    is_clean(Options { long_outage: true, ..WITH_A_WINDOW }).await;
}

#[tokio::test]
async fn a_failover_without_a_window_burns_nothing_and_a_later_one_lets_everybody_in() {
    is_clean(Options { window: false, ..WITH_A_WINDOW }).await;
}

#[tokio::test]
async fn a_crash_without_synchronous_commits_logs_nobody_out_inside_a_window() {
    is_clean(Options { loss: Loss::Crash, ..WITH_A_WINDOW }).await;
}

#[tokio::test]
async fn a_restored_backup_logs_nobody_out_inside_a_window() {
    is_clean(Options { loss: Loss::Backup, ..WITH_A_WINDOW }).await;
}
