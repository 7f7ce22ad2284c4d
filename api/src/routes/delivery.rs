//! How tokens get to the client: signed and encoded from an open session, in the body or in cookies.

use chrono::{DateTime, Utc};
use poem::{IntoResponse, Response, http::StatusCode};
use poem_openapi::{
    ApiResponse, Enum,
    registry::{MetaHeader, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::ToJSON,
};
use serde::Deserialize;

use super::answers::{AccessTokenResponse, AuthResponse, TokenPair, TokenType, User};
use crate::{
    access_token::Claims,
    app::App,
    cookies,
    db::{AccessGrant, Grant},
    error::{Code, Problem},
    json::Json,
    refresh_token::{self, TokenSecret},
};

/// How tokens get to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Enum, Deserialize)]
#[oai(rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// In the body: for programs, which keep them where no page's script reaches.
    #[default]
    Json,
    /// In HttpOnly cookies, and not in the body: for pages.
    Cookie,
}

type SetCookies = Box<dyn FnOnce(&mut Response) + Send>;

/// An answer with tokens, in its body or in cookies beside it.
pub struct Delivered<T, const STATUS: u16 = 200> {
    body: T,
    cookies: Option<SetCookies>,
}

impl<T, const STATUS: u16> Delivered<T, STATUS> {
    /// The cookies without the body, beside another answer.
    pub fn set_cookies(self, response: &mut Response) {
        if let Some(set) = self.cookies {
            set(response);
        }
    }
}

impl<T: ToJSON, const STATUS: u16> IntoResponse for Delivered<T, STATUS> {
    fn into_response(self) -> Response {
        let mut response = Json(self.body).into_response();
        response.set_status(StatusCode::from_u16(STATUS).unwrap_or_default());
        if let Some(set) = self.cookies {
            set(&mut response);
        }
        response
    }
}

impl<T: ToJSON, const STATUS: u16> ApiResponse for Delivered<T, STATUS> {
    fn meta() -> MetaResponses {
        let mut meta = Json::<T>::meta();
        for response in &mut meta.responses {
            response.status = Some(STATUS);
            response.headers.push(MetaHeader {
                name: "Set-Cookie".into(),
                description: Some("The tokens, when delivered by cookie".into()),
                required: false,
                deprecated: false,
                schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new("string"))),
            });
        }
        meta
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// A signed access token.
struct AccessToken {
    token: String,
    expires_at: DateTime<Utc>,
    seconds: i64,
}

fn access_token(app: &App, grant: &AccessGrant) -> Result<AccessToken, Problem> {
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
    let token = app.access_tokens.sign(&claims).map_err(|error| {
        tracing::error!(%error, "the access token could not be signed");
        Problem::from(Code::InternalError)
    })?;
    Ok(AccessToken { token, expires_at: DateTime::from_timestamp(claims.exp, 0).unwrap_or(grant.issued_at), seconds })
}

/// Tokens for an open session: signs the one, encodes the other.
pub fn token_pair(app: &App, grant: &Grant, secret: &TokenSecret) -> Result<TokenPair, Problem> {
    let access = access_token(app, &grant.access)?;
    let session_id = grant.access.session_id;
    Ok(TokenPair {
        access_token: access.token,
        access_token_expires_at: access.expires_at,
        refresh_token: refresh_token::encode(&app.token_keys(), session_id, grant.generation, grant.ticket, secret),
        refresh_token_expires_at: grant.idle_expires_at.min(grant.expires_at),
        token_type: TokenType::Bearer,
        expires_in: access.seconds,
    })
}

/// The same, with whose they are, on the way that the client wants; in cookies, kept as long as the session (`remembered`),
/// or as long as the browser is open.
pub fn deliver<const STATUS: u16>(
    app: &App,
    grant: Grant,
    secret: &TokenSecret,
    delivery: Delivery,
    remembered: bool,
) -> Result<Delivered<AuthResponse, STATUS>, Problem> {
    let pair = token_pair(app, &grant, secret)?;
    let session_id = grant.access.session_id;
    let (user, organization, _) = User::of(grant.access.profile);
    let mut body = AuthResponse::new(pair, user, organization);
    if delivery == Delivery::Json {
        return Ok(Delivered { body, cookies: None });
    }
    body.csrf_token = Some(cookies::csrf_token(&app.token_keys(), session_id));
    body.token = None;
    let (access, refresh) = (body.access_token.take(), body.refresh_token.take());
    let (access_ends, refresh_ends) = (body.access_token_expires_at, body.refresh_token_expires_at);
    let policy = app.cookies;
    let set = move |response: &mut Response| {
        policy.set_access(response, &access.unwrap_or_default(), access_ends);
        policy.set_refresh(response, &refresh.unwrap_or_default(), refresh_ends, remembered);
    };
    Ok(Delivered { body, cookies: Some(Box::new(set)) })
}

/// A new access token, on the way that the old one came.
pub fn deliver_access(
    app: &App,
    grant: &AccessGrant,
    delivery: Delivery,
) -> Result<Delivered<AccessTokenResponse>, Problem> {
    let AccessToken { token, expires_at, seconds } = access_token(app, grant)?;
    let body = |access_token| AccessTokenResponse {
        access_token,
        access_token_expires_at: expires_at,
        token_type: TokenType::Bearer,
        expires_in: seconds,
    };
    if delivery == Delivery::Json {
        return Ok(Delivered { body: body(Some(token)), cookies: None });
    }
    let policy = app.cookies;
    let set = move |response: &mut Response| policy.set_access(response, &token, expires_at);
    Ok(Delivered { body: body(None), cookies: Some(Box::new(set)) })
}

/// The cookies are taken back beside this answer.
pub fn without_cookies<T>(app: &App, body: T) -> Delivered<T> {
    let policy = app.cookies;
    Delivered { body, cookies: Some(Box::new(move |response| policy.clear(response))) }
}

impl<T, const STATUS: u16> From<T> for Delivered<T, STATUS> {
    fn from(body: T) -> Self {
        Self { body, cookies: None }
    }
}
