//! What the pages promise whoever asks for them, with or without a browser. How they behave in one: `tests/browser`.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::oidc::{Browser, person};
use auth_sessions_tests::sql::value;
use auth_sessions_tests::{Answer, Api, Server, TestDb};
use reqwest::Method;
use serde_json::{Value, json};

use crate::federation_http::scene_with;

const ACCOUNT: [&str; 4] = ["/account", "/account/activity", "/account/password", "/account/tokens"];
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Signs up as a browser would: its cookies, and the answer.
async fn sign_up(api: &Api, email: &str) -> (String, Value) {
    let body = json!({"email": email, "password": PASSWORD, "name": email, "delivery": "cookie"});
    let answer = api.post("/api/auth/signup", &body, "").await.expect(201);
    let set = answer.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().expect("a cookie"));
    let pairs: Vec<&str> = set.filter_map(|cookie| cookie.split(';').next()).collect();
    (pairs.join("; "), answer.json())
}

async fn look(api: &Api, path: &str, cookies: &str) -> Answer {
    api.send(api.request(Method::GET, path).header("cookie", cookies)).await
}

fn is_a_page(answer: &Answer) {
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", POLICY),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{}", answer.text());
    }
    // What the policy forbids anyway: nothing of a page is a script, a style or a handler of its own.
    let page = answer.text();
    for forbidden in ["<style", " style=", "javascript:", " onclick", " onload", " onerror", "//cdn", "https://"] {
        assert!(!page.contains(forbidden), "{forbidden}: {page}");
    }
    assert_eq!(page.matches("<script").count(), page.matches("<script src=\"/assets/").count(), "{page}");
}

#[tokio::test]
async fn a_page_is_for_the_session_of_the_cookies_alone() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let (cookies, ada) = sign_up(&api, "ada@example.org").await;
    let (_, bob) = sign_up(&api, "bob@example.org").await;
    let bearer = api.login("bob@example.org", PASSWORD).await.expect(200).session().access_token;

    for path in ACCOUNT {
        let page = look(&api, path, &cookies).await.expect(200);
        is_a_page(&page);
        let text = page.text();
        assert!(text.contains("ada@example.org") && !text.contains("bob@example.org"), "{text}");
        assert!(!text.contains(bob["user"]["id"].as_str().expect("an id")));
        // The CSRF token of this session, and no token that is a credential.
        assert!(text.contains(ada["csrfToken"].as_str().expect("a token")));
        for secret in cookies.split("; ").map(|pair| pair.split_once('=').expect("a pair").1) {
            assert!(!text.contains(secret), "{path}");
        }

        let nobody = look(&api, path, "").await.expect(401);
        is_a_page(&nobody);
        assert!(nobody.header("www-authenticate").is_some());
        let back = format!("/sign-in?returnTo={}", path.replace('/', "%2F"));
        assert!(nobody.text().contains(&back), "{}", nobody.text());
        // A page is for browsers: a program's token opens none, not even beside good cookies.
        api.get(path, &bearer).await.expect(401);
        let both = api.request(Method::GET, path).header("cookie", &cookies).bearer_auth(&bearer);
        api.send(both).await.expect(401);
    }

    // The signature of its token is still good.
    let admin = db.superuser().await;
    value::<i64>(&admin, "select count(auth.revoke_session_family(family_id)) from auth.sessions", &[]).await;
    for path in ACCOUNT {
        let ended = look(&api, path, &cookies).await.expect(401);
        assert!(!ended.text().contains("ada@example.org"));
    }
    is_a_page(&look(&api, "/sign-in", &cookies).await.expect(200));
}

#[tokio::test]
async fn a_page_changes_nothing() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let (cookies, ada) = sign_up(&api, "ada@example.org").await;
    let before = db.row_counts().await;
    for path in ACCOUNT.into_iter().chain(["/sign-in"]) {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let request = api.request(method, path).header("cookie", &cookies);
            let request = request.header("x-csrf-token", ada["csrfToken"].as_str().expect("a token")).json(&json!({}));
            let answer = api.send(request).await.expect(405);
            assert_eq!(answer.header("allow"), Some("GET, HEAD"));
        }
        look(&api, path, &cookies).await;
    }
    assert_eq!(db.row_counts().await, before);
}

#[tokio::test]
async fn a_browser_keeps_an_asset_until_it_changes() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let page = look(&api, "/sign-in", "").await.expect(200).text();
    let links: Vec<&str> = page.split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert!(links.len() >= 4, "{page}");
    for link in links {
        let asset = look(&api, link, "").await.expect(200);
        assert_eq!(asset.header("cache-control"), Some("public, max-age=31536000, immutable"), "{link}");
        assert!(!asset.body.is_empty() && asset.header("content-type") != Some("text/html"));
        let (path, _) = link.split_once('?').expect("a hash");
        let of_another_node = look(&api, &format!("{path}?v=0123456789abcdef"), "").await.expect(200);
        assert_eq!(of_another_node.header("cache-control"), Some("no-cache"));
        let etag = asset.header("etag").expect("an etag").to_owned();
        let again = api.send(api.request(Method::GET, path).header("if-none-match", etag)).await.expect(304);
        assert!(again.body.is_empty());
    }
    look(&api, "/assets/..%2f..%2fsrc%2fmain.rs", "").await.expect_problem(404, "not_found");
    look(&api, "/assets/nothing.css", "").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn only_a_path_of_this_site_is_gone_back_to() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let (cookies, _) = sign_up(&api, "ada@example.org").await;
    for (asked, gone_to) in [
        ("/account/tokens", "/account/tokens"),
        ("/dashboard?family=1%26x", "/dashboard?family=1&x"),
        ("//evil.example", "/account"),
        ("/\\evil.example", "/account"),
        ("/%09/evil.example", "/account"),
        ("https://evil.example", "/account"),
        ("evil", "/account"),
    ] {
        let path = format!("/sign-in?returnTo={asked}");
        let answer = look(&api, &path, &cookies).await.expect(303);
        assert_eq!(answer.header("location"), Some(gone_to), "{asked}");
        assert!(!look(&api, &path, "").await.expect(200).text().contains("evil"), "{asked}");
    }
}

#[tokio::test]
async fn one_signs_in_at_the_provider_where_that_leads_back_here() {
    let scene = scene_with(&[("OIDC_POST_LOGIN_URL", "/sign-in")]).await;
    let (server, api, mut browser) = (&scene.server, scene.server.api(), Browser::default());
    let start = "/api/auth/oidc/start?returnTo=%2Faccount%2Ftokens";
    let page = look(&api, "/sign-in?returnTo=/account/tokens", "").await.expect(200).text();
    assert!(page.contains(start), "{page}");
    let back = browser.go_to_provider(server.url(), start, &person("1", "ada@example.org")).await;
    let landed = browser.get(&back).await.expect(303);
    assert_eq!(landed.header("location"), Some("/account/tokens"));
    let cookie = browser.cookie(server.url(), "__Host-auth_access").expect("a cookie");
    let cookies = format!("__Host-auth_access={cookie}");
    let page = look(&api, "/account/password", &cookies).await.expect(200).text();
    assert!(page.contains("Set a password") && !page.contains("currentPassword"), "{page}");
    // What went wrong is said in our words, never in the link's.
    let page = look(&api, "/sign-in?error=email_not_linkable", "").await.expect(200).text();
    assert!(page.contains("cannot be linked"), "{page}");
    let page = look(&api, "/sign-in?error=%3Cb%3Ehello", "").await.expect(200).text();
    assert!(page.contains("Try again.") && !page.contains("hello"), "{page}");

    let elsewhere = scene_with(&[("OIDC_POST_LOGIN_URL", "https://app.example.org/")]).await;
    let page = look(&elsewhere.server.api(), "/sign-in", "").await.expect(200).text();
    assert!(!page.contains("oidc"), "{page}");
}
