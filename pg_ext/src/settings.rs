//! The settings of the database side (`auth_sessions.*`), all of which only a superuser may set.

use crate::decision::RefreshLimit;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::prelude::*;
use std::ffi::{CStr, CString};
use std::time::Duration;

/// What a replay ends.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types, reason = "the names are the values that a DBA writes")]
enum ReplayScope {
    family,
    user,
}

/// What the audit log records.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types, reason = "the names are the values that a DBA writes")]
enum AuditLevel {
    security,
    all,
}

/// What a refresh from another device than the session's brings about.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types, reason = "the names are the values that a DBA writes")]
enum DeviceMismatch {
    log,
    step_up,
    reject,
}

const DAY: i32 = 86_400;
const YEAR: i32 = 366 * DAY;

static ACCESS_TOKEN_TTL: GucSetting<i32> = GucSetting::<i32>::new(900);
static REFRESH_IDLE_TTL: GucSetting<i32> = GucSetting::<i32>::new(7 * DAY);
static SESSION_MAX_AGE: GucSetting<i32> = GucSetting::<i32>::new(30 * DAY);
static RETRY_WINDOW: GucSetting<i32> = GucSetting::<i32>::new(60);
static RETRY_WINDOW_MAX: GucSetting<i32> = GucSetting::<i32>::new(600);
static STEP_UP_MAX_AGE: GucSetting<i32> = GucSetting::<i32>::new(300);
static EMAIL_VERIFICATION_TTL: GucSetting<i32> = GucSetting::<i32>::new(DAY);
static PASSWORD_RESET_TTL: GucSetting<i32> = GucSetting::<i32>::new(3_600);
static SESSION_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * DAY);
static AUDIT_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(365 * DAY);
static CLEANUP_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60);
static CLEANUP_DATABASE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static MAX_SESSIONS_PER_USER: GucSetting<i32> = GucSetting::<i32>::new(0);
static REFRESH_BURST: GucSetting<i32> = GucSetting::<i32>::new(5_000);
static REFRESH_PERIOD: GucSetting<i32> = GucSetting::<i32>::new(600);
static DEVICE_MISMATCH: GucSetting<DeviceMismatch> = GucSetting::<DeviceMismatch>::new(DeviceMismatch::log);
static ALERT_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60);
static SUSPICIOUS_ACCOUNTS: GucSetting<i32> = GucSetting::<i32>::new(20);
static SUSPICIOUS_NETWORKS: GucSetting<i32> = GucSetting::<i32>::new(10);
static REPLAY_SCOPE: GucSetting<ReplayScope> = GucSetting::<ReplayScope>::new(ReplayScope::family);
static AUDIT_LEVEL: GucSetting<AuditLevel> = GucSetting::<AuditLevel>::new(AuditLevel::security);
static ROTATION_SYNCHRONOUS_COMMIT: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Tells PostgreSQL of every setting, and that nobody else's may begin with `auth_sessions.`.
pub fn register() {
    let duration = |name: &'static CStr, description: &'static CStr, setting, least, most| {
        GucRegistry::define_int_guc(name, description, c"", setting, least, most, GucContext::Suset, GucFlags::UNIT_S);
    };
    duration(
        c"auth_sessions.access_token_ttl",
        c"How long an access token proves its session to auth.assume_session.",
        &ACCESS_TOKEN_TTL,
        1,
        DAY,
    );
    duration(
        c"auth_sessions.refresh_idle_ttl",
        c"How long a session outlives its last refresh.",
        &REFRESH_IDLE_TTL,
        1,
        YEAR,
    );
    duration(
        c"auth_sessions.session_max_age",
        c"How long a session lives at most, from its login.",
        &SESSION_MAX_AGE,
        1,
        10 * YEAR,
    );
    duration(
        c"auth_sessions.retry_window",
        c"How long after a rotation the token before is answered with the same successor; 0 turns retries off.",
        &RETRY_WINDOW,
        0,
        3_600,
    );
    duration(
        c"auth_sessions.retry_window_max",
        c"The longest retry window that a client may ask for at login.",
        &RETRY_WINDOW_MAX,
        0,
        DAY,
    );
    duration(
        c"auth_sessions.step_up_max_age",
        c"How recently a user must have proved who they are for a sensitive operation.",
        &STEP_UP_MAX_AGE,
        1,
        DAY,
    );
    duration(
        c"auth_sessions.email_verification_ttl",
        c"How long a mailed link for verifying an e-mail address works.",
        &EMAIL_VERIFICATION_TTL,
        60,
        30 * DAY,
    );
    duration(
        c"auth_sessions.password_reset_ttl",
        c"How long a mailed link for setting a new password works.",
        &PASSWORD_RESET_TTL,
        60,
        DAY,
    );
    duration(
        c"auth_sessions.session_retention",
        c"How long expired and revoked sessions are kept before cleaning deletes them.",
        &SESSION_RETENTION,
        0,
        10 * YEAR,
    );
    duration(
        c"auth_sessions.audit_retention",
        c"How long a month of the audit log is kept after its end, before maintenance drops it: at least 30 days; 0: for ever.",
        &AUDIT_RETENTION,
        0,
        50 * YEAR,
    );
    duration(
        c"auth_sessions.refresh_period",
        c"In how long auth_sessions.refresh_burst refreshes of one session come back.",
        &REFRESH_PERIOD,
        1,
        DAY,
    );
    duration(
        c"auth_sessions.alert_interval",
        c"How long after a webhook the next of its kind is sent at the earliest, with all that came since; doubles up to an hour while it goes on. 0: nothing is queued.",
        &ALERT_INTERVAL,
        0,
        DAY,
    );
    let number = |name: &'static CStr, description: &'static CStr, setting, most| {
        GucRegistry::define_int_guc(name, description, c"", setting, 0, most, GucContext::Suset, GucFlags::default());
    };
    number(
        c"auth_sessions.max_sessions_per_user",
        c"How many live sessions a user may have; a login beyond it ends the oldest. 0: any number.",
        &MAX_SESSIONS_PER_USER,
        100_000,
    );
    number(
        c"auth_sessions.refresh_burst",
        c"How often one session may be refreshed at once; as often again, evenly, in each refresh_period. 0: no limit.",
        &REFRESH_BURST,
        1_000_000,
    );
    number(
        c"auth_sessions.suspicious_accounts",
        c"Failed logins on so many accounts from one network in an hour are a suspicious activity. 0: never.",
        &SUSPICIOUS_ACCOUNTS,
        1_000_000,
    );
    number(
        c"auth_sessions.suspicious_networks",
        c"Failed logins on one account from so many networks in an hour are a suspicious activity. 0: never.",
        &SUSPICIOUS_NETWORKS,
        1_000_000,
    );
    GucRegistry::define_enum_guc(
        c"auth_sessions.device_mismatch",
        c"What a refresh from another device than the session's brings about: an audit row (log), that and a stale authentication (step_up), or a refusal that ends nothing (reject).",
        c"",
        &DEVICE_MISMATCH,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"auth_sessions.replay_scope",
        c"What a replay ends: the session's family, or every session of its user.",
        c"",
        &REPLAY_SCOPE,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"auth_sessions.audit_level",
        c"What the audit log records: every security decision, or all, plain refreshes and retries included.",
        c"",
        &AUDIT_LEVEL,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"auth_sessions.rotation_synchronous_commit",
        c"Whether plain rotations wait for the disk as synchronous_commit says; off: they never do.",
        c"With off a crash of the server loses the last ones: whoever was answered must then be let in again by auth.open_recovery_window.",
        &ROTATION_SYNCHRONOUS_COMMIT,
        GucContext::Suset,
        GucFlags::default(),
    );
    // The launcher belongs to no database and no role, so that these two are the server's alone.
    GucRegistry::define_int_guc(
        c"auth_sessions.cleanup_interval",
        c"How often the background worker looks after each database of cleanup_database.",
        c"",
        &CLEANUP_INTERVAL,
        1,
        DAY,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_string_guc(
        c"auth_sessions.cleanup_database",
        c"The databases that the background worker looks after, comma-separated; empty: none.",
        c"Needs auth_sessions in shared_preload_libraries.",
        &CLEANUP_DATABASE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    // SAFETY: called from _PG_init, on the backend's only thread, with a literal.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"auth_sessions".as_ptr()) };
}

/// Seconds that a session outlives its last refresh.
pub fn refresh_idle_ttl_seconds() -> i32 {
    REFRESH_IDLE_TTL.get()
}

/// Seconds during which the token before is answered with the same successor, where a session says nothing else.
pub fn retry_window_seconds() -> i32 {
    RETRY_WINDOW.get()
}

/// Seconds that an access token proves its session; at most a day.
pub fn access_token_ttl_seconds() -> i32 {
    ACCESS_TOKEN_TTL.get()
}

/// How often one session may be refreshed.
pub fn refresh_limit() -> Option<RefreshLimit> {
    RefreshLimit::new(REFRESH_BURST.get(), i64::from(REFRESH_PERIOD.get()) * 1_000_000)
}

/// Whether a refresh from another device is refused.
pub fn refuses_other_devices() -> bool {
    DEVICE_MISMATCH.get() == DeviceMismatch::reject
}

/// Whether a replay ends every session of its user, not only the family.
pub fn replay_ends_all_of_its_user() -> bool {
    REPLAY_SCOPE.get() == ReplayScope::user
}

/// Whether plain refreshes and retries are audited.
pub fn audits_everything() -> bool {
    AUDIT_LEVEL.get() == AuditLevel::all
}

/// Whether plain rotations commit as `synchronous_commit` says.
pub fn rotations_commit_synchronously() -> bool {
    ROTATION_SYNCHRONOUS_COMMIT.get()
}

/// How often the background worker looks after a database.
pub fn cleanup_interval() -> Duration {
    Duration::from_secs(CLEANUP_INTERVAL.get().unsigned_abs().into())
}

/// The databases that the background worker looks after, as written.
pub fn cleanup_database() -> String {
    CLEANUP_DATABASE.get().map(|names| names.to_string_lossy().into_owned()).unwrap_or_default()
}

/// For SQL: a setting by its name without the prefix.
#[pg_extern(sql = false)]
fn setting(name: &str) -> String {
    let seconds = |setting: &GucSetting<i32>| format!("{} seconds", setting.get());
    match name {
        "access_token_ttl" => seconds(&ACCESS_TOKEN_TTL),
        "refresh_idle_ttl" => seconds(&REFRESH_IDLE_TTL),
        "session_max_age" => seconds(&SESSION_MAX_AGE),
        "retry_window" => seconds(&RETRY_WINDOW),
        "retry_window_max" => seconds(&RETRY_WINDOW_MAX),
        "step_up_max_age" => seconds(&STEP_UP_MAX_AGE),
        "email_verification_ttl" => seconds(&EMAIL_VERIFICATION_TTL),
        "password_reset_ttl" => seconds(&PASSWORD_RESET_TTL),
        "session_retention" => seconds(&SESSION_RETENTION),
        "audit_retention" => seconds(&AUDIT_RETENTION),
        "cleanup_interval" => seconds(&CLEANUP_INTERVAL),
        "cleanup_database" => cleanup_database(),
        "max_sessions_per_user" => MAX_SESSIONS_PER_USER.get().to_string(),
        "refresh_burst" => REFRESH_BURST.get().to_string(),
        "refresh_period" => seconds(&REFRESH_PERIOD),
        "alert_interval" => seconds(&ALERT_INTERVAL),
        "suspicious_accounts" => SUSPICIOUS_ACCOUNTS.get().to_string(),
        "suspicious_networks" => SUSPICIOUS_NETWORKS.get().to_string(),
        "device_mismatch" => match DEVICE_MISMATCH.get() {
            DeviceMismatch::log => "log".into(),
            DeviceMismatch::step_up => "step_up".into(),
            DeviceMismatch::reject => "reject".into(),
        },
        "replay_scope" => match REPLAY_SCOPE.get() {
            ReplayScope::family => "family".into(),
            ReplayScope::user => "user".into(),
        },
        "audit_level" => match AUDIT_LEVEL.get() {
            AuditLevel::security => "security".into(),
            AuditLevel::all => "all".into(),
        },
        "rotation_synchronous_commit" => if ROTATION_SYNCHRONOUS_COMMIT.get() { "on" } else { "off" }.into(),
        _ => super::arguments::refuse_value(&format!("there is no setting auth_sessions.{name}"), "See: show all"),
    }
}
