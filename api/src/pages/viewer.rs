//! Who looks at a page: the session of the browser's cookies.

use std::sync::Arc;

use poem::{FromRequest, Request, RequestBody, Result, http::header};
use uuid::Uuid;

use super::view::path_in_query;
use crate::{
    app::App,
    cookies,
    credential::{Credential, SessionCredential},
    device::Caller,
    error::{Code, Problem},
    oidc::Federation,
};

/// Somebody who is signed in, as the database has just said: whoever extracts it, needs it. Without it, the browser is sent
/// to sign in and back again ([`super::refusal`]).
pub struct Viewer {
    /// For the functions of `db/` that take any credential.
    pub credential: Credential,
    /// For what is recorded.
    pub caller: Caller,
    /// What pages show of them.
    pub frame: Frame,
}

impl Viewer {
    async fn of(request: &Request, body: &mut RequestBody) -> Result<Self> {
        let app = request.data::<Arc<App>>().ok_or_else(|| Problem::from(Code::InternalError))?;
        // Pages are for browsers, and a browser has cookies.
        if request.headers().contains_key(header::AUTHORIZATION) {
            return Err(Problem::from(Code::AuthenticationRequired).into());
        }
        let caller = Caller::from_request(request, body).await?;
        let session = Credential::of(request, body).await?.session()?;
        let csrf_token = cookies::csrf_token(&app.token_keys(), session.session_id);
        let credential = Credential::Session(session);
        let me = app.db.me(&credential, &caller).await?;
        let profile = me.profile;
        let manages = |role: &String| role == "ORGANIZATION_OWNER" || role == "ORGANIZATION_ADMIN";
        let frame = Frame {
            csrf_token,
            user_id: profile.user_id,
            oversees: me.is_operator || profile.roles.iter().any(manages),
            name: profile.name,
            email: profile.email,
            is_verified: profile.email_verified,
            is_federated: app.federation.as_ref().is_some_and(Federation::comes_back_here),
            path: request.uri().path().to_owned(),
        };
        Ok(Self { credential, caller, frame })
    }

    /// For the functions of `db/` that take a session only.
    pub fn session(&self) -> Result<&SessionCredential, Problem> {
        match &self.credential {
            Credential::Session(session) => Ok(session),
            Credential::PersonalAccessToken(_) => Err(Code::SessionRequired.into()),
        }
    }
}

impl<'a> FromRequest<'a> for Viewer {
    async fn from_request(request: &'a Request, body: &mut RequestBody) -> Result<Self> {
        Self::of(request, body).await
    }
}

/// What every page shows around its own content: the templates that extend `pages/signed_in.html` have it as `frame`.
pub struct Frame {
    /// What scripts show when they change something.
    pub csrf_token: String,
    /// The user.
    pub user_id: Uuid,
    /// Whether there is a dashboard for them.
    pub oversees: bool,
    /// The user's name, which may be any text.
    pub name: String,
    /// The user's e-mail.
    pub email: String,
    /// Whether that was verified.
    pub is_verified: bool,
    /// Whether one can sign in at an identity provider, and come back to these pages.
    pub is_federated: bool,
    /// Where this is.
    path: String,
}

impl Frame {
    /// `page` for the link to where one is already: `aria-current`.
    pub fn current(&self, path: &str) -> &'static str {
        if self.path == path { "page" } else { "false" }
    }

    /// This page's path, as a value in a query.
    pub fn here(&self) -> String {
        path_in_query(&self.path)
    }
}
