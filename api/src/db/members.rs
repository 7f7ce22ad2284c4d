//! The members of an organization, and their sessions in it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Db, Page, Scope, column, named,
    organizations::{listed, refusal},
};
use crate::{
    credential::{Credential, SessionCredential},
    device::Caller,
    error::Problem,
};

/// Somebody who belongs to an organization.
pub struct Member {
    /// The user.
    pub user_id: Uuid,
    /// As typed at sign-up.
    pub email: String,
    /// The user's name.
    pub name: String,
    /// The user's role there.
    pub role: String,
    /// Since when.
    pub member_since: DateTime<Utc>,
}

/// A live session that acts for an organization.
pub struct MemberSession {
    /// The session.
    pub id: Uuid,
    /// Whose.
    pub user_id: Uuid,
    /// As typed at sign-up.
    pub email: String,
    /// The user's name.
    pub name: String,
    /// The user's role in the organization.
    pub role: String,
    /// For people.
    pub device_name: Option<String>,
    /// The network of its last client: the full address is never stored.
    pub network: Option<String>,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When it was last refreshed.
    pub last_used_at: DateTime<Utc>,
    /// When it ends, unless it is refreshed before.
    pub expires_at: DateTime<Utc>,
    /// Whether it is the one that asks.
    pub is_current: bool,
}

impl Db {
    /// A page of the members, the oldest first.
    pub async fn list_members(
        &self,
        who: &Credential,
        organization: Uuid,
        page: &Page,
        caller: &Caller,
    ) -> Result<Vec<Member>, Problem> {
        let acting = self.act_as(who, Scope::OrganizationRead, caller).await?;
        let sql = "select outcome, user_id, email, name, role, member_since from auth.list_members( \
            organization_id => $1, page_size => $2, after_time => $3, after_id => $4)";
        let (time, id) = page.after();
        let rows = acting.all(sql, &[&organization, &page.size, &time, &id]).await?;
        acting.commit().await?;
        listed(rows, |row| {
            Ok(Member {
                user_id: named(row, "user_id")?,
                email: named(row, "email")?,
                name: named(row, "name")?,
                role: named(row, "role")?,
                member_since: named(row, "member_since")?,
            })
        })
    }

    /// Gives a member another role.
    pub async fn change_member_role(
        &self,
        who: &SessionCredential,
        organization: Uuid,
        user_id: Uuid,
        role: &str,
        caller: &Caller,
    ) -> Result<Member, Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select outcome, email, name, member_since from auth.change_member_role(organization_id => $1, \
            user_id => $2, role => $3, ip => $4, user_agent => $5, correlation_id => $6)";
        let row = acting
            .one(sql, &[&organization, &user_id, &role, &caller.ip, &caller.user_agent, &caller.request_id])
            .await?;
        acting.commit().await?;
        match named(&row, "outcome")? {
            "changed" => Ok(Member {
                user_id,
                email: named(&row, "email")?,
                name: named(&row, "name")?,
                role: role.to_owned(),
                member_since: named(&row, "member_since")?,
            }),
            outcome => Err(refusal(outcome)),
        }
    }

    /// Takes a member out of an organization; how many of their sessions ended.
    pub async fn remove_member(
        &self,
        who: &SessionCredential,
        organization: Uuid,
        user_id: Uuid,
        caller: &Caller,
    ) -> Result<u32, Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select outcome, ended_sessions from auth.remove_member(organization_id => $1, user_id => $2, \
            ip => $3, user_agent => $4, correlation_id => $5)";
        let row =
            acting.one(sql, &[&organization, &user_id, &caller.ip, &caller.user_agent, &caller.request_id]).await?;
        acting.commit().await?;
        match named(&row, "outcome")? {
            "removed" => Ok(named::<i32>(&row, "ended_sessions")?.unsigned_abs()),
            "step_up_required" => Err(self.step_up_required().await),
            outcome => Err(refusal(outcome)),
        }
    }

    /// A page of the live sessions that act for the organization, the newest first.
    pub async fn list_organization_sessions(
        &self,
        who: &Credential,
        organization: Uuid,
        page: &Page,
        caller: &Caller,
    ) -> Result<Vec<MemberSession>, Problem> {
        let acting = self.act_as(who, Scope::OrganizationRead, caller).await?;
        let sql = "select outcome, session_id, user_id, email, name, role, device_name, network, created_at, \
                last_used_at, expires_at, is_current \
            from auth.list_organization_sessions(organization_id => $1, page_size => $2, after_time => $3, after_id => $4)";
        let (time, id) = page.after();
        let rows = acting.all(sql, &[&organization, &page.size, &time, &id]).await?;
        acting.commit().await?;
        listed(rows, |row| {
            Ok(MemberSession {
                id: named(row, "session_id")?,
                user_id: named(row, "user_id")?,
                email: named(row, "email")?,
                name: named(row, "name")?,
                role: named(row, "role")?,
                device_name: named(row, "device_name")?,
                network: named(row, "network")?,
                created_at: named(row, "created_at")?,
                last_used_at: named(row, "last_used_at")?,
                expires_at: named(row, "expires_at")?,
                is_current: named(row, "is_current")?,
            })
        })
    }

    /// Ends one of them.
    pub async fn end_organization_session(
        &self,
        who: &Credential,
        organization: Uuid,
        session_id: Uuid,
        caller: &Caller,
    ) -> Result<(), Problem> {
        let acting = self.act_as(who, Scope::OrganizationWrite, caller).await?;
        let sql = "select auth.end_organization_session(organization_id => $1, session_id => $2, ip => $3, \
            user_agent => $4, correlation_id => $5)";
        let row =
            acting.one(sql, &[&organization, &session_id, &caller.ip, &caller.user_agent, &caller.request_id]).await?;
        acting.commit().await?;
        match column(&row, 0)? {
            "ended" => Ok(()),
            outcome => Err(refusal(outcome)),
        }
    }
}
