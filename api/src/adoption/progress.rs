//! How far it came: on standard error, at most once a second; results are on standard output.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use crate::db::adoption::Step;

const EVERY: Duration = Duration::from_secs(1);

/// One step's progress.
pub struct Progress {
    began: Instant,
    shown: Instant,
    done_before: i64,
    is_at_the_start: bool,
}

impl Progress {
    /// Of a step that begins, or goes on.
    pub fn new(step: &Step) -> Self {
        let now = Instant::now();
        Self { began: now, shown: now, done_before: step.done, is_at_the_start: step.done == 0 && step.total.is_none() }
    }

    /// Whether nothing was done yet, in this run or another.
    pub fn is_at_the_start(&self) -> bool {
        self.is_at_the_start
    }

    /// Shows it, when it is over or was not shown for a second.
    pub fn show(&mut self, step: &Step) {
        self.is_at_the_start = false;
        if !step.is_finished && self.shown.elapsed() < EVERY {
            return;
        }
        self.shown = Instant::now();
        let line = line(step, step.done - self.done_before, self.began.elapsed());
        if std::io::stderr().is_terminal() {
            // In the place of the line before, until the step is over.
            eprint!("\r\x1b[K{line}{}", if step.is_finished { "\n" } else { "" });
        } else {
            eprintln!("{line}");
        }
    }
}

fn line(step: &Step, more: i64, elapsed: Duration) -> String {
    let Step { name, done, total, is_finished } = step;
    let seconds = elapsed.as_secs_f64();
    let rate = more as f64 / seconds.max(0.001);
    if *is_finished {
        return format!("{name}: {done} in {seconds:.1} s");
    }
    match total {
        Some(total) if *total > 0 => {
            let left = (total - done).max(0) as f64 / rate.max(0.001);
            format!("{name}: {done} of {total} ({} %), {rate:.0} a second, {left:.0} s left", 100 * done / total)
        }
        _ => format!("{name}: {done}, {rate:.0} a second"),
    }
}

/// A line of the result.
pub fn print(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let step = |total, is_finished| Step { name: "tokens".into(), done: 250_000, total, is_finished };
        let said = |step, more| line(&step, more, Duration::from_secs(10));
        assert_eq!(
            said(step(Some(1_000_000), false), 250_000),
            "tokens: 250000 of 1000000 (25 %), 25000 a second, 30 s left"
        );
        // What an interrupted run did before does not count for the speed.
        assert_eq!(
            said(step(Some(1_000_000), false), 50_000),
            "tokens: 250000 of 1000000 (25 %), 5000 a second, 150 s left"
        );
        assert_eq!(said(step(None, false), 250_000), "tokens: 250000, 25000 a second");
        assert_eq!(said(step(Some(250_000), true), 250_000), "tokens: 250000 in 10.0 s");
    }
}
