//! Organizations: founding them, which one a session acts for, and leaving.

use chrono::{DateTime, Utc};
use deadpool_postgres::tokio_postgres::Row;
use uuid::Uuid;

use super::{AccessGrant, Db, Scope, named, sessions::unknown_outcome};
use crate::{
    credential::{Credential, SessionCredential},
    device::Caller,
    error::{Code, Problem},
};

/// A part of a list: so many, after the last one of the part before.
pub struct Page {
    /// 1 to 200.
    pub size: i32,
    /// When the last one came to be, and its id.
    pub after: Option<(DateTime<Utc>, Uuid)>,
}

impl Page {
    pub(super) fn after(&self) -> (Option<DateTime<Utc>>, Option<Uuid>) {
        self.after.unzip()
    }
}

/// What an organization is founded with, checked.
pub struct NewOrganization<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its name in URLs.
    pub slug: &'a str,
    /// What it says of itself.
    pub description: Option<&'a str>,
    /// Its web site.
    pub website: Option<&'a str>,
}

/// What the database adds to it.
pub struct CreatedOrganization {
    /// Its id.
    pub id: Uuid,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// One of the user's organizations.
pub struct ListedOrganization {
    /// Its id.
    pub id: Uuid,
    /// Its name in URLs.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub description: Option<String>,
    /// Its web site.
    pub website: Option<String>,
    /// When it was founded.
    pub created_at: DateTime<Utc>,
    /// The user's role in it.
    pub role: String,
    /// Since when the user belongs to it.
    pub member_since: DateTime<Utc>,
    /// Whether it is the one that the credential acts for.
    pub is_active: bool,
}

/// What a client is told of an outcome that is not the one it wanted.
pub(super) fn refusal(outcome: &str) -> Problem {
    match outcome {
        "not_found" => Code::OrganizationNotFound,
        "not_active" => Code::OrganizationNotActive,
        "insufficient_role" => Code::InsufficientRole,
        "member_not_found" => Code::MemberNotFound,
        "session_not_found" => Code::SessionNotFound,
        "last_owner" => Code::LastOwner,
        "already_member" => Code::AlreadyMember,
        "slug_taken" => Code::SlugTaken,
        "slug_reserved" => Code::SlugReserved,
        "ended" => Code::InvalidAccessToken,
        outcome => return unknown_outcome(outcome),
    }
    .into()
}

/// The rows of a list, unless their one row says why there is none.
pub(super) fn listed<T>(rows: Vec<Row>, read: impl Fn(&Row) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
    match rows.first().map(|row| named(row, "outcome")).transpose()? {
        None | Some("listed") => rows.iter().map(read).collect(),
        Some(outcome) => Err(refusal(outcome)),
    }
}

impl Db {
    /// Whether an organization may have this slug, and others that it could have.
    pub async fn check_slug(&self, slug: &str) -> Result<(bool, Vec<String>), Problem> {
        let row = self.one("select available, suggestions from auth.check_slug(slug => $1)", &[&slug]).await?;
        Ok((named(&row, "available")?, named::<Option<_>>(&row, "suggestions")?.unwrap_or_default()))
    }

    /// Founds an organization; the user becomes its owner.
    pub async fn create_organization(
        &self,
        who: &Credential,
        new: &NewOrganization<'_>,
        caller: &Caller,
    ) -> Result<CreatedOrganization, Problem> {
        let acting = self.act_as(who, Scope::OrganizationWrite, caller).await?;
        let sql = "select outcome, organization_id, created_at from auth.create_organization(name => $1, slug => $2, \
            description => $3, website => $4, correlation_id => $5)";
        let row = acting.one(sql, &[&new.name, &new.slug, &new.description, &new.website, &caller.request_id]).await?;
        acting.commit().await?;
        match named(&row, "outcome")? {
            "created" => {
                Ok(CreatedOrganization { id: named(&row, "organization_id")?, created_at: named(&row, "created_at")? })
            }
            outcome => Err(refusal(outcome)),
        }
    }

    /// The user's organizations, the oldest membership first.
    pub async fn list_organizations(
        &self,
        who: &Credential,
        caller: &Caller,
    ) -> Result<Vec<ListedOrganization>, Problem> {
        let acting = self.act_as(who, Scope::OrganizationRead, caller).await?;
        let sql = "select organization_id, slug, name, description, website, created_at, role, member_since, is_active \
            from auth.list_organizations()";
        let rows = acting.all(sql, &[]).await?;
        acting.commit().await?;
        let organization = |row| {
            Ok(ListedOrganization {
                id: named(row, "organization_id")?,
                slug: named(row, "slug")?,
                name: named(row, "name")?,
                description: named(row, "description")?,
                website: named(row, "website")?,
                created_at: named(row, "created_at")?,
                role: named(row, "role")?,
                member_since: named(row, "member_since")?,
                is_active: named(row, "is_active")?,
            })
        };
        rows.iter().map(organization).collect()
    }

    /// Makes one of the user's organizations, or none, the one that the session acts for.
    pub async fn switch_organization(
        &self,
        who: &SessionCredential,
        organization: Option<Uuid>,
        caller: &Caller,
    ) -> Result<Box<AccessGrant>, Problem> {
        let sql = "select r.*, p.* from auth.switch_organization(organization_id => $1, ip => $2, user_agent => $3, \
                correlation_id => $4) r \
            left join lateral auth.session_profile(r.session_id) p on true";
        self.access_after(who, sql, organization, caller, "switched").await
    }

    /// Ends the user's own membership.
    pub async fn leave_organization(
        &self,
        who: &SessionCredential,
        organization: Uuid,
        caller: &Caller,
    ) -> Result<Box<AccessGrant>, Problem> {
        let sql = "select r.*, p.* from auth.leave_organization(organization_id => $1, ip => $2, user_agent => $3, \
                correlation_id => $4) r \
            left join lateral auth.session_profile(r.session_id) p on true";
        self.access_after(who, sql, Some(organization), caller, "left").await
    }

    async fn access_after(
        &self,
        who: &SessionCredential,
        sql: &'static str,
        organization: Option<Uuid>,
        caller: &Caller,
        done: &str,
    ) -> Result<Box<AccessGrant>, Problem> {
        let acting = self.act_as_session(who).await?;
        let row = acting.one(sql, &[&organization, &caller.ip, &caller.user_agent, &caller.request_id]).await?;
        acting.commit().await?;
        match named(&row, "outcome")? {
            outcome if outcome == done => Ok(Box::new(AccessGrant::read(&row)?)),
            outcome => Err(refusal(outcome)),
        }
    }
}
