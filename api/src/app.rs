//! The service as one endpoint: what it holds, every route, and what is done around each request.

use std::{fmt, sync::Arc, time::Duration};

use poem::{
    Endpoint, EndpointExt, IntoResponse, Request, Response, Route, get, handler,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::CatchPanic,
    web::{Data, Html},
};
use poem_openapi::{ExtraHeader, LicenseObject, OpenApiService, OperationId};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    access_token::AccessTokens,
    adopted_token::{AdoptedTokens, Shown},
    client_address::Proxies,
    cookies::CookiePolicy,
    db::Db,
    error::{Code, Problem},
    keys::{CurrentKeys, TokenKeys},
    limits::Limits,
    metrics::metrics,
    oidc::Federation,
    operations::Operations,
    origin::{Origins, WithCors},
    pages,
    password::Passwords,
    routes,
    slugs::Slugs,
    strict_schema,
    telemetry::Observed,
    upkeep::Readiness,
};

/// An answer that takes longer is given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The header of a request's name.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every request may need.
pub struct App {
    /// The database.
    pub db: Db,
    /// The keys in use.
    pub keys: Arc<CurrentKeys>,
    /// Refresh tokens of a system that was taken over, where there are any.
    pub adopted_tokens: Option<AdoptedTokens>,
    /// Signs and verifies access tokens.
    pub access_tokens: AccessTokens,
    /// Life of an access token.
    pub access_token_ttl: Duration,
    /// What a login asks the database for.
    pub refresh_token_ttl: Duration,
    /// The same, and at most, for who does not want to be remembered.
    pub unremembered_ttl: Duration,
    /// How browsers are to treat our cookies.
    pub cookies: CookiePolicy,
    /// Whose pages may call, beside our own.
    pub origins: Origins,
    /// Logins through an OpenID provider.
    pub federation: Option<Federation>,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// Whether slugs are free.
    pub slugs: Slugs,
    /// What OAuth clients read first, where there is a URL to be read at.
    pub metadata: Option<routes::metadata::Metadata>,
    /// How often clients may ask.
    pub limits: Limits,
    /// Whose word is taken for a client's address.
    pub proxies: Proxies,
    /// Whether the database is right.
    pub readiness: Readiness,
    /// Whether `/metrics` is served here.
    pub serves_metrics: bool,
    /// Who is told at once that there is something new.
    pub live: pages::Live,
}

impl App {
    /// The keys of refresh tokens. They may be others at the next call: what has several steps asks once.
    pub fn token_keys(&self) -> Arc<TokenKeys> {
        self.keys.token_keys()
    }

    /// What a client shows for a refresh, or to be logged out. None when it cannot be a token.
    pub fn read_refresh_token<'k>(&self, keys: &'k TokenKeys, token: &str) -> Option<Shown<'k>> {
        Shown::read(keys, self.adopted_tokens.as_ref(), token)
    }
}

/// The name of a request: the client's own, when it is a sane one, or a random one.
#[derive(Clone, Debug)]
pub struct RequestId {
    id: Arc<str>,
    trace_id: Option<Arc<str>>,
}

impl RequestId {
    /// A given one.
    pub fn new(id: &str) -> Self {
        Self { id: id.into(), trace_id: None }
    }

    /// What the audit log is told: behind the id, where there is one, the trace. `auth.record_event` takes it apart again.
    pub fn correlation(&self) -> String {
        match &self.trace_id {
            Some(trace_id) => format!("{};{trace_id}", self.id),
            None => self.id.to_string(),
        }
    }

    fn of(request: &Request) -> Self {
        let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
        match given {
            Some(id) if is_sane(id) => Self::new(id),
            _ => Self::new(&Uuid::new_v4().to_string()),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// It goes into the log, the audit log and the answer: short, and of letters that need no escaping anywhere.
fn is_sane(id: &str) -> bool {
    (8..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// In groups, because poem-openapi knows tuples of up to 16.
pub type Api = (
    routes::signup::SignUpApi,
    routes::login::LoginApi,
    routes::federation::FederationApi,
    routes::token::TokenApi,
    routes::refresh::RefreshApi,
    routes::logout::LogoutApi,
    routes::sessions::SessionsApi,
    (routes::account::AccountApi, routes::security_events::SecurityEventsApi),
    routes::step_up::StepUpApi,
    (routes::email::EmailApi, routes::password::PasswordApi),
    routes::personal_access_tokens::PersonalAccessTokensApi,
    routes::csrf_token::CsrfTokenApi,
    (
        routes::organizations::OrganizationsApi,
        routes::members::MembersApi,
        routes::invitations::InvitationsApi,
        routes::oversight::OversightApi,
    ),
    (
        routes::introspection::IntrospectionApi,
        routes::metadata::MetadataApi,
        routes::jwks::JwksApi,
        routes::health::HealthApi,
    ),
);

fn service() -> OpenApiService<Api, ()> {
    let api = (
        routes::signup::SignUpApi,
        routes::login::LoginApi,
        routes::federation::FederationApi,
        routes::token::TokenApi,
        routes::refresh::RefreshApi,
        routes::logout::LogoutApi,
        routes::sessions::SessionsApi,
        (routes::account::AccountApi, routes::security_events::SecurityEventsApi),
        routes::step_up::StepUpApi,
        (routes::email::EmailApi, routes::password::PasswordApi),
        routes::personal_access_tokens::PersonalAccessTokensApi,
        routes::csrf_token::CsrfTokenApi,
        (
            routes::organizations::OrganizationsApi,
            routes::members::MembersApi,
            routes::invitations::InvitationsApi,
            routes::oversight::OversightApi,
        ),
        (
            routes::introspection::IntrospectionApi,
            routes::metadata::MetadataApi,
            routes::jwks::JwksApi,
            routes::health::HealthApi,
        ),
    );
    let request_id = ExtraHeader::new("x-request-id").description(
        "The name of this request, in the log and in the audit log: yours, when you sent one of 8 to 64 characters \
         A-Z, a-z, 0-9, '.', '_', '-'.",
    );
    OpenApiService::new(api, "auth_sessions", env!("CARGO_PKG_VERSION"))
        .description(
            "Login sessions with rotating refresh tokens, kept inside PostgreSQL.\n\n\
             Sign up or log in for a pair of tokens. Show the access token as `Authorization: Bearer …`; before it \
             expires, trade the refresh token for a new pair at `/api/auth/refresh`. A refresh is safe to repeat: when \
             the answer was lost, send the same token again, and the same successor comes back. An older token is \
             taken for stolen, and ends its session.\n\n\
             Every refusal is an RFC 9457 problem; switch on its `code`. Whatever asks too often is told 429 `rate_limited` \
             and, in `Retry-After`, for how long to wait. What lets a stranger guess answers with `RateLimit-Policy` and \
             `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11): how much its network may ask, and what is left of \
             it.",
        )
        .license(LicenseObject::new("Apache-2.0").url("https://www.apache.org/licenses/LICENSE-2.0"))
        .server("/")
        .extra_response_header::<String, _>(request_id)
}

/// The OpenAPI document, as it is committed.
pub fn document() -> String {
    strict_schema::finish(&service().spec()) + "\n"
}

/// Every route, with what is done around each request.
pub fn endpoint(app: Arc<App>) -> impl Endpoint<Output = Response> {
    let service = service();
    let document: Arc<str> = document().into();
    let docs: Arc<str> = service.swagger_ui_html().into();
    let operations = Arc::new(Operations::of::<Api>());
    let origins = app.origins.clone();
    let shared = app.clone();
    let mut route = pages::routes(Route::new())
        .at("/docs", get(swagger_ui).data(docs))
        .at("/openapi.json", get(openapi_json).data(document));
    if app.serves_metrics {
        route = route.at(routes::metrics::PATH, get(routes::metrics::serve));
    }
    let endpoint = route
        .nest_no_strip("/", service)
        .data(app)
        .with(CatchPanic::new())
        .around(move |endpoint, request| around(endpoint, request, shared.clone(), operations.clone()));
    // Outermost, so that a page of CORS_ORIGINS may read refusals too.
    WithCors::new(origins, endpoint)
}

#[handler]
fn openapi_json(Data(document): Data<&Arc<str>>) -> Response {
    Response::builder().content_type("application/json").body(document.to_string())
}

/// Swagger UI is one page with its script and style inside, so here, and only here, those are allowed.
#[handler]
fn swagger_ui(Data(page): Data<&Arc<str>>) -> impl IntoResponse {
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; \
                  connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    Html(page.to_string()).with_header(header::CONTENT_SECURITY_POLICY, policy)
}

/// Around each request: its name, its client's address, a time limit, how often it may come, one form for all refusals,
/// safe headers, one line in the log.
async fn around<E: Endpoint>(
    endpoint: Arc<E>,
    mut request: Request,
    app: Arc<App>,
    operations: Arc<Operations>,
) -> poem::Result<Response> {
    let started = std::time::Instant::now();
    let mut id = RequestId::of(&request);
    let observed = Observed::begin(&request, &id, &operations);
    id.trace_id = observed.trace_id(&request);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let page = pages::refusal::Asked::of(&request);
    request.extensions_mut().insert(id.clone());
    let client = app.proxies.client_of(&request);
    request.extensions_mut().insert(client);
    let named = operations.name(&method, &path);
    let in_flight = metrics().in_flight();
    let span = tracing::info_span!("request", request_id = %id, trace_id = id.trace_id.as_deref());

    let answer = async {
        match app.limits.admit(&app, named, &request).await {
            Ok(ticket) => {
                request.extensions_mut().insert(ticket.clone());
                (endpoint.get_response(request).await, Some(ticket))
            }
            Err((problem, ticket)) => (poem::Error::from(problem).into_response(), Some(ticket)),
        }
    };
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, observed.run(answer)).instrument(span.clone()).await;
    let (mut response, ticket) =
        answer.unwrap_or_else(|_| (poem::Error::from(Problem::from(Code::Timeout)).into_response(), None));
    // The operation, not the path: a path that matches no route may hold anything.
    let operation = match (response.data::<OperationId>(), named, path.as_str()) {
        (Some(OperationId(name)), ..) => name,
        (None, Some(name), _) => name,
        (None, None, "/docs") => "docs",
        (None, None, "/openapi.json") => "openapi",
        (None, None, routes::metrics::PATH) if app.serves_metrics => "metrics",
        (None, None, path) => pages::operation(path).unwrap_or("none"),
    };
    let mut code = None;

    if !response.status().is_success() && !response.status().is_redirection() {
        let problem: Problem = response.data().cloned().unwrap_or_else(|| Problem::of_status(response.status()));
        code = Some(problem.code());
        let for_oauth = routes::introspection::PATHS.contains(&path.as_str());
        response = match page {
            Some(page) => page.refuse(&problem, &id.id),
            None => if for_oauth { problem.for_oauth() } else { problem }.response(&id.id),
        };
        if response.status() == StatusCode::METHOD_NOT_ALLOWED
            && let Ok(allowed) = HeaderValue::try_from(operations.methods(&path))
        {
            // RFC 9110 §15.5.6
            response.headers_mut().insert(header::ALLOW, allowed);
        }
    }
    set_headers(&mut response, &id);
    if let Some(ticket) = ticket {
        ticket.set_headers(response.headers_mut());
    }

    let (status, elapsed) = (response.status().as_u16(), started.elapsed());
    drop(in_flight);
    observed.end(operation, response.status(), code);
    metrics().answered(operation, status, code, elapsed);
    let milliseconds = elapsed.as_micros() as f64 / 1000.0;
    span.in_scope(|| tracing::info!(%method, operation, status, milliseconds, "answered"));
    Ok(response)
}

fn set_headers(response: &mut Response, id: &RequestId) {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Nobody's page may load an answer as if it were a picture or a script, or keep a handle on ours.
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        // RFC 6749 §5.1: tokens must not be stored by a cache.
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(id) = HeaderValue::from_str(&id.id) {
        headers.insert(REQUEST_ID, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_document_is_the_one_that_the_code_gives() {
        let committed = include_str!("../../openapi.json");
        assert!(
            committed == document(),
            "openapi.json is not up to date. Run: cargo run -p auth-api -- openapi > openapi.json"
        );
    }

    #[test]
    fn every_operation_has_an_id_and_tells_its_refusals() {
        let document: serde_json::Value = serde_json::from_str(&document()).unwrap();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                assert!(operation["operationId"].is_string(), "{method} {path}");
                let responses = operation["responses"].as_object().unwrap();
                for (status, response) in responses.iter().filter(|(status, _)| !status.starts_with('3')) {
                    let media = response["content"].as_object().unwrap().keys().next().unwrap();
                    let expected =
                        if status.starts_with('2') { "application/json" } else { crate::error::PROBLEM_JSON };
                    assert_eq!(media, expected, "{method} {path} {status}");
                }
                let secured = operation.get("security").is_some();
                assert!(!secured || responses.contains_key("401"), "{method} {path}");
                let body = operation["requestBody"]["content"].as_object().map(|media| media.keys().next().unwrap());
                let bad_body: &[&str] = match body.map(String::as_str) {
                    None => &[],
                    Some("application/json") => &["400", "408", "413", "415", "422"],
                    Some(_) => &["400", "408", "413", "415"],
                };
                assert!(bad_body.iter().all(|status| responses.contains_key(*status)), "{path}");
            }
        }
    }

    #[test]
    fn a_request_id_is_taken_only_when_it_is_harmless() {
        for id in ["request-1", "4f6b7c1e-0a52-4f0e-9c2b-5f6f0b7a3c11", &"a".repeat(64)] {
            assert!(is_sane(id), "{id}");
        }
        for id in ["", "short", "with space", "new\nline", "quote\"quote", &"a".repeat(65), "ümlaute-id"] {
            assert!(!is_sane(id), "{id}");
        }
    }
}
