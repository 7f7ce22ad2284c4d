//! What is done in the name of a session: the identity is assumed in the very statement, or transaction, that acts.
//!
//! `assume_session` gives no row for a session that has ended, so every function here says None for "not logged in any
//! more", whatever the access token said. Where the acting function takes its place behind `assume_session` in one
//! statement, it is called once for each row of that, hence after it, or never.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Db, Profile, column, named, refused};
use crate::{credential::Credential, error::Problem};

/// Who is logged in.
pub struct Me {
    /// The user, and the organization that the session acts for.
    pub profile: Profile,
    /// When the user last proved who they are.
    pub auth_time: DateTime<Utc>,
}

/// One of the user's live sessions.
pub struct ListedSession {
    /// The session.
    pub id: Uuid,
    /// For people.
    pub device_name: Option<String>,
    /// The network of its last client: the full address is never stored.
    pub network: Option<String>,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When it was last refreshed.
    pub last_used_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

impl Db {
    /// Who this is.
    pub async fn me(&self, who: &Credential) -> Result<Option<Me>, Problem> {
        // The case makes the second call need the first one's row: the planner may not turn them round.
        let sql = "select a.auth_time, p.* from auth.assume_session(session_id => $1, jti => $2) a \
            join lateral auth.session_profile(case when a.user_id is not null then $1 end) p on true";
        let Some(row) = self.optional(sql, &[&who.session_id, &who.jti]).await? else { return Ok(None) };
        Ok(Some(Me { profile: Profile::read(&row)?, auth_time: named(&row, "auth_time")? }))
    }

    /// The user's live sessions, the last used first.
    pub async fn list_sessions(&self, who: &Credential) -> Result<Option<Vec<ListedSession>>, Problem> {
        let assume = "select from auth.assume_session(session_id => $1, jti => $2)";
        let list = "select id, device_name, last_ip_cidr::text as network, created_at, last_used, expires_at \
            from auth.active_sessions where user_id = (select auth.current_user_id()) order by last_used desc, id";
        let mut connection = self.connection().await?;
        // Reading the view is a statement of its own: within one, nothing says that its policies look at the identity
        // after the other function has assumed it.
        let result = async {
            let transaction = connection.transaction().await?;
            let assume = transaction.prepare_cached(assume).await?;
            let list = transaction.prepare_cached(list).await?;
            let assumed = transaction.query_opt(&assume, &[&who.session_id, &who.jti]).await?;
            let rows = transaction.query(&list, &[]).await?;
            transaction.commit().await?;
            Ok(assumed.map(|_| rows))
        };
        let rows = match result.await {
            Ok(None) => return Ok(None),
            Ok(Some(rows)) => rows,
            Err(error) => return Err(refused(connection, &error)),
        };
        let session = |row| {
            Ok(ListedSession {
                id: named(row, "id")?,
                device_name: named(row, "device_name")?,
                network: named(row, "network")?,
                created_at: named(row, "created_at")?,
                last_used_at: named(row, "last_used")?,
                expires_at: named(row, "expires_at")?,
            })
        };
        rows.iter().map(session).collect::<Result<_, _>>().map(Some)
    }

    /// Ends another session of the user, or of the organization that the user manages. Some(false): there is none.
    pub async fn revoke_session(&self, who: &Credential, id: Uuid, request_id: &str) -> Result<Option<bool>, Problem> {
        let sql = "select auth.revoke_session(session_id => $3, correlation_id => $4) \
            from auth.assume_session(session_id => $1, jti => $2)";
        let row = self.optional(sql, &[&who.session_id, &who.jti, &id, &request_id]).await?;
        row.map(|row| column(&row, 0)).transpose()
    }

    /// Ends this session.
    pub async fn log_out(&self, who: &Credential, request_id: &str) -> Result<Option<u32>, Problem> {
        let sql = "select auth.revoke_session(session_id => $1, reason => 'logged_out', correlation_id => $3) \
            from auth.assume_session(session_id => $1, jti => $2)";
        let row = self.optional(sql, &[&who.session_id, &who.jti, &request_id]).await?;
        row.map(|row| column::<bool>(&row, 0).map(u32::from)).transpose()
    }

    /// Ends all sessions of the user; how many.
    pub async fn log_out_everywhere(&self, who: &Credential, request_id: &str) -> Result<Option<u32>, Problem> {
        let sql = "select auth.revoke_user_sessions(user_id => a.user_id, reason => 'logged_out', \
                correlation_id => $3) from auth.assume_session(session_id => $1, jti => $2) a";
        let row = self.optional(sql, &[&who.session_id, &who.jti, &request_id]).await?;
        row.map(|row| column::<i32>(&row, 0).map(i32::unsigned_abs)).transpose()
    }
}
