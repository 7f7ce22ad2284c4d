//! The token endpoint: one address for both grants, for clients that think in grants.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{OpenApi, Union};
use serde::Deserialize;

use super::{
    Tag,
    answers::{TokenPair, token_pair},
    login::{LoginRequest, log_in},
    refresh::{RefreshRequest, rotate},
};
use crate::{
    app::App,
    device::Caller,
    error::{BODY, Code, DATABASE, Fail, refusals},
    json::{Body, Json},
};

/// What is traded for a pair of tokens; `grantType` tells which.
#[derive(Union, Deserialize)]
#[oai(discriminator_name = "grantType", one_of)]
#[serde(tag = "grantType")]
enum TokenRequest {
    #[oai(mapping = "password")]
    #[serde(rename = "password")]
    Password(LoginRequest),
    #[oai(mapping = "refresh_token")]
    #[serde(rename = "refresh_token")]
    RefreshToken(RefreshRequest),
}

impl Body for TokenRequest {}

refusals!(TokenRefusals: BODY, DATABASE, [Code::InvalidCredentials, Code::InvalidRefreshToken, Code::AccountLocked]);

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
        Json(body): Json<TokenRequest>,
    ) -> Result<Json<TokenPair>, Fail<TokenRefusals>> {
        let (grant, secret) = match body {
            TokenRequest::Password(login) => log_in(&app, &caller, &login).await?,
            TokenRequest::RefreshToken(refresh) => rotate(&app, &caller, &refresh).await?,
        };
        Ok(Json(token_pair(&app, &grant, &secret)?))
    }
}
