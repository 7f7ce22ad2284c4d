//! Introspection (RFC 7662) and revocation (RFC 7009): what confidential clients ask about tokens that they were shown.
//!
//! A token that is good for nothing, for whatever reason, has one answer. Neither endpoint takes the word of anybody:
//! the database checks the client's proof and the token's.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, types::Example};
use serde::Deserialize;
use uuid::Uuid;

use super::Tag;
use crate::{
    app::App,
    client_authentication::ClientHeader,
    db::{ActiveToken, AnyToken},
    device::Caller,
    error::{DATABASE, FORM, Fail, refusals},
    field::{self, ClientSecret, Text},
    form::Form,
    json::Json,
    keys::TokenKeys,
    personal_access_token::{self, PersonalAccessToken},
    refresh_token,
};

/// The paths whose refusals carry the `error` of RFC 6749 too.
pub const PATHS: [&str; 2] = ["/api/auth/introspect", "/api/auth/revoke"];

/// A token, and who asks about it.
#[derive(Object, Deserialize)]
#[oai(example)]
struct TokenForm {
    token: Text<field::AnyToken>,
    /// `access_token` or `refresh_token`; no more than a hint, and not needed: a token tells what it is.
    #[oai(skip_serializing_if_is_none)]
    token_type_hint: Option<String>,
    /// Unless HTTP Basic is used.
    #[oai(skip_serializing_if_is_none)]
    client_id: Option<String>,
    /// Unless HTTP Basic is used.
    #[oai(skip_serializing_if_is_none)]
    client_secret: Option<Text<ClientSecret>>,
}

impl Example for TokenForm {
    fn example() -> Self {
        Self {
            token: format!("{}{}", refresh_token::PREFIX, "A".repeat(118)).into(),
            token_type_hint: Some("refresh_token".into()),
            client_id: None,
            client_secret: None,
        }
    }
}

/// What a token stands for now (RFC 7662 §2.2). When it stands for nothing: `active`, false, and nothing else.
#[derive(Object, Default)]
#[oai(example)]
struct Introspection {
    /// Whether it is good for something at this moment. A refresh token: whether a refresh would be granted.
    active: bool,
    /// `access_token`, `refresh_token` or `personal_access_token`. A refresh token must not be taken for a call of your
    /// API: look at this.
    #[oai(skip_serializing_if_is_none)]
    token_use: Option<String>,
    /// `Bearer`; of what may be used so, hence not of a refresh token.
    #[oai(skip_serializing_if_is_none)]
    token_type: Option<String>,
    /// Separated by blanks; `*`: of a session, which is not limited.
    #[oai(skip_serializing_if_is_none)]
    scope: Option<String>,
    /// The user's e-mail.
    #[oai(skip_serializing_if_is_none)]
    username: Option<String>,
    /// The user.
    #[oai(skip_serializing_if_is_none)]
    sub: Option<Uuid>,
    #[oai(skip_serializing_if_is_none)]
    iss: Option<String>,
    #[oai(skip_serializing_if_is_none)]
    aud: Option<String>,
    /// When it was issued, in seconds since 1970; not known of a refresh token that was just exchanged.
    #[oai(skip_serializing_if_is_none)]
    iat: Option<i64>,
    /// The same as `iat`.
    #[oai(skip_serializing_if_is_none)]
    nbf: Option<i64>,
    /// When it ends at the latest; the end of its session, if that comes first.
    #[oai(skip_serializing_if_is_none)]
    exp: Option<i64>,
    /// The mark of an access token, or the id of a personal access token.
    #[oai(skip_serializing_if_is_none)]
    jti: Option<Uuid>,
    /// The session, where there is one.
    #[oai(skip_serializing_if_is_none)]
    sid: Option<Uuid>,
    /// When the user last proved who they are.
    #[oai(skip_serializing_if_is_none)]
    auth_time: Option<i64>,
    /// How (RFC 8176).
    #[oai(skip_serializing_if_is_none)]
    amr: Option<Vec<String>>,
    /// The organization that it acts for now.
    #[oai(skip_serializing_if_is_none)]
    org: Option<Uuid>,
    /// The user's roles there, now: one that was taken away is gone.
    #[oai(skip_serializing_if_is_none)]
    roles: Option<Vec<String>>,
}

impl Example for Introspection {
    fn example() -> Self {
        Self {
            active: true,
            token_use: Some("access_token".into()),
            token_type: Some("Bearer".into()),
            scope: Some("*".into()),
            username: Some("ada@example.org".into()),
            sub: Some(Uuid::from_u128(0x7d0c_6d50_1f0e_4a6e_9a1d_2b3c_4d5e_6f70)),
            iss: Some("https://auth.example.org".into()),
            aud: Some("auth_sessions".into()),
            iat: Some(1_767_225_600),
            nbf: Some(1_767_225_600),
            exp: Some(1_767_226_500),
            jti: Some(Uuid::from_u128(0x0000_0003_6955_b900_8000_3f40_5162_7384)),
            sid: Some(Uuid::from_u128(0x0f7a_3c52_6d1e_4b8f_a0c9_1d2e_3f40_5162)),
            auth_time: Some(1_767_225_600),
            amr: Some(vec!["pwd".into()]),
            org: Some(Uuid::from_u128(0x1b4e_28ba_2fa1_41d2_883f_0016_d3cc_a427)),
            roles: Some(vec!["ORGANIZATION_OWNER".into()]),
        }
    }
}

impl Introspection {
    fn of(app: &App, token: &AnyToken<'_>, active: ActiveToken) -> Self {
        let expires_at = active.expires_at.timestamp();
        let (iat, exp) = match token {
            // The token's own times, but no longer than the database goes by it.
            AnyToken::Access(claims) => (Some(claims.iat), expires_at.min(claims.exp)),
            _ => (active.issued_at.map(|time| time.timestamp()), expires_at),
        };
        Self {
            active: true,
            token_type: (active.token_use != "refresh_token").then(|| "Bearer".into()),
            token_use: Some(active.token_use),
            scope: Some(active.scopes.join(" ")),
            username: Some(active.email),
            sub: Some(active.user_id),
            iss: Some(app.access_tokens.issuer().into()),
            aud: Some(app.access_tokens.audience().into()),
            iat,
            nbf: iat,
            exp: Some(exp),
            jti: active.id,
            sid: active.session_id,
            auth_time: active.auth_time.map(|time| time.timestamp()),
            amr: active.amr,
            org: active.organization_id,
            roles: Some(active.roles),
        }
    }
}

/// Nothing: the status says it all (RFC 7009 §2.2).
#[derive(Object)]
#[oai(example)]
struct Done {}

impl Example for Done {
    fn example() -> Self {
        Self {}
    }
}

/// What a token can be by its form and our signature. Its prefix decides, so that the hint has nothing to hint at.
fn read<'k>(app: &App, keys: &'k TokenKeys, token: &str) -> AnyToken<'k> {
    if token.starts_with(refresh_token::PREFIX) {
        refresh_token::decode(keys, token).map_or(AnyToken::Unknown, AnyToken::Refresh)
    } else if token.starts_with(personal_access_token::PREFIX) {
        PersonalAccessToken::decode(token).map_or(AnyToken::Unknown, AnyToken::Personal)
    } else {
        app.access_tokens.verify(token).map_or(AnyToken::Unknown, AnyToken::Access)
    }
}

refusals!(IntrospectRefusals: FORM, DATABASE);
refusals!(RevokeRefusals: FORM, DATABASE);

/// Introspection and revocation.
pub struct IntrospectionApi;

#[OpenApi(tag = "Tag::Clients")]
impl IntrospectionApi {
    /// Introspect a token (RFC 7662)
    ///
    /// For confidential clients, `auth-api clients create` makes them. Says what the token stands for at this moment:
    /// a session that ended a moment ago is not active, whatever its token says. Asking changes nothing: not even an
    /// old refresh token is a replay here. Refusals carry the `error` of RFC 6749 §5.2 beside `code`.
    #[oai(path = "/api/auth/introspect", method = "post", operation_id = "introspectToken")]
    async fn introspect(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        client: ClientHeader,
        Form(form): Form<TokenForm>,
    ) -> Result<Json<Introspection>, Fail<IntrospectRefusals>> {
        let client = client.client(form.client_id, form.client_secret)?;
        let keys = app.token_keys();
        let token = read(&app, &keys, form.token.checked()?);
        let active = app.db.introspect_token(&client, &token, &caller).await?;
        Ok(Json(active.map_or_else(Introspection::default, |active| Introspection::of(&app, &token, active))))
    }

    /// Revoke a token (RFC 7009)
    ///
    /// A refresh token, of any age, or an access token: its session ends, and with it all its tokens. A personal access
    /// token: it ends. So every kind of token can be revoked here, and there is no `unsupported_token_type`. A token that is
    /// not valid is answered alike, for what the client wanted is so already. Refusals carry the `error` of RFC 6749
    /// §5.2 beside `code`.
    #[oai(path = "/api/auth/revoke", method = "post", operation_id = "revokeToken")]
    async fn revoke(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        client: ClientHeader,
        Form(form): Form<TokenForm>,
    ) -> Result<Json<Done>, Fail<RevokeRefusals>> {
        let client = client.client(form.client_id, form.client_secret)?;
        let keys = app.token_keys();
        let token = read(&app, &keys, form.token.checked()?);
        let ended = app.db.revoke_token(&client, &token, &caller).await?;
        tracing::info!(client_id = client.id, ended, "a client revoked a token");
        Ok(Json(Done {}))
    }
}
