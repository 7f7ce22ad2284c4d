//! Whole requests, against the whole service, which has no database: so a 503 tells that somebody got as far as asking it.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use poem::{
    Body, Endpoint, EndpointExt, Request, Response,
    endpoint::BoxEndpoint,
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header},
};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::{KEY, OTHER_KEY, tokens};
use crate::{app, assemble, config, error::PROBLEM_JSON};

/// The settings of the service; the database is nowhere, and nothing is too often.
fn setting(name: &str) -> Option<String> {
    let value = match name {
        "DATABASE_URL" => "postgres://nobody@%2Fnowhere/auth",
        "HMAC_SECRETS" => return Some(format!("{KEY},{OTHER_KEY}")),
        "PASSWORD_PEPPERS" | "JWT_SIGNING_KEYS" => KEY,
        "JWT_ISSUER" => "issuer",
        "JWT_AUDIENCE" => "audience",
        "ARGON2_MEMORY_KIB" => "8",
        "ARGON2_ITERATIONS" => "1",
        "CORS_ORIGINS" => "https://app.example.org",
        "TRUSTED_PROXIES" => "10.0.0.0/8",
        name if name.starts_with("RATE_LIMIT_") => "off",
        _ => return None,
    };
    Some(value.to_owned())
}

/// A service and what drives it; one for each thread, so that whatever fails fails where it was asked.
struct Service {
    runtime: Runtime,
    endpoint: BoxEndpoint<'static, Response>,
}

thread_local! {
    static SERVICE: RefCell<Service> = RefCell::new({
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let config = config::config(setting).expect("good settings");
        let (app, _) = runtime.block_on(assemble(config)).expect("a service");
        let endpoint = app::endpoint(Arc::new(app)).map_to_response().boxed();
        Service { runtime, endpoint }
    });
}

/// An operation of the document.
struct Operation {
    id: String,
    method: Method,
    path: Vec<String>,
    takes_json: bool,
    statuses: BTreeSet<u16>,
}

impl Operation {
    fn is_at(&self, method: &Method, path: &str) -> bool {
        let segments: Vec<&str> = path.split('/').collect();
        let fits = |(pattern, segment): (&String, &&str)| {
            pattern.starts_with('{') && !segment.is_empty() || pattern == segment
        };
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.method == method && self.path.len() == segments.len() && self.path.iter().zip(&segments).all(fits)
    }
}

static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(&app::document()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let operation = |path: &str, method: &str, operation: &Value| Operation {
        id: operation["operationId"].as_str().expect("an id").to_owned(),
        method: method.to_uppercase().parse().expect("a method"),
        path: path.split('/').map(str::to_owned).collect(),
        takes_json: operation["requestBody"]["content"].get("application/json").is_some(),
        statuses: operation["responses"]
            .as_object()
            .expect("answers")
            .keys()
            .map(|s| s.parse().expect("a status"))
            .collect(),
    };
    let all = paths.iter().flat_map(|(path, methods)| {
        methods.as_object().expect("methods").iter().map(move |(method, described)| operation(path, method, described))
    });
    all.collect()
});

/// What a stranger may have asked of the database: these operations have no credential, or one that only it can judge.
const OPEN: &[&str] = &[
    "acceptInvitation",
    "checkSlug",
    "confirmEmailChange",
    "forgotPassword",
    "getReadiness",
    "getTokens",
    "introspectToken",
    "logIn",
    "resetPassword",
    "revokeToken",
    "signUp",
    "verifyEmail",
];

struct Answer {
    status: StatusCode,
    body: Value,
}

/// Asks, and checks what holds for every answer.
fn ask(method: Method, uri: Uri, headers: &[(HeaderName, HeaderValue)], body: Vec<u8>) -> Answer {
    let operation = OPERATIONS.iter().find(|operation| operation.is_at(&method, uri.path()));
    let mut request = Request::builder().method(method.clone()).uri(uri.clone()).finish();
    headers.iter().for_each(|(name, value)| _ = request.headers_mut().append(name, value.clone()));
    let genuine = is_genuine(&uri, headers, &body);
    let in_a_name = serde_json::from_slice(&body).is_ok_and(|json| has_name_with("hunter2", &json));
    request.set_body(Body::from_vec(body));
    let (status, headers, bytes) = SERVICE.with_borrow(|service| {
        service.runtime.block_on(async {
            let mut response = service.endpoint.get_response(request).await;
            let body = response.take_body().into_bytes().await.expect("a whole body");
            (response.status(), response.headers().clone(), body)
        })
    });
    let told = || format!("{method} {uri}: {status} {}", String::from_utf8_lossy(&bytes));
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{}", told());
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Programs with an origin of CORS_ORIGINS are answered about CORS by poem itself.
    if method == Method::OPTIONS && operation.is_none() {
        return Answer { status, body: Value::Null };
    }
    assert_eq!(text(header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{}", told());
    assert_eq!(
        text(header::CACHE_CONTROL),
        if uri.path() == "/.well-known/jwks.json" && status.is_success() {
            text(header::CACHE_CONTROL)
        } else {
            "no-store"
        },
        "{}",
        told()
    );
    let request_id = text(app::REQUEST_ID);
    assert!((8..=64).contains(&request_id.len()), "{}", told());
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if !status.is_success() && !status.is_redirection() && method != Method::HEAD {
        assert_eq!(text(header::CONTENT_TYPE), PROBLEM_JSON, "{}", told());
        assert_eq!((&body["status"], &body["requestId"]), (&status.as_u16().into(), &request_id.into()), "{}", told());
        assert!(
            body["code"].is_string() && body["detail"].as_str().is_some_and(|detail| detail.len() < 1000),
            "{}",
            told()
        );
        // A refusal may name a field that it does not know, but never tells what was in one.
        assert!(in_a_name || !bytes.windows(7).any(|word| word == b"hunter2"), "a value was repeated: {}", told());
    }
    if let Some(operation) = operation {
        assert!(operation.statuses.contains(&status.as_u16()), "{} does not tell of this: {}", operation.id, told());
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let open = operation.is_some_and(|operation| OPEN.contains(&operation.id.as_str()));
        assert!(open || genuine, "the database was asked for a stranger: {}", told());
    }
    Answer { status, body }
}

/// Whether a member of the JSON, however deep, has such a name.
fn has_name_with(word: &str, json: &Value) -> bool {
    match json {
        Value::Object(members) => members.iter().any(|(name, value)| name.contains(word) || has_name_with(word, value)),
        Value::Array(elements) => elements.iter().any(|value| has_name_with(word, value)),
        _ => false,
    }
}

/// Whether there is anything in it that only we make, or, of a personal access token, that has its form.
fn is_genuine(uri: &Uri, headers: &[(HeaderName, HeaderValue)], body: &[u8]) -> bool {
    let refresh = tokens::good_refresh_token();
    let has = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|found| found == word.as_bytes());
    let shows = |bytes: &[u8]| [tokens::good_access_token(), &refresh, "asp_"].iter().any(|token| has(bytes, token));
    // A text in JSON may be spelled in other ways.
    let decoded = serde_json::from_slice::<Value>(body).map(|json| json.to_string()).unwrap_or_default();
    shows(uri.to_string().as_bytes())
        || headers.iter().any(|(_, value)| shows(value.as_bytes()))
        || shows(body)
        || shows(decoded.as_bytes())
}

/// The tokens that a fuzzer cannot make.
fn with_tokens(text: &[u8]) -> Vec<u8> {
    let words = [
        ("$access", tokens::good_access_token().to_owned()),
        ("$refresh", tokens::good_refresh_token()),
        ("$csrf", tokens::good_csrf_token()),
    ];
    let mut filled = Vec::with_capacity(text.len() + 512);
    let mut rest = text;
    'next: while let Some((first, behind)) = rest.split_first() {
        for (word, token) in &words {
            if let Some(behind) = rest.strip_prefix(word.as_bytes()) {
                filled.extend_from_slice(token.as_bytes());
                rest = behind;
                continue 'next;
            }
        }
        filled.push(*first);
        rest = behind;
    }
    filled
}

/// The input is a request: method and path in a line, a header in each of the next, an empty line, the body. `$access`,
/// `$refresh` and `$csrf` stand for good tokens.
pub fn requests(input: &[u8]) {
    let (head, body) = match input.windows(2).position(|two| two == b"\n\n") {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (input, &[][..]),
    };
    let head = with_tokens(head);
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let Some(blank) = first.iter().position(|byte| *byte == b' ') else { return };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(&first[..blank]), Uri::try_from(&first[blank + 1..])) else {
        return;
    };
    let header = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        Some((HeaderName::from_bytes(&line[..colon]).ok()?, value))
    };
    let headers: Vec<_> = lines.filter_map(header).collect();
    ask(method, uri, &headers, with_tokens(body));
}

/// The input: in its first line the operation, by its id, or else by its first byte; then the body, from a user who is logged
/// in.
pub fn json_bodies(input: &[u8]) {
    let newline = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (name, body) = (&input[..newline], input.get(newline + 1..).unwrap_or_default());
    let takers: Vec<&Operation> = OPERATIONS.iter().filter(|operation| operation.takes_json).collect();
    let named = takers.iter().find(|operation| operation.id.as_bytes() == name);
    let operation = named.unwrap_or(&takers[usize::from(name.first().copied().unwrap_or_default()) % takers.len()]);
    let segment = |segment: &String| {
        if segment.starts_with('{') { "0f7a3c52-6d1e-4b8f-a0c9-1d2e3f405162".to_owned() } else { segment.clone() }
    };
    let path = operation.path.iter().map(segment).collect::<Vec<_>>().join("/");
    let bearer = HeaderValue::try_from(format!("Bearer {}", tokens::good_access_token())).expect("a header");
    let headers =
        [(header::AUTHORIZATION, bearer), (header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let body = with_tokens(body);
    let answer = ask(operation.method.clone(), path.parse().expect("a path"), &headers, body.clone());
    let code = answer.body["code"].as_str().unwrap_or_default();
    match serde_json::from_slice::<Value>(&body) {
        _ if body.len() > 16 * 1024 => assert_eq!(code, "body_too_large"),
        _ if body.is_empty() => {}
        // Too deep for us is no JSON for us either.
        Err(_) => assert_eq!(code, "malformed_json", "{}", answer.body),
        Ok(Value::Object(_)) => assert!(!["malformed_json", "body_too_large"].contains(&code)),
        Ok(_) => assert_eq!(code, "invalid_request"),
    }
    // Nothing was done: there is no database to do it.
    assert!(!answer.status.is_success() || ["logOut"].contains(&operation.id.as_str()), "{}", answer.body);
}
