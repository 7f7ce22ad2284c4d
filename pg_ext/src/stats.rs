//! What was done since the server started, counted in shared memory: nothing of it is ever on disk, and a refresh pays
//! two readings of the clock and three additions. Only when the library is preloaded (`shared_preload_libraries`);
//! otherwise nothing is counted, and `auth.session_statistics` says so.
//!
//! Each database has its own counters. What is counted is what was answered, whether or not the caller committed.

use pgrx::PgAtomic;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::CStr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

/// The outcomes of a rotation, in the order in which they are shown.
const OUTCOMES: [&str; 11] = [
    "rotated",
    "retried",
    "retained",
    "replayed",
    "overtaken",
    "revoked",
    "expired",
    "unknown",
    "ahead",
    "limited",
    "device_mismatch",
];

/// Databases that have counters: so many per cluster as have been seen with the extension since the server started.
const DATABASES: usize = 256;

/// The counters of one database. On cache lines of their own, so that databases do not slow each other down.
#[derive(Default)]
#[repr(C, align(64))]
struct Counters {
    /// Whose they are; 0: nobody's yet.
    database: AtomicU32,
    last_failure_code: AtomicI32,
    reset_at: AtomicI64,
    outcomes: [AtomicU64; OUTCOMES.len()],
    rotation_nanoseconds: AtomicU64,
    cleaned: AtomicU64,
    maintenance_runs: AtomicU64,
    maintenance_failures: AtomicU64,
    maintenance_microseconds: AtomicU64,
    last_maintenance_at: AtomicI64,
    last_failure_at: AtomicI64,
}

/// What all processes share.
struct Shared {
    databases: [Counters; DATABASES],
    /// How the background worker's last turn ended: see [`crate::worker`].
    turn: AtomicU64,
}

// SAFETY: atomics only, and no pointers.
unsafe impl pgrx::PGRXSharedMemory for Shared {}

impl Default for Shared {
    fn default() -> Self {
        Self { databases: std::array::from_fn(|_| Counters::default()), turn: AtomicU64::default() }
    }
}

// SAFETY: nobody else's shared memory has this name.
static SHARED: PgAtomic<Shared> = unsafe { PgAtomic::new(c"auth_sessions statistics") };
/// Whether there is shared memory: set in the postmaster, inherited by every process.
static PRELOADED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Where this backend counts; a backend has one database for life.
    static OWN: Cell<Option<&'static Counters>> = const { Cell::new(None) };
}

/// Asks for the shared memory. Only while `shared_preload_libraries` are loaded.
#[allow(unexpected_cfgs, reason = "the macro asks for versions of PostgreSQL that this crate does not know")]
pub fn register() {
    pgrx::pg_shmem_init!(SHARED);
    PRELOADED.store(true, Relaxed);
}

/// Where the background worker says how its turn ended; none when the library is not preloaded.
pub fn turn() -> Option<&'static AtomicU64> {
    PRELOADED.load(Relaxed).then(|| &SHARED.get().turn)
}

/// This database's counters. None when the library is not preloaded, or all are taken by other databases.
fn own() -> Option<&'static Counters> {
    // SAFETY: a plain variable of this backend.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    if !PRELOADED.load(Relaxed) || database == 0 {
        return None;
    }
    if let Some(own) = OWN.get() {
        return Some(own);
    }
    let is_own = |counters: &&Counters| match counters.database.compare_exchange(0, database, Relaxed, Relaxed) {
        Ok(_) => {
            counters.reset_at.store(now(), Relaxed);
            true
        }
        Err(taken_by) => taken_by == database,
    };
    let own = SHARED.get().databases.iter().find(is_own);
    OWN.set(own);
    own
}

fn now() -> pg_sys::TimestampTz {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// A rotation was answered.
pub fn count_rotation(outcome: &str, began: Instant) {
    let Some(own) = own() else { return };
    if let Some(n) = OUTCOMES.iter().position(|known| *known == outcome) {
        own.outcomes[n].fetch_add(1, Relaxed);
    }
    own.rotation_nanoseconds.fetch_add(began.elapsed().as_nanos() as u64, Relaxed);
}

/// Maintenance ended with an error of that SQLSTATE, packed as PostgreSQL packs it.
pub fn count_failure(sqlstate: i32) {
    let Some(own) = own() else { return };
    own.maintenance_failures.fetch_add(1, Relaxed);
    own.last_failure_code.store(sqlstate, Relaxed);
    own.last_failure_at.store(now(), Relaxed);
}

#[pg_extern(sql = false)]
fn count_cleaned(sessions: i64) {
    if let Some(own) = own() {
        own.cleaned.fetch_add(sessions.max(0).unsigned_abs(), Relaxed);
    }
}

/// A call of `auth.run_maintenance`, with the SQLSTATEs of the tasks that failed in it.
#[pg_extern(sql = false)]
fn count_maintenance(microseconds: i64, failures: Vec<String>) {
    let Some(own) = own() else { return };
    own.maintenance_runs.fetch_add(1, Relaxed);
    own.maintenance_microseconds.fetch_add(microseconds.max(0).unsigned_abs(), Relaxed);
    own.last_maintenance_at.store(now(), Relaxed);
    // Last: a failure that is younger than the last call was in it, or after it.
    failures.iter().for_each(|code| count_failure(packed_sqlstate(code)));
}

/// PostgreSQL's MAKE_SQLSTATE: six bits a character.
fn packed_sqlstate(code: &str) -> i32 {
    let six_bits = |byte: u8| i32::from(byte.wrapping_sub(b'0') & 0x3f);
    code.bytes().take(5).enumerate().fold(0, |packed, (n, byte)| packed | six_bits(byte) << (6 * n))
}

#[pg_extern(sql = false)]
fn reset_session_statistics() {
    let Some(own) = own() else { return };
    let Counters {
        database: _,
        last_failure_code,
        reset_at,
        outcomes,
        rotation_nanoseconds,
        cleaned,
        maintenance_runs,
        maintenance_failures,
        maintenance_microseconds,
        last_maintenance_at,
        last_failure_at,
    } = own;
    let numbers = [rotation_nanoseconds, cleaned, maintenance_runs, maintenance_failures, maintenance_microseconds];
    numbers.into_iter().chain(outcomes).for_each(|counter| counter.store(0, Relaxed));
    [last_maintenance_at, last_failure_at].into_iter().for_each(|time| time.store(0, Relaxed));
    last_failure_code.store(0, Relaxed);
    reset_at.store(now(), Relaxed);
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the view has as many columns")]
fn read_session_statistics() -> TableIterator<
    'static,
    (
        name!(is_counting, bool),
        name!(note, Option<&'static str>),
        name!(stats_reset, Option<TimestampWithTimeZone>),
        name!(rotated, Option<i64>),
        name!(retried, Option<i64>),
        name!(retained, Option<i64>),
        name!(replayed, Option<i64>),
        name!(overtaken, Option<i64>),
        name!(revoked, Option<i64>),
        name!(expired, Option<i64>),
        name!(unknown, Option<i64>),
        name!(ahead, Option<i64>),
        name!(limited, Option<i64>),
        name!(device_mismatch, Option<i64>),
        name!(rotation_time, Option<f64>),
        name!(cleaned, Option<i64>),
        name!(maintenance_runs, Option<i64>),
        name!(maintenance_failures, Option<i64>),
        name!(maintenance_time, Option<f64>),
        name!(last_maintenance_at, Option<TimestampWithTimeZone>),
        name!(last_failure_at, Option<TimestampWithTimeZone>),
        name!(last_failure, Option<String>),
    ),
> {
    let own = own();
    let note = match own {
        Some(_) => None,
        None if PRELOADED.load(Relaxed) => {
            Some("nothing is counted: too many databases were seen since the server started; a restart begins anew")
        }
        None => Some(
            "nothing is counted: add auth_sessions to shared_preload_libraries in postgresql.conf and restart the server",
        ),
    };
    let number = |read: &dyn Fn(&Counters) -> &AtomicU64| own.map(|own| read(own).load(Relaxed) as i64);
    let outcome = |n: usize| own.map(|own| own.outcomes[n].load(Relaxed) as i64);
    let time = |read: &dyn Fn(&Counters) -> &AtomicI64| -> Option<TimestampWithTimeZone> {
        own.map(|own| read(own).load(Relaxed)).filter(|time| *time != 0)?.try_into().ok()
    };
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    TableIterator::once((
        own.is_some(),
        note,
        time(&|own| &own.reset_at),
        outcome(0),
        outcome(1),
        outcome(2),
        outcome(3),
        outcome(4),
        outcome(5),
        outcome(6),
        outcome(7),
        outcome(8),
        outcome(9),
        outcome(10),
        own.map(|own| milliseconds(Duration::from_nanos(own.rotation_nanoseconds.load(Relaxed)))),
        number(&|own| &own.cleaned),
        number(&|own| &own.maintenance_runs),
        number(&|own| &own.maintenance_failures),
        own.map(|own| milliseconds(Duration::from_micros(own.maintenance_microseconds.load(Relaxed)))),
        time(&|own| &own.last_maintenance_at),
        time(&|own| &own.last_failure_at),
        own.map(|own| own.last_failure_code.load(Relaxed)).filter(|code| *code != 0).map(unpacked_sqlstate),
    ))
}

fn unpacked_sqlstate(code: i32) -> String {
    // SAFETY: it returns a static buffer of five characters, which is copied at once.
    unsafe { CStr::from_ptr(pg_sys::unpack_sql_state(code)) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlstate_is_packed_as_postgresql_packs_it() {
        use pgrx::PgSqlErrorCode::*;
        assert_eq!(packed_sqlstate("55P03"), ERRCODE_LOCK_NOT_AVAILABLE as i32);
        assert_eq!(packed_sqlstate("42883"), ERRCODE_UNDEFINED_FUNCTION as i32);
    }
}
