//! The members of an organization, and their sessions in it. The organization must be the one that the session acts for.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    Enum, Object, OpenApi,
    param::{Path, Query},
    types::Example,
};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Tag,
    answers::{Revoked, User, example_time, iso8601},
    paging,
};
use crate::{
    app::App,
    credential::{Credential, SessionCredential},
    db,
    device::Caller,
    error::{BODY, CREDENTIAL, CSRF, Code, DATABASE, Fail, SCOPE, SESSION, refusals},
    json::{Body, Json},
};

/// What somebody is in an organization. Owners manage everybody, administrators manage members.
#[derive(Clone, Copy, Enum, Deserialize)]
pub enum OrganizationRole {
    #[oai(rename = "ORGANIZATION_OWNER")]
    #[serde(rename = "ORGANIZATION_OWNER")]
    Owner,
    #[oai(rename = "ORGANIZATION_ADMIN")]
    #[serde(rename = "ORGANIZATION_ADMIN")]
    Admin,
    #[oai(rename = "ORGANIZATION_MEMBER")]
    #[serde(rename = "ORGANIZATION_MEMBER")]
    Member,
}

impl OrganizationRole {
    /// As the database spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "ORGANIZATION_OWNER",
            Self::Admin => "ORGANIZATION_ADMIN",
            Self::Member => "ORGANIZATION_MEMBER",
        }
    }
}

/// Somebody who belongs to an organization.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct Member {
    user_id: Uuid,
    email: String,
    name: String,
    /// `ORGANIZATION_OWNER`, `ORGANIZATION_ADMIN` or `ORGANIZATION_MEMBER`.
    role: String,
    #[oai(serialize_with = "iso8601")]
    member_since: DateTime<Utc>,
}

impl From<db::Member> for Member {
    fn from(member: db::Member) -> Self {
        let db::Member { user_id, email, name, role, member_since } = member;
        Self { user_id, email, name, role, member_since }
    }
}

impl Example for Member {
    fn example() -> Self {
        let User { id, email, name, .. } = User::example();
        Self { user_id: id, email, name, role: "ORGANIZATION_ADMIN".into(), member_since: example_time(0) }
    }
}

/// A page of members, the oldest first.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct MemberList {
    members: Vec<Member>,
    /// For the next page; absent on the last.
    #[oai(skip_serializing_if_is_none)]
    next_cursor: Option<String>,
}

impl Example for MemberList {
    fn example() -> Self {
        Self { members: vec![Member::example()], next_cursor: None }
    }
}

/// Another role for a member.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ChangeRoleRequest {
    role: OrganizationRole,
}

impl Body for ChangeRoleRequest {}

impl Example for ChangeRoleRequest {
    fn example() -> Self {
        Self { role: OrganizationRole::Admin }
    }
}

/// A live session that acts for the organization.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct MemberSession {
    id: Uuid,
    user_id: Uuid,
    user_email: String,
    user_name: String,
    /// The user's role in the organization.
    role: String,
    /// Made from the user agent: "Chrome 120 on macOS".
    #[oai(skip_serializing_if_is_none)]
    device_name: Option<String>,
    /// The network of its last request (/24 or /64): the full address is not stored.
    #[oai(skip_serializing_if_is_none)]
    ip_address: Option<String>,
    #[oai(serialize_with = "iso8601")]
    created_at: DateTime<Utc>,
    /// The last login or refresh.
    #[oai(serialize_with = "iso8601")]
    last_used_at: DateTime<Utc>,
    /// When it ends, unless it is refreshed before.
    #[oai(serialize_with = "iso8601")]
    expires_at: DateTime<Utc>,
    /// Whether it is the one that asks.
    is_current: bool,
}

impl From<db::MemberSession> for MemberSession {
    fn from(session: db::MemberSession) -> Self {
        Self {
            id: session.id,
            user_id: session.user_id,
            user_email: session.email,
            user_name: session.name,
            role: session.role,
            device_name: session.device_name,
            ip_address: session.network,
            created_at: session.created_at,
            last_used_at: session.last_used_at,
            expires_at: session.expires_at,
            is_current: session.is_current,
        }
    }
}

impl Example for MemberSession {
    fn example() -> Self {
        let User { id, email, name, .. } = User::example();
        Self {
            id: Uuid::from_u128(0x0f7a_3c52_6d1e_4b8f_a0c9_1d2e_3f40_5162),
            user_id: id,
            user_email: email,
            user_name: name,
            role: "ORGANIZATION_MEMBER".into(),
            device_name: Some("Chrome 120 on macOS".into()),
            ip_address: Some("203.0.113.0/24".into()),
            created_at: example_time(0),
            last_used_at: example_time(3600),
            expires_at: example_time(608_400),
            is_current: false,
        }
    }
}

/// A page of live sessions, the newest first.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct MemberSessionList {
    sessions: Vec<MemberSession>,
    /// For the next page; absent on the last.
    #[oai(skip_serializing_if_is_none)]
    next_cursor: Option<String>,
}

impl Example for MemberSessionList {
    fn example() -> Self {
        Self { sessions: vec![MemberSession::example()], next_cursor: None }
    }
}

/// Beside the codes of the credential, of whatever acts on an organization.
const ORGANIZATION: &[Code] = &[Code::BadRequest, Code::OrganizationNotFound, Code::OrganizationNotActive];

refusals!(ListRefusals: CREDENTIAL, SCOPE, DATABASE, ORGANIZATION);
refusals!(ChangeRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [
    Code::OrganizationNotFound, Code::OrganizationNotActive, Code::MemberNotFound, Code::InsufficientRole, Code::LastOwner,
]);
refusals!(RemoveRefusals: CREDENTIAL, SESSION, CSRF, DATABASE, ORGANIZATION, [
    Code::StepUpRequired, Code::MemberNotFound, Code::InsufficientRole, Code::LastOwner,
]);
refusals!(SessionsRefusals: CREDENTIAL, SCOPE, DATABASE, ORGANIZATION, [Code::InsufficientRole]);
refusals!(EndRefusals: CREDENTIAL, SCOPE, CSRF, DATABASE, ORGANIZATION, [
    Code::InsufficientRole, Code::SessionNotFound,
]);

/// Members of organizations.
pub struct MembersApi;

#[OpenApi(tag = "Tag::Organizations")]
impl MembersApi {
    /// List the members
    ///
    /// For every member of the organization that the session acts for. Scope of a personal access token:
    /// `organization:read`.
    #[oai(path = "/api/auth/organizations/:id/members", method = "get", operation_id = "listMembers")]
    async fn list_members(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
        id: Path<Uuid>,
        /// How many at most.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<u32>,
        /// The `nextCursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<MemberList>, Fail<ListRefusals>> {
        let page = paging::page(limit.0, cursor.as_deref())?;
        let members = app.db.list_members(&credential, id.0, &page, &caller).await?;
        let next_cursor = paging::next_cursor(&page, &members, |member| (member.member_since, member.user_id));
        Ok(Json(MemberList { members: members.into_iter().map(Member::from).collect(), next_cursor }))
    }

    /// Change a member's role
    ///
    /// Owners give and take every role; administrators manage members only. The role counts at once here, and in access
    /// tokens from the next one on. The last owner stays one. Needs a session.
    #[oai(path = "/api/auth/organizations/:id/members/:userId/role", method = "put", operation_id = "changeMemberRole")]
    async fn change_member_role(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        id: Path<Uuid>,
        #[oai(name = "userId")] user_id: Path<Uuid>,
        Json(body): Json<ChangeRoleRequest>,
    ) -> Result<Json<Member>, Fail<ChangeRefusals>> {
        let role = body.role.as_str();
        let member = app.db.change_member_role(&credential, id.0, user_id.0, role, &caller).await?;
        Ok(Json(member.into()))
    }

    /// Remove a member
    ///
    /// Ends the member's sessions and personal access tokens that act for the organization. Owners remove everybody but
    /// themselves, administrators members. Needs a session with a recent authentication. To go oneself: leave.
    #[oai(path = "/api/auth/organizations/:id/members/:userId", method = "delete", operation_id = "removeMember")]
    async fn remove_member(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        id: Path<Uuid>,
        #[oai(name = "userId")] user_id: Path<Uuid>,
    ) -> Result<Json<Revoked>, Fail<RemoveRefusals>> {
        let revoked_sessions = app.db.remove_member(&credential, id.0, user_id.0, &caller).await?;
        Ok(Json(Revoked { revoked_sessions }))
    }

    /// List the sessions of an organization
    ///
    /// The live ones that act for it: to owners everybody's, to administrators those of members, and their own. Scope of
    /// a personal access token: `organization:read`.
    #[oai(path = "/api/auth/organizations/:id/sessions", method = "get", operation_id = "listOrganizationSessions")]
    async fn list_sessions(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
        id: Path<Uuid>,
        /// How many at most.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<u32>,
        /// The `nextCursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<MemberSessionList>, Fail<SessionsRefusals>> {
        let page = paging::page(limit.0, cursor.as_deref())?;
        let sessions = app.db.list_organization_sessions(&credential, id.0, &page, &caller).await?;
        let next_cursor = paging::next_cursor(&page, &sessions, |session| (session.created_at, session.id));
        Ok(Json(MemberSessionList { sessions: sessions.into_iter().map(MemberSession::from).collect(), next_cursor }))
    }

    /// End a session of an organization
    ///
    /// One that the list of the same caller shows; any other is not found. Scope of a personal access token:
    /// `organization:write`.
    #[oai(
        path = "/api/auth/organizations/:id/sessions/:sessionId",
        method = "delete",
        operation_id = "endOrganizationSession"
    )]
    async fn end_session(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
        id: Path<Uuid>,
        #[oai(name = "sessionId")] session_id: Path<Uuid>,
    ) -> Result<Json<Revoked>, Fail<EndRefusals>> {
        app.db.end_organization_session(&credential, id.0, session_id.0, &caller).await?;
        Ok(Json(Revoked { revoked_sessions: 1 }))
    }
}

fn default_limit() -> u32 {
    paging::DEFAULT_SIZE
}
