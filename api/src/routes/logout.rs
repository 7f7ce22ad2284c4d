//! Logging out: of this session, or of all.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, types::Example};
use serde::Deserialize;

use super::{Tag, answers::Revoked};
use crate::{
    app::App,
    credential::{Credential, MaybeCredential},
    device::Caller,
    error::{BODY, CREDENTIAL, Code, DATABASE, Fail, Problem, refusals},
    field::{RefreshToken, Text},
    json::{Body, Json},
    refresh_token,
};

/// What to end.
#[derive(Object, Default, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LogoutRequest {
    /// The session of this token; when left out, that of the access token.
    refresh_token: Option<Text<RefreshToken>>,
    /// All sessions of the user.
    all: Option<bool>,
}

impl Body for LogoutRequest {
    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl Example for LogoutRequest {
    fn example() -> Self {
        let token = format!("{}{}", refresh_token::PREFIX, "A".repeat(118));
        Self { refresh_token: Some(token.into()), all: Some(false) }
    }
}

refusals!(LogoutRefusals: BODY, CREDENTIAL, DATABASE);
refusals!(LogoutAllRefusals: CREDENTIAL, DATABASE);

/// Logging out.
pub struct LogoutApi;

#[OpenApi(tag = "Tag::Sessions")]
impl LogoutApi {
    /// Log out
    ///
    /// By a refresh token in the body, or by access token. A refresh token that is not valid ends nothing, and that is
    /// no error: what the client wanted is so already (RFC 7009 §2.2).
    #[oai(path = "/api/auth/logout", method = "post", operation_id = "logOut")]
    async fn log_out(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: MaybeCredential,
        Json(body): Json<LogoutRequest>,
    ) -> Result<Json<Revoked>, Fail<LogoutRefusals>> {
        let all = body.all.unwrap_or(false);
        let revoked_sessions = match body.refresh_token {
            Some(token) => match refresh_token::decode(&app.token_keys, token.checked()?) {
                None => 0,
                Some(presented) if all => app.db.end_all_sessions(&presented, &caller).await?,
                Some(presented) => app.db.end_session(&presented, &caller).await?,
            },
            None if all => log_out_everywhere(&app, &credential.required()?, &caller).await?,
            None => {
                let ended = app.db.log_out(&credential.required()?, &caller.request_id).await?;
                ended.ok_or(Code::InvalidAccessToken)?
            }
        };
        Ok(Json(Revoked { revoked_sessions }))
    }

    /// Log out everywhere
    ///
    /// Ends all sessions of the user, this one too.
    #[oai(path = "/api/auth/logout-all", method = "post", operation_id = "logOutEverywhere")]
    async fn log_out_everywhere(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
    ) -> Result<Json<Revoked>, Fail<LogoutAllRefusals>> {
        let revoked_sessions = log_out_everywhere(&app, &credential, &caller).await?;
        Ok(Json(Revoked { revoked_sessions }))
    }
}

async fn log_out_everywhere(app: &App, credential: &Credential, caller: &Caller) -> Result<u32, Problem> {
    let ended = app.db.log_out_everywhere(credential, &caller.request_id).await?;
    ended.ok_or(Code::InvalidAccessToken.into())
}
