//! PURE: which database's turn it is. One is looked after at a time; one that fails waits longer and longer.

use std::time::{Duration, Instant};

/// The longest wait after failures, unless the interval itself is longer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(600);
/// Longer names do not exist (NAMEDATALEN).
const LONGEST_NAME: usize = 63;

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing is left to do.
    Done,
    /// Its time was up, and something is left.
    More,
    /// It ended with an error, which the server's log tells.
    Failed,
}

/// The databases, and when each is due.
#[derive(Default)]
pub struct Schedule(Vec<Database>);

struct Database {
    name: String,
    due: Instant,
    failures: u32,
}

impl Schedule {
    /// Everything anew: all are due now, and what failed before is tried again. Says which names cannot be used.
    pub fn set(&mut self, list: &str, now: Instant) -> Vec<String> {
        let mut unusable = Vec::new();
        self.0.clear();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name.len() > LONGEST_NAME {
                unusable.push(name.to_owned());
            } else if self.0.iter().all(|known| known.name != name) {
                self.0.push(Database { name: name.to_owned(), due: now, failures: 0 });
            }
        }
        unusable
    }

    /// Who is next, and when; the one that has waited longest comes first.
    pub fn next(&self) -> Option<(&str, Instant)> {
        self.0.iter().min_by_key(|database| database.due).map(|database| (database.name.as_str(), database.due))
    }

    /// Notes how the turn of a database ended. One that is not in the list any more is nobody's business.
    pub fn ended(&mut self, name: &str, turn: Turn, now: Instant, interval: Duration) {
        let Some(database) = self.0.iter_mut().find(|database| database.name == name) else { return };
        database.failures = if turn == Turn::Failed { database.failures.saturating_add(1) } else { 0 };
        database.due = now
            + match turn {
                Turn::Done => interval,
                Turn::More => Duration::ZERO,
                Turn::Failed => {
                    let backoff = interval.saturating_mul(2_u32.saturating_pow(database.failures));
                    backoff.min(LONGEST_BACKOFF.max(interval))
                }
            };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn of(list: &str, now: Instant) -> Schedule {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.set(list, now), Vec::<String>::new());
        schedule
    }

    #[test]
    fn names_are_taken_as_written_and_once() {
        let now = Instant::now();
        let mut schedule = of(" auth , Übung 2,auth,, ", now);
        assert_eq!(schedule.next(), Some(("auth", now)));
        schedule.ended("auth", Turn::Done, now, MINUTE);
        assert_eq!(schedule.next(), Some(("Übung 2", now)));
        schedule.ended("Übung 2", Turn::Done, now, MINUTE);
        assert_eq!(schedule.next(), Some(("auth", now + MINUTE)));
        assert_eq!(of("", now).next(), None);
        let long = "x".repeat(64);
        assert_eq!(schedule.set(&format!("auth,{long}"), now), [long]);
    }

    #[test]
    fn who_has_more_to_do_lets_those_who_wait_go_first() {
        let now = Instant::now();
        let mut schedule = of("a,b", now);
        schedule.ended("a", Turn::More, now + MINUTE, MINUTE);
        assert_eq!(schedule.next(), Some(("b", now)));
        schedule.ended("b", Turn::Done, now + MINUTE, MINUTE);
        assert_eq!(schedule.next(), Some(("a", now + MINUTE)));
    }

    #[test]
    fn failures_wait_longer_and_longer_up_to_ten_minutes_until_one_turn_works() {
        let now = Instant::now();
        let mut schedule = of("a", now);
        let mut waits = Vec::new();
        for _ in 0..40 {
            schedule.ended("a", Turn::Failed, now, MINUTE);
            waits.push(schedule.next().unwrap().1.duration_since(now).as_secs());
        }
        assert_eq!(waits[..4], [120, 240, 480, 600]);
        assert_eq!(waits[39], 600);
        schedule.ended("a", Turn::Done, now, MINUTE);
        assert_eq!(schedule.next(), Some(("a", now + MINUTE)));
        // Never sooner than without failures.
        schedule.ended("a", Turn::Failed, now, 60 * MINUTE);
        assert_eq!(schedule.next(), Some(("a", now + 60 * MINUTE)));
    }

    #[test]
    fn a_new_list_is_begun_at_once_whatever_failed_before() {
        let now = Instant::now();
        let mut schedule = of("a", now);
        schedule.ended("a", Turn::Failed, now, MINUTE);
        schedule.set("a", now);
        assert_eq!(schedule.next(), Some(("a", now)));
        // Its turn was under way when it was taken out of the list.
        schedule.set("b", now);
        schedule.ended("a", Turn::Done, now, MINUTE);
        assert_eq!(schedule.next(), Some(("b", now)));
    }
}
