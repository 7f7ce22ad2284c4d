//! Whether a database of another version understands this service.
//!
//! The extension and the nodes are not upgraded at the same moment: for a while a service of one version works on the
//! extension of another. Whether it can is not promised but tried: PostgreSQL parses every statement of this door, which finds
//! each function, argument, view and column that it names. What it does not find is a change of meaning; so that changes its
//! name (sql/README.md), and [`OLDEST`] says where this service's own needs begin.

use deadpool_postgres::tokio_postgres::error::SqlState;

use super::{
    Busy, Db, problem,
    security_events::{EVENTS_OF_ORGANIZATION, OWN_EVENTS},
};
use crate::error::{Code, Problem};

/// Every statement that is one literal in `src/db/`, but for those of commands alone.
const STATEMENTS: &[&str] = include!(concat!(env!("OUT_DIR"), "/statements.rs"));

/// The others.
const COMPOSED: [&str; 2] = [OWN_EVENTS, EVENTS_OF_ORGANIZATION];

/// The oldest extension that means by its functions what this service means by them.
pub const OLDEST: Version = Version([0, 2, 0]);

/// Major, minor and patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 3]);

impl Version {
    /// `0.2.0`; none: it is written otherwise.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<u32> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        Some(Self(parts.try_into().ok()?))
    }
}

impl Db {
    /// The first thing that this service asks for and the database does not have.
    pub async fn lacks(&self) -> Result<Option<String>, Problem> {
        let mut busy = Busy(Some(self.connection().await?));
        let connection = busy.0.as_ref().ok_or(Code::InternalError)?;
        // In one transaction, so that a pooler in transaction mode gives one connection for all.
        connection.batch_execute("begin").await.map_err(|error| problem(&error))?;
        for sql in STATEMENTS.iter().chain(&COMPOSED) {
            let Err(error) = connection.prepare(sql).await else { continue };
            return match error.as_db_error() {
                Some(missing) if is_missing(missing.code()) => Ok(Some(missing.message().to_owned())),
                _ => Err(problem(&error)),
            };
        }
        connection.batch_execute("rollback").await.map_err(|error| problem(&error))?;
        drop(busy.0.take());
        Ok(None)
    }
}

fn is_missing(code: &SqlState) -> bool {
    [
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_OBJECT,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::AMBIGUOUS_FUNCTION,
        SqlState::DATATYPE_MISMATCH,
    ]
    .contains(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_is_collected() {
        let has = |part: &str| STATEMENTS.iter().any(|sql| sql.contains(part));
        for function in
            ["rotate_session_token(", "complete_login(", "claim_mail(", "open_federated_session(", "end_session("]
        {
            assert!(has(&format!("auth.{function}")), "{function}");
        }
        assert!(STATEMENTS.len() >= 60, "{}", STATEMENTS.len());
        assert!(!has("auth_adoption."), "those of commands are not asked for");
    }

    #[test]
    fn versions_are_in_order_of_their_numbers() {
        let version = |text| Version::parse(text).unwrap();
        assert!(version("0.1.9") < OLDEST && version("0.2.0") == OLDEST);
        assert!(version("0.10.0") > version("0.9.9") && version("1.0.0") > version("0.10.0"));
        for wrong in ["", "0.2", "0.2.0.1", "0.2.x", "v0.2.0", "0.2.0-rc1"] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
    }
}
