//! The token endpoint: one address for both grants, for clients that think in grants.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, Union};
use serde::Deserialize;

use super::{Tag, answers::TokenPair, delivery::token_pair, login::log_in, refresh::rotate};
use crate::{
    app::App,
    device::Caller,
    error::{BODY, Code, DATABASE, Fail, refusals},
    field::{LoginEmail, LoginPassword, RefreshToken, Text},
    json::{Body, Json},
    origin::OwnPage,
};

/// An e-mail and a password.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PasswordGrant {
    email: Text<LoginEmail>,
    password: Text<LoginPassword>,
}

/// A refresh token.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RefreshTokenGrant {
    refresh_token: Text<RefreshToken>,
}

/// What is traded for a pair of tokens; `grantType` tells which.
#[derive(Union, Deserialize)]
#[oai(discriminator_name = "grantType", one_of)]
#[serde(tag = "grantType")]
enum TokenRequest {
    #[oai(mapping = "password")]
    #[serde(rename = "password")]
    Password(PasswordGrant),
    #[oai(mapping = "refresh_token")]
    #[serde(rename = "refresh_token")]
    RefreshToken(RefreshTokenGrant),
}

impl Body for TokenRequest {}

refusals!(TokenRefusals: BODY, DATABASE, [Code::CrossSiteRequest, Code::InvalidCredentials, Code::InvalidRefreshToken, Code::AccountLocked]);

/// Tokens by grant.
pub struct TokenApi;

#[OpenApi(tag = "Tag::Sessions")]
impl TokenApi {
    /// Get tokens
    ///
    /// The same as logging in, or refreshing, without the profile.
    #[oai(path = "/api/auth/token", method = "post", operation_id = "getTokens")]
    async fn get_tokens(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        _page: OwnPage,
        Json(body): Json<TokenRequest>,
    ) -> Result<Json<TokenPair>, Fail<TokenRefusals>> {
        let (grant, secret) = match body {
            TokenRequest::Password(login) => log_in(&app, &caller, &login.email, &login.password).await?,
            TokenRequest::RefreshToken(refresh) => rotate(&app, &caller, refresh.refresh_token.checked()?).await?,
        };
        Ok(Json(token_pair(&app, &grant, &secret)?))
    }
}
