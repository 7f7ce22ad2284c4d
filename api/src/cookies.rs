//! Tokens in cookies, for pages: where no script can read them. One place for their names and attributes.
//!
//! A browser sends cookies with whatever another page makes it send. So a state-changing request that is authenticated
//! by cookie also shows a CSRF token, which only a page that may read our answers can have; and the requests that *open*
//! a session must come from a page of ours (`origin.rs`).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use cookie::{Cookie, SameSite, time::Duration};
use poem::{
    Request, Response,
    http::{HeaderMap, HeaderName, HeaderValue, header},
};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::{adopted_token::AdoptedTokens, keys::TokenKeys};

/// The access token. `__Host-`: from this host itself, for all its paths, over TLS (RFC 6265bis §4.1.3.2).
pub const ACCESS: &str = "__Host-auth_access";
/// The refresh token, sent to this service's own paths only; with [`UNREMEMBERED`] behind it where the browser is to forget
/// it when it is closed, so that its successor is forgotten as well.
const REFRESH: &str = "__Secure-auth_refresh";
/// No character of a token.
const UNREMEMBERED: &str = ".session";
/// Where the refresh token is sent to.
const REFRESH_PATH: &str = "/api/auth";
/// The header of the CSRF token.
pub const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");

/// A cookie of a request.
pub fn read<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    // As bytes: the cookies of other applications of this host may hold anything, and must not hide ours.
    let pairs =
        request.headers().get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    // A cookie that is there twice was planted by somebody: a browser sends one of this name and host.
    let mut found = pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    match (found.next(), found.next()) {
        (Some(value), None) => std::str::from_utf8(value).ok(),
        _ => None,
    }
}

/// The refresh token of a request's cookie, and whether the browser keeps it when it is closed. Where there is no cookie of
/// ours, that of a system that was taken over.
pub fn read_refresh<'r>(request: &'r Request, adopted: Option<&AdoptedTokens>) -> Option<(&'r str, bool)> {
    if let Some(value) = read(request, REFRESH) {
        return Some(value.strip_suffix(UNREMEMBERED).map_or((value, true), |token| (token, false)));
    }
    let adopted = adopted?;
    // A cookie without our prefix can be planted by a neighbouring host: no token of ours is taken from it.
    read(request, adopted.cookie.as_deref()?).filter(|token| adopted.may_have(token)).map(|token| (token, true))
}

/// How a browser is to treat our cookies.
#[derive(Clone, Copy, Debug)]
pub struct CookiePolicy {
    /// When they go along on requests that another site's page starts.
    pub same_site: SameSite,
}

impl CookiePolicy {
    /// Hands the access token over.
    pub fn set_access(self, response: &mut Response, token: &str, expires_at: DateTime<Utc>) {
        self.set(response, ACCESS, token, "/", Some(expires_at));
    }

    /// Hands the refresh token over, to be kept as long as the session, or as long as the browser is open.
    pub fn set_refresh(self, response: &mut Response, token: &str, expires_at: DateTime<Utc>, remembered: bool) {
        if remembered {
            self.set(response, REFRESH, token, REFRESH_PATH, Some(expires_at));
        } else {
            self.set(response, REFRESH, &format!("{token}{UNREMEMBERED}"), REFRESH_PATH, None);
        }
    }

    /// Takes both back.
    pub fn clear(self, response: &mut Response) {
        self.set(response, ACCESS, "", "/", Some(DateTime::UNIX_EPOCH));
        self.set(response, REFRESH, "", REFRESH_PATH, Some(DateTime::UNIX_EPOCH));
    }

    fn set(self, response: &mut Response, name: &str, value: &str, path: &str, expires_at: Option<DateTime<Utc>>) {
        let mut cookie =
            Cookie::build((name, value)).path(path).http_only(true).secure(true).same_site(self.same_site).build();
        // Without an age, it goes when the browser is closed.
        cookie.set_max_age(expires_at.map(|end| Duration::seconds((end - Utc::now()).num_seconds().max(0))));
        append(response.headers_mut(), &cookie);
    }
}

fn append(headers: &mut HeaderMap, cookie: &Cookie<'_>) {
    // Tokens are base64url and dots: always a header's value.
    if let Ok(value) = HeaderValue::from_str(&cookie.to_string()) {
        headers.append(header::SET_COOKIE, value);
    }
}

/// The CSRF token of a session: only this service can make it, and it is good for that session alone.
pub fn csrf_token(keys: &TokenKeys, session_id: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(keys.first().csrf_tag(session_id))
}

/// Whether it is that session's, by any key of the ring.
pub fn csrf_token_fits(keys: &TokenKeys, session_id: Uuid, shown: &HeaderValue) -> bool {
    let mut tag = [0; 32];
    let length = URL_SAFE_NO_PAD.decode_slice(shown.as_bytes(), &mut tag);
    length == Ok(32) && keys.all().iter().any(|key| key.csrf_tag(session_id).ct_eq(&tag).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cookies: &[&str]) -> Request {
        let builder = cookies.iter().fold(Request::builder(), |builder, cookie| builder.header("cookie", *cookie));
        builder.finish()
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name_and_once() {
        assert_eq!(read(&request(&["a=1; __Host-auth_access=x.y; b=2"]), ACCESS), Some("x.y"));
        assert_eq!(read(&request(&["a=1", "__Host-auth_access=x"]), ACCESS), Some("x"));
        assert_eq!(read(&request(&["x__Host-auth_access=x; __host-auth_access=y"]), ACCESS), None);
        assert_eq!(read(&request(&["__Host-auth_access=x; __Host-auth_access=y"]), ACCESS), None, "planted");
        assert_eq!(read(&request(&[]), ACCESS), None);
        // Set by a script of another application.
        assert_eq!(read(&request(&["name=Zoë; __Host-auth_access=x"]), ACCESS), Some("x"));
    }

    #[test]
    fn cookies_are_out_of_the_reach_of_scripts_and_of_plain_http() {
        let mut response = Response::default();
        let policy = CookiePolicy { same_site: SameSite::Lax };
        policy.set_access(&mut response, "jwt", Utc::now() + chrono::TimeDelta::seconds(900));
        policy.clear(&mut response);
        let set: Vec<&str> =
            response.headers().get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(set.len(), 3);
        assert!(
            set[0].starts_with("__Host-auth_access=jwt; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age="),
            "{}",
            set[0]
        );
        assert!(!set[0].contains("Domain"), "a __Host- cookie has none");
        assert_eq!(set[2], "__Secure-auth_refresh=; HttpOnly; SameSite=Lax; Secure; Path=/api/auth; Max-Age=0");
    }

    #[test]
    fn a_csrf_token_is_one_sessions_and_outlives_a_new_key() {
        const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        const NEW: &str = "f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        let keys = |ring: &str| TokenKeys::parse("HMAC_SECRETS", ring).unwrap();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let token = HeaderValue::try_from(csrf_token(&keys(OLD), one)).unwrap();
        assert!(csrf_token_fits(&keys(OLD), one, &token));
        assert!(csrf_token_fits(&keys(&format!("{NEW},{OLD}")), one, &token));
        assert!(!csrf_token_fits(&keys(OLD), two, &token));
        assert!(!csrf_token_fits(&keys(NEW), one, &token));
        for wrong in ["", "AAAA", &"A".repeat(43), &"A".repeat(400)] {
            assert!(!csrf_token_fits(&keys(OLD), one, &HeaderValue::from_str(wrong).unwrap()));
        }
    }
}
