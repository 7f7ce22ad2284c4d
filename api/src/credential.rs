//! What a request shows to prove who it is. One place for all endpoints, whatever kind of credential: an access token as
//! bearer or in a cookie, or a personal access token as bearer.
//!
//! This is half of the answer: a token that is authentic here belongs to a session that the database may have ended.
//! Whoever acts on a credential goes through `db/acting.rs`, which asks.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem::{FromRequest, Request, RequestBody, Result, http::header};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use uuid::Uuid;

use crate::{
    access_token::Claims,
    app::App,
    cookies::{self, CSRF_HEADER},
    device::Caller,
    error::{Code, Problem},
    personal_access_token::{self, PersonalAccessToken},
};

const BEARER: &str = "bearer";
const COOKIE: &str = "cookie";

/// An authentic access token. No Debug: the jti is for its owner only.
pub struct SessionCredential {
    /// The session it belongs to.
    pub session_id: Uuid,
    /// The database's mark on it.
    pub jti: Uuid,
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// Whether it came in a cookie: then a new one goes into a cookie too.
    pub by_cookie: bool,
}

impl SessionCredential {
    fn of(claims: Claims, by_cookie: bool) -> Option<Self> {
        Some(Self {
            by_cookie,
            session_id: claims.sid,
            jti: claims.jti,
            issued_at: DateTime::from_timestamp(claims.iat, 0)?,
            expires_at: DateTime::from_timestamp(claims.exp, 0)?,
        })
    }
}

/// Whatever proves who is asking.
pub enum Credential {
    /// A session, which may do all that its user may.
    Session(SessionCredential),
    /// A program that a user gave a token to, limited to its scopes.
    PersonalAccessToken(PersonalAccessToken),
}

impl Credential {
    /// Whether it came in a cookie.
    pub fn is_cookie(&self) -> bool {
        matches!(self, Self::Session(session) if session.by_cookie)
    }

    /// The session, for what a program must not do in its user's name.
    pub fn session(self) -> Result<SessionCredential, Problem> {
        match self {
            Self::Session(session) => Ok(session),
            Self::PersonalAccessToken(_) => Err(Code::SessionRequired.into()),
        }
    }

    /// Of a request.
    pub async fn of(request: &Request, body: &mut RequestBody) -> Result<Self, Problem> {
        let app = request.data::<Arc<App>>().ok_or(Code::InternalError)?;
        // Who sends the header means it: there is no falling back to a cookie behind it.
        if let Some(value) = request.headers().get(header::AUTHORIZATION) {
            return Self::of_header(app, value.as_bytes()).ok_or(Code::InvalidAccessToken.into());
        }
        let Some(token) = cookies::read(request, cookies::ACCESS) else {
            return Err(Code::AuthenticationRequired.into());
        };
        let claims = app.access_tokens.verify(token).ok_or(Code::InvalidAccessToken)?;
        let session = SessionCredential::of(claims, true).ok_or(Code::InvalidAccessToken)?;
        if !request.method().is_safe()
            && let Err(problem) = check_csrf(app, request, session.session_id)
        {
            if problem.code() == Code::CsrfTokenInvalid
                && let Ok(caller) = <Caller as FromRequest>::from_request(request, body).await
            {
                app.db.report_invalid_csrf_token(&session, &caller).await?;
            }
            return Err(problem);
        }
        Ok(Self::Session(session))
    }

    fn of_header(app: &App, value: &[u8]) -> Option<Self> {
        // RFC 9110 §11.1: the scheme's letters have no case.
        let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        // The prefix decides what it can be, before anything is verified.
        let token = token.trim();
        if token.starts_with(personal_access_token::PREFIX) {
            PersonalAccessToken::decode(token).map(Self::PersonalAccessToken)
        } else {
            SessionCredential::of(app.access_tokens.verify(token)?, false).map(Self::Session)
        }
    }
}

/// The CSRF token that must come with a cookie of this session on a state-changing request.
fn check_csrf(app: &App, request: &Request, session_id: Uuid) -> Result<(), Problem> {
    match request.headers().get(CSRF_HEADER) {
        None => Err(Code::CsrfTokenMissing.into()),
        Some(shown) if cookies::csrf_token_fits(&app.token_keys(), session_id, shown) => Ok(()),
        Some(_) => Err(Code::CsrfTokenInvalid.into()),
    }
}

/// A credential where there may be another proof: refused only by who needs it.
pub struct MaybeCredential {
    /// The credential, or why there is none.
    pub found: Result<Credential, Problem>,
    /// Whether there is an `Authorization` header, good or bad: who sends one means it.
    pub by_header: bool,
}

impl MaybeCredential {
    async fn of(request: &Request, body: &mut RequestBody) -> Self {
        let by_header = request.headers().contains_key(header::AUTHORIZATION);
        Self { found: Credential::of(request, body).await, by_header }
    }
}

/// The refresh token of a cookie, if there is one, or why it must not be used; and whether the browser keeps it when it is
/// closed.
pub struct RefreshCookie {
    /// The token.
    pub token: Option<Result<String, Problem>>,
    /// Its successor is kept as long.
    pub remembered: bool,
}

impl<'a> FromRequest<'a> for RefreshCookie {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> Result<Self> {
        let app = request.data::<Arc<App>>().ok_or_else(|| Problem::from(Code::InternalError))?;
        let cookie = cookies::read_refresh(request, app.adopted_tokens.as_ref());
        let token = cookie.map(|(token, _)| {
            // What cannot be read is nobody's, and is refused by whoever uses it.
            if let Some(shown) = app.read_refresh_token(&app.token_keys(), token) {
                check_csrf(app, request, shown.csrf_subject())?;
            }
            Ok(token.to_owned())
        });
        Ok(Self { token, remembered: cookie.is_none_or(|(_, remembered)| remembered) })
    }
}

fn register_schemes(registry: &mut Registry) {
    let scheme = |ty, description| MetaSecurityScheme {
        ty,
        description: Some(description),
        name: None,
        key_in: None,
        scheme: None,
        bearer_format: None,
        flows: None,
        openid_connect_url: None,
    };
    let bearer = MetaSecurityScheme {
        scheme: Some("bearer"),
        bearer_format: Some("JWT"),
        ..scheme(
            "http",
            "The `accessToken` of a sign-up, login or refresh: a JWT (RFC 9068), good until it or its session ends. Where \
             an operation names a scope, a personal access token (`asp_…`) that has it will do.",
        )
    };
    let cookie = MetaSecurityScheme {
        name: Some(cookies::ACCESS),
        key_in: Some("cookie"),
        ..scheme(
            "apiKey",
            "The same access token in the cookie that `delivery: cookie` sets. Every request but GET also needs the header \
             `x-csrf-token`: see `/api/auth/csrf-token`.",
        )
    };
    registry.create_security_scheme(BEARER, bearer);
    registry.create_security_scheme(COOKIE, cookie);
}

macro_rules! extract_credential {
    ($name:ident, may_be_absent: $optional:literal, |$request:ident, $body:ident| $made:expr) => {
        impl<'a> ApiExtractor<'a> for $name {
            const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
            type ParamType = ();
            type ParamRawType = ();

            fn register(registry: &mut Registry) {
                register_schemes(registry);
            }

            fn security_schemes() -> Vec<&'static str> {
                vec![BEARER, COOKIE]
            }

            fn has_security_fallback() -> bool {
                $optional
            }

            async fn from_request(
                $request: &'a Request,
                $body: &mut RequestBody,
                _: ExtractParamOptions<()>,
            ) -> Result<Self> {
                Ok($made)
            }
        }
    };
}
extract_credential!(Credential, may_be_absent: false, |request, body| Credential::of(request, body).await?);
extract_credential!(SessionCredential, may_be_absent: false, |request, body| {
    Credential::of(request, body).await?.session()?
});
extract_credential!(MaybeCredential, may_be_absent: true, |request, body| Self::of(request, body).await);
