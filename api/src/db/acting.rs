//! A transaction in somebody's name: the one way to do what needs a credential.
//!
//! The identity is assumed first, in the transaction that acts, so that what follows is done by whom the database itself
//! has recognised, or not at all. A session that has ended is "not logged in any more", whatever its token says.

use deadpool_postgres::{Object, tokio_postgres::Row};

use super::{Db, Params, refused};
use crate::{
    credential::{Credential, SessionCredential},
    device::Caller,
    error::{Code, Problem},
    telemetry,
};

/// What a personal access token may be limited to. An application's own scopes are words of its own; these are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Who am I.
    ProfileRead,
    /// Listing sessions.
    SessionsRead,
    /// Ending sessions.
    SessionsWrite,
    /// Reading organizations and their members.
    OrganizationRead,
    /// Changing them.
    OrganizationWrite,
    /// Reading the security timeline.
    SecurityEventsRead,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ProfileRead,
        Self::SessionsRead,
        Self::SessionsWrite,
        Self::OrganizationRead,
        Self::OrganizationWrite,
        Self::SecurityEventsRead,
    ];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProfileRead => "profile:read",
            Self::SessionsRead => "sessions:read",
            Self::SessionsWrite => "sessions:write",
            Self::OrganizationRead => "organization:read",
            Self::OrganizationWrite => "organization:write",
            Self::SecurityEventsRead => "security_events:read",
        }
    }
}

/// A transaction whose identity has been assumed. Dropped without [`Acting::commit`], it is rolled back, and its
/// connection given up.
pub struct Acting {
    connection: Option<Object>,
    prepared: bool,
}

impl Db {
    /// Begins a transaction in the name of a session, or of a personal access token that has the scope.
    pub async fn act_as(&self, who: &Credential, scope: Scope, caller: &Caller) -> Result<Acting, Problem> {
        let token = match who {
            Credential::Session(session) => return self.act_as_session(session).await,
            Credential::PersonalAccessToken(token) => token,
        };
        let acting = self.begin().await?;
        let sql = "select $6 = any (scopes) as is_granted from auth.assume_personal_access_token(lookup_id => $1, \
            token_proof => $2, ip => $3, user_agent => $4, correlation_id => $5)";
        let proof = token.proof();
        let params: Params<'_> = &[
            &token.lookup_id(),
            &proof.as_slice(),
            &caller.ip,
            &caller.user_agent,
            &caller.request_id,
            &scope.as_str(),
        ];
        match acting.optional(sql, params).await? {
            None => {
                acting.end("rollback").await?;
                Err(Code::InvalidAccessToken.into())
            }
            Some(row) if super::named(&row, "is_granted")? => Ok(acting),
            Some(_) => {
                // Its use is recorded, although it was in vain.
                acting.commit().await?;
                Err(Problem::insufficient_scope(scope.as_str()))
            }
        }
    }

    /// Begins a transaction in the name of a session.
    pub async fn act_as_session(&self, who: &SessionCredential) -> Result<Acting, Problem> {
        let acting = self.begin().await?;
        let sql = "select from auth.assume_session(session_id => $1, jti => $2)";
        if acting.optional(sql, &[&who.session_id, &who.jti]).await?.is_none() {
            acting.end("rollback").await?;
            return Err(Code::InvalidAccessToken.into());
        }
        Ok(acting)
    }

    /// Begins a transaction in nobody's name.
    pub(super) async fn begin(&self) -> Result<Acting, Problem> {
        let connection = self.connection().await?;
        let part = telemetry::statement("begin");
        let begun = connection.batch_execute("begin").await;
        drop(part);
        match begun {
            Ok(()) => Ok(Acting { connection: Some(connection), prepared: self.prepared }),
            Err(error) => Err(refused(connection, &error)),
        }
    }
}

impl Acting {
    /// All rows of one statement.
    pub async fn all(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Problem> {
        let connection = self.connection.as_ref().ok_or(Code::InternalError)?;
        let result = super::params::query(connection, self.prepared, sql, params).await;
        result.map_err(|error| super::problem(&error))
    }

    /// Its first row.
    pub async fn optional(&self, sql: &'static str, params: Params<'_>) -> Result<Option<Row>, Problem> {
        Ok(self.all(sql, params).await?.into_iter().next())
    }

    /// Its one row.
    pub async fn one(&self, sql: &'static str, params: Params<'_>) -> Result<Row, Problem> {
        self.optional(sql, params).await?.ok_or_else(|| super::no_row(sql))
    }

    /// Makes it so.
    pub async fn commit(self) -> Result<(), Problem> {
        self.end("commit").await
    }

    async fn end(mut self, how: &'static str) -> Result<(), Problem> {
        let connection = self.connection.take().ok_or(Code::InternalError)?;
        let part = telemetry::statement(how);
        let ended = connection.batch_execute(how).await;
        drop(part);
        match ended {
            Ok(()) => Ok(()),
            Err(error) => Err(refused(connection, &error)),
        }
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        // Back in the pool it would hand its identity and its transaction to the next request.
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}
