//! Web logins by redirect: a browser goes from the service to a real OpenID provider and back, and everything that somebody
//! between them could try.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::oidc::{Browser, CALLBACK, location, person};
use auth_sessions_tests::{Answer, Server};
use reqwest::Method;
use serde_json::json;

use crate::federation_http::{Scene, scene_with};

const START: &str = "/api/auth/oidc/start";
const STATE: &str = "__Host-auth_oidc";
const ACCESS: &str = "__Host-auth_access";
const REFRESH: &str = "__Secure-auth_refresh";

/// Where the browser ends up, and whether with a session.
fn ended(browser: &Browser, server: &Server, answer: &Answer) -> (String, bool) {
    assert_eq!(answer.status, 303, "{}", answer.text());
    let cookies = [ACCESS, REFRESH].map(|name| browser.cookie(server.url(), name).is_some());
    assert_eq!(cookies[0], cookies[1]);
    assert!(browser.cookie(server.url(), STATE).is_none(), "a login is come back to once");
    (location(answer), cookies[0])
}

async fn scene() -> Scene {
    scene_with(&[]).await
}

#[tokio::test]
async fn there_and_back_is_a_session_in_cookies() {
    let scene = scene().await;
    let (server, mut browser) = (&scene.server, Browser::default());
    let started = browser.get(&format!("{}{START}", server.url())).await.expect(303);
    let there = location(&started);
    assert!(there.starts_with(&format!("{}/auth?", scene.provider.issuer())), "{there}");
    for parameter in
        ["response_type=code", "code_challenge_method=S256", "code_challenge=", "state=", "nonce=", "client_id=service"]
    {
        assert!(there.contains(parameter), "{parameter}: {there}");
    }
    let set = started.header("set-cookie").expect("a cookie");
    for attribute in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age=600"] {
        assert!(set.contains(attribute), "{set}");
    }
    assert_eq!(started.header("cache-control"), Some("no-store"));

    let back = browser.go_to_provider(server.url(), START, &person("1", "ada@example.org")).await;
    let answer = browser.get(&back).await;
    assert_eq!(ended(&browser, server, &answer), ("/welcome".to_owned(), true));
    assert!(answer.body.is_empty(), "nothing for a page's script to read");
    let api = server.api();
    let cookie = format!("{ACCESS}={}", browser.cookie(server.url(), ACCESS).expect("a cookie"));
    let me = api.send(api.request(Method::GET, "/api/auth/me").header("cookie", cookie)).await.expect(200).json();
    assert_eq!(me["user"]["email"], "ada@example.org");

    // The same person again, on another device.
    let mut other = Browser::default();
    let back = other.go_to_provider(server.url(), START, &person("1", "ada@example.org")).await;
    let answer = other.get(&back).await;
    assert!(ended(&other, server, &answer).1);
    let users = "select count(*) from auth.users";
    assert_eq!(scene.db.superuser().await.query_one(users, &[]).await.expect("count").get::<_, i64>(0), 1);
    let log = server.log();
    let code = back.split("code=").nth(1).and_then(|rest| rest.split('&').next()).expect("a code");
    assert!(!log.contains(code) && !log.contains("the secret of service"), "the code is in the log");
}

#[tokio::test]
async fn an_answer_that_this_browser_did_not_ask_for_is_refused() {
    let scene = scene().await;
    let server = &scene.server;
    let refused = ("/welcome?error=invalid_login_state".to_owned(), false);
    let ada = person("1", "ada@example.org");

    // Login CSRF: the attacker's answer in the victim's browser, which has no login under way.
    let mut attacker = Browser::default();
    let back = attacker.go_to_provider(server.url(), START, &ada).await;
    let mut victim = Browser::default();
    let answer = victim.get(&back).await;
    assert_eq!(ended(&victim, server, &answer), refused, "no cookie");
    // … or has one of its own.
    victim.go_to_provider(server.url(), START, &ada).await;
    let answer = victim.get(&back).await;
    assert_eq!(ended(&victim, server, &answer), refused, "another state");

    // A state that was changed, left out, or emptied; an answer that names another issuer.
    let changed = |from: &str, to: &str| {
        assert!(back.contains(from));
        back.replace(from, to)
    };
    let state = back.split('&').find(|pair| pair.starts_with("state=")).expect("a state").to_owned();
    for url in [
        changed(&state, "state=x"),
        changed(&state, "state="),
        changed(&format!("&{state}"), ""),
        changed("&iss=", "&iss=https%3A%2F%2Fevil.example&x="),
        format!("{}/api/auth/oidc/callback", server.url()),
        format!("{}/api/auth/oidc/callback?error=access_denied", server.url()),
    ] {
        let mut browser = Browser::default();
        let kept = attacker.cookie(server.url(), STATE).expect("a cookie").to_owned();
        browser.set_cookie(server.url(), STATE, Some(&kept));
        let answer = browser.get(&url).await;
        assert_eq!(ended(&browser, server, &answer), refused, "{url}");
    }
    // A cookie that was changed.
    let kept = attacker.cookie(server.url(), STATE).expect("a cookie").to_owned();
    let other = if kept.starts_with('A') { "B" } else { "A" };
    let forged = [kept[..kept.len() - 2].to_owned(), format!("{other}{}", &kept[1..]), String::new(), "x".repeat(4000)];
    for cookie in forged {
        let mut browser = Browser::default();
        browser.set_cookie(server.url(), STATE, Some(&cookie));
        let answer = browser.get(&back).await;
        assert_eq!(ended(&browser, server, &answer), refused, "{cookie}");
    }
    // After all that the attacker's own login still works: nothing of it was used up.
    let answer = attacker.get(&back).await;
    assert_eq!(ended(&attacker, server, &answer), ("/welcome".to_owned(), true));
}

#[tokio::test]
async fn an_answer_is_good_once() {
    let scene = scene().await;
    let (server, mut browser) = (&scene.server, Browser::default());
    let back = browser.go_to_provider(server.url(), START, &person("1", "ada@example.org")).await;
    let kept = browser.cookie(server.url(), STATE).expect("a cookie").to_owned();
    let answer = browser.get(&back).await;
    assert!(ended(&browser, server, &answer).1);
    // The back button: the cookie is gone.
    let mut again = Browser::default();
    let answer = again.get(&back).await;
    assert_eq!(ended(&again, server, &answer), ("/welcome?error=invalid_login_state".to_owned(), false));
    // Who kept a copy of the cookie: the provider takes its code once.
    again.set_cookie(server.url(), STATE, Some(&kept));
    let answer = again.get(&back).await;
    assert_eq!(ended(&again, server, &answer), ("/welcome?error=login_failed".to_owned(), false));
}

#[tokio::test]
async fn a_code_is_worth_nothing_without_the_browser_that_asked_for_it() {
    let scene = scene().await;
    let server = &scene.server;
    let mut victim = Browser::default();
    let back = victim.go_to_provider(server.url(), START, &person("1", "victim@example.org")).await;
    let code = back.split("code=").nth(1).and_then(|rest| rest.split('&').next()).expect("a code").to_owned();

    // Code injection: the stolen code in an answer that the attacker's own browser asked for. Its state is right, its PKCE
    // verifier is another's.
    let mut attacker = Browser::default();
    let own = attacker.go_to_provider(server.url(), START, &person("2", "attacker@example.org")).await;
    let own_code = own.split("code=").nth(1).and_then(|rest| rest.split('&').next()).expect("a code").to_owned();
    let answer = attacker.get(&own.replace(&own_code, &code)).await;
    assert_eq!(ended(&attacker, server, &answer), ("/welcome?error=login_failed".to_owned(), false));

    // At the provider itself, even with the client's secret.
    let mut second = Browser::default();
    let back = second.go_to_provider(server.url(), START, &person("1", "victim@example.org")).await;
    let code = back.split("code=").nth(1).and_then(|rest| rest.split('&').next()).expect("a code").to_owned();
    let form = format!(
        "grant_type=authorization_code&code={code}&redirect_uri={}&code_verifier={}",
        CALLBACK.replace(':', "%3A").replace('/', "%2F"),
        "x".repeat(43)
    );
    let request = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client")
        .post(format!("{}/token", scene.provider.issuer()))
        .basic_auth("service", Some("the%20secret%20of%20service"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form);
    let answer = request.send().await.expect("the provider");
    assert_eq!(answer.status().as_u16(), 400);
    assert!(answer.text().await.expect("a body").contains("invalid_grant"));
}

#[tokio::test]
async fn what_the_provider_or_the_database_refuses_ends_at_the_page_with_a_word() {
    let scene = scene().await;
    let (server, api) = (&scene.server, scene.server.api());
    let admin = scene.db.superuser().await;
    api.signup("unverified@example.org").await;
    for (person, word) in [
        (json!("nobody"), "login_denied"),
        (person("1", "unverified@example.org"), "email_not_linkable"),
        (json!({"sub": "2", "email": "ada@example.org", "email_verified": false}), "invalid_id_token"),
        (json!({"sub": "3"}), "invalid_id_token"),
    ] {
        let mut browser = Browser::default();
        let back = browser.go_to_provider(server.url(), START, &person).await;
        let answer = browser.get(&back).await;
        assert_eq!(ended(&browser, server, &answer), (format!("/welcome?error={word}"), false));
        assert!(!location(&answer).contains("script"), "what the provider wrote is not repeated");
    }
    // The provider's token endpoint fails, or hands out another's token.
    let mut browser = Browser::default();
    let mut back = browser.go_to_provider(server.url(), START, &person("4", "ada@example.org")).await;
    let foreign = scene.provider.token(&person("5", "eve@example.org")).await;
    let stolen = json!({"access_token": "x", "token_type": "Bearer", "id_token": foreign}).to_string();
    for (behaviour, word) in [
        (json!({"status": 500, "text": "{}"}), "identity_provider_unavailable"),
        (json!({"status": 200, "text": "nonsense"}), "identity_provider_unavailable"),
        (json!({"status": 401, "text": "{\"error\": \"invalid_client\"}"}), "login_failed"),
        (json!({"status": 200, "text": "{\"access_token\": \"x\", \"token_type\": \"Bearer\"}"}), "login_failed"),
        // A genuine token, but not of this login: no nonce.
        (json!({"status": 200, "text": stolen}), "invalid_id_token"),
    ] {
        scene.provider.behave(json!({"/token": behaviour})).await;
        let answer = browser.get(&back).await;
        assert_eq!(ended(&browser, server, &answer), (format!("/welcome?error={word}"), false), "{behaviour}");
        scene.provider.behave(json!({})).await;
        back = browser.go_to_provider(server.url(), START, &person("4", "ada@example.org")).await;
    }
    let answer = browser.get(&back).await;
    assert!(ended(&browser, server, &answer).1, "and then it works");
    let sessions = "select count(*) from auth.active_sessions";
    assert_eq!(admin.query_one(sessions, &[]).await.expect("count").get::<_, i64>(0), 2);
    api.login("unverified@example.org", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn browsers_come_back_to_where_they_were_and_never_to_another_site() {
    for (landing, page) in [("/welcome", "/welcome"), ("https://app.example/welcome", "https://app.example/welcome")] {
        let scene = scene_with(&[("OIDC_POST_LOGIN_URL", landing)]).await;
        let (server, site) = (&scene.server, page.strip_suffix("/welcome").expect("a page"));
        for (return_to, expected) in
            [("", page.to_owned()), ("?returnTo=%2Forders%3Fid%3D7", format!("{site}/orders?id=7"))]
        {
            let mut browser = Browser::default();
            let back = browser
                .go_to_provider(server.url(), &format!("{START}{return_to}"), &person("1", "a@example.org"))
                .await;
            let answer = browser.get(&back).await;
            assert_eq!(ended(&browser, server, &answer), (expected, true));
        }
        for return_to in [
            "https://evil.example",
            "//evil.example",
            "/%5Cevil.example",
            "%2F%2Fevil.example",
            "/%09/evil.example",
            "javascript:alert(1)",
            "evil.example",
            "/%0d%0aset-cookie:x=y",
            "/%C3%A9",
            "",
            &format!("/{}", "x".repeat(1024)),
        ] {
            let answer = server.api().get(&format!("{START}?returnTo={return_to}"), "").await;
            answer.expect_problem(422, "invalid_return_to");
        }
        let answer = Browser::default().get(&format!("{}/api/auth/oidc/callback?state=x", server.url())).await;
        assert_eq!(location(&answer), format!("{page}?error=invalid_login_state"));
    }
}

#[tokio::test]
async fn each_kind_of_client_can_ask_for_tokens() {
    for (client, secret) in [("public", ""), ("service", "the secret of service")] {
        let scene = scene_with(&[("GOOGLE_CLIENT_ID", client), ("OIDC_CLIENT_SECRET", secret)]).await;
        let mut browser = Browser::default();
        let back = browser.go_to_provider(scene.server.url(), START, &person("1", "ada@example.org")).await;
        let answer = browser.get(&back).await;
        assert_eq!(ended(&browser, &scene.server, &answer), ("/welcome".to_owned(), true), "{client}");
    }
    let scene = scene_with(&[("OIDC_CLIENT_SECRET", "a wrong one")]).await;
    let mut browser = Browser::default();
    let back = browser.go_to_provider(scene.server.url(), START, &person("1", "ada@example.org")).await;
    let answer = browser.get(&back).await;
    assert_eq!(ended(&browser, &scene.server, &answer), ("/welcome?error=login_failed".to_owned(), false));
    assert!(scene.server.log().contains("OIDC_CLIENT_SECRET"), "the operator is told");
}
