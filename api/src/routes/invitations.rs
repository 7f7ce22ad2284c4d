//! Invitations into an organization, by mail.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
    types::Example,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    Tag,
    answers::{Organization, User, example_time, iso8601},
    members::OrganizationRole,
    paging,
};
use crate::{
    app::App,
    credential::{Credential, SessionCredential},
    db,
    device::Caller,
    error::{BODY, CREDENTIAL, CSRF, Code, DATABASE, Fail, SCOPE, SESSION, refusals},
    field::{Email, OneTimeToken, Text},
    json::{Body, Json},
    limits::Ticket,
};

/// Whom to invite, and as what.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InviteRequest {
    /// With an account or without one.
    email: Text<Email>,
    role: OrganizationRole,
}

impl Body for InviteRequest {}

impl Example for InviteRequest {
    fn example() -> Self {
        Self { email: "grace@example.org".to_owned().into(), role: OrganizationRole::Member }
    }
}

/// Who sent an invitation.
#[derive(Object)]
#[oai(rename_all = "camelCase")]
struct Inviter {
    user_id: Uuid,
    name: String,
}

/// An open invitation. Its token is in the mail, and nowhere else.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct Invitation {
    id: Uuid,
    email: String,
    /// What the invited will be.
    role: String,
    /// Absent in the answer to who has just sent it.
    #[oai(skip_serializing_if_is_none)]
    invited_by: Option<Inviter>,
    #[oai(serialize_with = "iso8601")]
    created_at: DateTime<Utc>,
    #[oai(serialize_with = "iso8601")]
    expires_at: DateTime<Utc>,
}

impl From<db::Invitation> for Invitation {
    fn from(invitation: db::Invitation) -> Self {
        let db::Invitation { id, email, role, invited_by, created_at, expires_at } = invitation;
        let invited_by = invited_by.map(|(user_id, name)| Inviter { user_id, name });
        Self { id, email, role, invited_by, created_at, expires_at }
    }
}

impl Example for Invitation {
    fn example() -> Self {
        let User { id, name, .. } = User::example();
        Self {
            id: Uuid::from_u128(0x3e1a_9c40_5b7d_4f21_8d6e_0a1b_2c3d_4e5f),
            email: "grace@example.org".into(),
            role: "ORGANIZATION_MEMBER".into(),
            invited_by: Some(Inviter { user_id: id, name }),
            created_at: example_time(0),
            expires_at: example_time(604_800),
        }
    }
}

/// A page of open invitations, the newest first.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct InvitationList {
    invitations: Vec<Invitation>,
    /// For the next page; absent on the last.
    #[oai(skip_serializing_if_is_none)]
    next_cursor: Option<String>,
}

impl Example for InvitationList {
    fn example() -> Self {
        Self { invitations: vec![Invitation::example()], next_cursor: None }
    }
}

/// How many invitations were taken back.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct RevokedInvitations {
    /// Always 1: an invitation that is not open is a 404.
    revoked_invitations: u32,
}

impl Example for RevokedInvitations {
    fn example() -> Self {
        Self { revoked_invitations: 1 }
    }
}

/// The token of the mail.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AcceptRequest {
    token: Text<OneTimeToken>,
}

impl Body for AcceptRequest {}

impl Example for AcceptRequest {
    fn example() -> Self {
        Self { token: format!("aso_{}", "A".repeat(43)).into() }
    }
}

/// What the user belongs to now.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct Joined {
    organization: Organization,
}

impl Example for Joined {
    fn example() -> Self {
        Self { organization: Organization { role: "ORGANIZATION_MEMBER".into(), ..Organization::example() } }
    }
}

#[derive(ApiResponse)]
enum Invited {
    /// The mail is on its way.
    #[oai(status = 201)]
    Invited(Json<Invitation>),
}

/// Beside the codes of the credential, of whatever acts on an organization.
const ORGANIZATION: &[Code] = &[Code::OrganizationNotFound, Code::OrganizationNotActive, Code::InsufficientRole];

refusals!(InviteRefusals: BODY, CREDENTIAL, SCOPE, CSRF, DATABASE, ORGANIZATION, [
    Code::AlreadyMember, Code::InvalidEmail, Code::RateLimited,
]);
refusals!(ListRefusals: CREDENTIAL, SCOPE, DATABASE, ORGANIZATION, [Code::BadRequest]);
refusals!(RevokeRefusals: CREDENTIAL, SCOPE, CSRF, DATABASE, ORGANIZATION, [Code::BadRequest, Code::InvitationNotFound]);
refusals!(AcceptRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [
    Code::InvalidOneTimeToken, Code::InvitationForAnotherAddress, Code::AlreadyMember,
]);

/// Invitations.
pub struct InvitationsApi;

#[OpenApi(tag = "Tag::Organizations")]
impl InvitationsApi {
    /// Invite somebody
    ///
    /// The mail has a link that works once, for seven days; a new invitation of the same address makes the one before
    /// void. Owners invite into every role, administrators members. The answer does not tell whether the address has an
    /// account. At most 50 an hour for an organization, and 5 to an address. Scope of a personal access token:
    /// `organization:write`.
    #[oai(path = "/api/auth/organizations/:id/invitations", method = "post", operation_id = "inviteMember")]
    async fn invite(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        ticket: Ticket,
        credential: Credential,
        id: Path<Uuid>,
        Json(body): Json<InviteRequest>,
    ) -> Result<Invited, Fail<InviteRefusals>> {
        let email = body.email.checked()?;
        ticket.take(&app, &caller, email).await?;
        let invitation = app.db.invite_member(&credential, id.0, email, body.role.as_str(), &caller).await?;
        Ok(Invited::Invited(Json(invitation.into())))
    }

    /// List the open invitations
    ///
    /// For owners and administrators. Scope of a personal access token: `organization:read`.
    #[oai(path = "/api/auth/organizations/:id/invitations", method = "get", operation_id = "listInvitations")]
    async fn list(
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
    ) -> Result<Json<InvitationList>, Fail<ListRefusals>> {
        let page = paging::page(limit.0, cursor.as_deref())?;
        let invitations = app.db.list_invitations(&credential, id.0, &page, &caller).await?;
        let next_cursor = paging::next_cursor(&page, &invitations, |invitation| (invitation.created_at, invitation.id));
        Ok(Json(InvitationList { invitations: invitations.into_iter().map(Invitation::from).collect(), next_cursor }))
    }

    /// Take an invitation back
    ///
    /// Scope of a personal access token: `organization:write`.
    #[oai(
        path = "/api/auth/organizations/:id/invitations/:invitationId",
        method = "delete",
        operation_id = "revokeInvitation"
    )]
    async fn revoke(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
        id: Path<Uuid>,
        #[oai(name = "invitationId")] invitation_id: Path<Uuid>,
    ) -> Result<Json<RevokedInvitations>, Fail<RevokeRefusals>> {
        app.db.revoke_invitation(&credential, id.0, invitation_id.0, &caller).await?;
        Ok(Json(RevokedInvitations { revoked_invitations: 1 }))
    }

    /// Accept an invitation
    ///
    /// By the token of the mail, in a session of the very address that it was sent to; sign up first where there is no
    /// account. The session goes on acting for what it acted for: switch to the organization. Needs a session.
    #[oai(path = "/api/auth/invitations/accept", method = "post", operation_id = "acceptInvitation")]
    async fn accept(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        Json(body): Json<AcceptRequest>,
    ) -> Result<Json<Joined>, Fail<AcceptRefusals>> {
        let proof = Sha256::digest(body.token.checked()?).into();
        let db::Joined { id, slug, name, role } = app.db.accept_invitation(&credential, proof, &caller).await?;
        Ok(Json(Joined { organization: Organization { id, slug, name, role } }))
    }
}

fn default_limit() -> u32 {
    paging::DEFAULT_SIZE
}
