//! The shapes that several endpoints answer with.

use chrono::{DateTime, TimeDelta, Utc};
use poem_openapi::{Enum, Object, types::Example};
use uuid::Uuid;

use crate::{db::Profile, refresh_token};

/// A time in JSON: ISO 8601, UTC, milliseconds.
pub fn iso8601(time: &DateTime<Utc>) -> Option<serde_json::Value> {
    Some(time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true).into())
}

/// The same, where there may be none.
pub fn maybe_iso8601(time: &Option<DateTime<Utc>>) -> Option<serde_json::Value> {
    time.as_ref().and_then(iso8601)
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

/// A pair of tokens, and whose they are. Delivered by cookie, the tokens are not in it.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
pub struct AuthResponse {
    /// A JWT (RFC 9068); verify it with `/.well-known/jwks.json`, or just show it.
    #[oai(skip_serializing_if_is_none)]
    pub access_token: Option<String>,
    #[oai(serialize_with = "iso8601")]
    pub access_token_expires_at: DateTime<Utc>,
    /// Opaque. Good for one refresh; keep it where scripts cannot read it.
    #[oai(skip_serializing_if_is_none)]
    pub refresh_token: Option<String>,
    /// When the session ends unless it is refreshed before.
    #[oai(serialize_with = "iso8601")]
    pub refresh_token_expires_at: DateTime<Utc>,
    pub token_type: TokenType,
    /// Seconds until the access token expires.
    pub expires_in: i64,
    /// The same as `accessToken`, for older clients.
    #[oai(skip_serializing_if_is_none)]
    pub token: Option<String>,
    /// Delivered by cookie: what every request but GET shows in the header `x-csrf-token`.
    #[oai(skip_serializing_if_is_none)]
    pub csrf_token: Option<String>,
    pub user: User,
    /// When the session acts for one.
    #[oai(skip_serializing_if_is_none)]
    pub organization: Option<Organization>,
}

impl AuthResponse {
    /// With the tokens in it.
    pub fn new(pair: TokenPair, user: User, organization: Option<Organization>) -> Self {
        Self {
            token: Some(pair.access_token.clone()),
            access_token: Some(pair.access_token),
            access_token_expires_at: pair.access_token_expires_at,
            refresh_token: Some(pair.refresh_token),
            refresh_token_expires_at: pair.refresh_token_expires_at,
            token_type: pair.token_type,
            expires_in: pair.expires_in,
            csrf_token: None,
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

/// A new access token for a session that goes on. Delivered by cookie, the token is not in it.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
pub struct AccessTokenResponse {
    /// A JWT (RFC 9068).
    #[oai(skip_serializing_if_is_none)]
    pub access_token: Option<String>,
    #[oai(serialize_with = "iso8601")]
    pub access_token_expires_at: DateTime<Utc>,
    pub token_type: TokenType,
    /// Seconds until the access token expires.
    pub expires_in: i64,
}

impl Example for AccessTokenResponse {
    fn example() -> Self {
        let TokenPair { access_token, access_token_expires_at, token_type, expires_in, .. } = TokenPair::example();
        Self { access_token: Some(access_token), access_token_expires_at, token_type, expires_in }
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
