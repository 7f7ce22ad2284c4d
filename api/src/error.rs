//! Every refusal of this service, in one place: a stable `code`, its HTTP status and its sentence, rendered as
//! RFC 9457 `application/problem+json` by [`Problem::response`].
//!
//! Rules: a client sees the sentence written here (or one that a check of its own input wrote), never the text of a
//! library or of the database; all 401 of one kind are the same to the byte but for the request id.

use std::{borrow::Cow, marker::PhantomData};

use poem::{
    Body, Response,
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse, Enum, Object,
    registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::{ToJSON, Type},
};

/// The media type of every refusal.
pub const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $status:ident, $detail:literal;)+) => {
        /// What went wrong, in a word that never changes: clients switch on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum)]
        #[oai(rename_all = "snake_case", rename = "ErrorCode")]
        pub enum Code { $($(#[doc = $meaning])+ $name,)+ }

        impl Code {
            /// The HTTP status that goes with it.
            pub fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)+ }
            }

            /// The sentence for people, unless the refusal brings a better one.
            pub fn detail(self) -> &'static str {
                match self { $(Code::$name => $detail,)+ }
            }
        }
    };
}

codes! {
    /// The request itself is not understood (a path parameter of the wrong form, for instance).
    BadRequest = BAD_REQUEST, "The request is not understood.";
    /// The body is not JSON at all.
    MalformedJson = BAD_REQUEST, "The body is not valid JSON.";
    /// No credential came with a request that needs one.
    AuthenticationRequired = UNAUTHORIZED, "This needs an access token: Authorization: Bearer …";
    /// The access token is not ours, has expired, or its session has ended.
    InvalidAccessToken = UNAUTHORIZED, "The access token is not valid, or not any more.";
    /// The body is not a form, or a parameter is missing or there twice (RFC 6749: `invalid_request`).
    MalformedForm = BAD_REQUEST, "The form is not understood.";
    /// Unknown client, wrong secret, disabled, or no client authentication at all (RFC 6749 §5.2).
    InvalidClient = UNAUTHORIZED, "The client is not known, or its secret is wrong.";
    /// Unknown e-mail or wrong password: the same answer for both.
    InvalidCredentials = UNAUTHORIZED, "The e-mail or the password is wrong.";
    /// Every reason for which a refresh token is refused.
    InvalidRefreshToken = UNAUTHORIZED, "The refresh token is not valid, or not any more. Log in again.";
    /// The user must prove once more who they are, at `/api/auth/step-up` (RFC 9470).
    StepUpRequired = UNAUTHORIZED, "This needs a recent authentication: step up, then try again.";
    /// A personal access token is not enough: log in.
    SessionRequired = FORBIDDEN, "This needs a session: a personal access token will not do.";
    /// The personal access token lacks the scope.
    InsufficientScope = FORBIDDEN, "The personal access token lacks the scope for this.";
    /// A request that is authenticated by cookie came without the header `x-csrf-token`.
    CsrfTokenMissing = FORBIDDEN, "A request by cookie needs the header x-csrf-token: see /api/auth/csrf-token.";
    /// The CSRF token is not the one of this session.
    CsrfTokenInvalid = FORBIDDEN, "The header x-csrf-token does not fit this session: see /api/auth/csrf-token.";
    /// A page of another site tried to open a session here.
    CrossSiteRequest = FORBIDDEN, "This page may not open a session here.";
    /// The e-mail of the account is not verified yet.
    EmailNotVerified = FORBIDDEN, "Verify the e-mail of the account first.";
    /// The ID token is not the provider's, not for this service, has expired, was shown before, says nothing of a verified
    /// e-mail, or its person may not log in: the same answer for all.
    InvalidIdToken = UNAUTHORIZED, "The ID token is not valid, or not any more. Get a new one.";
    /// Only in the query of a redirect: the browser that came back from the provider is not the one that left, or took
    /// too long.
    InvalidLoginState = BAD_REQUEST, "This login was not begun in this browser, or too long ago. Begin again.";
    /// Only in the query of a redirect: the person, or the provider, said no.
    LoginDenied = FORBIDDEN, "The provider did not let the login go on.";
    /// Only in the query of a redirect: the provider gave no token.
    LoginFailed = BAD_REQUEST, "The provider gave no token for this login. Begin again.";
    /// The caller's role in the organization does not allow this.
    InsufficientRole = FORBIDDEN, "Your role in this organization does not allow this.";
    /// The invitation was sent to another address than the account's.
    InvitationForAnotherAddress = FORBIDDEN, "The invitation is for another e-mail address than this account's.";
    /// No such path.
    NotFound = NOT_FOUND, "There is nothing here.";
    /// No such session of the caller.
    SessionNotFound = NOT_FOUND, "There is no such session.";
    /// No OpenID provider is configured here.
    FederationNotConfigured = NOT_FOUND, "Logging in through a provider is not configured here.";
    /// No such organization, or the caller does not belong to it.
    OrganizationNotFound = NOT_FOUND, "There is no such organization.";
    /// Nobody of that id belongs to the organization.
    MemberNotFound = NOT_FOUND, "There is no such member.";
    /// No such invitation, or it is not open any more.
    InvitationNotFound = NOT_FOUND, "There is no such invitation.";
    /// The path exists, but not with this method.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "The method is not allowed here.";
    /// The body did not arrive in time.
    RequestTimeout = REQUEST_TIMEOUT, "The request did not arrive in time.";
    /// An account with this e-mail exists.
    EmailTaken = CONFLICT, "There is an account with this e-mail already.";
    /// An organization with this slug exists.
    SlugTaken = CONFLICT, "There is an organization with this slug already.";
    /// The user has as many personal access tokens as one may have.
    TooManyTokens = CONFLICT, "There are 50 personal access tokens already: revoke one first.";
    /// No such personal access token of the caller.
    TokenNotFound = NOT_FOUND, "There is no such personal access token.";
    /// The account with the token's e-mail never verified it, or is another person's at this provider. Its owner sets a new
    /// password by e-mail first, which verifies it.
    EmailNotLinkable = CONFLICT, "There is an account with this e-mail that cannot be linked. Reset its password first.";
    /// The caller belongs to the organization, but the session acts for another one, or for none.
    OrganizationNotActive = CONFLICT, "The session acts for another organization: switch to this one first.";
    /// An organization always has an owner.
    LastOwner = CONFLICT, "The last owner stays: make another member an owner first.";
    /// Whoever was invited belongs to the organization already.
    AlreadyMember = CONFLICT, "This is a member already.";
    /// Another refresh with this token was answered meanwhile, and its successor used: nothing happened, the session lives.
    RefreshOvertaken = CONFLICT, "The session was refreshed meanwhile. Use the newest refresh token.";
    /// The body is larger than any request of this service needs.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "The body is too large.";
    /// The headers, with the path, are larger than any request of this service needs.
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too large.";
    /// The body is of another media type.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "The body must be application/json.";
    /// JSON, but not of the form that is asked for: a field is missing, unknown, or of the wrong type.
    InvalidRequest = UNPROCESSABLE_ENTITY, "The body does not have the form that is asked for.";
    /// The e-mail is not one.
    InvalidEmail = UNPROCESSABLE_ENTITY, "The e-mail must be an address like name@example.org, of at most 254 bytes.";
    /// The password is too short, too long, or one that everybody tries first.
    InvalidPassword = UNPROCESSABLE_ENTITY, "The password must have 8 to 128 characters, and not be one of the most common ones.";
    /// A name is empty, too long, or has control characters.
    InvalidName = UNPROCESSABLE_ENTITY, "A name must have 1 to 200 characters, none of them control, and not be blank.";
    /// There are no scopes, too many, or one is no word of a-z, 0-9 and `_.:-`.
    InvalidScope = UNPROCESSABLE_ENTITY, "Scopes are 1 to 50 words like sessions:read, of a-z, 0-9 and _ . : -";
    /// The token of a link is not one, or was used, replaced, or has expired.
    InvalidOneTimeToken = UNPROCESSABLE_ENTITY, "The link is not valid, or not any more. Ask for a new one.";
    /// The slug has the wrong form.
    InvalidSlug = UNPROCESSABLE_ENTITY, "A slug must have 3 to 50 characters: a-z, 0-9, single hyphens between them.";
    /// The slug is a reserved word.
    SlugReserved = UNPROCESSABLE_ENTITY, "This slug is a reserved word.";
    /// The description is too long.
    InvalidDescription = UNPROCESSABLE_ENTITY, "The description must have at most 2000 characters.";
    /// The web site is not an http(s) address.
    InvalidWebsite = UNPROCESSABLE_ENTITY, "The web site must be an http(s) address of at most 500 characters.";
    /// Too many requests: wait for `Retry-After`.
    RateLimited = TOO_MANY_REQUESTS, "Too many requests. Wait, then try again.";
    /// Too many failed logins: wait for `Retry-After`.
    AccountLocked = TOO_MANY_REQUESTS, "Too many failed logins. Wait, then try again.";
    /// `returnTo` is no path of this site.
    InvalidReturnTo = UNPROCESSABLE_ENTITY, "returnTo must be a path that begins with one /, of at most 1024 characters.";
    /// Our fault. The log has the reason, under the request id.
    InternalError = INTERNAL_SERVER_ERROR, "Something went wrong here. The request id tells us what.";
    /// The database cannot be reached, or does not take writes.
    DatabaseUnavailable = SERVICE_UNAVAILABLE, "The database is not available. Try again.";
    /// The OpenID provider cannot be reached, and its keys are not known.
    IdentityProviderUnavailable = SERVICE_UNAVAILABLE, "The identity provider is not available. Try again.";
    /// More work than this process takes on at once.
    Overloaded = SERVICE_UNAVAILABLE, "Too much to do at the moment. Try again.";
    /// The answer took too long.
    Timeout = SERVICE_UNAVAILABLE, "The answer took too long. Try again.";
    /// The service is up, but what it needs is not right yet.
    NotReady = SERVICE_UNAVAILABLE, "The service is not ready.";
}

impl Code {
    /// As clients see it.
    pub fn as_str(self) -> String {
        match self.to_json() {
            Some(serde_json::Value::String(code)) => code,
            _ => unreachable!("an enum of poem-openapi is a string"),
        }
    }
}

/// A problem of RFC 9457.
#[derive(Object)]
#[oai(rename_all = "camelCase", rename = "ProblemDetails", example)]
struct ProblemDetails {
    /// Always `about:blank`: `code` is what to switch on.
    #[oai(rename = "type")]
    kind: String,
    /// The phrase of the HTTP status.
    title: String,
    /// The HTTP status.
    status: u16,
    /// A sentence for people; it may change.
    detail: String,
    code: Code,
    /// The same as the header `x-request-id`; the audit log calls it correlation id.
    request_id: String,
    /// The code of RFC 6749 §5.2 for OAuth clients; only of introspection and revocation.
    #[oai(skip_serializing_if_is_none)]
    error: Option<String>,
}

impl poem_openapi::types::Example for ProblemDetails {
    fn example() -> Self {
        Problem::from(Code::InvalidRequest).details("4f6b7c1e-0a52-4f0e-9c2b-5f6f0b7a3c11")
    }
}

/// A refusal on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    /// Seconds after which trying again makes sense (`Retry-After`, RFC 9110 §10.2.3).
    retry_after: Option<u64>,
    /// What RFC 6750 or RFC 9470 wants beside the realm in `WWW-Authenticate`.
    challenge: Option<String>,
    /// Whether whoever asked reads RFC 6749.
    for_oauth: bool,
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        let retry_after = (code.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        Self { code, detail: Cow::Borrowed(code.detail()), retry_after, challenge: challenge(code), for_oauth: false }
    }
}

impl From<(Code, &'static str)> for Problem {
    fn from((code, detail): (Code, &'static str)) -> Self {
        Self::with_detail(code, detail)
    }
}

impl Problem {
    /// With a sentence of its own. It must not repeat a secret, and nothing that a library or the database said.
    pub fn with_detail(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { detail: detail.into(), ..code.into() }
    }

    /// With the time to wait; rounded up, so that a client that waits as long is not refused again.
    pub fn with_retry_after(code: Code, seconds: f64) -> Self {
        Self { retry_after: Some(seconds.ceil().max(1.0) as u64), ..code.into() }
    }

    /// A recent authentication is wanted, no older than these seconds (RFC 9470 §3).
    pub fn step_up_required(max_age: i64) -> Self {
        let challenge = format!(
            r#"error="insufficient_user_authentication", error_description="A recent authentication is required", max_age="{max_age}""#
        );
        Self { challenge: Some(challenge), ..Code::StepUpRequired.into() }
    }

    /// A personal access token lacks this scope (RFC 6750 §3.1).
    pub fn insufficient_scope(scope: &str) -> Self {
        let challenge = format!(r#"error="insufficient_scope", scope="{scope}""#);
        Self { challenge: Some(challenge), ..Code::InsufficientScope.into() }
    }

    /// The refusal that stands for a bare status of the framework (unknown route, wrong method, …).
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
            status if status.is_client_error() => Code::BadRequest,
            _ => Code::InternalError,
        }
        .into()
    }

    /// The same for a client that reads the `error` of RFC 6749 §5.2.
    pub fn for_oauth(self) -> Self {
        Self { for_oauth: true, ..self }
    }

    /// What to switch on.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The sentence for people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    fn details(&self, request_id: &str) -> ProblemDetails {
        let status = self.code.status();
        ProblemDetails {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or_default().into(),
            status: status.as_u16(),
            detail: self.detail.clone().into_owned(),
            code: self.code,
            request_id: request_id.into(),
            error: self.for_oauth.then(|| oauth_error(self.code).into()),
        }
    }

    /// The body of the HTTP answer.
    pub fn body(&self, request_id: &str) -> String {
        self.details(request_id).to_json_string()
    }

    /// The HTTP answer.
    pub fn response(&self, request_id: &str) -> Response {
        let mut response = Response::builder()
            .status(self.code.status())
            .content_type(PROBLEM_JSON)
            .body(Body::from_string(self.body(request_id)));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        let challenge = match &self.challenge {
            Some(error) => Some(format!(r#"{REALM}, {error}"#)),
            // RFC 6749 §5.2: the scheme that the client is to use.
            None if self.code == Code::InvalidClient => Some(CLIENT_REALM.to_owned()),
            None if self.code.status() == StatusCode::UNAUTHORIZED => Some(REALM.to_owned()),
            None => None,
        };
        if let Some(Ok(challenge)) = challenge.map(HeaderValue::try_from) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

const REALM: &str = r#"Bearer realm="auth_sessions""#;
const CLIENT_REALM: &str = r#"Basic realm="auth_sessions", charset="UTF-8""#;

/// RFC 6750 §3: an error only when a token was shown.
fn challenge(code: Code) -> Option<String> {
    (code == Code::InvalidAccessToken).then(|| r#"error="invalid_token""#.to_owned())
}

/// RFC 6749 §5.2, and, for what is no fault of the client's, the words of RFC 6749 §4.1.2.1.
fn oauth_error(code: Code) -> &'static str {
    match code {
        Code::InvalidClient => "invalid_client",
        Code::InternalError => "server_error",
        code if code.status().is_server_error() || code.status() == StatusCode::TOO_MANY_REQUESTS => {
            "temporarily_unavailable"
        }
        _ => "invalid_request",
    }
}

impl From<Problem> for poem::Error {
    fn from(problem: Problem) -> Self {
        // The middleware finds the problem in the answer's extensions and renders it, with the request id.
        let mut error = poem::Error::from_status(problem.code.status());
        error.set_data(problem);
        error
    }
}

/// Which codes an operation may answer: the OpenAPI document is made of it.
pub trait Refusals: Send + Sync + 'static {
    /// Groups of codes.
    const CODES: &'static [&'static [Code]];
}

/// What every operation with a body may answer.
pub const BODY: &[Code] = &[
    Code::BadRequest,
    Code::MalformedJson,
    Code::RequestTimeout,
    Code::BodyTooLarge,
    Code::UnsupportedMediaType,
    Code::InvalidRequest,
];
/// What every operation with a form and a client's authentication may answer.
pub const FORM: &[Code] =
    &[Code::MalformedForm, Code::RequestTimeout, Code::BodyTooLarge, Code::UnsupportedMediaType, Code::InvalidClient];
/// What every operation that asks the database may answer.
pub const DATABASE: &[Code] = &[Code::DatabaseUnavailable, Code::Overloaded];
/// What every operation for a logged-in user may answer.
pub const CREDENTIAL: &[Code] = &[Code::AuthenticationRequired, Code::InvalidAccessToken];
/// What it may answer besides, when a personal access token with the scope will do.
pub const SCOPE: &[Code] = &[Code::InsufficientScope];
/// What it may answer besides, when only a session will do.
pub const SESSION: &[Code] = &[Code::SessionRequired];
/// What it may answer besides, when it changes something.
pub const CSRF: &[Code] = &[Code::CsrfTokenMissing, Code::CsrfTokenInvalid];
/// What any operation may answer.
const ALWAYS: &[Code] = &[Code::RateLimited, Code::InternalError, Code::Timeout];

/// Declares the codes of one operation: `refusals!(LoginRefusals: BODY, DATABASE, [Code::AccountLocked])`.
macro_rules! refusals {
    ($name:ident: $($group:expr),+ $(,)?) => {
        /// The codes of the operation, for the document.
        pub struct $name;
        impl $crate::error::Refusals for $name {
            const CODES: &'static [&'static [$crate::error::Code]] = &[$(&$group),+];
        }
    };
}
pub(crate) use refusals;

/// The refusal of one operation: a [`Problem`] whose possible codes are documented.
pub struct Fail<R>(Problem, PhantomData<R>);

impl<R: Refusals> From<Problem> for Fail<R> {
    fn from(problem: Problem) -> Self {
        if !documented::<R>().any(|code| code == problem.code) {
            tracing::error!(code = problem.code.as_str(), "answered a code that openapi.json does not tell");
        }
        Self(problem, PhantomData)
    }
}

impl<R: Refusals> From<Code> for Fail<R> {
    fn from(code: Code) -> Self {
        Problem::from(code).into()
    }
}

impl<R: Refusals> From<(Code, &'static str)> for Fail<R> {
    fn from(refusal: (Code, &'static str)) -> Self {
        Problem::from(refusal).into()
    }
}

impl<R> From<Fail<R>> for poem::Error {
    fn from(fail: Fail<R>) -> Self {
        fail.0.into()
    }
}

fn documented<R: Refusals>() -> impl Iterator<Item = Code> {
    R::CODES.iter().copied().chain([ALWAYS]).flatten().copied()
}

impl<R: Refusals> ApiResponse for Fail<R> {
    fn meta() -> MetaResponses {
        let mut statuses: Vec<StatusCode> = documented::<R>().map(Code::status).collect();
        statuses.sort();
        statuses.dedup();
        let responses = statuses.into_iter().map(|status| {
            let codes: Vec<Code> = documented::<R>().filter(|code| code.status() == status).collect();
            MetaResponse {
                description: describe(&codes),
                status: Some(status.as_u16()),
                status_range: None,
                content: vec![MetaMediaType { content_type: PROBLEM_JSON, schema: ProblemDetails::schema_ref() }],
                headers: headers(status),
            }
        });
        MetaResponses { responses: responses.collect() }
    }

    fn register(registry: &mut Registry) {
        ProblemDetails::register(registry);
    }
}

/// The codes of one status, as text. Leaked: poem-openapi wants `'static`, and the document is made once or twice in a
/// process.
fn describe(codes: &[Code]) -> &'static str {
    let lines: Vec<String> = codes.iter().map(|code| format!("`{}`: {}", code.as_str(), code.detail())).collect();
    lines.join("\n\n").leak()
}

fn headers(status: StatusCode) -> Vec<MetaHeader> {
    let header = |name: &str, ty, description: &str| MetaHeader {
        name: name.into(),
        description: Some(description.into()),
        required: true,
        deprecated: false,
        schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new(ty))),
    };
    match status {
        StatusCode::UNAUTHORIZED => vec![header("WWW-Authenticate", "string", "RFC 6750 §3, or RFC 7617 §2")],
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            vec![header("Retry-After", "integer", "Seconds to wait before trying again")]
        }
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_refusals_of_one_code_differ_in_the_request_id_only() {
        let mut one = Problem::from(Code::InvalidRefreshToken).response("request-1");
        let mut two = Problem::from(Code::InvalidRefreshToken).response("request-2");
        assert_eq!(one.headers(), two.headers());
        let one = one.take_body().into_string().await.unwrap();
        let two = two.take_body().into_string().await.unwrap();
        assert_eq!(one.replace("request-1", "request-2"), two);
        assert!(one.contains(r#""code":"invalid_refresh_token""#), "{one}");
    }

    #[tokio::test]
    async fn an_oauth_client_finds_its_own_word_beside_the_code() {
        for (code, error) in [
            (Code::InvalidClient, "invalid_client"),
            (Code::MalformedForm, "invalid_request"),
            (Code::UnsupportedMediaType, "invalid_request"),
            (Code::DatabaseUnavailable, "temporarily_unavailable"),
            (Code::InternalError, "server_error"),
        ] {
            let mut response = Problem::from(code).for_oauth().response("r");
            let body = response.take_body().into_string().await.unwrap();
            assert!(body.contains(&format!(r#""error":"{error}""#)), "{body}");
        }
        let body = Problem::from(Code::InvalidClient).response("r").take_body().into_string().await.unwrap();
        assert!(!body.contains(r#""error""#), "{body}");
    }

    #[test]
    fn a_wait_is_rounded_up_and_never_zero() {
        let seconds = |wait| {
            let response = Problem::with_retry_after(Code::AccountLocked, wait).response("r");
            response.header(header::RETRY_AFTER).unwrap().to_owned()
        };
        assert_eq!(seconds(0.0), "1");
        assert_eq!(seconds(29.2), "30");
    }

    #[test]
    fn every_code_of_a_401_and_503_says_what_to_do_next() {
        let response = Problem::from(Code::InvalidAccessToken).response("r");
        assert!(response.header(header::WWW_AUTHENTICATE).unwrap().contains("invalid_token"));
        let response = Problem::from(Code::InvalidCredentials).response("r");
        assert_eq!(response.header(header::WWW_AUTHENTICATE), Some(r#"Bearer realm="auth_sessions""#));
        let response = Problem::from(Code::Overloaded).response("r");
        assert_eq!(response.header(header::RETRY_AFTER), Some("1"));
    }
}
