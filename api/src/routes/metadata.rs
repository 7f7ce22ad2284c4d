//! What OAuth clients read first (RFC 8414): where things are, and how clients authenticate there.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{ApiResponse, Object, OpenApi, types::Example};

use super::Tag;
use crate::{
    app::App,
    db::Scope,
    error::{Code, Fail, Problem, refusals},
    json::Json,
};

const AUTHENTICATION: [&str; 2] = ["client_secret_basic", "client_secret_post"];

/// RFC 8414 §2, as much as is so here.
#[derive(Clone, Object)]
#[oai(example)]
pub struct Metadata {
    /// The same as the claim `iss` of access tokens.
    issuer: String,
    jwks_uri: String,
    introspection_endpoint: String,
    introspection_endpoint_auth_methods_supported: Vec<String>,
    revocation_endpoint: String,
    revocation_endpoint_auth_methods_supported: Vec<String>,
    /// What a personal access token may be limited to.
    scopes_supported: Vec<String>,
    /// None: people log in at this service's own endpoints, which take JSON.
    grant_types_supported: Vec<String>,
    /// None, for the same reason.
    response_types_supported: Vec<String>,
    service_documentation: String,
}

impl Metadata {
    /// For a service that clients reach under `base`; both without a slash at their end. There is no
    /// `token_endpoint`: `/api/auth/token` takes JSON, so no OAuth client could use it. The two empty lists stand
    /// there although RFC 8414 §3.2 would leave them out: left out, they would mean the authorization code grant.
    pub fn new(issuer: &str, base: &str) -> Self {
        let methods = || AUTHENTICATION.map(str::to_owned).to_vec();
        Self {
            issuer: issuer.to_owned(),
            jwks_uri: format!("{base}/.well-known/jwks.json"),
            introspection_endpoint: format!("{base}/api/auth/introspect"),
            introspection_endpoint_auth_methods_supported: methods(),
            revocation_endpoint: format!("{base}/api/auth/revoke"),
            revocation_endpoint_auth_methods_supported: methods(),
            scopes_supported: Scope::ALL.map(|scope| scope.as_str().to_owned()).to_vec(),
            grant_types_supported: vec![],
            response_types_supported: vec![],
            service_documentation: format!("{base}/docs"),
        }
    }
}

impl Example for Metadata {
    fn example() -> Self {
        Self::new("https://auth.example.org", "https://auth.example.org")
    }
}

#[derive(ApiResponse)]
enum Found {
    /// The metadata.
    #[oai(status = 200)]
    Metadata(Json<Metadata>, #[oai(header = "Cache-Control")] String),
}

refusals!(MetadataRefusals: [Code::NotFound]);

/// Authorization server metadata.
pub struct MetadataApi;

#[OpenApi(tag = "Tag::Clients")]
impl MetadataApi {
    /// Authorization server metadata (RFC 8414)
    ///
    /// Only where `PUBLIC_URL` is set, or `JWT_ISSUER` is a URL: an issuer that is no URL has no metadata.
    #[oai(path = "/.well-known/oauth-authorization-server", method = "get", operation_id = "getServerMetadata")]
    async fn metadata(&self, app: Data<&Arc<App>>) -> Result<Found, Fail<MetadataRefusals>> {
        let Some(metadata) = &app.metadata else {
            let missing = "This service has no metadata: PUBLIC_URL is not set, or JWT_ISSUER is not a URL.";
            return Err(Problem::with_detail(Code::NotFound, missing).into());
        };
        Ok(Found::Metadata(Json(metadata.clone()), "public, max-age=300".into()))
    }
}
