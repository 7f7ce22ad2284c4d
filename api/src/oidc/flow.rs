//! The authorization-code flow with PKCE, for web logins (OpenID Connect Core 1.0, §3.1; RFC 7636; RFC 9700).
//!
//! What has to be remembered between leaving for the provider and coming back is in an encrypted cookie of the browser
//! that left: nothing is kept here, any process can take the answer, and an answer in another browser (login CSRF) has no
//! cookie to go with it. The cookie says which answer is expected (state), which token (nonce), and proves to the provider
//! that the answer's code was meant for us (PKCE verifier).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cookie::{Cookie, CookieJar, Key, SameSite};
use openidconnect::{
    AuthType, AuthorizationCode, ClientSecret, CsrfToken, Nonce, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RequestTokenError, Scope, TokenResponse,
    core::{CoreAuthenticationFlow, CoreClient, CoreClientAuthMethod, CoreProviderMetadata},
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use url::Url;

use super::{Federation, Person, provider::FetchError};
use crate::{
    error::{Code, Problem},
    keys::{TokenKey, TokenKeys},
};

/// `__Host-`: only this host sets it, only over TLS (or on localhost), and it goes to this host alone.
pub const STATE_COOKIE: &str = "__Host-auth_oidc";
/// How long somebody may take at the provider.
const LIFE: Duration = Duration::from_secs(10 * 60);
/// A path to come back to is not longer.
const MAX_RETURN_TO: usize = 1024;

/// What the flow is configured with.
pub struct CodeFlow {
    /// None: a public client, which PKCE alone protects.
    client_secret: Option<ClientSecret>,
    /// The callback's URL, as the provider knows it.
    redirect_url: RedirectUrl,
    /// Where browsers go when it is over.
    landing: Landing,
}

/// Where browsers are sent after a login: the operator's page, or a path of the same site.
#[derive(Clone, Debug, PartialEq)]
pub enum Landing {
    /// A path of the service's own site.
    Path(String),
    /// A page elsewhere.
    Url(Url),
}

impl Landing {
    /// Reads the setting.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if is_path(text) {
            return Ok(Self::Path(text.to_owned()));
        }
        match Url::parse(text) {
            Ok(url) if super::provider::is_safe(&url) => Ok(Self::Url(url)),
            _ => Err("it must be a path that begins with /, or an https URL"),
        }
    }

    /// The page, or the path of the same site that a login was begun with.
    fn success(&self, return_to: Option<&str>) -> String {
        match (self, return_to.filter(|path| is_path(path))) {
            (Self::Path(page), None) => page.clone(),
            (Self::Path(_), Some(path)) => path.to_owned(),
            (Self::Url(page), None) => page.to_string(),
            // A path cannot leave the site; should it ever, the page it is.
            (Self::Url(page), Some(path)) => match page.join(path) {
                Ok(url) if url.origin() == page.origin() => url.to_string(),
                _ => page.to_string(),
            },
        }
    }

    /// The page, with the error's code in its query.
    fn failure(&self, code: &str) -> String {
        match self {
            Self::Path(page) => {
                let (page, fragment) = page.split_once('#').map_or((page.as_str(), None), |(p, f)| (p, Some(f)));
                let separator = if page.contains('?') { '&' } else { '?' };
                let fragment = fragment.map(|fragment| format!("#{fragment}")).unwrap_or_default();
                format!("{page}{separator}error={code}{fragment}")
            }
            Self::Url(page) => {
                let mut page = page.clone();
                page.query_pairs_mut().append_pair("error", code);
                page.to_string()
            }
        }
    }
}

/// A path of this site: what begins with `//` or `/\` names another one to a browser, which also drops tabs and line ends.
pub fn is_path(text: &str) -> bool {
    text.len() <= MAX_RETURN_TO
        && text.starts_with('/')
        && !text.starts_with("//")
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
}

/// What the cookie remembers. No Debug.
#[derive(Deserialize, Serialize)]
struct LoginState {
    state: String,
    nonce: String,
    pkce: String,
    return_to: Option<String>,
    /// Seconds since 1970: the browser forgets the cookie by then, who copied it does not.
    expires: u64,
}

/// What the provider sends back by the browser.
pub struct Callback<'a> {
    /// Grants tokens, once.
    pub code: Option<&'a str>,
    /// Ours.
    pub state: Option<&'a str>,
    /// RFC 9207: who answers.
    pub issuer: Option<&'a str>,
    /// Why there is no code.
    pub error: Option<&'a str>,
}

/// Somebody came back and is who the token says.
pub struct Returned {
    /// Who.
    pub person: Person,
    /// Where they wanted to go.
    pub return_to: Option<String>,
}

impl CodeFlow {
    /// Of the settings.
    pub fn new(redirect_url: Url, client_secret: Option<String>, landing: Landing) -> Self {
        Self {
            client_secret: client_secret.map(ClientSecret::new),
            redirect_url: RedirectUrl::from_url(redirect_url),
            landing,
        }
    }

    /// Whether browsers come back to this site itself, and so to the pages that are here.
    pub fn comes_back_here(&self) -> bool {
        matches!(self.landing, Landing::Path(_))
    }

    /// Where a browser goes that came back, by what became of it.
    pub fn landing(&self, result: &Result<Option<String>, Problem>) -> String {
        match result {
            Ok(return_to) => self.landing.success(return_to.as_deref()),
            Err(problem) => self.landing.failure(&problem.code().as_str()),
        }
    }

    /// The `Set-Cookie` that remembers a login under way, encrypted with the first key.
    fn remember(keys: &TokenKeys, state: &LoginState) -> Result<String, Problem> {
        let value = serde_json::to_string(state).map_err(|_| Code::InternalError)?;
        let mut jar = CookieJar::new();
        jar.private_mut(&Key::from(keys.first().login_state())).add(Cookie::new(STATE_COOKIE, value));
        let mut cookie = jar.get(STATE_COOKIE).cloned().ok_or(Code::InternalError)?;
        cookie.set_max_age(cookie::time::Duration::seconds(LIFE.as_secs() as i64));
        harden(&mut cookie);
        Ok(cookie.to_string())
    }

    /// What the cookie of a request remembers of a login under way.
    fn recall(keys: &TokenKeys, kept: &str, now: u64) -> Option<LoginState> {
        let decrypt = |key: &TokenKey| {
            let jar = CookieJar::new();
            jar.private(&Key::from(key.login_state())).decrypt(Cookie::new(STATE_COOKIE, kept.to_owned()))
        };
        let cookie = keys.all().iter().find_map(decrypt)?;
        serde_json::from_str(cookie.value()).ok().filter(|state: &LoginState| now < state.expires)
    }
}

/// The `Set-Cookie` that forgets it: a login is come back to once.
pub fn forget() -> String {
    let mut cookie = Cookie::new(STATE_COOKIE, "");
    cookie.set_max_age(cookie::time::Duration::ZERO);
    harden(&mut cookie);
    cookie.to_string()
}

/// Lax: it has to come along when the provider's page sends the browser back.
fn harden(cookie: &mut Cookie<'_>) {
    cookie.set_path("/");
    cookie.set_secure(true);
    cookie.set_http_only(true);
    cookie.set_same_site(SameSite::Lax);
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

impl Federation {
    /// The provider's page to send a browser to, and the `Set-Cookie` that knows it again.
    pub async fn begin(
        &self,
        flow: &CodeFlow,
        keys: &TokenKeys,
        return_to: Option<&str>,
    ) -> Result<(String, String), Problem> {
        let known = self.known().await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let client = self.client(flow, &known.metadata);
        let (url, state, nonce) = client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, CsrfToken::new_random, Nonce::new_random)
            .add_scope(Scope::new("email".to_owned()))
            .add_scope(Scope::new("profile".to_owned()))
            .set_pkce_challenge(challenge)
            .url();
        let state = LoginState {
            state: state.into_secret(),
            nonce: nonce.secret().clone(),
            pkce: verifier.into_secret(),
            return_to: return_to.map(str::to_owned),
            expires: now() + LIFE.as_secs(),
        };
        let cookie = CodeFlow::remember(keys, &state)?;
        Ok((url.to_string(), cookie))
    }

    /// Who came back.
    pub async fn finish(
        &self,
        flow: &CodeFlow,
        keys: &TokenKeys,
        kept: Option<&str>,
        callback: &Callback<'_>,
    ) -> Result<Returned, Problem> {
        // First of all: is this the browser that left, with the answer to what it asked?
        let left = kept.and_then(|kept| CodeFlow::recall(keys, kept, now())).ok_or(Code::InvalidLoginState)?;
        let same = |state: &str| bool::from(state.as_bytes().ct_eq(left.state.as_bytes()));
        if !callback.state.is_some_and(same)
            || callback.issuer.is_some_and(|issuer| issuer != self.provider.issuer().as_str())
        {
            return Err(Code::InvalidLoginState.into());
        }
        if let Some(error) = callback.error {
            // RFC 6749 §4.1.2.1. Whatever else it says has been through the browser, and is not repeated.
            let denied = error == "access_denied";
            tracing::info!(denied, "the OpenID provider sent somebody back without a code");
            return Err(if denied { Code::LoginDenied } else { Code::LoginFailed }.into());
        }
        let code = callback.code.ok_or(Code::LoginFailed)?;
        let token = self.exchange(flow, code, left.pkce).await?;
        let person = self.verify(&token, Some(&left.nonce)).await?;
        Ok(Returned { person, return_to: left.return_to })
    }

    /// The ID token for a code.
    async fn exchange(&self, flow: &CodeFlow, code: &str, pkce: String) -> Result<String, Problem> {
        let known = self.known().await?;
        let client = self.client(flow, &known.metadata);
        let request = client.exchange_code(AuthorizationCode::new(code.to_owned())).map_err(|_| {
            tracing::error!("the OpenID provider names no token endpoint");
            Code::IdentityProviderUnavailable
        })?;
        let request = request.set_pkce_verifier(PkceCodeVerifier::new(pkce));
        let answer = request.request_async(self.provider.http()).await.map_err(|error| match error {
            RequestTokenError::ServerResponse(refused) => {
                // RFC 6749 §5.2: one of a few words. An old or a foreign code is the browser's doing, the rest is ours.
                let reason = refused.error().as_ref();
                match reason {
                    "invalid_grant" => tracing::info!(reason, "the OpenID provider refused a code"),
                    _ => tracing::error!(reason, "the OpenID provider refused this client: see OIDC_CLIENT_SECRET"),
                }
                Code::LoginFailed
            }
            RequestTokenError::Request(error) => not_reached(&error),
            RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
                tracing::error!("the OpenID provider's token endpoint answered something else");
                Code::IdentityProviderUnavailable
            }
        })?;
        let token = answer.id_token().ok_or_else(|| {
            tracing::error!("the OpenID provider's token endpoint gave no ID token");
            Code::LoginFailed
        })?;
        Ok(token.to_string())
    }

    fn client(&self, flow: &CodeFlow, metadata: &CoreProviderMetadata) -> Client {
        let client = CoreClient::from_provider_metadata(
            metadata.clone(),
            // The first is this service; the others are apps that show their tokens here.
            self.client_ids[0].clone(),
            flow.client_secret.clone(),
        );
        let methods = metadata.token_endpoint_auth_methods_supported();
        let supported = |method| methods.is_none_or(|methods| methods.contains(&method));
        let by_body = !supported(CoreClientAuthMethod::ClientSecretBasic);
        client.set_redirect_uri(flow.redirect_url.clone()).set_auth_type(if by_body {
            AuthType::RequestBody
        } else {
            AuthType::BasicAuth
        })
    }
}

type Client = CoreClient<
    openidconnect::EndpointSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointMaybeSet,
    openidconnect::EndpointMaybeSet,
>;

fn not_reached(error: &FetchError) -> Code {
    tracing::warn!(%error, "the OpenID provider's token endpoint was not reached");
    Code::IdentityProviderUnavailable
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn keys(ring: &str) -> TokenKeys {
        TokenKeys::parse("HMAC_SECRETS", ring).unwrap()
    }

    fn state(expires: u64) -> LoginState {
        let text = |text: &str| text.to_owned();
        LoginState { state: text("s"), nonce: text("n"), pkce: text("hunter2"), return_to: None, expires }
    }

    #[test]
    fn a_cookie_is_for_the_browser_that_left_for_a_while_and_shows_nothing() {
        let keys = keys(OLD);
        let recall = |kept: &str, now| CodeFlow::recall(&keys, kept, now);
        let set = CodeFlow::remember(&keys, &state(1000)).unwrap();
        for attribute in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age=600"] {
            assert!(set.contains(attribute), "{set}");
        }
        assert!(!set.contains("hunter2") && !set.contains("Domain"), "{set}");
        let kept = kept(&set);
        assert_eq!(recall(&kept, 999).unwrap().pkce, "hunter2");
        assert!(recall(&kept, 1000).is_none(), "kept by a copy, it has expired all the same");
        let mut wrong = kept.clone();
        wrong.replace_range(20..21, if &kept[20..21] == "A" { "B" } else { "A" });
        for other in ["", "a", &wrong, &kept[..30], &format!("{kept}A")] {
            assert!(recall(other, 0).is_none(), "{other}");
        }
    }

    /// The value of a `Set-Cookie`.
    fn kept(set: &str) -> String {
        let pair = set.split(';').next().unwrap();
        pair.strip_prefix(&format!("{STATE_COOKIE}=")).unwrap().to_owned()
    }

    #[test]
    fn a_new_key_is_rolled_out_without_losing_who_is_under_way() {
        let set = CodeFlow::remember(&keys(OLD), &state(1000)).unwrap();
        assert!(CodeFlow::recall(&keys(&format!("{NEW},{OLD}")), &kept(&set), 0).is_some());
        assert!(CodeFlow::recall(&keys(NEW), &kept(&set), 0).is_none());
    }

    #[test]
    fn nobody_is_sent_to_another_site() {
        let elsewhere = [
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "https://evil.example",
            "evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            "javascript:alert(1)",
            "/a\u{e9}",
            "/a b",
            "",
        ];
        for page in ["/welcome", "https://app.example/welcome"].map(|page| Landing::parse(page).unwrap()) {
            for path in elsewhere {
                assert_eq!(page.success(Some(path)), page.success(None), "{path}");
            }
            assert!(page.success(Some("/orders?id=1#top")).ends_with("/orders?id=1#top"));
        }
        let app = Landing::parse("https://app.example/welcome?x=1").unwrap();
        assert_eq!(app.success(Some("/orders")), "https://app.example/orders");
        assert_eq!(app.failure("login_failed"), "https://app.example/welcome?x=1&error=login_failed");
        assert_eq!(Landing::parse("/in?x=1#y").unwrap().failure("e"), "/in?x=1&error=e#y");
        for bad in ["http://app.example", "//app.example", "javascript:alert(1)", "app.example", ""] {
            assert!(Landing::parse(bad).is_err(), "{bad}");
        }
    }
}
