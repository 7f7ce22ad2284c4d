//! What time it is in the database, known here without asking: so that a statement can tell when its request came, by the
//! one clock that judges it. It may be executed much later: it waits for a connection, in a socket, for a lock.
//!
//! Each answer brings a reading of the database's clock, from before it got here. A reading and the time that has passed
//! here since is therefore never later than the true time; of several such bounds the latest is the best. Two clocks need
//! not agree for it, only go equally fast.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

/// For so long at least a good reading is kept; for twice as long at most, so that a clock that was set back is noticed.
const KEPT: Duration = Duration::from_secs(60);

/// The database's clock, read from afar.
pub struct DatabaseClock {
    origin: Instant,
    readings: Mutex<Readings>,
}

/// Microseconds that the database's clock is ahead of the time since `origin`: the best bounds of this period and of the
/// one before.
#[derive(Default)]
struct Readings {
    began: Duration,
    best: Option<i64>,
    before: Option<i64>,
}

impl DatabaseClock {
    /// One that has not been read yet.
    pub fn new() -> Self {
        Self { origin: Instant::now(), readings: Mutex::default() }
    }

    /// An answer that has just come in was given when the database's clock showed this.
    pub fn note(&self, database_time: DateTime<Utc>) {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).note(database_time, self.origin.elapsed());
    }

    /// A time of the database's clock that has come for sure, and hardly passed; none before the first answer.
    pub fn now(&self) -> Option<DateTime<Utc>> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).now(self.origin.elapsed())
    }
}

impl Readings {
    fn note(&mut self, database_time: DateTime<Utc>, elapsed: Duration) {
        if elapsed.saturating_sub(self.began) >= KEPT {
            *self = Self { began: elapsed, best: None, before: self.best };
        }
        self.best = self.best.max(Some(database_time.timestamp_micros() - microseconds(elapsed)));
    }

    fn now(&self, elapsed: Duration) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.best.max(self.before)? + microseconds(elapsed))
    }
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noon there is when this clock began.
    fn noon(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(43_200 + seconds, 0).unwrap()
    }

    #[test]
    fn it_is_never_ahead_and_a_slow_answer_does_not_set_it_back() {
        let mut readings = Readings::default();
        let second = Duration::from_secs;
        assert_eq!(readings.now(second(1)), None);
        // Read at noon, and 3 seconds under way.
        readings.note(noon(0), second(3));
        assert_eq!(readings.now(second(5)), Some(noon(2)));
        // A quick one tells better, and the next slow one does not spoil it.
        readings.note(noon(6), second(6));
        readings.note(noon(7), second(17));
        assert_eq!(readings.now(second(20)), Some(noon(20)));
    }

    #[test]
    fn a_clock_that_was_set_back_is_believed_after_a_while() {
        let mut readings = Readings::default();
        let second = Duration::from_secs;
        readings.note(noon(0), second(0));
        for elapsed in [70, 140, 210] {
            readings.note(noon(elapsed - 30), second(elapsed as u64));
        }
        assert_eq!(readings.now(second(210)), Some(noon(180)));
    }
}
