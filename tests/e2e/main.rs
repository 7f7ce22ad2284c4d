//! The end-to-end tests, one module a subject. Run them with `make test ONLY=e2e`; the harness is in `tests/src`.

mod accounts;
mod accounts_http;
mod audit;
mod bad_input;
mod catalogue;
mod contract;
mod dump_restore;
mod federation;
mod federation_races;
mod generated_client;
mod graceful_stop;
mod hostile;
mod hostile_functions;
mod identity;
mod lifetimes;
mod login;
mod logs;
mod mailer;
mod recovery;
mod refresh_http;
mod rotation;
mod rotation_audit;
mod rotation_races;
mod sessions_races;
mod storage;
