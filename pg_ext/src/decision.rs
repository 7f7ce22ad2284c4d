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
    /// The database lost commits: refuse, change nothing.
    Ahead,
    /// The same inside a recovery window: move the row to the presented generation, then rotate.
    FastForward,
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
            Decision::Ahead => "ahead",
            Decision::FastForward => "fast_forward",
        }
    }
}

/// Decides, by the first rule that applies. `recovery_max_gap` is the largest distance of an open recovery window.
///
/// Comparison of verifiers need not be constant-time: both sides are SHA-256 digests of a proof, and what timing could
/// tell of a digest helps nobody to find its preimage.
pub fn decide(
    session: Session<'_>,
    presented: Presented<'_>,
    now: Microseconds,
    recovery_max_gap: Option<i32>,
) -> Decision {
    let age = i64::from(session.generation) - i64::from(presented.generation);
    let is_current = age == 0 && presented.verifier == session.verifier;
    let is_previous = age == 1 && session.previous_verifier == Some(presented.verifier);
    let in_retry_window = session.rotated_at.is_some_and(|at| now.saturating_sub(at) < session.retry_window);

    if !(presented.ticket_is_authentic || is_current || is_previous) {
        Decision::Unknown
    } else if session.revoked {
        Decision::Revoked
    } else if session.idle_expires_at <= now || session.expires_at <= now || session.generation == i32::MAX {
        // A session at the last generation cannot rotate any more; at one refresh a second that takes 68 years.
        Decision::Expired
    } else if is_current {
        Decision::Rotate
    } else if is_previous && in_retry_window {
        Decision::Retry
    } else if age > 0 {
        Decision::Replay
    } else if age == 0 {
        // A genuine other token of the same generation: the line has forked. After lost commits that is nobody's fault.
        if recovery_max_gap.is_some() { Decision::Revoked } else { Decision::Replay }
    } else if recovery_max_gap.is_some_and(|gap| -age <= i64::from(gap)) {
        Decision::FastForward
    } else {
        Decision::Ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same table written a second time, as naively as can be: one row a rule, first match wins.
    fn model(s: Session<'_>, p: Presented<'_>, now: Microseconds, gap: Option<i32>) -> Decision {
        let current = p.generation == s.generation && p.verifier == s.verifier;
        let previous =
            p.generation.checked_add(1) == Some(s.generation) && s.previous_verifier.is_some_and(|v| v == p.verifier);
        let window_open = match s.rotated_at {
            Some(at) => now - at < s.retry_window,
            None => false,
        };
        let within_gap = gap.is_some_and(|g| i64::from(p.generation) - i64::from(s.generation) <= i64::from(g));
        let rules = [
            (!p.ticket_is_authentic && !current && !previous, Decision::Unknown),
            (s.revoked, Decision::Revoked),
            (now >= s.idle_expires_at, Decision::Expired),
            (now >= s.expires_at, Decision::Expired),
            (s.generation == i32::MAX, Decision::Expired),
            (current, Decision::Rotate),
            (previous && window_open, Decision::Retry),
            (s.generation > p.generation, Decision::Replay),
            (s.generation == p.generation && gap.is_some(), Decision::Revoked),
            (s.generation == p.generation, Decision::Replay),
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
            revoked: bool, ticket_is_authentic: bool,
            idle_expires_at in 95..=105_i64, expires_at in 95..=105_i64,
            rotated_at in proptest::option::of(80..=101_i64), retry_window in 0..=15_i64,
            gap in proptest::option::of(1..=3_i32),
        ) {
            let (verifier, previous, shown) = ([verifier], previous.map(|v| [v]), [shown]);
            let session = Session {
                generation, verifier: &verifier, previous_verifier: previous.as_ref().map(|v| &v[..]), revoked,
                idle_expires_at, expires_at, rotated_at, retry_window,
            };
            let presented = Presented {
                generation: generation.saturating_add(distance).max(0), verifier: &shown, ticket_is_authentic,
            };
            prop_assert_eq!(decide(session, presented, 100, gap), model(session, presented, 100, gap));
        }
    }

    const LIVE: Session<'static> = Session {
        generation: 7,
        verifier: b"seven",
        previous_verifier: Some(b"six"),
        revoked: false,
        idle_expires_at: 1_000,
        expires_at: 2_000,
        rotated_at: Some(100),
        retry_window: 60,
    };

    fn shown(generation: i32, verifier: &[u8], ticket_is_authentic: bool) -> Presented<'_> {
        Presented { generation, verifier, ticket_is_authentic }
    }

    #[test]
    fn the_retry_window_does_not_reach_its_end_and_zero_turns_it_off() {
        assert_eq!(decide(LIVE, shown(6, b"six", true), 159, None), Decision::Retry);
        assert_eq!(decide(LIVE, shown(6, b"six", true), 160, None), Decision::Replay);
        let off = Session { retry_window: 0, ..LIVE };
        assert_eq!(decide(off, shown(6, b"six", true), 100, None), Decision::Replay);
    }

    #[test]
    fn a_clock_that_stepped_back_is_no_attack() {
        assert_eq!(decide(LIVE, shown(6, b"six", true), 50, None), Decision::Retry);
    }

    #[test]
    fn a_forged_token_never_burns() {
        for generation in [0, 6, 7, 8] {
            assert_eq!(decide(LIVE, shown(generation, b"forged", false), 110, None), Decision::Unknown);
        }
    }

    #[test]
    fn expiry_is_judged_before_replay() {
        assert_eq!(decide(LIVE, shown(0, b"zero", true), 1_000, None), Decision::Expired);
    }
}
