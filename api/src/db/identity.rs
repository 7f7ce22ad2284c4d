//! What a logged-in user sees and ends of their own.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Db, Profile, Scope, column, named};
use crate::{
    credential::{Credential, SessionCredential},
    device::Caller,
    error::Problem,
};

/// Who is logged in.
pub struct Me {
    /// The user, and the organization that the session acts for.
    pub profile: Profile,
    /// Whether the session's user watches over all organizations.
    pub is_operator: bool,
    /// When the user last proved who they are; nothing for a personal access token.
    pub auth_time: Option<DateTime<Utc>>,
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
    /// Whether it is the one that asks.
    pub is_current: bool,
}

impl Db {
    /// Who this is.
    pub async fn me(&self, who: &Credential, caller: &Caller) -> Result<Me, Problem> {
        let acting = self.act_as(who, Scope::ProfileRead, caller).await?;
        let sql = "select p.*, (select s.auth_time from auth.sessions s where s.id = auth.current_session_id()) as auth_time, \
                auth.current_user_is_operator() as is_operator \
            from auth.session_profile(auth.current_session_id()) p";
        let row = acting.one(sql, &[]).await?;
        acting.commit().await?;
        Ok(Me {
            profile: Profile::read(&row)?,
            is_operator: named(&row, "is_operator")?,
            auth_time: named(&row, "auth_time")?,
        })
    }

    /// The user's live sessions, the last used first.
    pub async fn list_sessions(&self, who: &Credential, caller: &Caller) -> Result<Vec<ListedSession>, Problem> {
        let acting = self.act_as(who, Scope::SessionsRead, caller).await?;
        let sql = "select id, device_name, last_ip_cidr::text as network, created_at, last_used, expires_at, \
                id is not distinct from auth.current_session_id() as is_current \
            from auth.active_sessions where user_id = (select auth.current_user_id()) order by last_used desc, id";
        let rows = acting.all(sql, &[]).await?;
        acting.commit().await?;
        let session = |row| {
            Ok(ListedSession {
                id: named(row, "id")?,
                device_name: named(row, "device_name")?,
                network: named(row, "network")?,
                created_at: named(row, "created_at")?,
                last_used_at: named(row, "last_used")?,
                expires_at: named(row, "expires_at")?,
                is_current: named(row, "is_current")?,
            })
        };
        rows.iter().map(session).collect()
    }

    /// Ends a session of the user, or of the organization that the user manages. False: there is none.
    pub async fn revoke_session(&self, who: &Credential, id: Uuid, caller: &Caller) -> Result<bool, Problem> {
        let acting = self.act_as(who, Scope::SessionsWrite, caller).await?;
        let sql = "select auth.revoke_session(session_id => $1, correlation_id => $2)";
        let row = acting.one(sql, &[&id, &caller.request_id]).await?;
        acting.commit().await?;
        column(&row, 0)
    }

    /// Ends this session; how many that were.
    pub async fn log_out(&self, who: &SessionCredential, caller: &Caller) -> Result<u32, Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select auth.revoke_session(session_id => $1, reason => 'logged_out', correlation_id => $2)";
        let row = acting.one(sql, &[&who.session_id, &caller.request_id]).await?;
        acting.commit().await?;
        column::<bool>(&row, 0).map(u32::from)
    }

    /// Ends all sessions of the user; how many.
    pub async fn log_out_everywhere(&self, who: &Credential, caller: &Caller) -> Result<u32, Problem> {
        let acting = self.act_as(who, Scope::SessionsWrite, caller).await?;
        let sql = "select auth.revoke_user_sessions(user_id => auth.current_user_id(), reason => 'logged_out', \
                correlation_id => $1)";
        let row = acting.one(sql, &[&caller.request_id]).await?;
        acting.commit().await?;
        column::<i32>(&row, 0).map(i32::unsigned_abs)
    }

    /// Records that a request of this session's cookie came with a CSRF token that is not its own.
    pub async fn report_invalid_csrf_token(&self, who: &SessionCredential, caller: &Caller) -> Result<(), Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select auth.report_invalid_csrf_token(ip => $1, user_agent => $2, correlation_id => $3)";
        acting.one(sql, &[&caller.ip, &caller.user_agent, &caller.request_id]).await?;
        acting.commit().await
    }
}
