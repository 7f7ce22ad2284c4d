//! Organizations: whether a slug is free.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, param::Path, types::Example};

use super::Tag;
use crate::{
    app::App,
    error::{Code, DATABASE, Fail, refusals},
    field::{Slug, Text},
    json::Json,
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
        Self { available: false, slug: "acme".into(), suggestions: vec!["acme-2".into(), "acme-3".into()] }
    }
}

refusals!(SlugRefusals: DATABASE, [Code::BadRequest, Code::InvalidSlug]);

/// Organizations.
pub struct OrganizationsApi;

#[OpenApi(tag = "Tag::Organizations")]
impl OrganizationsApi {
    /// Is a slug free
    ///
    /// A hint for a form: only signing up takes the slug.
    #[oai(path = "/api/auth/organizations/slug-available/:slug", method = "get", operation_id = "checkSlug")]
    async fn check_slug(
        &self,
        app: Data<&Arc<App>>,
        slug: Path<Text<Slug>>,
    ) -> Result<Json<SlugAvailability>, Fail<SlugRefusals>> {
        let slug = slug.checked()?;
        let (available, suggestions) = app.db.check_slug(slug).await?;
        Ok(Json(SlugAvailability { available, slug: slug.to_owned(), suggestions }))
    }
}
