//! What `auth-api doctor` asks.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use super::{Db, column, named};
use crate::error::Problem;

/// What was found, and what to do about it.
pub struct Finding {
    /// What was looked at.
    pub topic: String,
    /// `ok`, `note`, `warning` or `error`.
    pub severity: String,
    /// What is the matter.
    pub finding: String,
    /// What to do; where there is one, a statement.
    pub advice: String,
}

/// What there is in a database.
pub struct Installed {
    /// The database's name.
    pub database: String,
    /// The version of the extension; none: it is not there.
    pub version: Option<String>,
    /// Whether this login may ask for an examination; none: there is none to ask for, because the version is old.
    pub may_check: Option<bool>,
}

/// What the service's settings have to agree with.
pub struct Limits {
    /// `auth_sessions.access_token_ttl`.
    pub access_token_ttl: Duration,
    /// `auth_sessions.refresh_idle_ttl`.
    pub refresh_idle_ttl: Duration,
    /// Connections that are not reserved for superusers.
    pub connections: i32,
}

impl Db {
    /// Whether the extension is there.
    pub async fn installed(&self) -> Result<Installed, Problem> {
        let sql = "select current_database()::text, e.extversion, has_function_privilege(p.oid, 'execute')
                     from (values (1)) one
                     left join pg_extension e on e.extname = 'auth_sessions'
                     left join pg_proc p on p.oid = to_regprocedure('auth.check_installation()')";
        let row = self.one(sql, &[]).await?;
        Ok(Installed { database: column(&row, 0)?, version: column(&row, 1)?, may_check: column(&row, 2)? })
    }

    /// What the database finds about itself.
    pub async fn check_installation(&self) -> Result<Vec<Finding>, Problem> {
        let rows = self.all("select topic, severity, finding, advice from auth.check_installation()", &[]).await?;
        let read = |row| {
            Ok(Finding {
                topic: named(row, "topic")?,
                severity: named(row, "severity")?,
                finding: named(row, "finding")?,
                advice: named(row, "advice")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Whether this login has the rights of a group, and its name.
    pub async fn is_member(&self, group: &str) -> Result<(bool, String), Problem> {
        let sql = "select coalesce(pg_has_role(to_regrole($1), 'usage'), false), session_user::text";
        let row = self.one(sql, &[&group]).await?;
        Ok((column(&row, 0)?, column(&row, 1)?))
    }

    /// How many living sessions were not refreshed since then, and when the last of them ends; none: this login does not
    /// see all sessions.
    pub async fn sessions_not_used_since(
        &self,
        since: DateTime<Utc>,
    ) -> Result<Option<(i64, Option<DateTime<Utc>>)>, Problem> {
        let sql = "select pg_has_role('auth_monitor', 'usage') or pg_has_role('auth_admin', 'usage')";
        if !column::<bool>(&self.one(sql, &[]).await?, 0)? {
            return Ok(None);
        }
        let sql =
            "select count(*), max(least(idle_expires_at, expires_at)) from auth.active_sessions where last_used < $1";
        let row = self.one(sql, &[&since]).await?;
        Ok(Some((column(&row, 0)?, column(&row, 1)?)))
    }

    /// The database's clock.
    pub async fn clock(&self) -> Result<SystemTime, Problem> {
        column(&self.one("select clock_timestamp()", &[]).await?, 0)
    }

    /// What the service's settings have to agree with.
    pub async fn limits(&self) -> Result<Limits, Problem> {
        // The library, and with it its settings, is loaded by the first call of one of its functions.
        self.one("select auth.extension_version()", &[]).await?;
        let sql = "select extract(epoch from current_setting('auth_sessions.access_token_ttl')::interval)::float8,
                          extract(epoch from current_setting('auth_sessions.refresh_idle_ttl')::interval)::float8,
                          current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int";
        let row = self.one(sql, &[]).await?;
        Ok(Limits {
            access_token_ttl: Duration::from_secs_f64(column(&row, 0)?),
            refresh_idle_ttl: Duration::from_secs_f64(column(&row, 1)?),
            connections: column(&row, 2)?,
        })
    }
}
