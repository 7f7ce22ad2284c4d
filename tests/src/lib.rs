//! The harness of the end-to-end tests: a real PostgreSQL, the real service, no mocks.
//!
//! `make test` (or `make test ONLY=e2e FILTER=name`) starts one private cluster for the whole run and makes the
//! database `auth_template` in it, with the extension. Each test works in a fresh copy of that database, so tests run
//! side by side and see nothing of each other, but for what is the whole cluster's (roles, `pg_stat_activity`).
//!
//! ```ignore
//! #[tokio::test]
//! async fn a_revoked_session_is_refused() {
//!     let db = TestDb::create().await;                         // dropped with `db`
//!     let service = db.connect_as("auth_service").await;       // a tokio_postgres::Client; also auth_operator,
//!     let admin = db.superuser().await;                        // auth_watcher
//!
//!     let token = tokens::sign_up(&service, "ada@example.org").await;          // SQL: what the service would do
//!     admin.execute("select auth.revoke_session_family($1)", &[&token.session_id]).await.unwrap();
//!     assert_eq!(tokens::rotate(&service, &token).await.outcome, "revoked");
//!
//!     let server = Server::start(&db, &[("ACCESS_TOKEN_TTL_SECONDS", "60")]).await;   // HTTP: the real binary
//!     let session = server.api().signup("bob@example.org").await;
//!     server.api().refresh(&session.refresh_token).await.expect(200);
//! }
//! ```
//!
//! | module | |
//! |---|---|
//! | [`cluster`] | the shared cluster, and [`OwnCluster`] for tests that crash or restore a whole one |
//! | [`db`] | [`TestDb`] |
//! | [`catalogue`] | what schema `auth` is and holds, in lines that can be compared |
//! | [`past`] | a database with a past, and whether its clients can go on |
//! | [`releases`] | the versions that were released, each installed on demand |
//! | [`sql`] | one value, an error's SQLSTATE, the audit trail, time that passes |
//! | [`exporter`] | the PostgreSQL exporter of Prometheus |
//! | [`metrics`] | what it and the service serve, taken apart |
//! | [`audit_log`] | months of the audit log that are long over; what of it is not documented |
//! | [`failover`] | databases that die under load, and others that take over behind them |
//! | [`tokens`] | secrets, proofs and verifiers, and sessions opened and rotated in SQL |
//! | [`adopted`] | sessions of a system that was taken over |
//! | [`adoption`] | databases of another system, and the commands that take them over and give them back |
//! | [`schedules`] | model checking of races: every order in which a few transactions can go on |
//! | [`sql_fuzz`] | an attacker with thousands of statements, and what they must not bring about |
//! | [`tenants`] | organizations with their people, and statements in somebody's name |
//! | [`server`] | [`Server`]: the service as a process |
//! | [`http`] | [`Api`]: a client of it |
//! | [`scene`] | it, with organizations and their people |
//! | [`pooler`] | PgBouncer in transaction mode |
//! | [`key_files`] | the service's keys in files, and the commands that change them |
//! | [`vault`] | a stand-in for Vault |
//! | [`mail`] | a mail server, and what it has taken |
//! | [`webhooks`] | a receiver of webhooks, and what it was shown |
//! | [`telemetry`] | a receiver of traces and of error reports |
//! | [`oidc`] | a real OpenID provider, and a browser that goes there and back |
//! | [`wire`] | refresh tokens and JWTs taken apart and forged |
//! | [`chaos`] | everything fails at once, and nobody is logged out |
//!
//! Time passes by moving rows or settings (see [`TestDb::set`]), never by sleeping. A condition that comes about by
//! itself is waited for with [`eventually`].

pub mod adopted;
pub mod adoption;
pub mod audit_log;
pub mod catalogue;
pub mod chaos;
pub mod cluster;
pub mod db;
pub mod exporter;
pub mod failover;
pub mod http;
pub mod key_files;
pub mod mail;
pub mod metrics;
pub mod oidc;
pub mod past;
pub mod pooler;
pub mod releases;
pub mod scene;
pub mod schedules;
pub mod server;
pub mod sql;
pub mod sql_fuzz;
pub mod telemetry;
pub mod tenants;
pub mod tokens;
pub mod vault;
pub mod webhooks;
pub mod wire;

pub use cluster::{Cluster, OwnCluster};
pub use db::TestDb;
pub use http::{Answer, Api, Client, Session};
pub use key_files::KeyFiles;
pub use mail::MailServer;
pub use oidc::OidcProvider;
pub use server::Server;
pub use vault::Vault;
pub use webhooks::WebhookReceiver;

use std::time::{Duration, Instant};

/// Waits until the condition holds; panics with `what` after 20 seconds.
pub async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut condition: F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "waited 20 seconds in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Calls `task` with 0, 1, … `count - 1`, all released at once, and returns what they returned, in that order.
/// Tasks connect (or do whatever is slow) before they wait at the barrier they are given.
pub async fn all_at_once<T, F>(
    count: usize,
    mut task: impl FnMut(usize, std::sync::Arc<tokio::sync::Barrier>) -> F,
) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let start = std::sync::Arc::new(tokio::sync::Barrier::new(count));
    let tasks: Vec<_> = (0..count).map(|n| tokio::spawn(task(n, start.clone()))).collect();
    let mut results = Vec::with_capacity(count);
    for task in tasks {
        results.push(task.await.expect("a task panicked"));
    }
    results
}
