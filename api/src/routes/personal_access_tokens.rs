//! Personal access tokens: for programs that act for a user.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{Object, OpenApi, param::Path, types::Example};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Tag,
    answers::{example_time, iso8601, maybe_iso8601},
    delivery::Delivered,
};
use crate::{
    app::App,
    credential::SessionCredential,
    device::Caller,
    error::{BODY, CREDENTIAL, CSRF, Code, DATABASE, Fail, SESSION, refusals},
    field::{ScopeName, Text, TokenName},
    json::{Body, Json},
    personal_access_token::PersonalAccessToken,
};

/// The longest life of a token.
const MAX_DAYS: u32 = 365;

/// A token to make.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewTokenRequest {
    /// Which program will have it.
    name: Text<TokenName>,
    /// What it may do: `profile:read`, `sessions:read`, `sessions:write`, `organization:read`, `organization:write`,
    /// `security_events:read`, or words of your application's own.
    #[oai(validator(min_items = 1, max_items = 50))]
    scopes: Vec<Text<ScopeName>>,
    /// 1 to 365.
    #[oai(validator(minimum(value = "1"), maximum(value = "365")))]
    expires_in_days: u32,
}

impl Body for NewTokenRequest {}

impl Example for NewTokenRequest {
    fn example() -> Self {
        let text = |value: &str| value.to_owned();
        Self {
            name: text("nightly report").into(),
            scopes: vec![text("security_events:read").into(), text("reports:write").into()],
            expires_in_days: 90,
        }
    }
}

/// What is told of a token.
#[derive(Object)]
#[oai(rename_all = "camelCase")]
struct Token {
    id: Uuid,
    name: String,
    scopes: Vec<String>,
    #[oai(serialize_with = "iso8601")]
    created_at: DateTime<Utc>,
    #[oai(serialize_with = "iso8601")]
    expires_at: DateTime<Utc>,
    /// To the minute; absent when it was never used.
    #[oai(skip_serializing_if_is_none, serialize_with = "maybe_iso8601")]
    last_used_at: Option<DateTime<Utc>>,
}

impl Example for Token {
    fn example() -> Self {
        Self {
            id: Uuid::from_u128(0x5f0c_1a2b_3c4d_4e5f_8a9b_0c1d_2e3f_4a5b),
            name: "nightly report".into(),
            scopes: vec!["security_events:read".into(), "reports:write".into()],
            created_at: example_time(0),
            expires_at: example_time(90 * 86_400),
            last_used_at: Some(example_time(3600)),
        }
    }
}

/// A new token. It is shown here, and never again.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct NewTokenResponse {
    /// `Authorization: Bearer asp_…`
    token: String,
    personal_access_token: Token,
}

impl Example for NewTokenResponse {
    fn example() -> Self {
        let token = format!("asp_{}", "A".repeat(64));
        Self { token, personal_access_token: Token { last_used_at: None, ..Token::example() } }
    }
}

/// The live tokens, the newest first.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct TokenList {
    personal_access_tokens: Vec<Token>,
}

impl Example for TokenList {
    fn example() -> Self {
        Self { personal_access_tokens: vec![Token::example()] }
    }
}

/// Whether a token was ended.
#[derive(Object)]
#[oai(rename_all = "camelCase", example)]
struct RevokedToken {
    /// Always 1: a token that is not there is a 404.
    revoked_tokens: u32,
}

impl Example for RevokedToken {
    fn example() -> Self {
        Self { revoked_tokens: 1 }
    }
}

refusals!(ListRefusals: CREDENTIAL, SESSION, DATABASE);
refusals!(CreateRefusals: BODY, CREDENTIAL, SESSION, CSRF, DATABASE, [
    Code::StepUpRequired, Code::EmailNotVerified, Code::TooManyTokens, Code::InvalidName, Code::InvalidScope,
]);
refusals!(RevokeRefusals: CREDENTIAL, SESSION, CSRF, DATABASE, [Code::BadRequest, Code::TokenNotFound]);

/// Personal access tokens.
pub struct PersonalAccessTokensApi;

#[OpenApi(tag = "Tag::Account")]
impl PersonalAccessTokensApi {
    /// List my personal access tokens
    #[oai(path = "/api/auth/personal-access-tokens", method = "get", operation_id = "listPersonalAccessTokens")]
    async fn list(
        &self,
        app: Data<&Arc<App>>,
        credential: SessionCredential,
    ) -> Result<Json<TokenList>, Fail<ListRefusals>> {
        let tokens = app.db.list_personal_access_tokens(&credential).await?;
        let tokens = tokens.into_iter().map(|token| Token {
            id: token.id,
            name: token.name,
            scopes: token.scopes,
            created_at: token.created_at,
            expires_at: token.expires_at,
            last_used_at: token.last_used_at,
        });
        Ok(Json(TokenList { personal_access_tokens: tokens.collect() }))
    }

    /// Make a personal access token
    ///
    /// Needs a session with a recent authentication, and a verified e-mail. The token acts for the session's user and
    /// active organization, within its scopes; it ends with a change of password, or with the membership.
    #[oai(path = "/api/auth/personal-access-tokens", method = "post", operation_id = "createPersonalAccessToken")]
    async fn create(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        Json(body): Json<NewTokenRequest>,
    ) -> Result<Delivered<NewTokenResponse, 201>, Fail<CreateRefusals>> {
        let name = body.name.checked()?;
        let mut scopes = Vec::new();
        for scope in &body.scopes {
            scopes.push(scope.checked()?.to_owned());
        }
        scopes.sort();
        scopes.dedup();
        if scopes.is_empty() || scopes.len() > 50 {
            return Err(Code::InvalidScope.into());
        }
        if !(1..=MAX_DAYS).contains(&body.expires_in_days) {
            return Err((Code::InvalidRequest, "expiresInDays must be between 1 and 365.").into());
        }
        let seconds = f64::from(body.expires_in_days) * 86_400.0;
        let token = PersonalAccessToken::random();
        let made = app.db.create_personal_access_token(&credential, &token, name, &scopes, seconds, &caller).await?;
        let (id, created_at, expires_at) = made;
        let personal_access_token =
            Token { id, name: name.to_owned(), scopes, created_at, expires_at, last_used_at: None };
        Ok(NewTokenResponse { token: token.encode(), personal_access_token }.into())
    }

    /// Revoke a personal access token
    #[oai(path = "/api/auth/personal-access-tokens/:id", method = "delete", operation_id = "revokePersonalAccessToken")]
    async fn revoke(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: SessionCredential,
        id: Path<Uuid>,
    ) -> Result<Json<RevokedToken>, Fail<RevokeRefusals>> {
        match app.db.revoke_personal_access_token(&credential, id.0, &caller).await? {
            true => Ok(Json(RevokedToken { revoked_tokens: 1 })),
            false => Err(Code::TokenNotFound.into()),
        }
    }
}
