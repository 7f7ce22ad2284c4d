//! The shapes that several endpoints answer with, and how they are made from an open session.

use chrono::{DateTime, TimeDelta, Utc};
use poem_openapi::{Enum, Object, types::Example};
use uuid::Uuid;

use crate::{
    access_token::Claims,
    app::App,
    db::{Grant, Profile},
    error::{Code, Problem},
    refresh_token::{self, TokenSecret},
};

/// A time in JSON: ISO 8601, UTC, milliseconds.
pub fn iso8601(time: &DateTime<Utc>) -> Option<serde_json::Value> {
    Some(time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true).into())
}

/// A fixed time, for examples.
pub fn example_time(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_767_225_600 + seconds)
}

/// How tokens are used (RFC 6750).
#[derive(Clone, Copy, Enum)]
pub enum TokenType {
    /// `Authorization: Bearer …`
    Bearer,
}

/// A pair of tokens.
#[derive(Clone, Object)]
#[oai(rename_all = "camelCase", example)]
pub struct TokenPair {
    /// A JWT (RFC 9068); verify it with `/.well-known/jwks.json`, or just show it.
    pub access_token: String,
    #[oai(serialize_with = "iso8601")]
    pub access_token_expires_at: DateTime<Utc>,
    /// Opaque. Good for one refresh; keep it where scripts cannot read it.
    pub refresh_token: String,
    /// When the session ends unless it is refreshed before.
    #[oai(serialize_with = "iso8601")]
    pub refresh_token_expires_at: DateTime<Utc>,
    pub token_type: TokenType,
    /// Seconds until the access token expires.
    pub expires_in: i64,
}

impl Example for TokenPair {
    fn example() -> Self {
        Self {
            access_token: "eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJFZERTQSJ9.eyJpc3MiOiJhdXRoX3Nlc3Npb25zIn0.c2lnbmF0dXJl"
                .into(),
            access_token_expires_at: example_time(900),
            refresh_token: format!("{}{}", refresh_token::PREFIX, "A".repeat(118)),
            refresh_token_expires_at: example_time(604_800),
            token_type: TokenType::Bearer,
            expires_in: 900,
        }
    }
}

/// A user.
#[derive(Clone, Object)]
#[oai(rename_all = "camelCase")]
pub struct User {
    pub id: Uuid,
    pub email: String,
    pub name: String,
    /// `INDIVIDUAL`, `BUSINESS` or `ADMIN`.
    pub user_type: String,
    pub email_verified: bool,
    #[oai(serialize_with = "iso8601")]
    pub created_at: DateTime<Utc>,
}

/// The organization that the session acts for.
#[derive(Clone, Object)]
#[oai(rename_all = "camelCase")]
pub struct Organization {
    pub id: Uuid,
    pub slug: String,
    pub name: String,
    /// The user's role in it, for example `ORGANIZATION_OWNER`.
    pub role: String,
}

impl User {
    /// A made-up one.
    pub fn example() -> Self {
        Self {
            id: Uuid::from_u128(0x7d0c_6d50_1f0e_4a6e_9a1d_2b3c_4d5e_6f70),
            email: "ada@example.org".into(),
            name: "Ada Lovelace".into(),
            user_type: "INDIVIDUAL".into(),
            email_verified: false,
            created_at: example_time(0),
        }
    }

    /// The user and the organization of a profile, and the user's roles there.
    pub fn of(profile: Profile) -> (Self, Option<Organization>, Vec<String>) {
        let Profile { user_id, email, name, user_type, email_verified, created_at, organization, roles } = profile;
        let user = Self { id: user_id, email, name, user_type, email_verified, created_at };
        let organization =
            organization.map(|of| Organization { id: of.id, slug: of.slug, name: of.name, role: of.role });
        (user, organization, roles)
    }
}

impl Organization {
    /// A made-up one.
    pub fn example() -> Self {
        Self {
            id: Uuid::from_u128(0x1b4e_28ba_2fa1_41d2_883f_0016_d3cc_a427),
            slug: "analytical-engines".into(),
            name: "Analytical Engines".into(),
            role: "ORGANIZATION_OWNER".into(),
        }
    }
}

/// A pair of tokens, and whose they are.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
pub struct AuthResponse {
    /// A JWT (RFC 9068); verify it with `/.well-known/jwks.json`, or just show it.
    pub access_token: String,
    #[oai(serialize_with = "iso8601")]
    pub access_token_expires_at: DateTime<Utc>,
    /// Opaque. Good for one refresh; keep it where scripts cannot read it.
    pub refresh_token: String,
    /// When the session ends unless it is refreshed before.
    #[oai(serialize_with = "iso8601")]
    pub refresh_token_expires_at: DateTime<Utc>,
    pub token_type: TokenType,
    /// Seconds until the access token expires.
    pub expires_in: i64,
    /// The same as `accessToken`, for older clients.
    pub token: String,
    pub user: User,
    /// When the session acts for one.
    #[oai(skip_serializing_if_is_none)]
    pub organization: Option<Organization>,
}

impl AuthResponse {
    fn new(pair: TokenPair, user: User, organization: Option<Organization>) -> Self {
        Self {
            token: pair.access_token.clone(),
            access_token: pair.access_token,
            access_token_expires_at: pair.access_token_expires_at,
            refresh_token: pair.refresh_token,
            refresh_token_expires_at: pair.refresh_token_expires_at,
            token_type: pair.token_type,
            expires_in: pair.expires_in,
            user,
            organization,
        }
    }
}

impl Example for AuthResponse {
    fn example() -> Self {
        Self::new(TokenPair::example(), User::example(), Some(Organization::example()))
    }
}

/// How many sessions a request ended.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
pub struct Revoked {
    /// 0 when there was nothing to end.
    pub revoked_sessions: u32,
}

impl Example for Revoked {
    fn example() -> Self {
        Self { revoked_sessions: 1 }
    }
}

/// Tokens for an open session: signs the one, encodes the other.
pub fn token_pair(app: &App, grant: &Grant, secret: &TokenSecret) -> Result<TokenPair, Problem> {
    let iat = grant.issued_at.timestamp();
    // Never longer than the database goes by it: a token that it refuses must not look valid.
    let seconds = (app.access_token_ttl.as_secs() as i64).min(grant.access_expires_at.timestamp() - iat);
    let claims = Claims {
        iss: app.access_tokens.issuer().into(),
        aud: app.access_tokens.audience().into(),
        sub: grant.profile.user_id,
        sid: grant.session_id,
        jti: grant.jti,
        iat,
        exp: iat + seconds,
        auth_time: grant.auth_time.timestamp(),
        amr: grant.amr.clone(),
        org: grant.profile.organization.as_ref().map(|organization| organization.id),
        roles: grant.profile.roles.clone(),
    };
    let access_token = app.access_tokens.sign(&claims).map_err(|error| {
        tracing::error!(%error, "the access token could not be signed");
        Problem::from(Code::InternalError)
    })?;
    Ok(TokenPair {
        access_token,
        access_token_expires_at: DateTime::from_timestamp(claims.exp, 0).unwrap_or(grant.issued_at),
        refresh_token: refresh_token::encode(&app.token_keys, grant.session_id, grant.generation, grant.ticket, secret),
        refresh_token_expires_at: grant.idle_expires_at.min(grant.expires_at),
        token_type: TokenType::Bearer,
        expires_in: seconds,
    })
}

/// The same, with whose they are.
pub fn auth_response(app: &App, grant: Grant, secret: &TokenSecret) -> Result<AuthResponse, Problem> {
    let pair = token_pair(app, &grant, secret)?;
    let (user, organization, _) = User::of(grant.profile);
    Ok(AuthResponse::new(pair, user, organization))
}
