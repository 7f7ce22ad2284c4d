//! Organizations: whether a slug is free, founding one, which one the session acts for, and leaving.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{ApiResponse, Object, OpenApi, param::Path, types::Example};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Tag,
    answers::{self, AccessTokenResponse, example_time, iso8601},
    delivery::{Delivered, Delivery, deliver_access},
};
use crate::{
    app::App,
    credential::{Credential, SessionCredential},
    db::NewOrganization,
    device::Caller,
    error::{BODY, CREDENTIAL, CSRF, Code, DATABASE, Fail, SCOPE, SESSION, refusals},
    field::{Description, Name, Slug, Text, Website},
    json::{Body, Json},
};

/// Whether an organization may have this slug.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct SlugAvailability {
    available: bool,
    slug: String,
    /// Others that are free, when this one is not.
    suggestions: Vec<String>,
}

impl Example for SlugAvailability {
    fn example() -> Self {
        Self { available: false, slug: "acme".into(), suggestions: vec!["acme-team".into(), "acme-hq".into()] }
    }
}

/// An organization to found: the user becomes its owner.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateOrganizationRequest {
    name: Text<Name>,
    /// Its name in URLs; see `/api/auth/organizations/slug-available/{slug}`.
    slug: Text<Slug>,
    description: Option<Text<Description>>,
    website: Option<Text<Website>>,
}

impl Body for CreateOrganizationRequest {}

impl Example for CreateOrganizationRequest {
    fn example() -> Self {
        let text = |value: &str| value.to_owned();
        Self {
            name: text("Analytical Engines").into(),
            slug: text("analytical-engines").into(),
            description: Some(text("Engines that analyse").into()),
            website: Some(text("https://engines.example.org").into()),
        }
    }
}

/// One of the user's organizations.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct MyOrganization {
    id: Uuid,
    slug: String,
    name: String,
    #[oai(skip_serializing_if_is_none)]
    description: Option<String>,
    #[oai(skip_serializing_if_is_none)]
    website: Option<String>,
    #[oai(serialize_with = "iso8601")]
    created_at: DateTime<Utc>,
    /// The user's role in it: `ORGANIZATION_OWNER`, `ORGANIZATION_ADMIN` or `ORGANIZATION_MEMBER`.
    role: String,
    #[oai(serialize_with = "iso8601")]
    member_since: DateTime<Utc>,
    /// Whether it is the one that the session acts for.
    is_active: bool,
}

impl Example for MyOrganization {
    fn example() -> Self {
        let answers::Organization { id, slug, name, role } = answers::Organization::example();
        Self {
            id,
            slug,
            name,
            description: Some("Engines that analyse".into()),
            website: Some("https://engines.example.org".into()),
            created_at: example_time(0),
            role,
            member_since: example_time(0),
            is_active: false,
        }
    }
}

/// The user's organizations, the oldest membership first.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct OrganizationList {
    organizations: Vec<MyOrganization>,
}

impl Example for OrganizationList {
    fn example() -> Self {
        Self { organizations: vec![MyOrganization::example()] }
    }
}

/// Which organization the session shall act for.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SwitchRequest {
    /// One that the user belongs to; `null`: none.
    organization_id: Option<Uuid>,
}

impl Body for SwitchRequest {}

impl Example for SwitchRequest {
    fn example() -> Self {
        Self { organization_id: Some(answers::Organization::example().id) }
    }
}

#[derive(ApiResponse)]
enum Created {
    /// The organization exists, and the user owns it.
    #[oai(status = 201)]
    Created(Json<MyOrganization>),
}

refusals!(SlugRefusals: DATABASE, [Code::BadRequest, Code::InvalidSlug]);
refusals!(CreateRefusals: BODY, CREDENTIAL, SCOPE, CSRF, DATABASE, [
    Code::SlugTaken, Code::SlugReserved, Code::InvalidName, Code::InvalidSlug, Code::InvalidDescription,
    Code::InvalidWebsite,
]);
refusals!(ListRefusals: CREDENTIAL, SCOPE, DATABASE);
refusals!(SwitchRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [Code::OrganizationNotFound]);
refusals!(LeaveRefusals: CREDENTIAL, SESSION, CSRF, DATABASE, [
    Code::BadRequest, Code::OrganizationNotFound, Code::LastOwner,
]);

/// Organizations.
pub struct OrganizationsApi;

#[OpenApi(tag = "Tag::Organizations")]
impl OrganizationsApi {
    /// Is a slug free
    ///
    /// A hint for a form, and possibly some seconds old: only founding the organization takes the slug, and that always
    /// asks the database.
    #[oai(path = "/api/auth/organizations/slug-available/:slug", method = "get", operation_id = "checkSlug")]
    async fn check_slug(
        &self,
        app: Data<&Arc<App>>,
        slug: Path<Text<Slug>>,
    ) -> Result<Json<SlugAvailability>, Fail<SlugRefusals>> {
        let slug = slug.checked()?;
        let (available, suggestions) = app.slugs.check(&app.db, slug).await?;
        Ok(Json(SlugAvailability { available, slug: slug.to_owned(), suggestions }))
    }

    /// Found an organization
    ///
    /// The user becomes its owner. The session goes on acting for what it acted for: switch to the new one. Scope of a
    /// personal access token: `organization:write`.
    #[oai(path = "/api/auth/organizations", method = "post", operation_id = "createOrganization")]
    async fn create(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
        Json(body): Json<CreateOrganizationRequest>,
    ) -> Result<Created, Fail<CreateRefusals>> {
        let new = NewOrganization {
            name: body.name.checked()?,
            slug: body.slug.checked()?,
            description: body.description.as_ref().map(Text::checked).transpose()?,
            website: body.website.as_ref().map(Text::checked).transpose()?,
        };
        let created = app.db.create_organization(&credential, &new, &caller).await;
        // Taken now, by this request or by another one before it.
        app.slugs.forget(new.slug).await;
        let created = created?;
        Ok(Created::Created(Json(MyOrganization {
            id: created.id,
            slug: new.slug.to_owned(),
            name: new.name.to_owned(),
            description: new.description.map(str::to_owned),
            website: new.website.map(str::to_owned),
            created_at: created.created_at,
            role: "ORGANIZATION_OWNER".into(),
            member_since: created.created_at,
            is_active: false,
        })))
    }

    /// List my organizations
    ///
    /// Scope of a personal access token: `organization:read`; it sees the organization that it acts for, and no other.
    #[oai(path = "/api/auth/organizations", method = "get", operation_id = "listOrganizations")]
    async fn list(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
    ) -> Result<Json<OrganizationList>, Fail<ListRefusals>> {
        let organizations = app.db.list_organizations(&credential, &caller).await?;
        let organizations = organizations.into_iter().map(|of| MyOrganization {
            id: of.id,
            slug: of.slug,
            name: of.name,
            description: of.description,
            website: of.website,
            created_at: of.created_at,
            role: of.role,
            member_since: of.member_since,
            is_active: of.is_active,
        });
        Ok(Json(OrganizationList { organizations: organizations.collect() }))
    }

    /// Switch the organization of this session
    ///
    /// The new access token says so (`org`, `roles`), and so does every later one; the refresh token stays as it is. At
    /// this service older access tokens of the session act for the new organization at once, whatever they say; who
    /// only verifies their signature goes by what they say, until they expire.
    #[oai(path = "/api/auth/session/organization", method = "put", operation_id = "switchOrganization")]
    async fn switch(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        Json(body): Json<SwitchRequest>,
    ) -> Result<Delivered<AccessTokenResponse>, Fail<SwitchRefusals>> {
        let grant = app.db.switch_organization(&credential, body.organization_id, &caller).await?;
        Ok(deliver_access(&app, &grant, delivery(&credential))?)
    }

    /// Leave an organization
    ///
    /// This session goes on, for no organization when it acted for that one: the answer is its new access token. The
    /// user's other sessions that act for it end. The last owner cannot leave.
    #[oai(path = "/api/auth/organizations/:id/leave", method = "post", operation_id = "leaveOrganization")]
    async fn leave(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        id: Path<Uuid>,
    ) -> Result<Delivered<AccessTokenResponse>, Fail<LeaveRefusals>> {
        let grant = app.db.leave_organization(&credential, id.0, &caller).await?;
        Ok(deliver_access(&app, &grant, delivery(&credential))?)
    }
}

fn delivery(credential: &SessionCredential) -> Delivery {
    if credential.by_cookie { Delivery::Cookie } else { Delivery::Json }
}
