//! What people look at: pages made here, on the server, by askama (`templates/pages`), which escapes whatever is put into
//! them.
//!
//! A page *reads* through the same functions as the API, in the name of the session in the browser's cookies. It *changes*
//! nothing itself: there are no routes here but GET. Its forms name an operation of the API (`data-api="DELETE
//! /api/auth/sessions/…"`), and `assets/pages.js` calls that, with the CSRF token, as any other page would. So rights, limits,
//! step-up and audit are those of the API, and there is no second way to anything.
//!
//! | module | |
//! |---|---|
//! | [`viewer`] | who looks: the session of the cookies, and what every page shows of it |
//! | [`refusal`] | refusals, as pages |
//! | [`assets`] | style sheet and scripts |
//! | [`view`] | how times and the like are written |
//! | `sign_in`, `account`, … | the pages |

mod account;
mod activity;
pub mod assets;
mod dashboard;
pub mod refusal;
mod sign_in;
pub mod view;
pub mod viewer;

use askama::Template;
use poem::{
    Response, Route, get,
    http::{StatusCode, header},
};

pub use self::dashboard::live::Live;
use crate::error::{Code, Problem};

/// Nothing but our own files, nothing inline, no frames, and forms that go nowhere else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The routes of all pages.
pub fn routes(route: Route) -> Route {
    dashboard::routes(route)
        .at("/assets/:name", get(assets::serve))
        .at("/sign-in", get(sign_in::sign_in_page))
        .at("/account", get(account::devices_page))
        .at("/account/activity", get(activity::activity_page))
        .at("/account/password", get(account::password_page))
        .at("/account/tokens", get(account::tokens_page))
}

/// The name of the page at a path, as operations of the API have one: for the log, for metrics.
pub fn operation(path: &str) -> Option<&'static str> {
    Some(match path {
        "/sign-in" => "signInPage",
        "/account" => "accountPage",
        "/account/activity" => "activityPage",
        "/account/password" => "passwordPage",
        "/account/tokens" => "tokensPage",
        path if path.starts_with("/assets/") => "asset",
        path => return dashboard::operation(path),
    })
}

/// Whether what is asked for is a page, so that a refusal is one, too.
fn is_page(path: &str) -> bool {
    ["/sign-in", "/account", "/dashboard"]
        .iter()
        .any(|page| path.strip_prefix(page).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// A page, as an answer.
pub fn html(template: &impl Template) -> Result<Response, Problem> {
    let page = template.render().map_err(|error| {
        tracing::error!(%error, "a page could not be made");
        Problem::from(Code::InternalError)
    })?;
    Ok(Response::builder()
        .content_type("text/html; charset=utf-8")
        .header(header::CONTENT_SECURITY_POLICY, POLICY)
        .body(page))
}

/// The browser goes elsewhere on this site.
fn see_other(path: &str) -> Response {
    Response::builder().status(StatusCode::SEE_OTHER).header(header::LOCATION, path).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_are_refused_as_pages() {
        for path in ["/sign-in", "/account", "/account/tokens", "/dashboard/nothing/here"] {
            assert!(is_page(path), "{path}");
        }
        for path in ["/", "/accounts", "/api/auth/me", "/assets/pages.css", "/sign-in.php"] {
            assert!(!is_page(path), "{path}");
        }
    }
}
