//! Refusals, as pages: for whoever is not signed in (any more) one that tries the refresh cookie first, which only goes to
//! the API; for all others, one that says what is wrong.

use askama::Template;
use poem::{
    Request, Response,
    http::{HeaderValue, header},
};

use super::{POLICY, is_page, view::path_in_query};
use crate::error::{Code, Problem};

/// Where a page was asked for.
pub struct Asked {
    path: String,
}

impl Asked {
    /// None: no page was asked for.
    pub fn of(request: &Request) -> Option<Self> {
        let uri = request.uri();
        is_page(uri.path())
            .then(|| Self { path: uri.path_and_query().map_or_else(|| uri.path().to_owned(), ToString::to_string) })
    }

    /// The refusal as a page, with the status and headers that it has anyway.
    pub fn refuse(&self, problem: &Problem, request_id: &str) -> Response {
        let mut response = problem.response(request_id);
        let is_nobody = matches!(problem.code(), Code::AuthenticationRequired | Code::InvalidAccessToken);
        let page = if is_nobody {
            Resume { sign_in: format!("/sign-in?returnTo={}", path_in_query(&self.path)) }.render()
        } else {
            Refused { title: title(problem.code()), detail: problem.detail(), request_id }.render()
        };
        // Else the problem stays what it is.
        if let Ok(page) = page {
            let headers = response.headers_mut();
            for (name, value) in
                [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)]
            {
                headers.insert(name, HeaderValue::from_static(value));
            }
            response.set_body(page);
        }
        response
    }
}

/// For people.
fn title(code: Code) -> &'static str {
    match code.status().as_u16() {
        403 => "Not allowed",
        404 => "Nothing here",
        429 => "Too many requests",
        503 => "Not available at the moment",
        400..500 => "That did not work",
        _ => "Something went wrong",
    }
}

#[derive(Template)]
#[template(path = "pages/resume.html")]
struct Resume {
    sign_in: String,
}

#[derive(Template)]
#[template(path = "pages/refused.html")]
struct Refused<'a> {
    title: &'static str,
    detail: &'a str,
    request_id: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str) -> Asked {
        Asked::of(&Request::builder().uri(uri.parse().unwrap()).finish()).unwrap()
    }

    #[tokio::test]
    async fn who_is_not_signed_in_is_brought_back_after_it() {
        let problem = Problem::from(Code::AuthenticationRequired);
        let response = asked("/account/activity?show=refused&x=%22").refuse(&problem, "request-1");
        assert_eq!(response.status(), 401);
        assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
        let page = response.into_body().into_string().await.unwrap();
        assert!(page.contains("/sign-in?returnTo=%2Faccount%2Factivity%3Fshow%3Drefused%26x%3D%2522\""), "{page}");
    }

    #[tokio::test]
    async fn other_refusals_say_what_is_wrong() {
        let response = asked("/account/nowhere").refuse(&Code::NotFound.into(), "request-1");
        assert_eq!(response.status(), 404);
        assert_eq!(response.content_type(), Some("text/html; charset=utf-8"));
        let page = response.into_body().into_string().await.unwrap();
        assert!(page.contains("There is nothing here.") && page.contains("request-1"), "{page}");
    }
}
