//! The decision table of rotation: what a presented refresh token is, given the session's row. Pure: no PostgreSQL, no
//! clock and no settings in here, only what is handed in.
//!
//! The fast path of `rotate_session_token` is [`Decision::Rotate`] as one UPDATE; everything else is decided here,
//! from the row that was read under its lock.

/// Microseconds: points in time since any fixed epoch, or durations.
pub type Microseconds = i64;

/// The session's row, as the locking read returned it.
#[derive(Debug, Clone, Copy)]
pub struct Session<'a> {
    /// How often it was rotated.
    pub generation: i32,
    /// Verifier of the current generation's token.
    pub verifier: &'a [u8],
    /// Verifier of the token before.
    pub previous_verifier: Option<&'a [u8]>,
    /// Whether it was revoked.
    pub revoked: bool,
    /// When it ends unless refreshed.
    pub idle_expires_at: Microseconds,
    /// When it ends in any case.
    pub expires_at: Microseconds,
    /// When it was last rotated; `None` before the first time.
    pub rotated_at: Option<Microseconds>,
    /// For how long after a rotation the token before is answered with the same successor; 0 turns retries off.
    pub retry_window: Microseconds,
    /// Whether several tabs share the token, as a browser's cookie is shared.
    pub is_shared: bool,
    /// When all of the refreshes that are allowed at once are there again.
    pub refreshes_full_at: Microseconds,
}

/// What the client showed.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// The generation that the token claims.
    pub generation: i32,
    /// SHA-256 of the shown proof.
    pub verifier: &'a [u8],
    /// Whether the ticket proves that this session issued a token of that generation and verifier.
    pub ticket_is_authentic: bool,
    /// When it was shown, as far as is known: it may have been under way since.
    pub shown_at: Microseconds,
    /// Whether it came from another device than the session's, and such are refused.
    pub device_is_refused: bool,
}

/// What an operator set.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The largest distance of an open recovery window.
    pub recovery_max_gap: Option<i32>,
    /// How often one session may be refreshed; `None`: as often as it likes.
    pub refresh_limit: Option<RefreshLimit>,
}

/// A limit by GCRA: so many at once, and as many again, evenly, in each period. What it remembers is one time, when all
/// of them are there again; each rotation moves that by a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshLimit {
    /// How far one rotation moves the time.
    pub step: Microseconds,
    /// How far in the future the time may be for one more.
    pub tolerance: Microseconds,
}

impl RefreshLimit {
    /// So many (0: no limit) in so long.
    pub fn new(burst: i32, period: Microseconds) -> Option<Self> {
        let burst = i64::from(burst);
        let step = (burst > 0).then(|| (period / burst).max(1))?;
        Some(Self { step, tolerance: step * (burst - 1) })
    }

    /// For how long a rotation has to wait; `None`: it need not. No rotation leaves the time further ahead than this
    /// limit's tolerance and a step: then it was left there by another clock or setting, and means nothing.
    fn wait(self, full_at: Microseconds, now: Microseconds) -> Option<Microseconds> {
        let ahead = full_at.saturating_sub(now);
        (ahead > self.tolerance && ahead <= self.tolerance + self.step).then(|| ahead - self.tolerance)
    }
}

/// What to do. The words are those of `auth.settle_rotation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Not a token of this session: refuse, change nothing.
    Unknown,
    /// Refuse; the first revocation's time and reason stay.
    Revoked,
    /// Refuse, do not burn: a time-out is no attack.
    Expired,
    /// Make the next generation.
    Rotate,
    /// Answer with the same successor again.
    Retry,
    /// Revoke the family.
    Replay,
    /// A replay by now, but none when it was shown: refuse, change nothing.
    Overtaken,
    /// The database lost commits: refuse, change nothing.
    Ahead,
    /// The same inside a recovery window: move the row to the presented generation, then rotate.
    FastForward,
    /// The current token of tabs that share it, which one of them was given a moment ago: it stays the current one.
    Retain,
    /// Genuine, but from a device that is not the session's, where that is refused: change nothing, burn nothing.
    DeviceMismatch,
    /// Genuine, but refreshed too often: change nothing; after so long it is as good as before.
    Limited(Microseconds),
}

impl Decision {
    /// The word that SQL uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Unknown => "unknown",
            Decision::Revoked => "revoked",
            Decision::Expired => "expired",
            Decision::Rotate => "rotate",
            Decision::Retry => "retry",
            Decision::Replay => "replay",
            Decision::Overtaken => "overtaken",
            Decision::Ahead => "ahead",
            Decision::FastForward => "fast_forward",
            Decision::Retain => "retain",
            Decision::DeviceMismatch => "device_mismatch",
            Decision::Limited(_) => "limited",
        }
    }
}

/// Decides, by the first rule that applies.
///
/// Comparison of verifiers need not be constant-time: both sides are SHA-256 digests of a proof, and what timing could
/// tell of a digest helps nobody to find its preimage.
pub fn decide(session: Session<'_>, presented: Presented<'_>, now: Microseconds, policy: Policy) -> Decision {
    let Policy { recovery_max_gap, refresh_limit } = policy;
    let age = i64::from(session.generation) - i64::from(presented.generation);
    let is_current = age == 0 && presented.verifier == session.verifier;
    let is_previous = age == 1 && session.previous_verifier == Some(presented.verifier);
    let in_retry_window = session.rotated_at.is_some_and(|at| now.saturating_sub(at) < session.retry_window);
    let is_retry = is_previous && in_retry_window;
    // A thief has nothing from it: it is granted nothing, and what he shows after the session moved on is a replay.
    // Without a retry window everything shown twice is a replay, also at the same time.
    let was_no_replay = session.retry_window > 0
        && session.rotated_at.is_some_and(|at| {
            presented.shown_at <= at || is_previous && presented.shown_at.saturating_sub(at) < session.retry_window
        });
    let is_lost_ahead = age < 0 && recovery_max_gap.is_some_and(|gap| -age <= i64::from(gap));
    let wait = refresh_limit.and_then(|limit| limit.wait(session.refreshes_full_at, now));

    if !(presented.ticket_is_authentic || is_current || is_previous) {
        Decision::Unknown
    } else if session.revoked {
        Decision::Revoked
    } else if session.idle_expires_at <= now || session.expires_at <= now || session.generation == i32::MAX {
        // A session at the last generation cannot rotate any more; at one refresh a second that takes 68 years.
        Decision::Expired
    } else if presented.device_is_refused && (is_current || is_retry || is_lost_ahead) {
        // Only what would be granted: a replay is one from whatever device it comes.
        Decision::DeviceMismatch
    } else if is_retry {
        Decision::Retry
    } else if is_current && session.is_shared && in_retry_window {
        // Were it rotated now, a slower tab that still shows the token before would look like a thief.
        Decision::Retain
    } else if let Some(wait) = wait
        && (is_current || is_lost_ahead)
    {
        Decision::Limited(wait)
    } else if is_current {
        Decision::Rotate
    } else if is_lost_ahead {
        Decision::FastForward
    } else if age > 0 {
        // Whoever gave up on an answer, tried again and went on with what he got is no thief when his first try arrives.
        if was_no_replay { Decision::Overtaken } else { Decision::Replay }
    } else if age == 0 {
        // A genuine other token of the same generation: the line has forked. After lost commits that is nobody's fault.
        if recovery_max_gap.is_some() { Decision::Revoked } else { Decision::Replay }
    } else {
        Decision::Ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same table written a second time, as naively as can be: one row a rule, first match wins.
    fn model(s: Session<'_>, p: Presented<'_>, now: Microseconds, policy: Policy) -> Decision {
        let gap = policy.recovery_max_gap;
        let current = p.generation == s.generation && p.verifier == s.verifier;
        let previous =
            p.generation.checked_add(1) == Some(s.generation) && s.previous_verifier.is_some_and(|v| v == p.verifier);
        let window_open = match s.rotated_at {
            Some(at) => now - at < s.retry_window,
            None => false,
        };
        let within_gap = p.generation > s.generation
            && gap.is_some_and(|g| i64::from(p.generation) - i64::from(s.generation) <= i64::from(g));
        let retry = previous && window_open;
        let allowed_at = policy.refresh_limit.map_or(i64::MIN, |limit| s.refreshes_full_at - limit.tolerance);
        let left_over = policy.refresh_limit.is_some_and(|limit| allowed_at - now > limit.step);
        let too_often = now < allowed_at && !left_over;
        // Without retries there is nothing that a slow request could have been.
        let retries = s.retry_window > 0;
        let rotated_since = retries && s.rotated_at.is_some_and(|at| p.shown_at <= at);
        let was_retry = retries && previous && s.rotated_at.is_some_and(|at| p.shown_at - at < s.retry_window);
        let wait = || Decision::Limited(allowed_at - now);
        let rules = [
            (!p.ticket_is_authentic && !current && !previous, Decision::Unknown),
            (s.revoked, Decision::Revoked),
            (now >= s.idle_expires_at, Decision::Expired),
            (now >= s.expires_at, Decision::Expired),
            (s.generation == i32::MAX, Decision::Expired),
            (p.device_is_refused && (current || retry || within_gap), Decision::DeviceMismatch),
            (current && s.is_shared && window_open, Decision::Retain),
            (current && too_often, wait()),
            (current, Decision::Rotate),
            (retry, Decision::Retry),
            (s.generation > p.generation && (rotated_since || was_retry), Decision::Overtaken),
            (s.generation > p.generation, Decision::Replay),
            (s.generation == p.generation && gap.is_some(), Decision::Revoked),
            (s.generation == p.generation, Decision::Replay),
            (within_gap && too_often, wait()),
            (within_gap, Decision::FastForward),
            (true, Decision::Ahead),
        ];
        rules.iter().find(|(applies, _)| *applies).expect("the last rule always applies").1
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn decide_agrees_with_the_naive_model(
            // Few values each, so that equal and neighbouring ones meet often.
            generation in prop_oneof![0..5_i32, Just(i32::MAX - 1), Just(i32::MAX)],
            distance in -3..=3_i32,
            verifier in 0..3_u8, previous in proptest::option::of(0..3_u8), shown in 0..3_u8,
            revoked: bool, ticket_is_authentic: bool, shown_at in 80..=100_i64,
            idle_expires_at in 95..=105_i64, expires_at in 95..=105_i64,
            rotated_at in proptest::option::of(80..=101_i64), retry_window in 0..=15_i64,
            gap in proptest::option::of(1..=3_i32),
            is_shared: bool, device_is_refused: bool, refreshes_full_at in 95..=125_i64, burst in 0..=4_i32, period in 4..=20_i64,
        ) {
            let (verifier, previous, shown) = ([verifier], previous.map(|v| [v]), [shown]);
            let session = Session {
                generation, verifier: &verifier, previous_verifier: previous.as_ref().map(|v| &v[..]), revoked,
                idle_expires_at, expires_at, rotated_at, retry_window, is_shared, refreshes_full_at,
            };
            let presented = Presented {
                generation: generation.saturating_add(distance).max(0), verifier: &shown, ticket_is_authentic,
                shown_at, device_is_refused,
            };
            let policy = Policy { recovery_max_gap: gap, refresh_limit: RefreshLimit::new(burst, period) };
            prop_assert_eq!(decide(session, presented, 100, policy), model(session, presented, 100, policy));
        }

        /// Against a counter that knows of every request: in no stretch of time are more allowed than the burst and what
        /// came back meanwhile, and who waits as long as he is told is allowed.
        #[test]
        fn the_limit_allows_its_burst_and_its_rate_and_no_more(
            burst in 1..=6_i32, period in 60..=600_i64, pauses in proptest::collection::vec(0..=200_i64, 1..60),
        ) {
            let limit = RefreshLimit::new(burst, period).unwrap();
            let (mut now, mut full_at, mut allowed) = (0, 0, Vec::new());
            for pause in pauses {
                now += pause;
                match limit.wait(full_at, now) {
                    None => {
                        full_at = full_at.max(now) + limit.step;
                        allowed.push(now);
                        for (count, since) in (1_i64..).zip(allowed.iter().rev()) {
                            prop_assert!(count <= i64::from(burst) + (now - since) / limit.step, "{:?}", allowed);
                        }
                    }
                    Some(wait) => {
                        prop_assert!(wait > 0 && limit.wait(full_at, now + wait - 1).is_some());
                        prop_assert_eq!(limit.wait(full_at, now + wait), None);
                    }
                }
            }
        }
    }

    const NO_POLICY: Policy = Policy { recovery_max_gap: None, refresh_limit: None };

    const LIVE: Session<'static> = Session {
        generation: 7,
        verifier: b"seven",
        previous_verifier: Some(b"six"),
        revoked: false,
        idle_expires_at: 1_000,
        expires_at: 2_000,
        rotated_at: Some(100),
        retry_window: 60,
        is_shared: false,
        refreshes_full_at: 0,
    };

    fn shown(generation: i32, verifier: &[u8], ticket_is_authentic: bool) -> Presented<'_> {
        Presented { generation, verifier, ticket_is_authentic, shown_at: i64::MAX, device_is_refused: false }
    }

    #[test]
    fn the_retry_window_does_not_reach_its_end_and_zero_turns_it_off() {
        assert_eq!(decide(LIVE, shown(6, b"six", true), 159, NO_POLICY), Decision::Retry);
        assert_eq!(decide(LIVE, shown(6, b"six", true), 160, NO_POLICY), Decision::Replay);
        let off = Session { retry_window: 0, ..LIVE };
        assert_eq!(decide(off, shown(6, b"six", true), 100, NO_POLICY), Decision::Replay);
    }

    #[test]
    fn a_shared_token_stays_until_the_token_before_it_is_a_thiefs() {
        let shared = Session { is_shared: true, ..LIVE };
        assert_eq!(decide(shared, shown(7, b"seven", true), 159, NO_POLICY), Decision::Retain);
        assert_eq!(decide(shared, shown(6, b"six", true), 159, NO_POLICY), Decision::Retry);
        assert_eq!(decide(shared, shown(7, b"seven", true), 160, NO_POLICY), Decision::Rotate);
        assert_eq!(decide(shared, shown(6, b"six", true), 160, NO_POLICY), Decision::Replay);
        assert_eq!(decide(shared, shown(5, b"five", true), 101, NO_POLICY), Decision::Replay);
    }

    #[test]
    fn what_was_shown_before_the_session_moved_on_burns_nothing_and_is_granted_nothing() {
        let shown_at = |shown_at, generation, verifier| Presented { shown_at, ..shown(generation, verifier, true) };
        for generation in [0, 5] {
            assert_eq!(decide(LIVE, shown_at(100, generation, b"old"), 900, NO_POLICY), Decision::Overtaken);
            assert_eq!(decide(LIVE, shown_at(101, generation, b"old"), 900, NO_POLICY), Decision::Replay);
        }
        // The token before: by the time it was shown it burns nothing, by the time now it is granted nothing.
        assert_eq!(decide(LIVE, shown_at(159, 6, b"six"), 160, NO_POLICY), Decision::Overtaken);
        assert_eq!(decide(LIVE, shown_at(160, 6, b"six"), 160, NO_POLICY), Decision::Replay);
        let strict = Session { retry_window: 0, ..LIVE };
        assert_eq!(decide(strict, shown_at(0, 6, b"six"), 101, NO_POLICY), Decision::Replay);
        // A fork is one whenever it was shown, and a forged token is nothing.
        assert_eq!(decide(LIVE, shown_at(0, 7, b"other"), 900, NO_POLICY), Decision::Replay);
        assert_eq!(
            decide(LIVE, Presented { shown_at: 0, ..shown(5, b"old", false) }, 900, NO_POLICY),
            Decision::Unknown
        );
    }

    #[test]
    fn a_clock_that_stepped_back_is_no_attack() {
        assert_eq!(decide(LIVE, shown(6, b"six", true), 50, NO_POLICY), Decision::Retry);
    }

    #[test]
    fn a_forged_token_never_burns() {
        for generation in [0, 6, 7, 8] {
            assert_eq!(decide(LIVE, shown(generation, b"forged", false), 110, NO_POLICY), Decision::Unknown);
        }
    }

    #[test]
    fn expiry_is_judged_before_replay() {
        assert_eq!(decide(LIVE, shown(0, b"zero", true), 1_000, NO_POLICY), Decision::Expired);
    }

    #[test]
    fn a_refused_device_burns_nothing_and_hides_no_replay() {
        let elsewhere =
            |generation, verifier| Presented { device_is_refused: true, ..shown(generation, verifier, true) };
        assert_eq!(decide(LIVE, elsewhere(7, b"seven"), 110, NO_POLICY), Decision::DeviceMismatch);
        assert_eq!(decide(LIVE, elsewhere(6, b"six"), 110, NO_POLICY), Decision::DeviceMismatch);
        assert_eq!(decide(LIVE, elsewhere(5, b"five"), 110, NO_POLICY), Decision::Replay);
        assert_eq!(decide(LIVE, elsewhere(6, b"six"), 500, NO_POLICY), Decision::Replay);
    }

    #[test]
    fn a_limit_stops_rotations_and_not_retries() {
        let policy = Policy { refresh_limit: RefreshLimit::new(3, 30), ..NO_POLICY };
        let spent = Session { refreshes_full_at: 130, ..LIVE };
        assert_eq!(decide(spent, shown(7, b"seven", true), 105, policy), Decision::Limited(5));
        assert_eq!(decide(spent, shown(7, b"seven", true), 110, policy), Decision::Rotate);
        assert_eq!(decide(spent, shown(6, b"six", true), 105, policy), Decision::Retry);
        assert_eq!(decide(spent, shown(5, b"five", true), 105, policy), Decision::Replay);
        // Left there by a longer period: the session must not be shut out for it.
        let left_over = Session { refreshes_full_at: 700, ..LIVE };
        assert_eq!(decide(left_over, shown(7, b"seven", true), 105, policy), Decision::Rotate);
    }
}
