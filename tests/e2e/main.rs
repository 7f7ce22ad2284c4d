//! The end-to-end tests, one module a subject. Run them with `make test ONLY=e2e`; the harness is in `tests/src`.

mod lifetimes;
mod recovery;
mod rotation;
mod rotation_audit;
