//! Server metadata (RFC 8414): what it says is so, and where it says things are, they are.

use auth_sessions_tests::wire::parse_jwt;
use auth_sessions_tests::{Client, Server, TestDb};
use serde_json::json;

const PATH: &str = "/.well-known/oauth-authorization-server";
const BASE: &str = "https://auth.example.org/sso";

#[tokio::test]
async fn what_the_metadata_names_is_there() {
    let db = TestDb::create().await;
    let client = Client::register(&db.connect_as("auth_operator").await, "Billing").await;
    // As behind a proxy that takes BASE away.
    let server = Server::start(&db, &[("PUBLIC_URL", &format!("{BASE}/"))]).await;
    let api = server.api();
    let answer = api.get(PATH, "").await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    let metadata = answer.json();
    let path = |name: &str| {
        let url = metadata[name].as_str().unwrap_or_else(|| panic!("no {name} in {metadata}"));
        url.strip_prefix(BASE).unwrap_or_else(|| panic!("{name} is elsewhere: {url}")).to_owned()
    };

    let session = api.signup("ada@example.org").await;
    let (header, claims) = parse_jwt(&session.access_token);
    assert_eq!((&metadata["issuer"], &claims["iss"]), (&json!(BASE), &json!(BASE)));
    let keys = api.get(&path("jwks_uri"), "").await.expect(200).json();
    assert_eq!(keys["keys"][0]["kid"], header["kid"]);
    let ask = path("introspection_endpoint");
    for method in metadata["introspection_endpoint_auth_methods_supported"].as_array().expect("a list") {
        let token = ("token", session.access_token.as_str());
        let answer = match method.as_str() {
            Some("client_secret_basic") => api.form(&ask, &[token], Some(&client)).await,
            Some("client_secret_post") => {
                api.form(&ask, &[token, ("client_id", &client.id), ("client_secret", &client.secret)], None).await
            }
            other => panic!("{other:?} is not tried"),
        };
        let said = answer.expect(200).json();
        assert_eq!((&said["active"], &said["iss"]), (&json!(true), &json!(BASE)), "{method}");
    }
    let revoke = path("revocation_endpoint");
    for method in metadata["revocation_endpoint_auth_methods_supported"].as_array().expect("a list") {
        let session = api.login("ada@example.org", auth_sessions_tests::http::PASSWORD).await.expect(200).session();
        let token = ("token", session.refresh_token.as_str());
        match method.as_str() {
            Some("client_secret_basic") => api.form(&revoke, &[token], Some(&client)).await.expect(200),
            Some("client_secret_post") => {
                let form = [token, ("client_id", &client.id), ("client_secret", &client.secret)];
                api.form(&revoke, &form, None).await.expect(200)
            }
            other => panic!("{other:?} is not tried"),
        };
        api.refresh(&session.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    }
    api.get(&path("service_documentation"), "").await.expect(200);
    // There is no token endpoint for OAuth clients, so none is named, and no grant.
    assert!(metadata.get("token_endpoint").is_none() && metadata.get("authorization_endpoint").is_none());
    assert_eq!((&metadata["grant_types_supported"], &metadata["response_types_supported"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn an_issuer_that_is_no_url_has_no_metadata() {
    let db = TestDb::create().await;
    for settings in [&[][..], &[("JWT_ISSUER", "mine"), ("PUBLIC_URL", BASE)], &[("JWT_ISSUER", "http://a.example")]] {
        let server = Server::start(&db, settings).await;
        let answer = server.api().get(PATH, "").await.expect_problem(404, "not_found");
        assert!(answer.json()["detail"].as_str().expect("detail").contains("PUBLIC_URL"), "{}", answer.text());
    }
    let settings = &[("JWT_ISSUER", "https://issuer.example"), ("PUBLIC_URL", BASE)];
    let metadata = Server::start(&db, settings).await.api().get(PATH, "").await.expect(200).json();
    assert_eq!(metadata["issuer"], "https://issuer.example");
    assert_eq!(metadata["jwks_uri"], format!("{BASE}/.well-known/jwks.json"));
}

#[tokio::test]
async fn a_public_url_that_is_none_stops_the_service() {
    let db = TestDb::create().await;
    for url in ["auth.example.org", "http://auth.example.org", "https://auth.example.org?x", "ftp://localhost"] {
        let (code, said) = Server::refuses_to_start(&db, &[("PUBLIC_URL", url)]).await;
        assert!(code == 1 && said.contains("PUBLIC_URL"), "{url}: {said}");
    }
}
