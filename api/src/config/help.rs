//! What `--help` says of the settings. Those of a subject stand beside how they are read; the rest is here.

use super::{adoption, alerts, clients, federation, issuer, keys, limits, mail, metrics, telemetry};
use crate::keys::GENERATE;

/// Name, default and meaning; empty default: must be set, or is off.
const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "DATABASE_URL",
        "",
        "Required. postgres://user:password@host:5432/database of a login in role auth_api. With sslmode=require the \
         server's certificate is verified against the system's roots (SSL_CERT_FILE names others); otherwise the \
         connection is not encrypted: for a loopback address or a Unix socket",
    ),
    (
        "ADMIN_DATABASE_URL",
        "",
        "Of a login in role auth_admin, for auth-api clients and doctor (auth_monitor is enough for it); of a superuser, for \
         adopt and rollback; when not set, DATABASE_URL. The service does not read it",
    ),
    ("DB_POOL_SIZE", "16", "Connections to the database, at most"),
    (
        "DB_PREPARED_STATEMENTS",
        "on",
        "on or off. off behind a pooler in transaction mode (PgBouncer): each statement goes out whole, and the time-outs are \
         to be set for the login, with alter role",
    ),
    ("AUTH_LISTEN", "127.0.0.1:8080", "Address and port to listen on; port 0 takes a free one"),
    ("JWT_AUDIENCE", "auth_sessions", "The claim aud"),
    (
        "ACCESS_TOKEN_TTL_SECONDS",
        "900",
        "Life of an access token, 10 to 86400; the database's auth_sessions.access_token_ttl ends it earlier",
    ),
    (
        "REFRESH_TOKEN_TTL_SECONDS",
        "604800",
        "How long a session outlives its last refresh, 60 to 31536000; the database caps it",
    ),
    (
        "SLUG_CACHE_SECONDS",
        "5",
        "How long an answer to \"is this slug free\" is kept, 0 to 60; founding an organization always asks the database",
    ),
    (
        "CORS_ORIGINS",
        "",
        "Origins of pages, beside the service's own, that may call it with cookies and open sessions, comma-separated: \
         https://app.example.org",
    ),
    (
        "COOKIE_SAME_SITE",
        "lax",
        "lax, strict or none: when cookies go along with requests that another site's page starts. none only for pages \
         of CORS_ORIGINS that live on another site",
    ),
    (
        "UNREMEMBERED_TTL_SECONDS",
        "43200",
        "How long a session lives at most whose login said rememberMe: false, 60 to 31536000",
    ),
    (
        "MAINTENANCE_INTERVAL_SECONDS",
        "0",
        "How often this process runs auth.run_maintenance(), 0 to 86400; several may, one at a time works. 0: never: the \
         database's background worker, or pg_cron, does it",
    ),
    ("ARGON2_MEMORY_KIB", "65536", "Argon2id memory of one hash, in KiB"),
    ("ARGON2_ITERATIONS", "3", "Argon2id passes"),
    ("ARGON2_PARALLELISM", "1", "Argon2id lanes"),
    ("ARGON2_CONCURRENCY", "the number of processors", "Hashes at once; each takes its memory"),
    ("ARGON2_QUEUE", "64", "Hashes that may wait; beyond it the answer is 503"),
    ("LOG_FORMAT", "pretty", "pretty or json; the log goes to standard error"),
    (
        "RUST_LOG",
        "info",
        "What to log, in the syntax of tracing's EnvFilter; below info, of auth_api only: libraries would print \
         e-mails there",
    ),
];

/// All settings: these, and those that have a file of their own.
pub(super) fn settings() -> impl Iterator<Item = &'static (&'static str, &'static str, &'static str)> {
    let own = [
        adoption::SETTINGS,
        alerts::SETTINGS,
        clients::SETTINGS,
        federation::SETTINGS,
        issuer::SETTINGS,
        keys::SETTINGS,
        limits::SETTINGS,
        mail::SETTINGS,
        metrics::SETTINGS,
        telemetry::SETTINGS,
    ];
    SETTINGS.iter().chain(own.into_iter().flatten())
}

/// The settings as text, for `--help`.
pub fn help() -> String {
    let mut text = format!("Settings, from the environment:\n\n  A key is made with: {GENERATE}\n");
    for (name, default, meaning) in settings() {
        text += &setting_help(name, default, meaning);
    }
    text
}

/// The settings of the commands for operators, for their `--help`.
pub fn admin_help() -> String {
    help_of(&ADMIN_SETTINGS)
}

/// The settings of `auth-api alerts`.
pub fn alerts_help() -> String {
    let own: Vec<&str> = alerts::SETTINGS.iter().map(|(name, ..)| *name).collect();
    help_of(&[&own[..], &["LOG_FORMAT", "RUST_LOG"]].concat())
}

/// The settings of `auth-api adopt`.
pub fn adoption_help() -> String {
    help_of(&[&ADMIN_SETTINGS[..], &keys::PEPPERS].concat())
}

/// The settings of `auth-api keys`.
pub fn keys_help() -> String {
    let own: Vec<&str> = keys::SETTINGS.iter().map(|(name, ..)| *name).collect();
    help_of(&[&own[..], &keys::OF_COMMANDS].concat())
}

fn help_of(names: &[&str]) -> String {
    let mut text = "Settings, from the environment:\n".to_owned();
    for (name, default, meaning) in settings().filter(|(name, ..)| names.contains(name)) {
        text += &setting_help(name, default, meaning);
    }
    text
}

pub(super) const ADMIN_SETTINGS: [&str; 4] = ["ADMIN_DATABASE_URL", "DATABASE_URL", "LOG_FORMAT", "RUST_LOG"];

fn setting_help(name: &str, default: &str, meaning: &str) -> String {
    let default = if default.is_empty() { String::new() } else { format!(" [{default}]") };
    format!("\n  {name}{default}\n      {meaning}.\n")
}
