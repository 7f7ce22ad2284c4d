//! The faces towards SQL of the pure modules, and random bytes. Internal functions: only auth_owner may call them.

use crate::arguments::{argument_since, refuse, refuse_value, required};
use crate::decision::{self, Decision, Policy, Presented, RefreshLimit, Session};
use crate::lineage;
use pgrx::PgSqlErrorCode;
use pgrx::datum::{Interval, TimestampWithTimeZone, Uuid};
use pgrx::prelude::*;

/// Seconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800;

/// The Unix second of a time; a jti holds the years 1970 to 2106.
pub fn unix_second(time: TimestampWithTimeZone) -> u32 {
    let seconds = pg_sys::TimestampTz::from(time).div_euclid(1_000_000) + POSTGRES_EPOCH;
    seconds.try_into().unwrap_or_else(|_| refuse_value("the time is outside 1970 to 2106", "Is the clock right?"))
}

/// The time of a Unix second.
pub fn from_unix_second(second: u32) -> TimestampWithTimeZone {
    ((i64::from(second) - POSTGRES_EPOCH) * 1_000_000).try_into().expect("1970 to 2106 is in range")
}

#[pg_extern(sql = false)]
fn random_bytes(length: i32) -> Vec<u8> {
    if !(1..=1024).contains(&length) {
        refuse_value("length must be between 1 and 1024", "32 bytes make a key");
    }
    let mut bytes = vec![0_u8; length as usize];
    // SAFETY: the buffer is as long as said.
    if !unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) } {
        refuse(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "no random bytes are to be had", "See the server's log.");
    }
    bytes
}

#[pg_extern(sql = false)]
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    lineage::hmac_sha256(key, &[message]).to_vec()
}

#[pg_extern(sql = false)]
fn equal_digests(a: &[u8], b: &[u8]) -> bool {
    lineage::equal_digests(a, b)
}

#[pg_extern(sql = false)]
fn make_ticket(lineage_key: &[u8], generation: i32, verifier: &[u8]) -> Vec<u8> {
    lineage::make_ticket(lineage_key, generation, verifier).to_vec()
}

#[pg_extern(sql = false)]
fn make_jti(lineage_key: &[u8], generation: i32, issued_at: TimestampWithTimeZone) -> Uuid {
    Uuid::from_bytes(lineage::make_jti(lineage_key, generation, unix_second(issued_at)))
}

#[pg_extern(sql = false)]
fn read_jti(
    lineage_key: &[u8],
    jti: Uuid,
) -> TableIterator<'static, (name!(generation, i32), name!(issued_at, TimestampWithTimeZone))> {
    let read = lineage::read_jti(lineage_key, jti.as_bytes());
    TableIterator::new(read.into_iter().map(|(generation, second)| (generation, from_unix_second(second))))
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments, reason = "SQL has no other way to hand over a row, a token and a clock")]
fn decide_rotation(
    generation: Option<i32>,
    token_verifier: Option<&[u8]>,
    previous_token_verifier: Option<&[u8]>,
    revoked: Option<bool>,
    idle_expires_at: Option<TimestampWithTimeZone>,
    expires_at: Option<TimestampWithTimeZone>,
    rotated_at: Option<TimestampWithTimeZone>,
    retry_window: Option<Interval>,
    presented_generation: Option<i32>,
    presented_verifier: Option<&[u8]>,
    ticket_is_authentic: Option<bool>,
    clock: Option<TimestampWithTimeZone>,
    recovery_max_gap: Option<i32>,
    is_shared: Option<bool>,
    device_is_refused: Option<bool>,
    refreshes_full_at: Option<TimestampWithTimeZone>,
    refresh_burst: Option<i32>,
    refresh_period: Option<Interval>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> TableIterator<'static, (name!(decision, &'static str), name!(retry_after, Option<Interval>))> {
    let microseconds = |interval: Interval| interval.as_micros().try_into().unwrap_or(i64::MAX);
    let clock = required(clock, "clock").into();
    let session = Session {
        generation: required(generation, "generation"),
        verifier: required(token_verifier, "token_verifier"),
        previous_verifier: previous_token_verifier,
        revoked: required(revoked, "revoked"),
        idle_expires_at: required(idle_expires_at, "idle_expires_at").into(),
        expires_at: required(expires_at, "expires_at").into(),
        rotated_at: rotated_at.map(Into::into),
        retry_window: microseconds(required(retry_window, "retry_window")),
        is_shared: required(is_shared, "is_shared"),
        refreshes_full_at: required(refreshes_full_at, "refreshes_full_at").into(),
    };
    let presented = Presented {
        generation: required(presented_generation, "presented_generation"),
        verifier: required(presented_verifier, "presented_verifier"),
        ticket_is_authentic: required(ticket_is_authentic, "ticket_is_authentic"),
        shown_at: argument_since::<TimestampWithTimeZone>(fcinfo, 18).map_or(clock, Into::into),
        device_is_refused: required(device_is_refused, "device_is_refused"),
    };
    let period = microseconds(required(refresh_period, "refresh_period"));
    let refresh_limit = RefreshLimit::new(required(refresh_burst, "refresh_burst"), period);
    let policy = Policy { recovery_max_gap, refresh_limit };
    let decision = decision::decide(session, presented, clock, policy);
    let retry_after = match decision {
        Decision::Limited(wait) => Interval::new(0, 0, wait).ok(),
        _ => None,
    };
    TableIterator::once((decision.as_str(), retry_after))
}

/// The first 512 bytes, cut between characters: a strange header must not undo a decision.
#[pg_extern(sql = false)]
fn cut_user_agent(user_agent: &str) -> &str {
    &user_agent[..user_agent.floor_char_boundary(512)]
}

/// What readiness compares with: the version that this library was built as.
#[pg_extern(sql = false)]
fn extension_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
