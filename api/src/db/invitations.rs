//! Invitations into an organization.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Db, Page, Scope, column, named,
    organizations::{listed, refusal},
};
use crate::{
    credential::{Credential, SessionCredential},
    device::Caller,
    error::{Code, Problem},
};

/// An open invitation. Its token is in the mail alone.
pub struct Invitation {
    /// Its id.
    pub id: Uuid,
    /// Whom it was sent to.
    pub email: String,
    /// What the invited will be.
    pub role: String,
    /// By whom: user and name; none in the answer to who has just sent it.
    pub invited_by: Option<(Uuid, String)>,
    /// When it was sent.
    pub created_at: DateTime<Utc>,
    /// When it is worth nothing any more.
    pub expires_at: DateTime<Utc>,
}

/// What somebody belongs to now.
pub struct Joined {
    /// The organization.
    pub id: Uuid,
    /// Its name in URLs.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// The user's role in it.
    pub role: String,
}

impl Db {
    /// Invites an address; the mail goes out by the outbox.
    pub async fn invite_member(
        &self,
        who: &Credential,
        organization: Uuid,
        email: &str,
        role: &str,
        caller: &Caller,
    ) -> Result<Invitation, Problem> {
        let acting = self.act_as(who, Scope::OrganizationWrite, caller).await?;
        let sql = "select outcome, invitation_id, created_at, expires_at, \
                extract(epoch from retry_after)::float8 as retry_after_seconds \
            from auth.invite_member(organization_id => $1, email => $2, role => $3, ip => $4, user_agent => $5, \
                correlation_id => $6)";
        let row = acting
            .one(sql, &[&organization, &email, &role, &caller.ip, &caller.user_agent, &caller.request_id])
            .await?;
        acting.commit().await?;
        match named(&row, "outcome")? {
            "invited" => Ok(Invitation {
                id: named(&row, "invitation_id")?,
                email: email.to_owned(),
                role: role.to_owned(),
                invited_by: None,
                created_at: named(&row, "created_at")?,
                expires_at: named(&row, "expires_at")?,
            }),
            "rate_limited" => {
                let seconds = named::<Option<f64>>(&row, "retry_after_seconds")?.unwrap_or_default();
                Err(Problem::with_retry_after(Code::RateLimited, seconds))
            }
            outcome => Err(refusal(outcome)),
        }
    }

    /// A page of the open invitations, the newest first.
    pub async fn list_invitations(
        &self,
        who: &Credential,
        organization: Uuid,
        page: &Page,
        caller: &Caller,
    ) -> Result<Vec<Invitation>, Problem> {
        let acting = self.act_as(who, Scope::OrganizationRead, caller).await?;
        let sql = "select outcome, invitation_id, email, role, invited_by, inviter_name, created_at, expires_at \
            from auth.list_invitations(organization_id => $1, page_size => $2, after_time => $3, after_id => $4)";
        let (time, id) = page.after();
        let rows = acting.all(sql, &[&organization, &page.size, &time, &id]).await?;
        acting.commit().await?;
        listed(rows, |row| {
            Ok(Invitation {
                id: named(row, "invitation_id")?,
                email: named(row, "email")?,
                role: named(row, "role")?,
                invited_by: Some((named(row, "invited_by")?, named(row, "inviter_name")?)),
                created_at: named(row, "created_at")?,
                expires_at: named(row, "expires_at")?,
            })
        })
    }

    /// Takes an invitation back.
    pub async fn revoke_invitation(
        &self,
        who: &Credential,
        organization: Uuid,
        invitation: Uuid,
        caller: &Caller,
    ) -> Result<(), Problem> {
        let acting = self.act_as(who, Scope::OrganizationWrite, caller).await?;
        let sql = "select auth.revoke_invitation(organization_id => $1, invitation_id => $2, ip => $3, \
            user_agent => $4, correlation_id => $5)";
        let row =
            acting.one(sql, &[&organization, &invitation, &caller.ip, &caller.user_agent, &caller.request_id]).await?;
        acting.commit().await?;
        match column(&row, 0)? {
            "revoked" => Ok(()),
            "invitation_not_found" => Err(Code::InvitationNotFound.into()),
            outcome => Err(refusal(outcome)),
        }
    }

    /// Joins by the proof of a mailed token.
    pub async fn accept_invitation(
        &self,
        who: &SessionCredential,
        proof: [u8; 32],
        caller: &Caller,
    ) -> Result<Joined, Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select outcome, organization_id, slug, name, role from auth.accept_invitation(token_proof => $1, \
            ip => $2, user_agent => $3, correlation_id => $4)";
        let row = acting.one(sql, &[&proof.as_slice(), &caller.ip, &caller.user_agent, &caller.request_id]).await?;
        acting.commit().await?;
        match named(&row, "outcome")? {
            "accepted" => Ok(Joined {
                id: named(&row, "organization_id")?,
                slug: named(&row, "slug")?,
                name: named(&row, "name")?,
                role: named(&row, "role")?,
            }),
            "wrong_address" => Err(Code::InvitationForAnotherAddress.into()),
            // Whichever reason: as for every link that is not good.
            "invitation_not_found" => Err(Code::InvalidOneTimeToken.into()),
            outcome => Err(refusal(outcome)),
        }
    }
}
