//! What the clients saw, held against the decision table of the design (`pg_ext/src/decision.rs`, the very file): was
//! there, for each session, one order of events in which the database decided by the table, that explains every answer
//! and ends in the row that is there?
//!
//! An attempt that was answered did what the answer says. One that was not answered may have been carried out or not, and
//! no later than the next answered one of its client: both are followed. So the possible states of a session are a small
//! set, which each event narrows; when it gets empty, the history is impossible.

#[path = "../../../pg_ext/src/decision.rs"]
#[allow(dead_code)] // the extension's own tests use the rest
mod decision;

use std::collections::BTreeSet;

use decision::{Decision, Policy, Presented, Session, decide};

/// What came of showing a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A successor: its generation, and 64 bits of its digest, by which two of one generation would be told apart.
    Granted(i32, u64),
    /// 401.
    Refused,
    /// No answer, or one that says nothing of the token (503).
    Nothing,
}

/// One attempt of a client to refresh.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The generation of the token shown, and the digest of that token.
    pub shown: (i32, u64),
    /// What came back.
    pub answer: Answer,
    /// Whether the token was one that had been stolen before, shown by the thief.
    pub is_theft: bool,
}

/// A session as the table sees it: its tokens by their digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    /// How often it was rotated.
    pub generation: i32,
    /// The digest of the current token; 0 where no client has seen it.
    current: u64,
    previous: u64,
    /// Whether it was revoked.
    pub is_revoked: bool,
}

const UNSEEN: u64 = 0;

impl State {
    /// After the login.
    pub fn new(token: u64) -> Self {
        Self { generation: 0, current: token, previous: UNSEEN, is_revoked: false }
    }

    /// What the decision table says of that token. Outages are shorter than the retry window, and sessions live for
    /// days: so time does not enter.
    fn decide(self, (generation, token): (i32, u64)) -> Decision {
        let (current, previous) = (self.current.to_be_bytes(), self.previous.to_be_bytes());
        let session = Session {
            generation: self.generation,
            verifier: &current,
            previous_verifier: (self.generation > 0).then_some(&previous[..]),
            revoked: self.is_revoked,
            idle_expires_at: i64::MAX,
            expires_at: i64::MAX,
            rotated_at: (self.generation > 0).then_some(0),
            retry_window: i64::MAX,
            is_shared: false,
            refreshes_full_at: 0,
        };
        let verifier = token.to_be_bytes();
        // Every token that a client of ours shows was issued.
        let presented = Presented {
            generation,
            verifier: &verifier,
            ticket_is_authentic: true,
            shown_at: 1,
            device_is_refused: false,
        };
        decide(session, presented, 1, Policy { recovery_max_gap: None, refresh_limit: None })
    }

    /// The state after that decision on the current token, whose successor is this one.
    fn after(self, decision: Decision, successor: u64) -> Self {
        match decision {
            Decision::Rotate => {
                Self { generation: self.generation + 1, current: successor, previous: self.current, ..self }
            }
            Decision::Retry if self.current == UNSEEN => Self { current: successor, ..self },
            Decision::Replay => Self { is_revoked: true, ..self },
            _ => self,
        }
    }

    /// Whether the table gives that answer in this state, and the state after it.
    fn answers(self, attempt: &Attempt) -> Option<Self> {
        let decision = self.decide(attempt.shown);
        match (attempt.answer, decision) {
            (Answer::Granted(generation, token), Decision::Rotate) if generation == self.generation + 1 => {
                Some(self.after(decision, token))
            }
            (Answer::Granted(generation, token), Decision::Retry)
                if generation == self.generation && (self.current == token || self.current == UNSEEN) =>
            {
                Some(self.after(decision, token))
            }
            (Answer::Refused, Decision::Replay | Decision::Revoked) => Some(self.after(decision, UNSEEN)),
            _ => None,
        }
    }
}

/// Follows a session's attempts, in the order in which they ended, from its login. The states that the session may be in
/// after them; an error names the first attempt that no state explains.
pub fn follow(login: u64, attempts: &[Attempt]) -> Result<BTreeSet<State>, String> {
    let mut states = BTreeSet::from([State::new(login)]);
    for (number, attempt) in attempts.iter().enumerate() {
        let next: BTreeSet<State> = match attempt.answer {
            Answer::Nothing => {
                states.iter().flat_map(|state| [*state, state.after(state.decide(attempt.shown), UNSEEN)]).collect()
            }
            _ => states.iter().filter_map(|state| state.answers(attempt)).collect(),
        };
        if next.is_empty() {
            return Err(format!(
                "attempt {number}, {attempt:?}, cannot be: before it the session was one of {states:?}"
            ));
        }
        states = next;
    }
    Ok(states)
}
