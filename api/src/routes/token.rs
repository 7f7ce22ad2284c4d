//! The token endpoint: one address for both grants, for clients that think in grants.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, Union};
use serde::Deserialize;

use super::{
    Tag,
    answers::TokenPair,
    delivery::{Delivery, token_pair},
    lifetimes::{SessionWishes, lifetimes},
    login::log_in,
    refresh::rotate,
};
use crate::{
    app::App,
    device::Caller,
    error::{BODY, Code, DATABASE, Fail, refusals},
    field::{LoginEmail, LoginPassword, RefreshToken, Text},
    json::{self, Body, Json},
    limits::Ticket,
    origin::OwnPage,
};

/// An e-mail and a password.
#[derive(Object, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PasswordGrant {
    email: Text<LoginEmail>,
    password: Text<LoginPassword>,
    /// False on a computer of others: the session ends sooner (`UNREMEMBERED_TTL_SECONDS`).
    remember_me: Option<bool>,
    #[serde(default, deserialize_with = "json::object")]
    session: Option<SessionWishes>,
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

refusals!(TokenRefusals: BODY, DATABASE, [Code::CrossSiteRequest, Code::InvalidCredentials, Code::InvalidRefreshToken, Code::RefreshOvertaken, Code::AccountLocked]);

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
        ticket: Ticket,
        _page: OwnPage,
        Json(body): Json<TokenRequest>,
    ) -> Result<Json<TokenPair>, Fail<TokenRefusals>> {
        let (grant, secret) = match body {
            TokenRequest::Password(login) => {
                let lifetimes = lifetimes(&app, login.remember_me, login.session, Delivery::Json)?;
                log_in(&app, &caller, &ticket, &login.email, &login.password, lifetimes).await?
            }
            TokenRequest::RefreshToken(refresh) => {
                app.limits.take_refresh(&caller)?;
                rotate(&app, &caller, refresh.refresh_token.checked()?, Delivery::Json).await?
            }
        };
        Ok(Json(token_pair(&app, &grant, &secret)?))
    }
}
