//! The end-to-end tests, one module a subject. Run them with `make test ONLY=e2e`; the harness is in `tests/src`.

mod accounts_http;
mod generated_client;
mod lifetimes;
mod recovery;
mod refresh_http;
mod rotation;
mod rotation_audit;
mod rotation_races;
mod sessions_races;
