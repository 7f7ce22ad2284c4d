//! The short version of `make chaos`: everything fails at least once, nobody is logged out.

use std::time::Duration;

use auth_sessions_tests::chaos::history::{Answer, Attempt, follow};
use auth_sessions_tests::chaos::{Options, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_logged_out_whatever_fails() {
    let seed = std::env::var("CHAOS_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let options = Options { time: Duration::from_secs(20), clients: 16, seed, longest: Duration::from_secs(1) };
    let report = run(options, |_| {}).await;
    assert!(report.is_clean(), "CHAOS_SEED={} brings this again:\n{report}", options.seed);
    assert!(report.refreshes > 100 && report.unanswered > 0, "nothing happened:\n{report}");
    assert_eq!(report.thefts, (2, 2), "{report}");
}

fn shows(shown: (i32, u64), answer: Answer) -> Attempt {
    Attempt { shown, answer, is_theft: false }
}

#[test]
fn a_history_that_cannot_be_is_found() {
    const LOGIN: u64 = 100;
    let first = shows((0, LOGIN), Answer::Granted(1, 101));
    let lost = shows((1, 101), Answer::Nothing);
    let second = shows((1, 101), Answer::Granted(2, 102));
    let possible: [&[Attempt]; 4] = [
        &[first, first, second],
        &[first, lost, lost, second],
        &[first, second, shows((0, LOGIN), Answer::Refused), shows((2, 102), Answer::Refused)],
        // The thief's attempt may have been carried out although he was not told.
        &[first, second, shows((0, LOGIN), Answer::Nothing), shows((2, 102), Answer::Refused)],
    ];
    for history in possible {
        follow(LOGIN, history).unwrap();
    }
    let impossible: [&[Attempt]; 6] = [
        // A second successor of one token, an acknowledged generation that is gone, one that is skipped.
        &[first, shows((0, LOGIN), Answer::Granted(1, 999))],
        &[first, second, shows((1, 101), Answer::Granted(2, 999))],
        &[first, shows((0, LOGIN), Answer::Granted(2, 102))],
        // Logged out for nothing, also after an answer that was lost.
        &[first, shows((1, 101), Answer::Refused)],
        &[first, lost, shows((1, 101), Answer::Refused)],
        // A replay that was served.
        &[first, second, shows((0, LOGIN), Answer::Granted(1, 101))],
    ];
    for history in impossible {
        follow(LOGIN, history).unwrap_err();
    }
}
