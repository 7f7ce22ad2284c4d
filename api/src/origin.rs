//! Which pages may call this service from a browser: its own, and those of `CORS_ORIGINS`.

use std::{fmt, str::FromStr, sync::Arc};

use poem::{
    Endpoint, FromRequest, Middleware, Request, RequestBody, Response, Result,
    http::{HeaderMap, Method, header},
    middleware::{Cors, CorsEndpoint},
};
use url::Url;

use crate::{
    app::{App, REQUEST_ID},
    cookies::CSRF_HEADER,
    error::{Code, Problem},
};

/// The origins of `CORS_ORIGINS`, as browsers spell them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origins(Vec<String>);

impl FromStr for Origins {
    type Err = OriginError;

    /// Reads a comma-separated list; nothing is no origin.
    fn from_str(text: &str) -> Result<Self, OriginError> {
        let named = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
        let origin = |text: &str| {
            let origin = Url::parse(text).ok().map(|url| url.origin().ascii_serialization());
            origin.filter(|origin| origin == text).ok_or_else(|| OriginError(text.to_owned()))
        };
        Ok(Self(named.map(origin).collect::<Result<_, _>>()?))
    }
}

impl Origins {
    /// Whether a request comes from a page of one of them.
    pub fn name_of<'r>(&self, headers: &'r HeaderMap) -> Option<&'r str> {
        let origin = headers.get(header::ORIGIN)?.to_str().ok()?;
        self.0.iter().any(|named| named == origin).then_some(origin)
    }

    /// Whether a request that opens a session may be what a page started (login CSRF, OWASP). Programs send neither of
    /// the two headers, and may; a browser always sends one.
    fn allow(&self, headers: &HeaderMap) -> bool {
        if self.name_of(headers).is_some() {
            return true;
        }
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        match (text(header::HeaderName::from_static("sec-fetch-site")), text(header::ORIGIN)) {
            (Some("same-origin" | "none"), _) | (None, None) => true,
            // A browser that does not send the first yet: then the page's host must be the one that is asked.
            (None, Some(origin)) => {
                let host =
                    Url::parse(origin).ok().and_then(|url| Some(url.authority().to_owned()).filter(|a| !a.is_empty()));
                host.is_some() && host.as_deref() == text(header::HOST)
            }
            _ => false,
        }
    }
}

/// An endpoint that the pages of some origins may call, with cookies, and read (CORS). For all others it is what it is
/// without: their browsers keep the answer from them.
pub struct WithCors<E> {
    origins: Origins,
    plain: Arc<E>,
    shared: CorsEndpoint<Arc<E>>,
}

impl<E: Endpoint<Output = Response>> WithCors<E> {
    /// For these origins.
    pub fn new(origins: Origins, endpoint: E) -> Self {
        let plain = Arc::new(endpoint);
        let shared = Cors::new()
            .allow_origins(origins.0.iter().map(String::as_str))
            .allow_credentials(true)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, CSRF_HEADER, REQUEST_ID])
            .expose_headers([
                REQUEST_ID,
                header::RETRY_AFTER,
                header::WWW_AUTHENTICATE,
                header::HeaderName::from_static("ratelimit"),
                header::HeaderName::from_static("ratelimit-policy"),
            ])
            .max_age(600)
            .transform(plain.clone());
        Self { origins, plain, shared }
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for WithCors<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        if self.origins.name_of(request.headers()).is_some() {
            Ok(self.shared.get_response(request).await)
        } else {
            self.plain.call(request).await
        }
    }
}

/// What is no origin.
#[derive(Debug)]
pub struct OriginError(String);

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is not an origin like https://app.example.org, without a path", self.0)
    }
}

/// Extracted where a session is opened: the request is not one that another site's page started.
pub struct OwnPage;

impl<'a> FromRequest<'a> for OwnPage {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> Result<Self> {
        let app = request.data::<Arc<App>>().ok_or_else(|| Problem::from(Code::InternalError))?;
        if app.origins.allow(request.headers()) { Ok(Self) } else { Err(Problem::from(Code::CrossSiteRequest).into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_origins_are_taken_and_as_browsers_spell_them() {
        let origins: Origins = "https://app.example.org, http://localhost:5173".parse().unwrap();
        assert!(origins.name_of(&headers(&[("origin", "https://app.example.org")])).is_some());
        for other in ["https://app.example.org.evil.example", "http://app.example.org", "null", "https://evil.example"]
        {
            assert!(origins.name_of(&headers(&[("origin", other)])).is_none(), "{other}");
        }
        for wrong in
            ["*", "example.org", "https://example.org/", "https://example.org/app", "https://EXAMPLE.org", "null"]
        {
            assert!(Origins::from_str(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Origins::from_str("").unwrap(), Origins::default());
    }

    #[test]
    fn a_session_is_opened_by_programs_own_pages_and_named_origins() {
        let origins: Origins = "https://app.example.org".parse().unwrap();
        let allowed = |pairs: &[(&'static str, &'static str)]| origins.allow(&headers(pairs));
        assert!(allowed(&[]));
        assert!(allowed(&[("sec-fetch-site", "same-origin"), ("origin", "https://auth.example.org")]));
        assert!(allowed(&[("sec-fetch-site", "cross-site"), ("origin", "https://app.example.org")]));
        assert!(allowed(&[("origin", "https://auth.example.org"), ("host", "auth.example.org")]));

        assert!(!allowed(&[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")]));
        assert!(!allowed(&[("sec-fetch-site", "same-site"), ("origin", "https://evil.example.org")]));
        assert!(!allowed(&[("sec-fetch-site", "cross-site")]));
        assert!(!allowed(&[("origin", "https://evil.example"), ("host", "auth.example.org")]));
        assert!(!allowed(&[("origin", "null"), ("host", "")]));
    }
}
