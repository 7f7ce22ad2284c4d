//! Whatever a client sends: a problem+json with a stable code and a 4xx, and nothing changed in the database.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::{Answer, Api, Server, TestDb};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Every operation with a body, a body that it would take, and which of its members must be there.
fn bodies() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let token = format!("asr_{}", "A".repeat(118));
    let link = format!("aso_{}", "A".repeat(43));
    let organization =
        json!({"name": "Engines", "slug": "engines", "description": "d", "website": "https://e.example"});
    vec![
        (
            "/api/auth/signup",
            json!({"email": "eve@example.org", "password": PASSWORD, "name": "Eve", "userType": "INDIVIDUAL", "organization": organization}),
            &["email", "password", "name"],
        ),
        ("/api/auth/login", json!({"email": "eve@example.org", "password": PASSWORD}), &["email", "password"]),
        (
            "/api/auth/token",
            json!({"grantType": "password", "email": "eve@example.org", "password": PASSWORD}),
            &["grantType", "email", "password"],
        ),
        (
            "/api/auth/token",
            json!({"grantType": "refresh_token", "refreshToken": token}),
            &["grantType", "refreshToken"],
        ),
        ("/api/auth/refresh", json!({"refreshToken": token}), &["refreshToken"]),
        ("/api/auth/google", json!({"credential": "a.b.c", "nonce": "n"}), &["credential"]),
        ("/api/auth/logout", json!({"refreshToken": token, "all": false}), &[]),
        ("/api/auth/email/verify", json!({"token": link}), &["token"]),
        ("/api/auth/email/resend", json!({"email": "eve@example.org"}), &[]),
        ("/api/auth/password/forgot", json!({"email": "eve@example.org"}), &["email"]),
        ("/api/auth/password/reset", json!({"token": link, "password": PASSWORD}), &["token", "password"]),
    ]
}

/// A server on a database with one account in it, and what must be the same at the end.
struct Untouched {
    db: TestDb,
    server: Server,
    before: std::collections::BTreeMap<String, i64>,
}

impl Untouched {
    async fn start() -> Self {
        let db = TestDb::create().await;
        let server = Server::start(&db, &[]).await;
        server.api().signup("ada@example.org").await;
        let before = db.row_counts().await;
        Self { db, server, before }
    }

    async fn check(&self) {
        assert_eq!(self.db.row_counts().await, self.before);
        self.server.api().login("ada@example.org", PASSWORD).await.expect(200);
    }
}

async fn post(api: &Api, path: &str, body: impl Into<Vec<u8>>) -> Answer {
    let request = api.request(Method::POST, path).header("content-type", "application/json");
    api.send(request.body(body.into())).await
}

#[tokio::test]
async fn what_is_no_json() {
    let service = Untouched::start().await;
    let api = service.server.api();
    for (path, valid, _) in bodies() {
        let valid = valid.to_string();
        let mut texts: Vec<Vec<u8>> =
            ["{", "}", "nonsense", "{'email': 1}", "{} {}", "{\"email\":}", "{\"a\": 1,}", "NaN"]
                .map(|text| text.as_bytes().to_vec())
                .into();
        texts.push(valid.as_bytes()[..valid.len() - 1].to_vec());
        texts.push(format!("{valid}x").into_bytes());
        texts.push([b"\xef\xbb\xbf", valid.as_bytes()].concat());
        texts.push(valid.encode_utf16().flat_map(u16::to_le_bytes).collect());
        texts.push(valid.replacen(":\"", ":\"\u{1}", 1).into_bytes());
        texts.push(valid.replacen(":\"", ":\"\\ud800", 1).into_bytes());
        texts.push([&valid.as_bytes()[..valid.len() - 2], &[0xff, 0xfe], b"\"}"].concat());
        texts.push(b"[".repeat(10_000));
        for text in texts {
            let answer = post(&api, path, text.clone()).await;
            let said = String::from_utf8_lossy(&text[..text.len().min(200)]).into_owned();
            assert_eq!((answer.status, answer.problem_code().as_str()), (400, "malformed_json"), "{path} {said}");
        }
        for text in ["[]", "null", "1", "true", "\"text\"", "[{}]"] {
            post(&api, path, text).await.expect_problem(422, "invalid_request");
        }
    }
    // Some have a body that may be left out; then there is no credential, or token.
    for path in ["/api/auth/signup", "/api/auth/login", "/api/auth/token", "/api/auth/google"] {
        post(&api, path, "").await.expect_problem(400, "malformed_json");
    }
    post(&api, "/api/auth/refresh", "").await.expect_problem(422, "invalid_request");
    for path in ["/api/auth/logout", "/api/auth/email/resend"] {
        post(&api, path, "").await.expect_problem(401, "authentication_required");
    }
    service.check().await;
}

#[tokio::test]
async fn json_of_another_form() {
    let service = Untouched::start().await;
    let api = service.server.api();
    for (path, valid, required) in bodies() {
        for member in required {
            let mut body = valid.clone();
            body.as_object_mut().expect("an object").remove(*member);
            post(&api, path, body.to_string()).await.expect_problem(422, "invalid_request");
            body[*member] = Value::Null;
            post(&api, path, body.to_string()).await.expect_problem(422, "invalid_request");
        }
        for member in valid.as_object().expect("an object").keys() {
            for value in [json!(1), json!(-1.5e300), json!("yes"), json!([]), json!({}), json!([valid[member]])] {
                let same_kind =
                    value.is_string() == valid[member].is_string() && value.is_object() == valid[member].is_object();
                if !same_kind {
                    let mut body = valid.clone();
                    body[member] = value;
                    post(&api, path, body.to_string()).await.expect_problem(422, "invalid_request");
                }
            }
            // Said twice: which one counts is nothing that two readers would agree on.
            let twice = format!("{{\"{member}\":{},{}", valid[member], &valid.to_string()[1..]);
            let answer = post(&api, path, twice).await;
            assert_eq!(answer.status, 422, "{path} {member} twice: {}", answer.text());
        }
        for member in ["unknown", "user_type", "Email", "__proto__", "client_id", ""] {
            let mut body = valid.clone();
            body[member] = json!("x");
            post(&api, path, body.to_string()).await.expect_problem(422, "invalid_request");
        }
    }
    let nested = json!({"email": "eve@example.org", "password": PASSWORD, "name": "Eve",
                        "organization": {"name": "Engines", "slug": "engines", "owner": "eve"}});
    post(&api, "/api/auth/signup", nested.to_string()).await.expect_problem(422, "invalid_request");
    service.check().await;
}

#[tokio::test]
async fn values_that_do_not_fit() {
    let service = Untouched::start().await;
    let api = service.server.api();
    let sign_up = async |member: &str, value: &str| {
        let mut body = bodies()[0].1.clone();
        match member.strip_prefix("organization.") {
            Some(member) => body["organization"][member] = json!(value),
            None => body[member] = json!(value),
        }
        post(&api, "/api/auth/signup", body.to_string()).await
    };
    let long = "a".repeat(10_000);
    let cases: &[(&str, &[&str], &str)] = &[
        (
            "email",
            &["", " ", "ada", "@", "a@", "@b.org", "a b@c.org", "a@b", "a@b..org", "a\n@b.org", &long],
            "invalid_email",
        ),
        ("password", &["", "short", "password1", "ILoveYou", &long, &"ä".repeat(129)], "invalid_password"),
        ("name", &["", " ", "\n", "a\tb", "a\u{7f}b", "a\u{85}b", &long], "invalid_name"),
        ("userType", &["", "individual", "ADMIN", &long], "invalid_request"),
        ("organization.name", &["", " ", "a\rb", &long], "invalid_name"),
        ("organization.slug", &["", "a", "A-B", "a b", "a_b", "é-é", "-ab", "ab-", &long], "invalid_slug"),
        ("organization.description", &[&"d".repeat(2001)], "invalid_description"),
        ("organization.website", &["", "javascript:alert(1)", "ftp://e.example", "https://", &long], "invalid_website"),
    ];
    for (member, values, code) in cases {
        for value in *values {
            let answer = sign_up(member, value).await;
            let said = &value[..value.len().min(40)];
            assert_eq!((answer.status, answer.problem_code().as_str()), (422, *code), "{member}: {said:?}");
        }
        // A NUL has no place in a text of PostgreSQL.
        for value in ["\0", "a\0b", "eve@example.org\0"] {
            let answer = sign_up(member, value).await;
            assert_eq!(answer.status, 422, "{member} with NUL: {}", answer.text());
        }
    }
    for (path, valid, required) in bodies() {
        for member in required {
            for value in [long.as_str(), "\0"] {
                let mut body = valid.clone();
                body[*member] = json!(value);
                let answer = post(&api, path, body.to_string()).await;
                assert!((400..500).contains(&answer.status), "{path} {member}: {}", answer.text());
                answer.problem_code();
            }
        }
        let padded = format!("{}{}", valid, " ".repeat(1 << 20));
        post(&api, path, padded).await.expect_problem(413, "body_too_large");
    }
    let counted = service.before.keys().cloned().collect::<Vec<_>>();
    let mut after = service.db.row_counts().await;
    // Logins of addresses that are none are failed logins, and counted as such; nothing else is new.
    after.retain(|table, _| !["attempts", "audit_log", "instance"].contains(&table.as_str()));
    let mut before = service.before.clone();
    before.retain(|table, _| after.contains_key(table));
    assert_eq!(after, before, "of {counted:?}");
}

#[tokio::test]
async fn any_character_in_a_name_is_taken_or_refused() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    // Controls, separators, format characters, private use, non-characters, the ends of planes.
    let ranges = [
        0x01..0x21,
        0x7f..0xa2,
        0xad..0xae,
        0x200b..0x2010,
        0x2028..0x2030,
        0x2060..0x2065,
        0xe000..0xe001,
        0xfdd0..0xfdd1,
        0xfeff..0xff00,
        0xfff9..0x10000,
        0x1f600..0x1f601,
        0xe0001..0xe0002,
        0x10fffe..0x110000,
    ];
    for (n, code) in ranges.into_iter().flatten().enumerate() {
        let Some(character) = char::from_u32(code) else { continue };
        let body =
            json!({"email": format!("ada{n}@example.org"), "password": PASSWORD, "name": format!("a{character}b")});
        let answer = api.post("/api/auth/signup", &body, "").await;
        assert!(answer.status == 201 || answer.status == 422, "U+{code:04X}: {} {}", answer.status, answer.text());
        let body = json!({"email": format!("a{character}b{n}@example.org"), "password": PASSWORD, "name": "Ada"});
        let answer = api.post("/api/auth/signup", &body, "").await;
        assert!(answer.status == 201 || answer.status == 422, "U+{code:04X}: {} {}", answer.status, answer.text());
    }
}

#[tokio::test]
async fn other_media_types() {
    let service = Untouched::start().await;
    let api = service.server.api();
    for (path, valid, _) in bodies() {
        for media_type in
            ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "text/json", ";", "é"]
        {
            let request = api.request(Method::POST, path).header("content-type", media_type).body(valid.to_string());
            api.send(request).await.expect_problem(415, "unsupported_media_type");
        }
        let request = api.request(Method::POST, path).body(valid.to_string());
        api.send(request).await.expect_problem(415, "unsupported_media_type");
    }
    let answer =
        api.request(Method::POST, "/api/auth/login").header("content-type", "Application/JSON ; charset=utf-8");
    let body = json!({"email": "ada@example.org", "password": PASSWORD}).to_string();
    api.send(answer.body(body)).await.expect(200);
}

#[tokio::test]
async fn unknown_routes_and_methods() {
    let service = Untouched::start().await;
    let api = service.server.api();
    for path in [
        "/nothing",
        "/api",
        "/api/auth",
        "/api/auth/",
        "/api/auth/login/",
        "/api/auth/LOGIN",
        "/api/auth/login/x",
        "//api/auth/login",
        "/api/auth/%2e%2e/login",
        "/api/auth/login%00",
        "/docs/x",
        "/.env",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let answer = api.send(api.request(method.clone(), path)).await;
            assert_eq!((answer.status, answer.problem_code().as_str()), (404, "not_found"), "{method} {path}");
        }
    }
    let methods =
        ["PUT", "PATCH", "OPTIONS", "TRACE", "BREW"].map(|name| Method::from_bytes(name.as_bytes()).expect("a method"));
    for (path, own) in [
        ("/api/auth/login", "POST"),
        ("/api/auth/me", "GET, HEAD"),
        ("/api/auth/sessions/x", "DELETE"),
        ("/health/live", "GET, HEAD"),
    ] {
        for method in &methods {
            let answer = api.send(api.request(method.clone(), path)).await;
            assert_eq!((answer.status, answer.problem_code().as_str()), (405, "method_not_allowed"), "{method} {path}");
            assert_eq!(answer.header("allow"), Some(own), "{method} {path}");
        }
    }
    api.send(api.request(Method::GET, "/api/auth/login")).await.expect_problem(405, "method_not_allowed");
    service.check().await;
}

#[tokio::test]
async fn path_parameters() {
    let service = Untouched::start().await;
    let api = service.server.api();
    let session = api.login("ada@example.org", PASSWORD).await.expect(200).session();
    for id in ["x", "1", "%00", "%ff", "%27%20or%20true--", "00000000-0000-0000-0000-00000000000g", &"a".repeat(4000)] {
        let answer = api.delete(&format!("/api/auth/sessions/{id}"), &session.access_token).await;
        assert_eq!((answer.status, answer.problem_code().as_str()), (400, "bad_request"), "{id}");
    }
    let unknown = "/api/auth/sessions/00000000-0000-4000-8000-000000000000";
    api.delete(unknown, &session.access_token).await.expect_problem(404, "session_not_found");
    for slug in ["a", "A-B", "%00", "%ff", "a%20b", "a%2Fb", "%E2%82%AC%E2%82%AC%E2%82%AC", &"a".repeat(4000)] {
        let answer = api.get(&format!("/api/auth/organizations/slug-available/{slug}"), "").await;
        assert!([400, 422].contains(&answer.status), "{slug}: {}", answer.text());
        assert!(["bad_request", "invalid_slug"].contains(&answer.problem_code().as_str()), "{slug}");
    }
}

#[tokio::test]
async fn strange_headers_change_nothing() {
    let service = Untouched::start().await;
    let api = service.server.api();
    let login = json!({"email": "ada@example.org", "password": PASSWORD});
    let raw = |bytes: &[u8]| reqwest::header::HeaderValue::from_bytes(bytes).expect("a header value");
    for (name, value) in [
        ("user-agent", raw(&[0x80, 0xff, 0xc3])),
        ("user-agent", raw(&b"x".repeat(12_000))),
        ("user-agent", raw("Mozilla/5.0 (“Ünïcødé”; 雪)".as_bytes())),
        ("user-agent", raw(b"\\' or true -- %s %n {0}")),
        ("x-forwarded-for", raw(b"not an address")),
        ("x-forwarded-for", raw(b"::ffff:1.2.3.4, 999.1.1.1")),
        ("forwarded", raw(b"for=\"[::1]:80")),
        ("accept", raw(b"nothing/at-all")),
        ("cookie", raw(&[0xff, b'=', 0xfe])),
        ("x-request-id", raw(b"two words")),
        ("x-request-id", raw(&b"x".repeat(1000))),
        ("x-request-id", raw(&[0xff; 10])),
    ] {
        let request = api.request(Method::POST, "/api/auth/login").header(name, &value).json(&login);
        let answer = api.send(request).await.expect(200);
        let id = answer.header("x-request-id").expect("a request id");
        assert!(uuid::Uuid::parse_str(id).is_ok(), "{name} {value:?}: {id}");
    }
    // Whoever shows a broken credential is told so.
    for value in [
        raw(b"Bearer"),
        raw(b"Bearer "),
        raw(b"Basic YTpi"),
        raw(b"bearer x y"),
        raw(&[0xff; 20]),
        raw(&b"Bearer ".repeat(1000)),
    ] {
        let answer = api.send(api.request(Method::GET, "/api/auth/me").header("authorization", &value)).await;
        assert_eq!((answer.status, answer.problem_code().as_str()), (401, "invalid_access_token"), "{value:?}");
    }
}

/// Sends bytes and reads what comes until the server closes or two seconds passed.
async fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut connection = TcpStream::connect(server.address()).await.expect("connects");
    // The server may answer and close before it has read everything.
    let _ = connection.write_all(bytes).await;
    let mut answer = Vec::new();
    let reading = connection.read_to_end(&mut answer);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), reading).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_is_no_http() {
    let service = Untouched::start().await;
    let server = &service.server;
    let huge_header = format!("GET /health/live HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    for (request, expected) in [
        ("nonsense\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/9.9\r\n\r\n", "HTTP/1.1 400"),
        ("GET /\u{0} HTTP/1.1\r\nhost: x\r\n\r\n", "HTTP/1.1 400"),
        ("POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", "HTTP/1.1 400"),
        (
            "POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 400",
        ),
        (&huge_header, "HTTP/1.1 431"),
    ] {
        let answer = raw(server, request.as_bytes()).await;
        assert!(answer.starts_with(expected), "{:?}: {answer:?}", &request[..request.len().min(80)]);
        assert!(answer.contains("\r\ncontent-type: application/problem+json\r\n"), "{answer:?}");
    }
    service.check().await;
}
