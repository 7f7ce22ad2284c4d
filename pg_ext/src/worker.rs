//! The background worker: calls `auth.run_maintenance` in each database of `auth_sessions.cleanup_database`, every
//! `auth_sessions.cleanup_interval`. Only when the library is preloaded.
//!
//! A *launcher* lives as long as the server. It belongs to no database, knows whose turn it is ([`Schedule`]), and
//! starts one *worker* at a time, for one turn in one database. So nothing is connected between turns: `drop database`
//! and `create database … template` are not held up; settings of a database count from its next turn; and whatever a
//! turn dies of, the launcher lives and tries again, later and later.
//!
//! On a standby PostgreSQL does not start the launcher; it does when the standby is promoted.

use crate::arguments::refuse;
use crate::schedule::{Schedule, Turn};
use crate::{settings, stats};
use pgrx::PgSqlErrorCode;
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, DynamicBackgroundWorker, SignalWakeFlags,
};
use pgrx::memcxt::PgMemoryContexts;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use pgrx::spi::SpiResult;
use std::ffi::c_int;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long one turn may go on while others may wait. What is left is done in the next one.
const LONGEST_TURN: Duration = Duration::from_secs(60);
/// A launcher that died is started again after so long.
const RESTART: Duration = Duration::from_secs(5);
/// A running worker's end wakes the launcher; should that get lost, it looks by itself.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Asks the postmaster for the launcher. Only while `shared_preload_libraries` are loaded.
pub fn register() {
    // SAFETY: a plain variable of the postmaster. pg_upgrade wants nobody else to be at work.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    BackgroundWorkerBuilder::new("auth_sessions launcher")
        .set_library("auth_sessions")
        .set_function("auth_sessions_launcher_main")
        .enable_spi_access()
        .set_restart_time(Some(RESTART))
        .load();
}

/// A turn under way.
struct Running {
    worker: DynamicBackgroundWorker,
    /// What the worker says its end with, so that one of a launcher before is not taken for this one.
    turn: u32,
    database: String,
    /// Holds the worker's handle, which PostgreSQL allocates and does not free.
    _memory: PgMemoryContexts,
}

/// The launcher's life.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn auth_sessions_launcher_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // To no database: this makes it visible in pg_stat_activity.
    BackgroundWorker::connect_worker_to_spi(None, None);
    let mut schedule = Schedule::default();
    read_settings(&mut schedule);
    let mut running: Option<Running> = None;
    loop {
        let now = Instant::now();
        if let Some(turn) = running.take_if(|running| has_ended(&running.worker)) {
            schedule.ended(&turn.database, how_it_ended(turn.turn), now, settings::cleanup_interval());
        }
        let next = schedule.next().map(|(database, due)| (database.to_owned(), due));
        let wait = match (&running, next) {
            (Some(_), _) => Some(LOOK_AGAIN),
            (None, None) => None,
            (None, Some((_, due))) if due > now => Some(due - now),
            (None, Some((database, _))) => {
                running = start(&database);
                if running.is_none() {
                    schedule.ended(&database, Turn::Failed, now, settings::cleanup_interval());
                }
                continue;
            }
        };
        // In whole milliseconds, rounded up: it must not wake a moment too early, again and again.
        if !BackgroundWorker::wait_latch(wait.map(|wait| wait + Duration::from_millis(1))) {
            break;
        }
        if BackgroundWorker::sighup_received() {
            // SAFETY: on the only thread, outside any transaction.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
            read_settings(&mut schedule);
        }
    }
    // Not 0: whoever ends the launcher alone gets another one. When the server stops, there is none.
    // SAFETY: the process has nothing left to do.
    unsafe { pg_sys::proc_exit(1) };
}

fn read_settings(schedule: &mut Schedule) {
    for name in schedule.set(&settings::cleanup_database(), Instant::now()) {
        warning!("auth_sessions.cleanup_database: no database has a name as long as \"{name}\"");
    }
    if schedule.next().is_none() {
        log!("auth_sessions.cleanup_database names no database: the background worker cleans nothing");
    }
}

/// Starts a worker for one turn; none when there is no room for one.
fn start(database: &str) -> Option<Running> {
    // Any number that the turn before does not have.
    // SAFETY: reads the clock.
    let turn = unsafe { pg_sys::GetCurrentTimestamp() } as u32;
    let mut memory = PgMemoryContexts::new("auth_sessions turn");
    // SAFETY: a plain variable of this process.
    let own_pid = unsafe { pg_sys::MyProcPid };
    let started = unsafe {
        memory.switch_to(|_| {
            BackgroundWorkerBuilder::new("auth_sessions worker")
                .set_library("auth_sessions")
                .set_function("auth_sessions_worker_main")
                .enable_spi_access()
                .set_extra(database)
                .set_argument((turn as i32).into_datum())
                .set_notify_pid(own_pid)
                .load_dynamic()
        })
    };
    match started {
        Ok(worker) => Some(Running { worker, turn, database: database.to_owned(), _memory: memory }),
        Err(_) => {
            warning!(
                "no background worker for database \"{database}\": all are in use. Raise max_worker_processes and restart the server"
            );
            None
        }
    }
}

fn has_ended(worker: &DynamicBackgroundWorker) -> bool {
    !matches!(worker.pid(), Ok(_) | Err(BackgroundWorkerStatus::NotYetStarted))
}

/// What the worker of that turn said last; one that died has said nothing.
fn how_it_ended(turn: u32) -> Turn {
    let said = stats::turn().map_or(0, |said| said.load(Relaxed));
    match [Turn::Done, Turn::More].into_iter().find(|ended| said == spoken(turn, *ended)) {
        Some(ended) => ended,
        None => Turn::Failed,
    }
}

/// How a turn's end is said in shared memory; never 0.
fn spoken(turn: u32, ended: Turn) -> u64 {
    u64::from(turn) << 8 | (ended as u64 + 1)
}

// Directly, not through pgrx's guards: it is a signal handler.
unsafe extern "C-unwind" {
    fn die(signal: c_int);
}

/// A worker's life: one turn in one database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn auth_sessions_worker_main(turn: pg_sys::Datum) {
    // SAFETY: the argument is the i32 of `start`. With PostgreSQL's own handler a SIGTERM interrupts whatever runs, a
    // wait for a lock too, and rolls the batch back.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(pg_sys::SIGTERM as c_int, Some(die));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as c_int, Some(die));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
    BackgroundWorker::connect_worker_to_spi(Some(BackgroundWorker::get_extra()), None);
    forget_settings_for_clients();
    let ended = PgTryBuilder::new(take_turn)
        .catch_others(|error| {
            stats::count_failure(code_of(&error));
            error.rethrow()
        })
        .execute();
    if let Some(said) = stats::turn() {
        said.store(spoken(turn.value() as u32, ended), Relaxed);
    }
}

/// What a DBA has set for the clients of this database must not end, or change, what is done here: as autovacuum does.
fn forget_settings_for_clients() {
    for (name, value) in [
        (c"statement_timeout", c"0"),
        (c"lock_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
    ] {
        // SAFETY: names and values are literals, and there is no transaction yet.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}

fn code_of(error: &CaughtError) -> i32 {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report.sql_error_code() as i32,
    }
}

fn take_turn() -> Turn {
    let end = Instant::now() + LONGEST_TURN;
    // Each batch is a transaction of its own: what is done stays done, whatever comes after it.
    while BackgroundWorker::transaction(run_batch).expect("auth.run_maintenance answers") {
        if Instant::now() > end {
            return Turn::More;
        }
    }
    Turn::Done
}

/// One batch; whether there is more to do. Tasks that fail are in the log already, and do not keep others from theirs.
fn run_batch() -> SpiResult<bool> {
    // Only what a superuser has installed is run, and as auth_owner, whose it is.
    // SAFETY: a look-up in the catalogue, in a transaction.
    if unsafe { pg_sys::get_extension_oid(c"auth_sessions".as_ptr(), true) } == pg_sys::InvalidOid {
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "there is no extension auth_sessions in this database",
            "Create it, or take the database out of auth_sessions.cleanup_database.",
        );
    }
    Spi::connect_mut(|client| {
        let known = client.select("select to_regprocedure('auth.run_maintenance(int)') is not null", Some(1), &[])?;
        if known.first().get::<bool>(1)? != Some(true) {
            refuse(
                PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
                "the extension auth_sessions in this database is older than its library",
                "Run there: alter extension auth_sessions update;",
            );
        }
        client.update("set local role auth_owner", None, &[])?;
        let done = client.update("select bool_or(m.more) from auth.run_maintenance() m", Some(1), &[])?;
        Ok(done.first().get::<bool>(1)?.unwrap_or(false))
    })
}
