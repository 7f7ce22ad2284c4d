//! Rate limits that all processes of the service share.

use super::{Db, named};
use crate::{device::Caller, error::Problem};

/// One to be taken.
pub struct Asked<'a> {
    /// What is limited.
    pub scope: &'static str,
    /// Whom.
    pub key: &'a str,
    /// How many at once.
    pub burst: i32,
    /// In how long they come back.
    pub seconds: f64,
}

/// What came of it.
pub struct Taken {
    /// What is limited.
    pub scope: String,
    /// Whether it was there.
    pub allowed: bool,
    /// How many are left.
    pub remaining: i32,
    /// Seconds until there is one more.
    pub more_after: f64,
}

impl Db {
    /// Takes one of each, in this order, up to the first that is refused.
    pub async fn take_rate_limits(&self, asked: &[Asked<'_>], caller: &Caller) -> Result<Vec<Taken>, Problem> {
        let sql = "select scope, allowed, remaining, extract(epoch from more_after)::float8 as more_after_seconds \
            from auth.take_rate_limits(scopes => $1, keys => $2, bursts => $3, \
                periods => array(select make_interval(secs => second) from unnest($4::float8[]) second), \
                ip => $5, user_agent => $6, correlation_id => $7)";
        let scopes: Vec<&str> = asked.iter().map(|asked| asked.scope).collect();
        let keys: Vec<&str> = asked.iter().map(|asked| asked.key).collect();
        let bursts: Vec<i32> = asked.iter().map(|asked| asked.burst).collect();
        let seconds: Vec<f64> = asked.iter().map(|asked| asked.seconds).collect();
        let rows = self
            .all(sql, &[&scopes, &keys, &bursts, &seconds, &caller.ip, &caller.user_agent, &caller.request_id])
            .await?;
        let taken = |row| {
            Ok(Taken {
                scope: named(row, "scope")?,
                allowed: named(row, "allowed")?,
                remaining: named(row, "remaining")?,
                more_after: named(row, "more_after_seconds")?,
            })
        };
        rows.iter().map(taken).collect()
    }
}
