//! The only door to Postgres: one function per SQL function.
//!
//! Rules of this door: SQL is constant text with named arguments; every statement is prepared once per connection; an
//! expected outcome is data, so an error here is always "not available" or a bug, and its text never reaches a client;
//! who is acting is told to the database in the statement, or the transaction, that acts.

mod acting;
pub mod adoption;
mod alerts;
mod clients;
mod clock;
mod compatibility;
mod export;
mod federation;
mod figures;
mod identity;
mod installation;
mod invitations;
mod limits;
mod mail;
mod maintenance;
mod members;
mod notifications;
mod organizations;
mod outbox;
mod oversight;
mod params;
mod passwords;
mod personal_access_tokens;
mod security_events;
mod sessions;
mod step_up;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::DateTime;
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Status, TimeoutType,
    tokio_postgres::{
        Error, NoTls, Row, SimpleQueryMessage,
        config::{Host, SslMode},
        error::SqlState,
        types::FromSql,
    },
};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::acting::Acting;
pub use self::acting::Scope;
pub use self::alerts::Alert;
pub use self::clients::{ActiveToken, AnyToken, ListedClient};
use self::clock::DatabaseClock;
pub use self::compatibility::{OLDEST, Version};
pub use self::export::{Export, Window};
pub use self::federation::{Federated, FederatedStepUp};
pub use self::figures::Figure;
pub use self::identity::ListedSession;
pub use self::installation::Finding;
pub use self::invitations::{Invitation, Joined};
pub use self::limits::{Asked, Taken};
pub use self::maintenance::MaintenanceTask;
pub use self::members::{Member, MemberSession};
pub use self::organizations::{NewOrganization, Page};
pub use self::outbox::{Mail, Outbox, OutboxError};
pub use self::oversight::{
    Extent, HistoryEvent, Incident, Lockout, OverseenSession, Overseer, Oversight, Step, Upkeep,
};
use self::params::Params;
pub use self::passwords::PasswordChange;
pub use self::personal_access_tokens::ListedToken;
pub use self::security_events::{EventFilter, SecurityEvent};
pub use self::sessions::{AccessGrant, Grant, Lifetimes, Login, NewAccount, Profile, Rotation, SignUp};
pub use self::step_up::StepUp;
use crate::{
    config::DatabaseConfig,
    error::{Code, Problem},
    metrics::metrics,
};

/// How long a request waits for a connection before it is told that there is too much to do.
const POOL_WAIT: Duration = Duration::from_secs(2);
/// How long a new connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Once per connection. Rotation relies on READ COMMITTED (a waiting UPDATE re-checks its WHERE); the time-outs keep a
/// statement that hangs from holding its locks. Through a pooler in transaction mode they would land on whichever connection
/// to the server: there they are the login's own (sql/dba/beyond.md), and readiness asks for the isolation.
const SET_UP: &str = "set default_transaction_isolation to 'read committed'; set statement_timeout to '15s'; \
                      set lock_timeout to '10s'; set idle_in_transaction_session_timeout to '15s'; \
                      select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
/// How long what was sent may go unacknowledged before the connection is given up, and what was not delivered is dropped: a
/// network that swallows everything would otherwise keep it for a quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// Connections to the database.
pub struct Db {
    pool: Pool,
    /// Which pool it is, in metrics.
    name: &'static str,
    /// For a connection outside of the pool.
    postgres: tokio_postgres::Config,
    /// Whether statements are prepared on their connection.
    prepared: bool,
    clock: Arc<DatabaseClock>,
}

/// What readiness asks for.
pub struct Health {
    /// `auth.extension_version()`: of the library that the server has loaded.
    pub library_version: String,
    /// Of the extension's objects in this database, which `alter extension … update` moves.
    pub extension_version: String,
    /// Must be `read committed`.
    pub isolation: String,
}

impl Db {
    /// Makes the pool; connects to nothing yet.
    pub fn new(config: DatabaseConfig) -> Result<Self, String> {
        let DatabaseConfig { mut postgres, pool_size, prepared } = config;
        postgres.connect_timeout(CONNECT_TIMEOUT);
        if postgres.get_tcp_user_timeout().is_none() {
            postgres.tcp_user_timeout(UNACKNOWLEDGED);
        }
        // A connection that broke is noticed when it is used: no round trip is spent on asking first.
        let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let mut own = postgres.clone();
        let manager = if postgres.get_ssl_mode() == SslMode::Require {
            Manager::from_config(postgres, MakeRustlsConnect::new(tls()?), manager_config)
        } else {
            if is_in_the_clear(&postgres) {
                tracing::warn!(
                    "the connection to the database is not encrypted: add sslmode=require to DATABASE_URL, unless the \
                     network between is yours alone"
                );
            }
            postgres.ssl_mode(SslMode::Disable);
            own.ssl_mode(SslMode::Disable);
            Manager::from_config(postgres, NoTls, manager_config)
        };
        let clock = Arc::new(DatabaseClock::new());
        let set_clock = clock.clone();
        let set_up = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            let clock = set_clock.clone();
            Box::pin(async move {
                for message in client.simple_query(SET_UP).await.map_err(HookError::Backend)? {
                    if let SimpleQueryMessage::Row(row) = message
                        && let Some(time) = row.get(0).and_then(|time| time.parse().ok())
                        && let Some(time) = DateTime::from_timestamp_micros(time)
                    {
                        clock.note(time);
                    }
                }
                Ok(())
            })
        });
        let mut pool = Pool::builder(manager)
            .max_size(pool_size)
            .wait_timeout(Some(POOL_WAIT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .recycle_timeout(Some(CONNECT_TIMEOUT))
            .runtime(Runtime::Tokio1);
        if prepared {
            pool = pool.post_create(set_up);
        }
        Ok(Self {
            pool: pool.build().map_err(|error| error.to_string())?,
            name: "main",
            postgres: own,
            prepared,
            clock,
        })
    }

    /// The same under another name.
    pub fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Which pool it is.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many connections there are, and who waits for one.
    pub fn pool_status(&self) -> Status {
        self.pool.status()
    }

    /// Whether the other end is what this service was built for.
    pub async fn health(&self) -> Result<Health, Problem> {
        let sql = "select auth.extension_version(), extversion, current_setting('transaction_isolation')
                     from pg_catalog.pg_extension where extname = 'auth_sessions'";
        let row = self.one(sql, &[]).await?;
        Ok(Health {
            library_version: column(&row, 0)?,
            extension_version: column(&row, 1)?,
            isolation: column(&row, 2)?,
        })
    }

    /// The peppers that verifiers use; each must be in the ring.
    pub async fn peppers_in_use(&self) -> Result<Vec<i32>, Problem> {
        let rows = self.all("select auth.peppers_in_use()", &[]).await?;
        rows.iter().map(|row| column(row, 0)).collect()
    }

    /// Makes the audit log's partitions of the coming months; how many were missing.
    pub async fn maintain_audit_partitions(&self) -> Result<i32, Problem> {
        column(&self.one("select auth.maintain_audit_partitions()", &[]).await?, 0)
    }

    async fn connection(&self) -> Result<Object, Problem> {
        let started = Instant::now();
        let connection = self.pool.get().await;
        metrics().waited_for_connection(self.name, started.elapsed());
        connection.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => {
                metrics().pool_timeouts.count(self.name);
                tracing::warn!(
                    "no connection to the database came free in time: DB_POOL_SIZE is too small for this load"
                );
                Code::Overloaded.into()
            }
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                log_unreachable(&error);
                Code::DatabaseUnavailable.into()
            }
            error => {
                metrics().database_errors.count("unavailable");
                tracing::warn!(%error, "no connection to the database");
                Code::DatabaseUnavailable.into()
            }
        })
    }

    /// One statement in a transaction of its own. It is answered after the commit: tokio-postgres ends the rows at
    /// ReadyForQuery, which the server sends when the commit is done.
    async fn all(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Problem> {
        let mut busy = Busy(Some(self.connection().await?));
        let connection = busy.0.as_ref().ok_or(Code::InternalError)?;
        let answer = params::query(connection, self.prepared, sql, params).await;
        let connection = busy.0.take().ok_or(Code::InternalError)?;
        match answer {
            Ok(rows) => Ok(rows),
            Err(error) => Err(refused(connection, &error)),
        }
    }

    async fn optional(&self, sql: &'static str, params: Params<'_>) -> Result<Option<Row>, Problem> {
        Ok(self.all(sql, params).await?.into_iter().next())
    }

    async fn one(&self, sql: &'static str, params: Params<'_>) -> Result<Row, Problem> {
        self.optional(sql, params).await?.ok_or_else(|| no_row(sql))
    }
}

/// A connection while it is asked something. When nobody waits for the answer any more it is given up: back in the pool, the
/// next request would wait behind the one that took too long.
struct Busy(Option<Object>);

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

fn no_row(sql: &'static str) -> Problem {
    tracing::error!(sql, "no row where there always is one");
    Code::InternalError.into()
}

/// Whether others than this machine and the database's could read what goes between.
pub fn is_in_the_clear(postgres: &tokio_postgres::Config) -> bool {
    postgres.get_ssl_mode() != SslMode::Require && postgres.get_hosts().iter().any(is_remote)
}

fn is_remote(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => name != "localhost" && !name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        Host::Unix(_) => false,
    }
}

fn tls() -> Result<rustls::ClientConfig, String> {
    crate::tls::client_config("the database")
}

/// Nothing that this door sends is expected to fail: a connection on which something did is given up. So statements
/// prepared before an `alter extension … update`, or a session that a pooler has reset, mend themselves.
fn refused(connection: Object, error: &Error) -> Problem {
    drop(Object::take(connection));
    problem(error)
}

/// What a client is told of an error of the database. The log has its code and message, never its DETAIL, which may
/// quote values.
fn problem(error: &Error) -> Problem {
    let Some(db) = error.as_db_error() else {
        if error.is_closed() || cause_is_io(error) {
            log_unreachable(error);
            return Code::DatabaseUnavailable.into();
        }
        metrics().database_errors.count("internal");
        tracing::error!(%error, cause = cause(error), "talking to the database failed");
        return Code::InternalError.into();
    };
    let code = db.code();
    let class = &code.code()[..2];
    // Connection exceptions, no resources, shutting down or cancelled, failed over to a read-only server, no lock.
    let unavailable = ["08", "53", "57", "58"].contains(&class)
        || [SqlState::READ_ONLY_SQL_TRANSACTION, SqlState::LOCK_NOT_AVAILABLE].contains(code);
    // No extension, or another version, or rights are missing: the operator's to mend.
    let misconfigured = ["28", "3D", "3F"].contains(&class)
        || [SqlState::UNDEFINED_FUNCTION, SqlState::UNDEFINED_TABLE, SqlState::FEATURE_NOT_SUPPORTED].contains(code);
    // Prepared on one connection to the server, and wanted on another one.
    let unprepared = [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(code);
    // The tables' own checks, a second line behind the checks of `field.rs`.
    let bad_value = [SqlState::CHECK_VIOLATION, SqlState::CHARACTER_NOT_IN_REPERTOIRE].contains(code);
    metrics().database_errors.count(match () {
        () if unavailable => "unavailable",
        () if misconfigured => "misconfigured",
        () if unprepared => "unprepared",
        () if bad_value => "refused_value",
        () => "internal",
    });
    if unavailable {
        tracing::warn!(code = code.code(), cause = db.message(), "the database is not available");
        Code::DatabaseUnavailable.into()
    } else if misconfigured {
        tracing::error!(
            code = code.code(),
            cause = db.message(),
            "the extension auth_sessions, this version of it, or a right is missing in the database"
        );
        Code::DatabaseUnavailable.into()
    } else if unprepared {
        tracing::error!(
            code = code.code(),
            cause = db.message(),
            "a prepared statement is not where it was prepared: behind a pooler in transaction mode, set \
             DB_PREPARED_STATEMENTS=off"
        );
        Code::DatabaseUnavailable.into()
    } else if bad_value {
        tracing::warn!(code = code.code(), cause = db.message(), "the database refused a value");
        Code::InvalidRequest.into()
    } else {
        tracing::error!(code = code.code(), cause = db.message(), "the database answered with an error");
        Code::InternalError.into()
    }
}

fn log_unreachable(error: &Error) {
    metrics().database_errors.count("unavailable");
    match error.as_db_error() {
        Some(db) => tracing::warn!(code = db.code().code(), cause = db.message(), "the database cannot be reached"),
        None => tracing::warn!(%error, cause = cause(error), "the database cannot be reached"),
    }
}

fn cause(error: &Error) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

fn cause_is_io(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>())
}

/// A column by position. A type that does not fit is a bug, or another version of the extension.
fn column<'r, T: FromSql<'r>>(row: &'r Row, index: usize) -> Result<T, Problem> {
    row.try_get(index).map_err(|error| problem(&error))
}

/// A column by name.
fn named<'r, T: FromSql<'r>>(row: &'r Row, name: &str) -> Result<T, Problem> {
    row.try_get(name).map_err(|error| problem(&error))
}

/// A bytea of a fixed length.
fn bytes<const N: usize>(row: &Row, name: &str) -> Result<[u8; N], Problem> {
    named::<&[u8]>(row, name)?.try_into().map_err(|_| {
        tracing::error!(column = name, "a bytea has another length");
        Code::InternalError.into()
    })
}
