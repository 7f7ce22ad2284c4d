//! Whose address is recorded and counted: the connection's, unless that is a trusted proxy.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::{Api, Server, TestDb};
use reqwest::Method;
use serde_json::json;

async fn log_in(api: &Api, headers: &[(&str, &str)]) -> auth_sessions_tests::Answer {
    let body = json!({"email": "ada@example.org", "password": PASSWORD});
    let request = api.request(Method::POST, "/api/auth/login").json(&body);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    api.send(request).await
}

/// The network that is recorded for a login with these headers.
async fn recorded(api: &Api, headers: &[(&str, &str)]) -> String {
    let session = log_in(api, headers).await.expect(200).session();
    let listed = api.get("/api/auth/sessions", &session.access_token).await.expect(200).json();
    let current = listed["sessions"].as_array().unwrap().iter().find(|session| session["isCurrent"] == true).unwrap();
    current["ipAddress"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_connection_is_believed_and_headers_only_from_a_trusted_proxy() {
    let db = TestDb::create().await;
    let nobody = Server::start(&db, &[]).await;
    nobody.api().signup("ada@example.org").await;
    let others = Server::start(&db, &[("TRUSTED_PROXIES", "10.0.0.0/8")]).await;
    let proxied = Server::start(&db, &[("TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1/32")]).await;
    let rfc = Server::start(&db, &[("TRUSTED_PROXIES", "127.0.0.1"), ("FORWARDED_HEADER", "forwarded")]).await;
    let client = ("x-forwarded-for", "203.0.113.9");
    for server in [&nobody, &others] {
        assert_eq!(recorded(&server.api(), &[client, ("forwarded", "for=203.0.113.9")]).await, "127.0.0.0/24");
    }
    for (header, network) in [
        ("203.0.113.9", "203.0.113.0/24"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.0/24"),
        ("203.0.113.9, 10.4.5.6", "203.0.113.0/24"),
        ("::ffff:10.1.2.3", "10.1.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("nonsense", "127.0.0.0/24"),
    ] {
        assert_eq!(recorded(&proxied.api(), &[("x-forwarded-for", header)]).await, network, "{header}");
    }
    assert_eq!(recorded(&proxied.api(), &[("forwarded", "for=203.0.113.9")]).await, "127.0.0.0/24", "the other one");
    assert_eq!(recorded(&rfc.api(), &[client]).await, "127.0.0.0/24");
    assert_eq!(
        recorded(&rfc.api(), &[("forwarded", "for=\"[2001:db8:1:2::7]:99\";proto=https")]).await,
        "2001:db8:1:2::/64"
    );

    let (code, said) = Server::refuses_to_start(&db, &[("TRUSTED_PROXIES", "10.0.0.0/8,proxy")]).await;
    assert!(code == 1 && said.contains("TRUSTED_PROXIES") && said.contains("proxy is not a network"), "{said}");
}

#[tokio::test]
async fn limits_count_the_client_and_nobody_escapes_by_a_header() {
    let db = TestDb::create().await;
    let settings = [("TRUSTED_PROXIES", "127.0.0.1"), ("RATE_LIMIT_LOGIN", "2/1h")];
    let server = Server::start(&db, &settings).await;
    let api = server.api();
    api.signup("ada@example.org").await;
    // One network, whatever the client writes on the left.
    for n in 0..3 {
        let header = format!("198.51.{n}.1, 203.0.113.{n}");
        let answer = log_in(&api, &[("x-forwarded-for", &header)]).await;
        assert_eq!(answer.status, if n < 2 { 200 } else { 429 }, "{}", answer.text());
    }
    log_in(&api, &[("x-forwarded-for", "198.51.100.1")]).await.expect(200);
    // Without the proxy's word everybody is the connection.
    let open = Server::start(&db, &[("RATE_LIMIT_LOGIN", "2/1h")]).await;
    for n in 0..3 {
        let answer = log_in(&open.api(), &[("x-forwarded-for", &format!("198.51.{n}.1"))]).await;
        assert_eq!(answer.status, if n < 2 { 200 } else { 429 });
    }
}
