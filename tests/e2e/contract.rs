//! What `openapi.json` promises, checked against the running service: who may do what, and what answers look like.

use std::collections::BTreeSet;

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::mail::{take_mail, token_of};
use auth_sessions_tests::oidc::{federation_url, person};
use auth_sessions_tests::{Answer, Client, OidcProvider, Server, TestDb};
use reqwest::Method;
use serde_json::{Value, json};

/// What works without a credential. Everything else must not; a new operation has to be put here to be public.
const PUBLIC: &[&str] = &[
    "POST /api/auth/signup",
    "POST /api/auth/login",
    "POST /api/auth/google",
    "GET /api/auth/oidc/start",
    "GET /api/auth/oidc/callback",
    "POST /api/auth/token",
    "POST /api/auth/refresh",
    "POST /api/auth/email/verify",
    "POST /api/auth/password/forgot",
    "POST /api/auth/password/reset",
    "GET /api/auth/csrf-token",
    "GET /api/auth/organizations/slug-available/{slug}",
    "GET /.well-known/jwks.json",
    "GET /.well-known/oauth-authorization-server",
    "GET /health/live",
    "GET /health/ready",
];

/// What takes a confidential client instead: see `introspection.rs` and `revocation.rs`.
const FOR_CLIENTS: &[&str] = &["POST /api/auth/introspect", "POST /api/auth/revoke"];

fn document() -> Value {
    serde_json::from_str(include_str!("../../openapi.json")).expect("openapi.json")
}

/// All operations: method, path, and what the document says.
fn operations(document: &Value) -> Vec<(Method, String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, operations)| {
        let operations = operations.as_object().expect("operations");
        operations.iter().map(move |(method, operation)| {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            (method, path.clone(), operation)
        })
    });
    operations.collect()
}

/// The document's own example of an operation's body; nothing where it may be left out.
fn example_body(document: &Value, operation: &Value) -> Option<Value> {
    if operation["requestBody"]["required"] != true {
        return None;
    }
    let schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str()?;
    let name = schema.rsplit('/').next().expect("a name");
    let example = &document["components"]["schemas"][name]["example"];
    assert!(example.is_object(), "{name} has no example");
    Some(example.clone())
}

fn concrete(path: &str) -> String {
    let path = path.replace("{slug}", "some-slug");
    ["{id}", "{userId}", "{sessionId}", "{invitationId}"]
        .iter()
        .fold(path, |path, name| path.replace(name, "00000000-0000-4000-8000-000000000000"))
}

#[tokio::test]
async fn every_operation_needs_a_credential_unless_it_is_listed_as_public() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let ended = api.signup("ada@example.org").await;
    api.post("/api/auth/logout", &json!({}), &ended.access_token).await.expect(200);
    let document = document();
    let mut public = BTreeSet::new();

    for (method, path, operation) in operations(&document) {
        let name = format!("{method} {path}");
        let secured = operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty());
        assert_eq!(!secured, PUBLIC.contains(&name.as_str()), "{name}: the document's `security`");
        if PUBLIC.contains(&name.as_str()) {
            public.insert(name);
            continue;
        }
        let by_client = json!([{"client": []}, {}]);
        assert_eq!(operation["security"] == by_client, FOR_CLIENTS.contains(&name.as_str()), "{name}");
        if FOR_CLIENTS.contains(&name.as_str()) {
            let form = api.request(method, &path).form(&[("token", ended.refresh_token.as_str())]);
            for request in [form.try_clone().expect("a form"), form.bearer_auth(&ended.access_token)] {
                let answer = api.send(request).await.expect_problem(401, "invalid_client");
                let challenge = answer.header("www-authenticate");
                assert_eq!(challenge, Some(r#"Basic realm="auth_sessions", charset="UTF-8""#), "{name}");
            }
            continue;
        }
        let without = api.send(api.request(method.clone(), &concrete(&path))).await;
        assert_eq!((without.status, without.problem_code().as_str()), (401, "authentication_required"), "{name}");
        assert_eq!(without.header("www-authenticate"), Some(r#"Bearer realm="auth_sessions""#), "{name}");
        for (what, bearer) in [
            ("nonsense", "nonsense"),
            ("an ended session", &ended.access_token),
            ("a refresh token", &ended.refresh_token),
        ] {
            let mut request = api.request(method.clone(), &concrete(&path)).bearer_auth(bearer);
            if let Some(body) = example_body(&document, operation) {
                request = request.json(&body);
            }
            let answer = api.send(request).await;
            assert_eq!(
                (answer.status, answer.problem_code().as_str()),
                (401, "invalid_access_token"),
                "{name} with {what}"
            );
            let challenge = answer.header("www-authenticate").expect("a challenge");
            assert!(challenge.contains(r#"error="invalid_token""#), "{name}: {challenge}");
        }
    }
    assert_eq!(public.len(), PUBLIC.len(), "an operation listed as public does not exist");
}

/// An answer to one operation, checked against the document: status, media type, headers, and the form of the body.
fn conforms(document: &Value, method: &Method, path: &str, answer: &Answer) {
    let name = format!("{method} {path} {}", answer.status);
    let operation = &document["paths"][path][method.as_str().to_lowercase()];
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{name} is not documented: {}", answer.text());
    if answer.status == 303 {
        assert!(answer.body.is_empty() && answer.header("location").is_some(), "{name}: only a way to go");
        return check_headers(answer, &name);
    }
    let media_type = answer.header("content-type").expect("a content type");
    let schema = &response["content"][media_type]["schema"];
    assert!(schema.is_object(), "{name}: {media_type} is not documented");
    check_form(document, schema, &answer.json(), &name);
    if answer.status >= 400 {
        let code = answer.problem_code();
        let described = response["description"].as_str().expect("a description");
        assert!(described.contains(&format!("`{code}`")), "{name}: {code} is not documented");
    }
    check_headers(answer, &name);
}

fn check_headers(answer: &Answer, name: &str) {
    let id = answer.header("x-request-id").unwrap_or_else(|| panic!("{name}: no x-request-id"));
    assert!((8..=64).contains(&id.len()), "{name}: {id}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{name}");
    let is_public = ["jwks.json 2", "oauth-authorization-server 2"].iter().any(|path| name.contains(path));
    let cached = if is_public { "public, max-age=300" } else { "no-store" };
    assert_eq!(answer.header("cache-control"), Some(cached), "{name}");
}

/// As much of JSON Schema as the document uses; unlike JSON Schema it takes no member that is not listed.
fn check_form(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).expect("a schema");
        return check_form(document, target, value, at);
    }
    if let Some(all) = schema["allOf"].as_array() {
        return all.iter().for_each(|schema| check_form(document, schema, value, at));
    }
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{at}: {value} is none of {allowed:?}");
    }
    match schema["type"].as_str() {
        Some("object") => {
            let members = value.as_object().unwrap_or_else(|| panic!("{at}: {value} is no object"));
            let none = serde_json::Map::new();
            let properties = schema["properties"].as_object().unwrap_or(&none);
            for required in schema["required"].as_array().into_iter().flatten() {
                assert!(members.contains_key(required.as_str().expect("a name")), "{at}: no {required}");
            }
            for (name, member) in members {
                let property = properties.get(name).unwrap_or_else(|| panic!("{at}: {name} is not documented"));
                check_form(document, property, member, &format!("{at} {name}"));
            }
        }
        Some("array") => {
            let items = value.as_array().unwrap_or_else(|| panic!("{at}: {value} is no array"));
            items.iter().for_each(|item| check_form(document, &schema["items"], item, at));
        }
        Some("string") => {
            let text = value.as_str().unwrap_or_else(|| panic!("{at}: {value} is no string"));
            match schema["format"].as_str() {
                Some("uuid") => assert!(uuid::Uuid::parse_str(text).is_ok(), "{at}: {text}"),
                // ISO 8601, UTC, milliseconds: 2026-11-20T12:41:30.968Z
                Some("date-time") => {
                    assert!(text.len() == 24 && text.ends_with('Z') && &text[10..11] == "T", "{at}: {text}")
                }
                _ => {}
            }
        }
        Some("integer") => assert!(value.is_i64(), "{at}: {value}"),
        Some("boolean") => assert!(value.is_boolean(), "{at}: {value}"),
        // Beside a reference, a description alone.
        None if schema["description"].is_string() => {}
        other => panic!("{at}: the test knows no type {other:?} in {schema}"),
    }
}

#[tokio::test]
async fn every_answer_has_the_documented_form() {
    let (db, provider) = (TestDb::create().await, OidcProvider::start().await);
    let federation = federation_url(&db);
    let server =
        Server::start(&db, &provider.settings(&federation, &[("PUBLIC_URL", "https://auth.example.org")])).await;
    let client = Client::register(&db.connect_as("auth_operator").await, "Billing").await;
    let api = server.api();
    let document = document();
    let mut answered = BTreeSet::new();
    let mut call = async |method: Method, path: &str, body: Value, bearer: &str, status: u16| -> Answer {
        let mut request = api.request(method.clone(), &concrete(path));
        if !body.is_null() {
            request = request.json(&body);
        }
        if !bearer.is_empty() {
            request = request.bearer_auth(bearer);
        }
        let answer = api.send(request).await.expect(status);
        conforms(&document, &method, path, &answer);
        if status < 400 {
            answered.insert(format!("{method} {path}"));
        }
        answer
    };
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    let sign_up = json!({"email": "ada@example.org", "password": PASSWORD, "name": "Ada",
                         "organization": {"name": "Engines", "slug": "some-slug"}});
    let log_in = json!({"email": "ada@example.org", "password": PASSWORD});
    let wrong = json!({"email": "ada@example.org", "password": "wrong password"});
    let none = Value::Null;

    let first = call(post.clone(), "/api/auth/signup", sign_up.clone(), "", 201).await.session();
    call(post.clone(), "/api/auth/signup", sign_up, "", 409).await;
    call(post.clone(), "/api/auth/signup", json!({}), "", 422).await;
    let second = call(post.clone(), "/api/auth/login", log_in.clone(), "", 200).await.session();
    call(post.clone(), "/api/auth/login", wrong, "", 401).await;
    let grant = json!({"grantType": "password", "email": "ada@example.org", "password": PASSWORD});
    call(post.clone(), "/api/auth/token", grant, "", 200).await;
    let refresh = json!({"refreshToken": second.refresh_token});
    let second = call(post.clone(), "/api/auth/refresh", refresh, "", 200).await.session();
    call(post.clone(), "/api/auth/refresh", json!({"refreshToken": "x"}), "", 401).await;
    let bearer = second.access_token.as_str();
    call(get.clone(), "/api/auth/me", none.clone(), bearer, 200).await;
    call(get.clone(), "/api/auth/me", none.clone(), "", 401).await;
    call(get.clone(), "/api/auth/token-info", none.clone(), bearer, 200).await;
    call(get.clone(), "/api/auth/sessions", none.clone(), bearer, 200).await;
    call(get.clone(), "/api/auth/security-events", none.clone(), bearer, 200).await;
    let admin = db.superuser().await;
    let token = json!({"name": "report", "scopes": ["sessions:read"], "expiresInDays": 30});
    let tokens = "/api/auth/personal-access-tokens";
    call(post.clone(), tokens, token.clone(), bearer, 403).await;
    admin.execute("update auth.users set email_verified_at = now()", &[]).await.expect("verified");
    let made = call(post.clone(), tokens, token.clone(), bearer, 201).await.json();
    call(get.clone(), tokens, none.clone(), bearer, 200).await;
    call(get.clone(), tokens, none.clone(), made["token"].as_str().expect("a token"), 403).await;
    let token_id = made["personalAccessToken"]["id"].as_str().expect("an id");
    let revoked = api.delete(&format!("{tokens}/{token_id}"), bearer).await.expect(200);
    conforms(&document, &delete, "/api/auth/personal-access-tokens/{id}", &revoked);
    call(delete.clone(), "/api/auth/personal-access-tokens/{id}", none.clone(), bearer, 404).await;
    admin.execute("update auth.sessions set auth_time = auth_time - interval '1 day'", &[]).await.expect("stale");
    call(post.clone(), tokens, token, bearer, 401).await;
    call(post.clone(), "/api/auth/step-up", json!({"password": "wrong password"}), bearer, 401).await;
    call(post.clone(), "/api/auth/step-up", json!({"password": PASSWORD}), bearer, 200).await;
    call(get.clone(), "/api/auth/csrf-token", none.clone(), "", 401).await;
    call(get.clone(), "/api/auth/organizations/slug-available/{slug}", none.clone(), "", 200).await;
    call(get.clone(), "/.well-known/jwks.json", none.clone(), "", 200).await;
    call(get.clone(), "/.well-known/oauth-authorization-server", none.clone(), "", 200).await;
    call(get.clone(), "/health/live", none.clone(), "", 200).await;
    call(get.clone(), "/health/ready", none.clone(), "", 200).await;
    call(delete.clone(), "/api/auth/sessions/{id}", none.clone(), bearer, 404).await;
    let id = auth_sessions_tests::wire::RefreshToken::parse(&first.refresh_token).session_id;
    let ended = api.delete(&format!("/api/auth/sessions/{id}"), bearer).await.expect(200);
    conforms(&document, &delete, "/api/auth/sessions/{id}", &ended);
    call(post.clone(), "/api/auth/logout", none.clone(), bearer, 200).await;
    let third = call(post.clone(), "/api/auth/login", log_in, "", 200).await.session();
    call(post.clone(), "/api/auth/logout-all", none.clone(), &third.access_token, 200).await;

    let credential = provider.token(&person("1", "bob@example.org")).await;
    let google = "/api/auth/google";
    call(post.clone(), google, json!({"credential": credential}), "", 200).await;
    call(post.clone(), google, json!({"credential": credential, "nonce": "n"}), "", 401).await;
    let squatted = json!({"email": "eve@example.org", "password": PASSWORD, "name": "Eve"});
    call(post.clone(), "/api/auth/signup", squatted, "", 201).await;
    let credential = provider.token(&person("2", "eve@example.org")).await;
    call(post.clone(), google, json!({"credential": credential}), "", 409).await;
    // A browser goes the whole way in federation_web.rs.
    call(get.clone(), "/api/auth/oidc/start", none.clone(), "", 303).await;
    call(get.clone(), "/api/auth/oidc/callback", none.clone(), "", 303).await;

    let grace = api.signup("grace@example.org").await;
    let bearer = grace.access_token.as_str();
    let mailer = db.connect_as("auth_mail_service").await;
    let mailed = async |kind, to| json!(token_of(&take_mail(&mailer).await, kind, to));
    let token = mailed("verify_email", "grace@example.org").await;
    call(post.clone(), "/api/auth/email/verify", json!({"token": token}), "", 200).await;
    call(post.clone(), "/api/auth/email/verify", json!({"token": token}), "", 422).await;
    call(post.clone(), "/api/auth/email/resend", json!({"email": "grace@example.org"}), "", 202).await;
    let new_email = json!({"newEmail": "grace2@example.org"});
    call(post.clone(), "/api/auth/email/change", new_email, bearer, 202).await;
    let token = mailed("change_email", "grace2@example.org").await;
    call(post.clone(), "/api/auth/email/change/confirm", json!({"token": token}), bearer, 200).await;
    call(post.clone(), "/api/auth/email/change/confirm", json!({"token": token}), bearer, 422).await;
    let changed = json!({"currentPassword": PASSWORD, "newPassword": "purple monkey dishwasher"});
    call(post.clone(), "/api/auth/password/change", changed.clone(), bearer, 200).await;
    call(post.clone(), "/api/auth/password/change", changed, bearer, 401).await;
    call(post.clone(), "/api/auth/password/forgot", json!({"email": "grace2@example.org"}), "", 202).await;
    let token = mailed("reset_password", "grace2@example.org").await;
    let reset = json!({"token": token, "password": PASSWORD});
    call(post.clone(), "/api/auth/password/reset", reset.clone(), "", 200).await;
    call(post.clone(), "/api/auth/password/reset", reset, "", 422).await;

    // Answered above under other ids than the test's own, or by cookie (cookies.rs).
    answered.insert("DELETE /api/auth/sessions/{id}".to_owned());
    answered.insert("DELETE /api/auth/personal-access-tokens/{id}".to_owned());
    answered.insert("GET /api/auth/csrf-token".to_owned());
    let fourth = api.login("ada@example.org", PASSWORD).await.expect(200).session();
    for path in ["/api/auth/introspect", "/api/auth/revoke"] {
        for (token, client, status) in [
            (fourth.access_token.as_str(), Some(&client), 200),
            ("nonsense", Some(&client), 200),
            (&fourth.access_token, None, 401),
            ("", Some(&client), 400),
        ] {
            let answer = api.form(path, &[("token", token)], client).await.expect(status);
            conforms(&document, &post, path, &answer);
        }
        conforms(&document, &post, path, &api.post(path, &json!({"token": "x"}), "").await.expect(415));
        answered.insert(format!("POST {path}"));
    }
    // Her own, as the owner of their organization; who reaches what is in oversight.rs and dashboard.rs.
    let stolen = api.login("ada@example.org", PASSWORD).await.expect(200).session();
    let family_id = auth_sessions_tests::wire::RefreshToken::parse(&stolen.refresh_token).session_id;
    let user_id = stolen.body["user"]["id"].as_str().expect("an id");
    let fifth = api.login("ada@example.org", PASSWORD).await.expect(200).session();
    let families = "/api/auth/oversight/families/{id}/end";
    let users = "/api/auth/oversight/users/{userId}/end";
    for (path, id, body, status) in [
        (families, family_id.to_string().as_str(), json!({}), 422),
        (families, family_id.to_string().as_str(), json!({"reason": "Phone stolen"}), 200),
        (families, "00000000-0000-4000-8000-000000000000", json!({"reason": "Phone stolen"}), 404),
        (users, user_id, json!({"reason": "Phone stolen"}), 200),
        (users, user_id, json!({"reason": "Phone stolen"}), 401),
    ] {
        let concrete = path.replace("{id}", id).replace("{userId}", id);
        let answer = api.post(&concrete, &body, &fifth.access_token).await.expect(status);
        conforms(&document, &post, path, &answer);
        answered.insert(format!("POST {path}"));
    }
    crate::organizations_http::walk(&api, &admin, |method, path, answer| {
        conforms(&document, method, path, answer);
        if answer.status < 300 {
            answered.insert(format!("{method} {path}"));
        }
    })
    .await;
    let all: BTreeSet<_> = operations(&document).iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    assert_eq!(answered, all, "an operation was not tried: add it here");
}

#[tokio::test]
async fn what_the_answers_say() {
    let db = TestDb::create().await;
    let server =
        Server::start(&db, &[("ACCESS_TOKEN_TTL_SECONDS", "300"), ("REFRESH_TOKEN_TTL_SECONDS", "3600")]).await;
    let api = server.api();
    let login = Method::POST;
    api.signup("ada@example.org").await;
    let chrome = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36";
    let body = json!({"email": "ada@example.org", "password": PASSWORD});
    let request = api.request(login, "/api/auth/login").header("user-agent", chrome).json(&body);
    let session = api.send(request).await.expect(200).session();
    assert_eq!(session.body["expiresIn"], 300);
    assert_eq!(session.body["tokenType"], "Bearer");

    let info = api.get("/api/auth/token-info", &session.access_token).await.expect(200).json();
    assert_eq!(info["email"], "ada@example.org");
    assert_eq!(info["userId"], session.body["user"]["id"]);
    let left = info["timeToExpiry"].as_i64().expect("seconds");
    assert!((290..=300).contains(&left), "{left}");

    let listed = api.get("/api/auth/sessions", &session.access_token).await.expect(200).json();
    let sessions = listed["sessions"].as_array().expect("sessions");
    let current: Vec<_> = sessions.iter().filter(|session| session["isCurrent"] == true).collect();
    assert_eq!((sessions.len(), current.len()), (2, 1));
    assert_eq!(current[0]["deviceName"], "Chrome 120 on macOS");
    assert_eq!(current[0]["ipAddress"], "127.0.0.0/24", "the network, never the address");

    let (_, claims) = auth_sessions_tests::wire::parse_jwt(&session.access_token);
    assert_eq!(claims["sub"], session.body["user"]["id"]);
    assert_eq!(claims["sid"], current[0]["id"]);
    assert_eq!(
        (&claims["iss"], &claims["aud"], &claims["amr"]),
        (&json!("auth_sessions"), &json!("auth_sessions"), &json!(["pwd"]))
    );
    assert_eq!(claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat"), 300);
}

#[tokio::test]
async fn a_request_id_goes_all_the_way() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "name": "Ada"});
    let request = api.request(Method::POST, "/api/auth/signup").header("x-request-id", "my-request.0001").json(&body);
    let answer = api.send(request).await.expect(201);
    assert_eq!(answer.header("x-request-id"), Some("my-request.0001"));
    let counted =
        "select count(*) from auth.audit_log where correlation_id = 'my-request.0001' and action = 'user_created'";
    let count: i64 = db.superuser().await.query_one(counted, &[]).await.expect("audit_log").get(0);
    assert_eq!(count, 1);
    auth_sessions_tests::eventually("it is in the log", async || server.log().contains("my-request.0001")).await;
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let served = api.get("/openapi.json", "").await.expect(200);
    check_headers(&served, "GET /openapi.json");
    assert_eq!(served.json(), document());
    let page = api.get("/docs", "").await.expect(200);
    check_headers(&page, "GET /docs");
    // It works without the Internet, and could not load anything from there.
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("http"), "{policy}");
    for loaded in [r#"src="http"#, r#"href="http"#, "src='http", r#"src="//"#] {
        assert!(!page.text().contains(loaded), "{loaded}");
    }
}

#[tokio::test]
async fn not_ready_without_the_extension() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    // What the service would be doing at its start, so that it is not in the way.
    admin.batch_execute("select auth.maintain_audit_partitions()").await.expect("partitions");
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    api.get("/health/ready", "").await.expect(200);
    admin.batch_execute("drop extension auth_sessions cascade").await.expect("dropped");
    let answer = api.get("/health/ready", "").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    api.get("/health/live", "").await.expect(200);
}
