//! The OpenID provider, as it is reached: its metadata and keys, fetched seldom and kept, and its token endpoint.
//!
//! Whoever sends tokens with made-up key names must not make this service send requests: a fetch is paid for from a small
//! budget, one is under way at a time, and those who wait for it take its result.

use std::{
    fmt,
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use openidconnect::{
    AsyncHttpClient, HttpRequest, HttpResponse, IssuerUrl,
    core::{CoreJsonWebKeySet, CoreProviderMetadata},
};
use url::{Host, Url};

use crate::{telemetry, tls};

/// Keys are taken without asking.
const FRESH: Duration = Duration::from_secs(60 * 60);
/// While the provider is away, keys are taken for so long: it may have withdrawn one meanwhile.
const USABLE: Duration = Duration::from_secs(24 * 60 * 60);
/// Fetches: so many at once, then one in each such time.
const BURST: NonZeroU32 = NonZeroU32::new(3).unwrap();
const PERIOD: Duration = Duration::from_secs(10);
/// One request to the provider.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(6);
/// No document of a provider is larger.
const MAX_BODY: usize = 256 * 1024;

/// The provider did not answer, or not as one.
#[derive(Debug, PartialEq)]
pub struct Unavailable;

/// What was fetched.
pub struct Fetched {
    /// Endpoints, and what the provider can do.
    pub metadata: CoreProviderMetadata,
    at: Instant,
}

impl Fetched {
    /// The keys that its tokens are signed with.
    pub fn keys(&self) -> &CoreJsonWebKeySet {
        self.metadata.jwks()
    }
}

/// How far keys of that age can be relied on.
#[derive(Debug, PartialEq)]
enum Standing {
    Fresh,
    Stale,
    Useless,
}

fn standing(age: Duration) -> Standing {
    match age {
        age if age < FRESH => Standing::Fresh,
        age if age < USABLE => Standing::Stale,
        _ => Standing::Useless,
    }
}

/// The provider, and what is known of it.
pub struct Provider {
    issuer: IssuerUrl,
    http: Http,
    known: RwLock<Option<Arc<Fetched>>>,
    fetching: tokio::sync::Mutex<()>,
    budget: DefaultDirectRateLimiter,
    attempts: AtomicU64,
    failed: AtomicBool,
}

impl Provider {
    /// Asks it nothing yet.
    pub fn new(issuer: IssuerUrl) -> Result<Self, String> {
        Ok(Self {
            http: Http::new(issuer.url())?,
            issuer,
            known: RwLock::default(),
            fetching: tokio::sync::Mutex::default(),
            budget: RateLimiter::direct(Quota::with_period(PERIOD).expect("not zero").allow_burst(BURST)),
            attempts: AtomicU64::default(),
            failed: AtomicBool::default(),
        })
    }

    /// Its name in tokens.
    pub fn issuer(&self) -> &IssuerUrl {
        &self.issuer
    }

    /// How it is asked.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// What is known of it, fetched when that is nothing, or old.
    pub async fn known(&self) -> Result<Arc<Fetched>, Unavailable> {
        match self.current() {
            Some(known) => match standing(known.at.elapsed()) {
                Standing::Fresh => Ok(known),
                // One request pays for the fetch; the others go on with what there is, and so does it when that fails.
                Standing::Stale if self.fetching.try_lock().is_err() => Ok(known),
                Standing::Stale => Ok(self.newer_than(Some(&known)).await.unwrap_or_default().unwrap_or(known)),
                Standing::Useless => self.newer_than(Some(&known)).await?.ok_or(Unavailable),
            },
            None => self.newer_than(None).await?.ok_or(Unavailable),
        }
    }

    /// What is newer than this. None: there is nothing newer, as far as we may ask.
    pub async fn newer_than(&self, seen: Option<&Arc<Fetched>>) -> Result<Option<Arc<Fetched>>, Unavailable> {
        let arrived = self.attempts.load(Ordering::SeqCst);
        let _one_at_a_time = self.fetching.lock().await;
        let current = self.current();
        if let Some(current) = current
            && seen.is_none_or(|seen| !Arc::ptr_eq(seen, &current))
        {
            return Ok(Some(current));
        }
        // An attempt that began before this request asked may have missed what it asks for; a later one has not.
        let asked_meanwhile = self.attempts.load(Ordering::SeqCst) > arrived + 1;
        if asked_meanwhile || self.budget.check().is_err() {
            return if self.failed.load(Ordering::SeqCst) { Err(Unavailable) } else { Ok(None) };
        }
        let fetched = CoreProviderMetadata::discover_async(self.issuer.clone(), &self.http).await;
        self.attempts.fetch_add(1, Ordering::SeqCst);
        self.failed.store(fetched.is_err(), Ordering::SeqCst);
        match fetched {
            Ok(metadata) => {
                tracing::info!(keys = metadata.jwks().keys().len(), "the OpenID provider's keys were fetched");
                let fetched = Arc::new(Fetched { metadata, at: Instant::now() });
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(fetched.clone());
                Ok(Some(fetched))
            }
            Err(error) => {
                tracing::warn!(%error, cause = cause(&error), "the OpenID provider's keys cannot be fetched");
                Err(Unavailable)
            }
        }
    }

    fn current(&self) -> Option<Arc<Fetched>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// Whether a URL may be asked: by TLS, or on this machine.
pub fn is_safe(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && loopback)
}

/// The client of the provider: no redirects, bounded in time and size, TLS with the platform's roots.
pub struct Http {
    client: reqwest::Client,
    /// Only an issuer on this machine may send us to one.
    local: bool,
}

/// Why a request to the provider came to nothing.
#[derive(Debug)]
pub enum FetchError {
    /// Its metadata names a URL that is not asked.
    Unsafe,
    /// The answer is too large.
    TooLarge,
    /// It did not answer, or not as HTTP.
    Http(reqwest::Error),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsafe => f.write_str("its URL is not https"),
            Self::TooLarge => write!(f, "its answer is larger than {MAX_BODY} bytes"),
            // Without the URL, which is not ours to know the contents of.
            Self::Http(error) => write!(f, "{error}: {}", cause(error)),
        }
    }
}

impl std::error::Error for FetchError {}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error.without_url())
    }
}

impl Http {
    fn new(issuer: &Url) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config("the OpenID provider")?)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("auth-api/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("the OpenID provider cannot be asked: {error}"))?;
        Ok(Self { client, local: issuer.scheme() == "http" })
    }

    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, FetchError> {
        let (parts, body) = request.into_parts();
        let url = Url::parse(&parts.uri.to_string()).map_err(|_| FetchError::Unsafe)?;
        if !is_safe(&url) || (url.scheme() == "http" && !self.local) {
            return Err(FetchError::Unsafe);
        }
        let mut part = telemetry::call(&parts.method, url.host_str());
        let request = self.client.request(parts.method, url).headers(parts.headers).body(body);
        let mut response = request.send().await.inspect_err(|_| part.failed("unreachable"))?;
        let mut answer = openidconnect::http::Response::builder().status(response.status());
        if let Some(headers) = answer.headers_mut() {
            *headers = response.headers().clone();
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        answer.body(body).map_err(|_| FetchError::Unsafe)
    }
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, FetchError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.fetch(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_or_this_machine() {
        for (url, safe) in [
            ("https://accounts.google.com", true),
            ("http://127.0.0.1:4000", true),
            ("http://[::1]:4000", true),
            ("http://localhost:4000", true),
            ("http://accounts.google.com", false),
            ("http://127.0.0.1.example.org", false),
            ("http://localhost.example.org", false),
            ("http://10.0.0.1", false),
            ("ftp://localhost", false),
            ("file:///etc/passwd", false),
        ] {
            assert_eq!(is_safe(&Url::parse(url).unwrap()), safe, "{url}");
        }
    }

    #[test]
    fn keys_age() {
        assert_eq!(standing(Duration::ZERO), Standing::Fresh);
        assert_eq!(standing(FRESH), Standing::Stale);
        assert_eq!(standing(USABLE - Duration::from_secs(1)), Standing::Stale);
        assert_eq!(standing(USABLE), Standing::Useless);
    }

    /// Nobody listens there: each attempt fails at once.
    #[tokio::test]
    async fn a_provider_that_is_away_is_asked_a_few_times_and_not_for_each_request() {
        let provider = Provider::new(IssuerUrl::new("http://127.0.0.1:1".to_owned()).unwrap()).unwrap();
        for _ in 0..50 {
            assert!(provider.known().await.is_err());
        }
        assert_eq!(provider.attempts.load(Ordering::SeqCst), u64::from(BURST.get()));
    }

    #[tokio::test]
    async fn an_issuer_by_tls_cannot_send_us_to_this_machine() {
        let http = Http::new(&Url::parse("https://issuer.example").unwrap()).unwrap();
        let request = openidconnect::http::Request::get("http://127.0.0.1:1/keys").body(Vec::new()).unwrap();
        assert!(matches!(http.fetch(request).await, Err(FetchError::Unsafe)));
    }
}
