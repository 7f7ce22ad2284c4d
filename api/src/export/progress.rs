//! How far it came: on standard error, at most once a second; standard output has the lines.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

const EVERY: Duration = Duration::from_secs(1);

/// Of one export.
pub struct Progress {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    began: Instant,
    shown: Instant,
}

impl Progress {
    /// Of a stretch of time.
    pub fn new(from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        let now = Instant::now();
        Self { from, to, began: now, shown: now }
    }

    /// Shows it, when it was not shown for a second.
    pub fn show(&mut self, events: u64, at: DateTime<Utc>) {
        if self.shown.elapsed() < EVERY {
            return;
        }
        self.shown = Instant::now();
        let line = line(events, at, (self.from, self.to), self.began.elapsed());
        if std::io::stderr().is_terminal() {
            // In the place of the line before.
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }

    /// That is all.
    pub fn finish(&self, events: u64) {
        let start = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
        eprintln!("{start}{events} events in {:.1} s", self.began.elapsed().as_secs_f64());
    }
}

fn line(events: u64, at: DateTime<Utc>, (from, to): (DateTime<Utc>, DateTime<Utc>), elapsed: Duration) -> String {
    let percent = 100 * (at - from).num_seconds() / (to - from).num_seconds().max(1);
    let rate = events as f64 / elapsed.as_secs_f64().max(0.001);
    format!("{events} events, until {} ({percent} %), {rate:.0} a second", super::time(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_many_until_when_and_how_fast() {
        let day = |day: i64| DateTime::from_timestamp(1_793_491_200 + day * 86_400, 0).unwrap();
        assert_eq!(
            line(250_000, day(3), (day(0), day(30)), Duration::from_secs(10)),
            "250000 events, until 2026-11-04T00:00:00Z (10 %), 25000 a second"
        );
    }
}
