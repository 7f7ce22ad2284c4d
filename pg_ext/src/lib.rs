//! `auth_sessions`: login sessions with rotating refresh tokens, inside PostgreSQL.
//!
//! What a DBA sees is in `sql/`, whose `README.md` is the map. Here is only what SQL cannot do, or not fast enough:
//! the pure decisions ([`decision`], [`lineage`]), the fast path of a refresh ([`rotation`]) and how long its commit
//! waits ([`durability`]), who a transaction is ([`identity`]), the settings, and, when the library is preloaded, the background worker ([`worker`]) and its
//! statistics ([`stats`]).

pub mod decision;
pub mod lineage;
pub mod schedule;

mod arguments;
mod durability;
mod identity;
mod kept_plan;
mod primitives;
mod profile;
mod rotation;
mod schema;
mod seals;
mod settings;
mod snapshot;
mod stats;
mod worker;

::pgrx::pg_module_magic!();

/// Runs once in each backend, when the library is loaded; or once in the postmaster, when it is preloaded.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::register();
    // SAFETY: a plain variable of the postmaster, or of this backend.
    if unsafe { pgrx::pg_sys::process_shared_preload_libraries_in_progress } {
        stats::register();
        worker::register();
    }
}
