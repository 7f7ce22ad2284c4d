//! How much time to ask for at once: so much that there are some thousands of events in it, however many happen.

use chrono::{DateTime, TimeDelta, Utc};

const SHORTEST: TimeDelta = TimeDelta::seconds(1);
const LONGEST: TimeDelta = TimeDelta::days(31);
const FEW: u64 = 10_000;
const MANY: u64 = 50_000;

/// Wider where little happened, narrower where much did.
pub struct Widths(TimeDelta);

impl Widths {
    /// An hour, to begin with.
    pub fn new() -> Self {
        Self(TimeDelta::hours(1))
    }

    /// Where a window ends that begins then.
    pub fn end_of(&self, from: DateTime<Utc>) -> DateTime<Utc> {
        from + self.0
    }

    /// After a window of so many events.
    pub fn adapt(&mut self, events: u64) {
        self.0 = match events {
            0..FEW => (self.0 * 2).min(LONGEST),
            FEW..=MANY => self.0,
            _ => (self.0 / 2).max(SHORTEST),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_nothing_and_never_for_ever() {
        let mut widths = Widths::new();
        (0..100).for_each(|_| widths.adapt(0));
        assert_eq!(widths.0, LONGEST);
        (0..100).for_each(|_| widths.adapt(u64::MAX));
        assert_eq!(widths.0, SHORTEST);
        widths.adapt(FEW);
        assert_eq!(widths.0, SHORTEST);
    }
}
