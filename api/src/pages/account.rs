//! The account: what its user sees, and ends.

use std::sync::Arc;

use askama::Template;
use poem::{Response, Result, handler, web::Data};
use uuid::Uuid;

use super::{
    html,
    view::When,
    viewer::{Frame, Viewer},
};
use crate::{
    app::App,
    db::{ListedSession, ListedToken, Scope},
};

struct Device {
    id: Uuid,
    name: String,
    network: Option<String>,
    signed_in: When,
    last_used: When,
    ends: When,
    is_current: bool,
}

impl From<ListedSession> for Device {
    fn from(session: ListedSession) -> Self {
        Self {
            id: session.id,
            name: session.device_name.unwrap_or_else(|| "Unknown device".into()),
            network: session.network,
            signed_in: session.created_at.into(),
            last_used: session.last_used_at.into(),
            ends: session.expires_at.into(),
            is_current: session.is_current,
        }
    }
}

#[derive(Template)]
#[template(path = "pages/devices.html")]
struct Devices {
    frame: Frame,
    devices: Vec<Device>,
}

/// `GET /account`: where one is signed in.
#[handler]
pub async fn devices_page(Data(app): Data<&Arc<App>>, viewer: Viewer) -> Result<Response> {
    let sessions = app.db.list_sessions(&viewer.credential, &viewer.caller).await?;
    let devices = sessions.into_iter().map(Device::from).collect();
    Ok(html(&Devices { frame: viewer.frame, devices })?)
}

#[derive(Template)]
#[template(path = "pages/password.html")]
struct Password {
    frame: Frame,
    /// Somebody who signs in at a provider only has none.
    has_password: bool,
}

/// `GET /account/password`
#[handler]
pub async fn password_page(Data(app): Data<&Arc<App>>, viewer: Viewer) -> Result<Response> {
    let challenge = app.db.begin_step_up(viewer.session()?).await?;
    // While step-ups are locked, the database tells nothing of the password; only who has one can be locked.
    let has_password = challenge.password.is_some() || challenge.retry_after.is_some();
    Ok(html(&Password { frame: viewer.frame, has_password })?)
}

struct Token {
    id: Uuid,
    name: String,
    scopes: Vec<String>,
    made: When,
    ends: When,
    last_used: Option<When>,
}

#[derive(Template)]
#[template(path = "pages/tokens.html")]
struct Tokens {
    frame: Frame,
    tokens: Vec<Token>,
    /// What a token may be limited to, and what that means.
    scopes: Vec<(&'static str, &'static str)>,
}

/// `GET /account/tokens`: personal access tokens.
#[handler]
pub async fn tokens_page(Data(app): Data<&Arc<App>>, viewer: Viewer) -> Result<Response> {
    let tokens = app.db.list_personal_access_tokens(viewer.session()?).await?;
    let token = |token: ListedToken| Token {
        id: token.id,
        name: token.name,
        scopes: token.scopes,
        made: token.created_at.into(),
        ends: token.expires_at.into(),
        last_used: token.last_used_at.map(When::from),
    };
    let scopes = Scope::ALL.map(|scope| (scope.as_str(), meaning(scope)));
    let tokens = tokens.into_iter().map(token).collect();
    Ok(html(&Tokens { frame: viewer.frame, tokens, scopes: scopes.into() })?)
}

/// For people.
fn meaning(scope: Scope) -> &'static str {
    match scope {
        Scope::ProfileRead => "See who you are",
        Scope::SessionsRead => "See your devices",
        Scope::SessionsWrite => "Sign out your devices",
        Scope::OrganizationRead => "See your organization",
        Scope::OrganizationWrite => "Change your organization",
        Scope::SecurityEventsRead => "See your activity",
    }
}
