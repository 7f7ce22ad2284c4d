//! The page to sign in with a password, or to go to the identity provider from.

use std::sync::Arc;

use askama::Template;
use poem::{
    Response, Result, handler,
    web::{Data, Query},
};
use serde::Deserialize;

use super::{html, see_other, view::path_in_query, viewer::Viewer};
use crate::{app::App, oidc};

/// Where one is brought to who came here by themself.
const HOME: &str = "/account";

#[derive(Deserialize)]
struct Asked {
    /// A path of this site to go to afterwards.
    #[serde(rename = "returnTo")]
    return_to: Option<String>,
    /// What a login at the provider came to: a code of `/api/auth/oidc/callback`.
    error: Option<String>,
}

#[derive(Template)]
#[template(path = "pages/sign_in.html")]
struct SignIn<'a> {
    return_to: &'a str,
    /// The link to the identity provider, where there is one.
    provider: Option<String>,
    error: Option<&'static str>,
}

/// `GET /sign-in?returnTo=PATH`
#[handler]
pub async fn sign_in_page(
    Data(app): Data<&Arc<App>>,
    Query(asked): Query<Asked>,
    viewer: Result<Viewer>,
) -> Result<Response> {
    // Another site cannot make us send somebody there: only a path of ours is gone back to.
    let return_to = asked.return_to.as_deref().filter(|path| oidc::is_path(path)).unwrap_or(HOME);
    if viewer.is_ok() {
        return Ok(see_other(return_to));
    }
    let has_provider = app.federation.as_ref().is_some_and(oidc::Federation::comes_back_here);
    let provider = has_provider.then(|| format!("/api/auth/oidc/start?returnTo={}", path_in_query(return_to)));
    Ok(html(&SignIn { return_to, provider, error: asked.error.as_deref().map(sentence) })?)
}

/// For people; a code that is not known is not repeated.
fn sentence(code: &str) -> &'static str {
    match code {
        "login_denied" => "The provider did not let you sign in.",
        "email_not_linkable" => "There is an account with your e-mail that cannot be linked. Reset its password first.",
        "invalid_login_state" => "This took too long, or was begun in another browser. Try again.",
        _ => "Signing in at the provider did not work. Try again.",
    }
}
