//! What Prometheus is told of this process and of its database: every metric, by name, in one place.
//!
//! One process has one set of them, so they are reached from anywhere: [`metrics`]. Every label's values are a fixed, small
//! set (operations, outcomes, codes): nothing that a client sends becomes a label, so that nobody makes series, and nothing
//! personal leaves. `sql/monitoring/README.md` has the table of them; a test compares it with what is served.

mod database;
mod listener;

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Metric, Registry},
};

use self::database::DatabaseFigures;
pub use self::listener::MetricsServer;
use crate::{
    app::App,
    error::{Code, Problem},
};

/// The media type of what [`Metrics::render`] gives.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Of whatever takes a request, or waits for something.
const SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How a refresh ends: `malformed` never reached the database, the others are its outcomes.
const REFRESHES: [&str; 12] = [
    "rotated",
    "retried",
    "retained",
    "limited",
    "overtaken",
    "replayed",
    "revoked",
    "expired",
    "unknown",
    "ahead",
    "device_mismatch",
    "malformed",
];
/// How a login by password ends.
const LOGINS: [&str; 4] = ["logged_in", "refused", "locked", "stale"];
/// What becomes of a mail, or of the webhook of an alert, that was tried.
const DELIVERIES: [&str; 4] = ["sent", "retried", "given_up", "lost"];
/// What becomes of keys that are read anew.
const KEY_RELOADS: [&str; 3] = ["changed", "unchanged", "refused"];
/// Limits by network, by account, and of a session.
const LIMITS: [&str; 12] = [
    "requests_network",
    "refresh_network",
    "refresh_session",
    "login_network",
    "login_account",
    "signup_network",
    "signup_account",
    "mail_network",
    "mail_account",
    "mail_token_network",
    "password_network",
    "lookup_network",
];
/// What is wrong when the database does not do what it is asked.
const ERRORS: [&str; 5] = ["unavailable", "misconfigured", "unprepared", "refused_value", "internal"];
/// What a client is told when it is our fault.
const FAULTS: [Code; 5] =
    [Code::InternalError, Code::DatabaseUnavailable, Code::Overloaded, Code::Timeout, Code::NotReady];
/// Whatever else the database or a mail server calls it.
const OTHER: &str = "other";

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

type Label = [(&'static str, &'static str); 1];

/// Counters by the value of one label.
pub struct By(&'static str, Family<Label, Counter>);

impl By {
    /// There from the beginning: so none is a zero, and the first one is an increase.
    fn add(registry: &mut Registry, name: &str, help: &str, label: &'static str, values: &[&'static str]) -> Self {
        let counters: Family<Label, Counter> = add(registry, name, help, Family::default());
        for value in values {
            drop(counters.get_or_create(&[(label, value)]));
        }
        Self(label, counters)
    }

    /// One more.
    pub fn count(&self, value: &'static str) {
        self.1.get_or_create(&[(self.0, value)]).inc();
    }
}

/// Counters by outcome, of which these are all.
pub struct Outcomes(By, &'static [&'static str]);

impl Outcomes {
    fn add(registry: &mut Registry, name: &str, help: &str, all: &'static [&'static str]) -> Self {
        Self(By::add(registry, name, help, "outcome", all), all)
    }

    /// One more. What is not listed counts as `other`: the database may be newer than this program.
    pub fn count(&self, outcome: &str) {
        self.0.count(self.1.iter().find(|listed| **listed == outcome).unwrap_or(&OTHER));
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    operation: &'static str,
    status: u16,
}

/// A histogram for each value of a label.
type Durations = Family<Label, Histogram, fn() -> Histogram>;

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// All metrics of this process.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    request_durations: Durations,
    requests_in_flight: Gauge,
    problems: Family<[(&'static str, String); 1], Counter>,
    /// Connections of clients that are open.
    pub connections: Gauge,
    /// How many there may be.
    pub connections_max: Gauge,
    /// Connections that were closed at once: too many of one network.
    pub connections_refused: Counter,
    /// Refreshes by outcome.
    pub refreshes: Outcomes,
    /// Logins by password, by outcome.
    pub logins: Outcomes,
    /// Requests that were refused because there were too many, by the limit that refused.
    pub rate_limited: By,
    hashes: [Gauge; 4],
    /// Hashes that were not begun: the queue was full.
    pub hashes_refused: Counter,
    /// How long a hash waits for its turn.
    pub hash_wait: Histogram,
    /// How long it takes then.
    pub hash_duration: Histogram,
    pool: Family<[(&'static str, &'static str); 2], Gauge>,
    pool_max: Family<Label, Gauge>,
    pool_waiting: Family<Label, Gauge>,
    pool_wait: Durations,
    /// Requests that got no connection to the database in time, by pool.
    pub pool_timeouts: By,
    /// Errors of the database, by what kind they are.
    pub database_errors: By,
    /// Attempts to send a mail, by what became of the mail.
    pub deliveries: Outcomes,
    /// Keys that were read anew, by what became of it.
    pub key_reloads: Outcomes,
    /// Attempts to send the webhook of an alert, by what became of it.
    pub alert_deliveries: Outcomes,
    /// Whether the newest check found the database right: 1, or 0.
    pub ready: Gauge,
    database: DatabaseFigures,
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("auth_api");
        let to = &mut registry;
        to.register("build", "The version of this program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let started: Gauge = add(to, "start_time_seconds", "When this process started (Unix time)", Gauge::default());
        started.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64);
        let hashes = [
            ("password_hashes_running", "Passwords that are being hashed"),
            ("password_hashes_running_max", "How many may be at once (ARGON2_CONCURRENCY)"),
            ("password_hashes_waiting", "Passwords that wait to be hashed"),
            ("password_hashes_waiting_max", "How many may wait (ARGON2_QUEUE)"),
        ];
        let metrics = Self {
            ready: add(to, "ready", "Whether the newest check found the database right", Gauge::default()),
            requests: add(to, "requests", "Requests that were answered", Family::default()),
            request_durations: add(
                to,
                "request_duration_seconds",
                "How long an answer took",
                Family::new_with_constructor(seconds),
            ),
            requests_in_flight: add(to, "requests_in_flight", "Requests that are being answered", Gauge::default()),
            problems: add(
                to,
                "problems",
                "Refusals and errors, by the code that the client was told",
                Family::default(),
            ),
            connections: add(to, "connections", "Open connections of clients", Gauge::default()),
            connections_max: add(to, "connections_max", "How many there may be", Gauge::default()),
            connections_refused: add(
                to,
                "connections_refused",
                "Connections that were closed at once, as too many of one network",
                Counter::default(),
            ),
            refreshes: Outcomes::add(to, "refreshes", "Refreshes, by how they ended", &REFRESHES),
            logins: Outcomes::add(to, "password_logins", "Logins by password, by how they ended", &LOGINS),
            rate_limited: By::add(to, "rate_limited", "Requests that a limit refused, by limit", "limit", &LIMITS),
            hashes: hashes.map(|(name, help)| add(to, name, help, Gauge::default())),
            hashes_refused: add(
                to,
                "password_hashes_refused",
                "Passwords that were not hashed, because the queue was full",
                Counter::default(),
            ),
            hash_wait: add(to, "password_hash_wait_seconds", "How long a password waited to be hashed", seconds()),
            hash_duration: add(to, "password_hash_duration_seconds", "How long hashing it took", seconds()),
            pool: add(to, "pool_connections", "Connections to the database, by pool and state", Family::default()),
            pool_max: add(to, "pool_connections_max", "How many there may be", Family::default()),
            pool_waiting: add(to, "pool_waiting", "Requests that wait for a connection", Family::default()),
            pool_wait: add(
                to,
                "pool_wait_seconds",
                "How long a request waited for a connection, or in vain",
                Family::new_with_constructor(seconds),
            ),
            pool_timeouts: By::add(to, "pool_timeouts", "Requests that got no connection in time", "pool", &["main"]),
            database_errors: By::add(
                to,
                "database_errors",
                "Statements and connections that failed, by kind",
                "kind",
                &ERRORS,
            ),
            deliveries: Outcomes::add(
                to,
                "mail_deliveries",
                "Attempts to send a mail, by what became of it",
                &DELIVERIES,
            ),
            key_reloads: Outcomes::add(
                to,
                "key_reloads",
                "Keys that were read anew, by what became of it",
                &KEY_RELOADS,
            ),
            alert_deliveries: Outcomes::add(
                to,
                "alert_deliveries",
                "Attempts to send the webhook of an alert, by what became of it",
                &DELIVERIES,
            ),
            database: DatabaseFigures::default(),
            registry: Registry::default(),
        };
        for code in FAULTS {
            drop(metrics.problems.get_or_create(&[("code", code.as_str())]));
        }
        registry.register_collector(Box::new(metrics.database.clone()));
        Self { registry, ..metrics }
    }

    /// A request that is being answered, until the returned value is dropped.
    pub fn in_flight(&'static self) -> InFlight {
        self.requests_in_flight.inc();
        InFlight(&self.requests_in_flight)
    }

    /// A request was answered, with this refusal where it is one.
    pub fn answered(&self, operation: &'static str, status: u16, problem: Option<Code>, after: Duration) {
        self.requests.get_or_create(&Answered { operation, status }).inc();
        self.request_durations.get_or_create(&[("operation", operation)]).observe(after.as_secs_f64());
        if let Some(code) = problem {
            self.problems.get_or_create(&[("code", code.as_str())]).inc();
        }
    }

    /// A connection of a pool was waited for.
    pub fn waited_for_connection(&self, pool: &'static str, time: Duration) {
        self.pool_wait.get_or_create(&[("pool", pool)]).observe(time.as_secs_f64());
    }

    /// All of them as text. The database is asked at most every 15 seconds, however often this is.
    pub async fn render(&self, app: &App) -> Result<String, Problem> {
        self.database.refresh(&app.db).await;
        for (gauge, value) in self.hashes.iter().zip(app.passwords.load()) {
            gauge.set(value as i64);
        }
        for db in [Some(&app.db), app.federation.as_ref().map(|federation| &federation.db)].into_iter().flatten() {
            let (pool, status) = (("pool", db.name()), db.pool_status());
            let used = status.size.saturating_sub(status.available);
            for (state, connections) in [("idle", status.available), ("used", used)] {
                self.pool.get_or_create(&[pool, ("state", state)]).set(connections as i64);
            }
            self.pool_max.get_or_create(&[pool]).set(status.max_size as i64);
            self.pool_waiting.get_or_create(&[pool]).set(status.waiting as i64);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).map_err(|_| Problem::from(Code::InternalError))?;
        Ok(text)
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// Counts one request less when it is dropped.
pub struct InFlight(&'static Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
