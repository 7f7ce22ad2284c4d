//! `auth_sessions`: login sessions with rotating refresh tokens, inside PostgreSQL.
//!
//! What a DBA sees is in `sql/`, whose `README.md` is the map. Here is only what SQL cannot do, or not fast enough:
//! the pure decisions ([`decision`], [`lineage`]), the fast path of a refresh ([`rotation`]), who a transaction is
//! ([`identity`]) and the settings.

pub mod decision;
pub mod lineage;

mod arguments;
mod identity;
mod primitives;
mod rotation;
mod schema;
mod seals;
mod settings;
mod snapshot;

::pgrx::pg_module_magic!();

/// Runs once in each backend, when the library is loaded.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::register();
}
