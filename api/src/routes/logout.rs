//! Logging out: of this session, or of all.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{Object, OpenApi, types::Example};
use serde::Deserialize;

use super::{
    Tag,
    answers::Revoked,
    delivery::{Delivered, without_cookies},
};
use crate::{
    app::App,
    credential::{Credential, MaybeCredential, RefreshCookie},
    device::Caller,
    error::{BODY, CREDENTIAL, CSRF, Code, DATABASE, Fail, Problem, SCOPE, SESSION, refusals},
    field::{ShownToken, Text},
    json::{Body, Json},
    refresh_token,
};

/// What to end.
#[derive(Object, Default, Deserialize)]
#[oai(rename_all = "camelCase", deny_unknown_fields, example)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LogoutRequest {
    /// The session of this token; when left out, that of the access token.
    refresh_token: Option<Text<ShownToken>>,
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

refusals!(LogoutRefusals: BODY, CREDENTIAL, SCOPE, SESSION, CSRF, DATABASE);
refusals!(LogoutAllRefusals: CREDENTIAL, SCOPE, CSRF, DATABASE);

/// Logging out.
pub struct LogoutApi;

#[OpenApi(tag = "Tag::Sessions")]
impl LogoutApi {
    /// Log out
    ///
    /// By a refresh token in the body, by access token, or by cookie; the cookies are taken back. A refresh token that is
    /// not valid ends nothing, and that is no error: what the client wanted is so already (RFC 7009 §2.2).
    #[oai(path = "/api/auth/logout", method = "post", operation_id = "logOut")]
    async fn log_out(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: MaybeCredential,
        cookie: RefreshCookie,
        Json(body): Json<LogoutRequest>,
    ) -> Result<Delivered<Revoked>, Fail<LogoutRefusals>> {
        let all = body.all.unwrap_or(false);
        let in_body = body.refresh_token.as_ref().map(Text::checked).transpose()?;
        let by_cookie = in_body.is_none() && !credential.by_header;
        let ended = match (in_body, credential.found, cookie.token) {
            (Some(token), ..) => end_by_refresh_token(&app, &caller, token, all).await,
            (None, Ok(who), _) if all => app.db.log_out_everywhere(&who, &caller).await,
            (None, Ok(who), _) => app.db.log_out(&who.session()?, &caller).await,
            // The access cookie has gone, or says nothing any more, and the refresh cookie is still there.
            (None, Err(_), Some(token)) if by_cookie => end_by_refresh_token(&app, &caller, &token?, all).await,
            (None, Err(problem), _) => Err(problem),
        };
        let revoked_sessions = match ended {
            // Cookies of a session that is over: they are taken back all the same.
            Err(problem) if by_cookie && problem.code() == Code::InvalidAccessToken => 0,
            ended => ended?,
        };
        let body = Revoked { revoked_sessions };
        Ok(if by_cookie { without_cookies(&app, body) } else { body.into() })
    }

    /// Log out everywhere
    ///
    /// Ends all sessions of the user, this one too. Scope of a personal access token: `sessions:write`.
    #[oai(path = "/api/auth/logout-all", method = "post", operation_id = "logOutEverywhere")]
    async fn log_out_everywhere(
        &self,
        app: Data<&Arc<App>>,
        caller: Caller,
        credential: Credential,
    ) -> Result<Delivered<Revoked>, Fail<LogoutAllRefusals>> {
        let by_cookie = credential.is_cookie();
        let body = Revoked { revoked_sessions: app.db.log_out_everywhere(&credential, &caller).await? };
        Ok(if by_cookie { without_cookies(&app, body) } else { body.into() })
    }
}

async fn end_by_refresh_token(app: &App, caller: &Caller, token: &str, all: bool) -> Result<u32, Problem> {
    match app.read_refresh_token(&app.token_keys(), token) {
        None => Ok(0),
        Some(shown) if all => app.db.end_all_sessions(&shown, caller).await,
        Some(shown) => app.db.end_session(&shown, caller).await,
    }
}
