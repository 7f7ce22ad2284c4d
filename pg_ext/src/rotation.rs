//! `rotate_session_token`: the one-statement fast path; whatever it misses is locked and decided by
//! `auth.settle_rotation` (sql/rotation.sql).

use crate::arguments::{Inet, argument_since, is_without, refuse, refuse_value, required, required_bytes};
use crate::decision::RefreshLimit;
use crate::identity::{self, Identity};
use crate::kept_plan::run;
use crate::primitives::{from_unix_second, unix_second};
use crate::{durability, lineage, settings, stats};
use pgrx::PgSqlErrorCode;
use pgrx::datum::{DatumWithOid, Interval, TimestampWithTimeZone, Uuid};
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiError, SpiResult};
use std::cell::OnceCell;
use std::time::Instant;

/// Microseconds.
const CENTURY: i64 = 100 * 366 * 86_400 * 1_000_000;

/// Rule 4 of the design as one UPDATE by primary key. Its WHERE carries the whole rule and no join, so that after a
/// wait for the row's lock PostgreSQL re-checks it against the row as it is then (READ COMMITTED, EvalPlanQual): of two
/// concurrent presenters one rotates, the other misses.
///
/// Every function and operator is named with its schema: the SQL function has no `set search_path`, which would cost a
/// tenth of a rotation, so this is read where the caller's names may come first.
macro_rules! rotate {
    () => {
        "update auth.sessions s
            set last_ip_cidr = coalesce(auth.network_of($6), s.last_ip_cidr),
                generation = s.generation operator(pg_catalog.+) 1,
                last_used_at = pg_catalog.clock_timestamp(),
                rotated_at = pg_catalog.clock_timestamp(),
                idle_expires_at = least(pg_catalog.clock_timestamp() operator(pg_catalog.+) least(s.idle_ttl, $7),
                                        s.expires_at),
                refreshes_full_at = case
                    when s.refreshes_full_at operator(pg_catalog.<=)
                         (pg_catalog.clock_timestamp() operator(pg_catalog.+) ($8 operator(pg_catalog.+) $9))
                    then greatest(s.refreshes_full_at, pg_catalog.clock_timestamp())
                    else pg_catalog.clock_timestamp() end operator(pg_catalog.+) $9,
                token_verifier = $4,
                previous_token_verifier = s.token_verifier,
                rotation_nonce = $5
          where s.id operator(pg_catalog.=) $1 and s.generation operator(pg_catalog.=) $2
            and s.token_verifier operator(pg_catalog.=) $3
            and s.generation operator(pg_catalog.<) 2147483647
            and s.revoked_at is null
            and s.idle_expires_at operator(pg_catalog.>) pg_catalog.clock_timestamp()
            and s.expires_at operator(pg_catalog.>) pg_catalog.clock_timestamp()
            and (s.refreshes_full_at operator(pg_catalog.<=) (pg_catalog.clock_timestamp() operator(pg_catalog.+) $8)
                 or s.refreshes_full_at operator(pg_catalog.>)
                    (pg_catalog.clock_timestamp() operator(pg_catalog.+) ($8 operator(pg_catalog.+) $9)))
            and ($10 is null or s.device_hash operator(pg_catalog.=) $10 or s.device_hash is null)
            and (not s.is_shared or s.rotated_at is null
                 or s.rotated_at operator(pg_catalog.<=)
                    (pg_catalog.clock_timestamp() operator(pg_catalog.-) coalesce(s.retry_window, $11)))
         returning s.family_id, s.user_id, s.organization_id, s.lineage_key, s.rotated_at,
                   s.auth_time, s.amr, s.idle_expires_at, s.expires_at, s.device_hash"
    };
}
const ROTATE: &str = rotate!();

/// The same with its audit row, for `auth_sessions.audit_level = all`: still one statement.
const ROTATE_AND_LOG: &str = concat!(
    "with rotated as (",
    rotate!(),
    "), logged as (
       insert into auth.audit_log (action, severity, success, user_id, organization_id, session_id, family_id,
                                   actor, actor_user_id, correlation_id, ip_cidr, user_agent, details)
       select 'token_refreshed', 'info', true, r.user_id, r.organization_id, $1, r.family_id,
              auth.calling_role(), r.user_id, pg_catalog.left($13, 64), auth.network_of($6), auth.cut_user_agent($12),
              case when $14 is not null then pg_catalog.jsonb_build_object('trace_id', $14) end
         from rotated r)
     select * from rotated"
);

const SETTLE: &str = "select * from auth.settle_rotation($1, $2, $3, $4, $5, $6, $7, $8, $9)";
const SETTLE_OF_0_1: &str = "select * from auth.settle_rotation($1, $2, $3, $4, $5, $6, $7, $8)";

const NOTE_DEVICE: &str = "select auth.note_device_mismatch($1, $2, $3, $4, $5)";

thread_local! {
    // Kept plans, one of each kind a backend: planning a rotation costs several times what running it does.
    static ROTATE_PLAN: OnceCell<OwnedPreparedStatement> = const { OnceCell::new() };
    static ROTATE_AND_LOG_PLAN: OnceCell<OwnedPreparedStatement> = const { OnceCell::new() };
    static SETTLE_PLAN: OnceCell<OwnedPreparedStatement> = const { OnceCell::new() };
    static SETTLE_OF_0_1_PLAN: OnceCell<OwnedPreparedStatement> = const { OnceCell::new() };
    static NOTE_DEVICE_PLAN: OnceCell<OwnedPreparedStatement> = const { OnceCell::new() };
}

/// One row of `auth.session_outcome`; its columns are named where SQL gets to see them, below.
type SessionOutcome = (
    Option<String>,
    Option<Uuid>,
    Option<Uuid>,
    Option<Uuid>,
    Option<Uuid>,
    Option<i32>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<Uuid>,
    Option<TimestampWithTimeZone>,
    Option<TimestampWithTimeZone>,
    Option<Vec<Option<String>>>,
    Option<TimestampWithTimeZone>,
    Option<TimestampWithTimeZone>,
    Option<Interval>,
    Option<TimestampWithTimeZone>,
);

/// What one call was given, checked.
struct Request<'a> {
    session_id: Uuid,
    generation: i32,
    ticket: &'a [u8; 16],
    token_proof: &'a [u8; 32],
    next_token_verifier: &'a [u8; 32],
    rotation_nonce: &'a [u8; 16],
    /// As PostgreSQL handed it over: there is no Rust type for inet that would not go through text.
    ip: Option<pg_sys::Datum>,
    user_agent: Option<&'a str>,
    device_hash: Option<&'a [u8]>,
    correlation_id: Option<&'a str>,
    /// When the service had the token in hand, by the clock here.
    received_at: Option<TimestampWithTimeZone>,
    /// Called by the SQL of version 0.1.0, which the library serves until the upgrade.
    is_of_0_1: bool,
}

#[pg_extern(sql = false)]
#[allow(
    clippy::too_many_arguments,
    clippy::type_complexity,
    reason = "the SQL function has as many, and as wide a row"
)]
fn rotate_session_token(
    session_id: Option<Uuid>,
    generation: Option<i32>,
    ticket: Option<&[u8]>,
    token_proof: Option<&[u8]>,
    next_token_verifier: Option<&[u8]>,
    rotation_nonce: Option<&[u8]>,
    ip: Option<Inet>,
    user_agent: Option<&str>,
    device_hash: Option<&[u8]>,
    correlation_id: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<
    TableIterator<
        'static,
        (
            name!(outcome, Option<String>),
            name!(session_id, Option<Uuid>),
            name!(family_id, Option<Uuid>),
            name!(user_id, Option<Uuid>),
            name!(organization_id, Option<Uuid>),
            name!(generation, Option<i32>),
            name!(ticket, Option<Vec<u8>>),
            name!(rotation_nonce, Option<Vec<u8>>),
            name!(jti, Option<Uuid>),
            name!(issued_at, Option<TimestampWithTimeZone>),
            name!(auth_time, Option<TimestampWithTimeZone>),
            name!(amr, Option<Vec<Option<String>>>),
            name!(idle_expires_at, Option<TimestampWithTimeZone>),
            name!(expires_at, Option<TimestampWithTimeZone>),
            name!(retry_after, Option<Interval>),
            name!(access_expires_at, Option<TimestampWithTimeZone>),
        ),
    >,
    SpiError,
> {
    let began = Instant::now();
    let request = Request {
        session_id: required(session_id, "session_id"),
        generation: required(generation, "generation"),
        ticket: required_bytes(ticket, "ticket", "It is a part of the refresh token."),
        token_proof: required_bytes(token_proof, "token_proof", "It is the SHA-256 of the token's secret."),
        next_token_verifier: required_bytes(
            next_token_verifier,
            "next_token_verifier",
            "It is SHA-256(SHA-256(secret)) of the successor's secret.",
        ),
        rotation_nonce: required_bytes(rotation_nonce, "rotation_nonce", "It is 16 random bytes, new for each call."),
        ip: ip.map(|Inet(datum)| datum),
        user_agent,
        device_hash,
        correlation_id,
        received_at: argument_since(fcinfo, 10),
        is_of_0_1: is_without(fcinfo, 10),
    };
    if request.generation < 0 {
        refuse_value("generation must not be negative", "It is a part of the refresh token.");
    }
    if device_hash.is_some_and(|hash| hash.len() != 32) {
        refuse_value("device_hash must be 32 bytes", "It is a SHA-256.");
    }
    // SAFETY: no arguments, no preconditions.
    if unsafe { pg_sys::RecoveryInProgress() } {
        refuse(
            PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            "a standby cannot rotate tokens",
            "Send refreshes to the primary.",
        );
    }
    Spi::connect_mut(|client| {
        // Whoever waits in the fast path and misses holds the session's lock. Where a replay needs the user's as well,
        // which comes before it, everybody takes the locks in their order first.
        if !settings::replay_ends_all_of_its_user() {
            let is_alone = !settings::rotations_commit_synchronously() && durability::nothing_is_written();
            if let Some(rotated) = request.rotate(client, is_alone)? {
                return Ok(rotated);
            }
        }
        let settled = request.settle(client)?;
        if settled.0.as_deref() != Some("rotate") {
            return Ok(settled);
        }
        // Now the locks are held, so only the clock can make it miss.
        Ok(request.rotate(client, false)?.unwrap_or_else(|| only("expired")))
    })
    .map(|answer| {
        stats::count_rotation(answer.0.as_deref().unwrap_or_default(), began);
        TableIterator::once(answer)
    })
}

/// The same as in `auth.record_event`: behind a correlation id may stand the id of a trace.
fn correlation_and_trace(correlation_id: &str) -> (&str, Option<&str>) {
    match correlation_id.rsplit_once(';') {
        Some((id, trace_id))
            if trace_id.len() == 32 && trace_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) =>
        {
            (id, Some(trace_id))
        }
        _ => (correlation_id, None),
    }
}

/// An outcome that grants nothing.
fn only(outcome: &str) -> SessionOutcome {
    let none = None::<TimestampWithTimeZone>;
    (Some(outcome.into()), None, None, None, None, None, None, None, None, none, none, None, none, none, None, none)
}

impl Request<'_> {
    /// The fast path. `None`: the row is not as rule 4 wants it, and nothing has changed. Where the rotation may be lost
    /// in a crash, nothing that is written beside it may.
    fn rotate(&self, client: &mut SpiClient<'_>, may_be_lost: bool) -> SpiResult<Option<SessionOutcome>> {
        let presented_verifier = lineage::verifier_of(self.token_proof);
        let interval = |microseconds| Interval::new(0, 0, microseconds).expect("a setting is an interval");
        let idle_ttl = interval(i64::from(settings::refresh_idle_ttl_seconds()) * 1_000_000);
        // Without a limit it is one that nobody reaches.
        let limit = settings::refresh_limit().unwrap_or(RefreshLimit { step: 0, tolerance: CENTURY });
        // Named only where another one is refused; elsewhere it is compared afterwards.
        let only_device = self.device_hash.filter(|_| settings::refuses_other_devices());
        let mut arguments = vec![
            self.session_id.into(),
            self.generation.into(),
            presented_verifier.as_slice().into(),
            self.next_token_verifier.as_slice().into(),
            self.rotation_nonce.as_slice().into(),
            self.ip_argument(),
            idle_ttl.into(),
            interval(limit.tolerance).into(),
            interval(limit.step).into(),
            only_device.into(),
            interval(i64::from(settings::retry_window_seconds()) * 1_000_000).into(),
        ];
        let rows = if settings::audits_everything() {
            let (correlation_id, trace_id) = self.correlation_id.map(correlation_and_trace).unzip();
            arguments.extend([self.user_agent.into(), correlation_id.into(), trace_id.flatten().into()]);
            run(client, &ROTATE_AND_LOG_PLAN, ROTATE_AND_LOG, &arguments)?
        } else {
            run(client, &ROTATE_PLAN, ROTATE, &arguments)?
        };
        if rows.is_empty() {
            return Ok(None);
        }
        if may_be_lost {
            durability::may_commit_asynchronously();
        }
        let rotated = rows.first();
        let generation = self.generation + 1;
        let user_id = required(rotated.get::<Uuid>(2)?, "user_id");
        let organization_id = rotated.get::<Uuid>(3)?;
        let lineage_key = required(rotated.get::<&[u8]>(4)?, "lineage_key");
        let rotated_at = required(rotated.get::<TimestampWithTimeZone>(5)?, "rotated_at");
        let issued_at = unix_second(rotated_at);
        let mut auth_time = rotated.get::<TimestampWithTimeZone>(6)?;
        if let (Some(known), Some(shown)) = (rotated.get::<&[u8]>(10)?, self.device_hash)
            && known != shown
        {
            auth_time = self.note_device(client)?;
        }
        identity::assume(Identity { user_id, organization_id, session_id: Some(self.session_id), scopes: None });
        Ok(Some((
            Some("rotated".into()),
            Some(self.session_id),
            rotated.get(1)?,
            Some(user_id),
            organization_id,
            Some(generation),
            Some(lineage::make_ticket(lineage_key, generation, self.next_token_verifier).to_vec()),
            Some(self.rotation_nonce.to_vec()),
            Some(Uuid::from_bytes(lineage::make_jti(lineage_key, generation, issued_at))),
            Some(from_unix_second(issued_at)),
            auth_time,
            rotated.get(7)?,
            rotated.get(8)?,
            rotated.get(9)?,
            None,
            Some(from_unix_second(issued_at + settings::access_token_ttl_seconds() as u32)),
        )))
    }

    /// The slow path.
    fn settle(&self, client: &mut SpiClient<'_>) -> SpiResult<SessionOutcome> {
        let mut arguments = vec![
            self.session_id.into(),
            self.generation.into(),
            self.ticket.as_slice().into(),
            self.token_proof.as_slice().into(),
            self.ip_argument(),
            self.user_agent.into(),
            self.device_hash.into(),
            self.correlation_id.into(),
        ];
        let rows = if self.is_of_0_1 {
            run(client, &SETTLE_OF_0_1_PLAN, SETTLE_OF_0_1, &arguments)?
        } else {
            arguments.push(self.received_at.into());
            run(client, &SETTLE_PLAN, SETTLE, &arguments)?
        };
        let row = rows.first();
        Ok((
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
            row.get(5)?,
            row.get(6)?,
            row.get(7)?,
            row.get(8)?,
            row.get(9)?,
            row.get(10)?,
            row.get(11)?,
            row.get(12)?,
            row.get(13)?,
            row.get(14)?,
            row.get(15)?,
            row.get(16)?,
        ))
    }

    /// The token is genuine, the device is not the session's: what that means, and the session's auth_time after it.
    fn note_device(&self, client: &mut SpiClient<'_>) -> SpiResult<Option<TimestampWithTimeZone>> {
        let arguments = [
            self.session_id.into(),
            self.device_hash.into(),
            self.ip_argument(),
            self.user_agent.into(),
            self.correlation_id.into(),
        ];
        run(client, &NOTE_DEVICE_PLAN, NOTE_DEVICE, &arguments)?.first().get(1)
    }

    fn ip_argument(&self) -> DatumWithOid<'_> {
        match self.ip {
            // SAFETY: it came in as an inet and lives as long as the call.
            Some(datum) => unsafe { DatumWithOid::new(datum, pg_sys::INETOID) },
            None => DatumWithOid::null_oid(pg_sys::INETOID),
        }
    }
}
