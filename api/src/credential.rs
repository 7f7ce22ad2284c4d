//! What a request shows to prove who it is. One place for all endpoints, whatever kind of credential.
//!
//! This is half of the answer: a token that is authentic here belongs to a session that the database may have ended.
//! Whoever acts on a [`Credential`] goes through `db/identity.rs`, which asks.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::{Request, RequestBody, Result, http::header};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use uuid::Uuid;

use crate::{
    app::App,
    error::{Code, Problem},
};

const SCHEME: &str = "bearer";

/// An authentic access token. No Debug: the jti is for its owner only.
pub struct Credential {
    /// The session it belongs to.
    pub session_id: Uuid,
    /// The database's mark on it.
    pub jti: Uuid,
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

impl Credential {
    fn of(request: &Request) -> Result<Self, Problem> {
        let Some(value) = request.headers().get(header::AUTHORIZATION) else {
            return Err(Code::AuthenticationRequired.into());
        };
        let app = request.data::<Arc<App>>().ok_or(Code::InternalError)?;
        Self::of_header(app, value.as_bytes()).ok_or(Code::InvalidAccessToken.into())
    }

    fn of_header(app: &App, value: &[u8]) -> Option<Self> {
        // RFC 9110 §11.1: the scheme's letters have no case.
        let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        let claims = scheme.eq_ignore_ascii_case("bearer").then(|| app.access_tokens.verify(token.trim()))??;
        Some(Self {
            session_id: claims.sid,
            jti: claims.jti,
            issued_at: DateTime::from_timestamp(claims.iat, 0)?,
            expires_at: DateTime::from_timestamp(claims.exp, 0)?,
        })
    }
}

/// A credential where there may be another proof: refused only by who needs it.
pub struct MaybeCredential(Result<Credential, Problem>);

impl MaybeCredential {
    /// The credential, or why there is none.
    pub fn required(self) -> Result<Credential, Problem> {
        self.0
    }
}

fn register_scheme(registry: &mut Registry) {
    let scheme = MetaSecurityScheme {
        ty: "http",
        description: Some(
            "The `accessToken` of a sign-up, login or refresh: a JWT (RFC 9068), good until it or its session ends.",
        ),
        name: None,
        key_in: None,
        scheme: Some("bearer"),
        bearer_format: Some("JWT"),
        flows: None,
        openid_connect_url: None,
    };
    registry.create_security_scheme(SCHEME, scheme);
}

impl<'a> ApiExtractor<'a> for Credential {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_scheme(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SCHEME]
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        Ok(Self::of(request)?)
    }
}

impl<'a> ApiExtractor<'a> for MaybeCredential {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_scheme(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SCHEME]
    }

    fn has_security_fallback() -> bool {
        true
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> Result<Self> {
        Ok(Self(Credential::of(request)))
    }
}
