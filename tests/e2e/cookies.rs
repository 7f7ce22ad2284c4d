//! Sessions in cookies: the tokens are out of scripts' reach, and another site's page can neither use nor open one.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::sql::{let_time_pass, value};
use auth_sessions_tests::{Answer, Api, Server, TestDb};
use reqwest::Method;
use serde_json::{Value, json};

const ACCESS: &str = "__Host-auth_access";
const REFRESH: &str = "__Secure-auth_refresh";

async fn start(settings: &[(&str, &str)]) -> (TestDb, Server, Api) {
    let db = TestDb::create().await;
    let server = Server::start(&db, settings).await;
    let api = server.api();
    (db, server, api)
}

/// What a browser would keep of an answer: name, value, attributes.
fn set_cookies(answer: &Answer) -> Vec<(String, String, String)> {
    let set = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().expect("a cookie"));
    set.map(|cookie| {
        let (pair, attributes) = cookie.split_once("; ").expect("attributes");
        let (name, value) = pair.split_once('=').expect("a pair");
        (name.to_owned(), value.to_owned(), attributes.to_owned())
    })
    .collect()
}

/// A page's session.
#[derive(Clone)]
struct Page {
    access: String,
    refresh: String,
    csrf: String,
}

impl Page {
    fn of(answer: &Answer) -> Self {
        let cookies = set_cookies(answer);
        let value = |name: &str| cookies.iter().find(|cookie| cookie.0 == name).expect(name).1.clone();
        let csrf = answer.json()["csrfToken"].as_str().expect("a CSRF token").to_owned();
        Self { access: value(ACCESS), refresh: value(REFRESH), csrf }
    }

    fn both(&self) -> String {
        format!("{ACCESS}={}; {REFRESH}={}", self.access, self.refresh)
    }

    async fn send(&self, api: &Api, method: Method, path: &str, csrf: Option<&str>) -> Answer {
        send(api, method, path, &self.both(), csrf).await
    }
}

async fn send(api: &Api, method: Method, path: &str, cookies: &str, csrf: Option<&str>) -> Answer {
    let mut request = api.request(method, path).header("cookie", cookies);
    if let Some(csrf) = csrf {
        request = request.header("x-csrf-token", csrf);
    }
    api.send(request).await
}

async fn log_in(api: &Api) -> Page {
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "delivery": "cookie"});
    Page::of(&api.post("/api/auth/login", &body, "").await.expect(200))
}

#[tokio::test]
async fn tokens_come_in_cookies_that_no_script_reads_and_not_in_the_body() {
    let (_db, _server, api) = start(&[]).await;
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "name": "Ada", "delivery": "cookie"});
    let signed_up = api.post("/api/auth/signup", &body, "").await.expect(201);
    let logged_in = api
        .post("/api/auth/login", &json!({"email": "ada@example.org", "password": PASSWORD, "delivery": "cookie"}), "")
        .await;
    for answer in [signed_up, logged_in.expect(200)] {
        let cookies = set_cookies(&answer);
        assert_eq!(cookies.len(), 2);
        for (name, token, attributes) in &cookies {
            assert!(!answer.text().contains(token.as_str()), "{name} is in the body");
            for wanted in ["HttpOnly", "Secure", "SameSite=Lax"] {
                assert!(attributes.split("; ").any(|attribute| attribute == wanted), "{name}: {attributes}");
            }
            assert!(!attributes.contains("Domain"), "{attributes}");
        }
        let attributes = |name: &str| cookies.iter().find(|cookie| cookie.0 == name).expect(name).2.clone();
        assert!(attributes(ACCESS).contains("Path=/;") && attributes(REFRESH).contains("Path=/api/auth;"));
        let seconds = |name: &str| -> i64 {
            let attributes = attributes(name);
            let age = attributes.split("; ").find_map(|attribute| attribute.strip_prefix("Max-Age="));
            age.expect("an age").parse().expect("seconds")
        };
        assert!((890..=900).contains(&seconds(ACCESS)), "as long as the token");
        assert!((604_790..=604_800).contains(&seconds(REFRESH)), "as long as the session");
        let body = answer.json();
        for token in ["accessToken", "refreshToken", "token"] {
            assert!(body.get(token).is_none(), "{token}");
        }
        assert_eq!(body["user"]["email"], "ada@example.org");
    }
    // Nobody gets a cookie who did not ask for one.
    assert!(set_cookies(&api.login("ada@example.org", PASSWORD).await.expect(200)).is_empty());
    let wrong = json!({"email": "ada@example.org", "password": PASSWORD, "delivery": "pigeon"});
    api.post("/api/auth/login", &wrong, "").await.expect_problem(422, "invalid_request");
}

#[tokio::test]
async fn a_cookie_is_the_same_identity_as_a_bearer() {
    let (_db, _server, api) = start(&[]).await;
    let bearer = api.signup("ada@example.org").await;
    let page = log_in(&api).await;
    let mine = page.send(&api, Method::GET, "/api/auth/me", None).await.expect(200).json();
    let theirs = api.get("/api/auth/me", &bearer.access_token).await.expect(200).json();
    assert_eq!(mine["user"], theirs["user"]);
    let listed = page.send(&api, Method::GET, "/api/auth/sessions", None).await.expect(200).json();
    assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(2));

    // The header is meant by who sends it: a bad one is not covered by a good cookie, nor a good one by a bad cookie.
    let request = api.request(Method::GET, "/api/auth/me").header("cookie", page.both()).bearer_auth("nonsense");
    api.send(request).await.expect_problem(401, "invalid_access_token");
    let cookies = format!("{ACCESS}=nonsense");
    let request = api.request(Method::GET, "/api/auth/me").header("cookie", &cookies).bearer_auth(&bearer.access_token);
    api.send(request).await.expect(200);
    send(&api, Method::GET, "/api/auth/me", &cookies, None).await.expect_problem(401, "invalid_access_token");
    // Two of a name: one was planted.
    let planted = format!("{ACCESS}={}; {ACCESS}={}", page.access, bearer.access_token);
    send(&api, Method::GET, "/api/auth/me", &planted, None).await.expect_problem(401, "authentication_required");
    // A refresh token in the access cookie, and the reverse.
    let swapped = format!("{ACCESS}={}; {REFRESH}={}", page.refresh, page.access);
    send(&api, Method::GET, "/api/auth/me", &swapped, None).await.expect_problem(401, "invalid_access_token");
    send(&api, Method::POST, "/api/auth/refresh", &swapped, None).await.expect_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn what_changes_something_needs_the_csrf_token_of_this_session() {
    let (db, _server, api) = start(&[]).await;
    api.signup("ada@example.org").await;
    let page = log_in(&api).await;
    let other = log_in(&api).await;
    let id = auth_sessions_tests::wire::RefreshToken::parse(&other.refresh).session_id;
    // Also on a path that contains /auth, which comparable software exempts.
    for (method, path) in [
        (Method::POST, "/api/auth/logout".to_owned()),
        (Method::POST, "/api/auth/logout-all".to_owned()),
        (Method::POST, "/api/auth/refresh".to_owned()),
        (Method::POST, "/api/auth/step-up".to_owned()),
        (Method::POST, "/api/auth/personal-access-tokens".to_owned()),
        (Method::DELETE, format!("/api/auth/sessions/{id}")),
    ] {
        for (csrf, code) in [
            (None, "csrf_token_missing"),
            (Some(""), "csrf_token_invalid"),
            (Some("nonsense"), "csrf_token_invalid"),
            (Some(other.csrf.as_str()), "csrf_token_invalid"),
        ] {
            page.send(&api, method.clone(), &path, csrf).await.expect_problem(403, code);
        }
    }
    let live: i64 = value(&db.superuser().await, "select count(*) from auth.active_sessions", &[]).await;
    assert_eq!(live, 3, "nothing was changed");
    let told = "select count(*) from auth.audit_log where action = 'invalid_csrf_token' and session_id is not null";
    let told: i64 = value(&db.superuser().await, told, &[]).await;
    assert!((1..10).contains(&told), "{told}: logged, and in a burst only now and then");

    page.send(&api, Method::DELETE, &format!("/api/auth/sessions/{id}"), Some(&page.csrf)).await.expect(200);
    // A bearer needs none.
    let bearer = api.login("ada@example.org", PASSWORD).await.expect(200).session();
    api.post("/api/auth/logout", &json!({}), &bearer.access_token).await.expect(200);
}

#[tokio::test]
async fn the_csrf_token_is_asked_for_with_either_cookie() {
    let (_db, _server, api) = start(&[]).await;
    api.signup("ada@example.org").await;
    let page = log_in(&api).await;
    let path = "/api/auth/csrf-token";
    for cookies in [page.both(), format!("{ACCESS}={}", page.access), format!("{REFRESH}={}", page.refresh)] {
        let answer = send(&api, Method::GET, path, &cookies, None).await.expect(200);
        assert_eq!(answer.json(), json!({"csrfToken": page.csrf}));
    }
    for cookies in ["a=b".to_owned(), format!("{ACCESS}=x; {REFRESH}=y")] {
        send(&api, Method::GET, path, &cookies, None).await.expect_problem(401, "authentication_required");
    }
}

#[tokio::test]
async fn a_refresh_by_cookie_goes_into_cookies_and_is_safer_to_repeat() {
    let (db, _server, api) = start(&[]).await;
    api.signup("ada@example.org").await;
    let page = log_in(&api).await;
    let refresh = async |page: &Page| {
        let cookie = format!("{REFRESH}={}", page.refresh);
        send(&api, Method::POST, "/api/auth/refresh", &cookie, Some(&page.csrf)).await
    };
    let first = refresh(&page).await.expect(200);
    let second = Page::of(&first);
    assert_eq!(second.csrf, page.csrf, "the session's, not the tab's");
    assert_ne!(second.refresh, page.refresh);
    assert!(first.json().get("refreshToken").is_none());
    // The answer was lost, or another tab was faster, or this one is slow: the same cookies again, for a while.
    for tab in [&page, &second, &page, &second] {
        assert_eq!(Page::of(&refresh(tab).await.expect(200)).refresh, second.refresh);
    }
    let session_id = auth_sessions_tests::wire::RefreshToken::parse(&page.refresh).session_id;
    let_time_pass(&db.superuser().await, session_id, "61 seconds").await;
    let third = Page::of(&refresh(&second).await.expect(200));
    assert_ne!(third.refresh, second.refresh);
    // By now the first is a thief's.
    refresh(&page).await.expect_problem(401, "invalid_refresh_token");
    refresh(&third).await.expect_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn who_is_not_to_be_remembered_is_forgotten_with_the_browser_also_after_refreshes() {
    let (_db, _server, api) = start(&[]).await;
    api.signup("ada@example.org").await;
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "delivery": "cookie", "rememberMe": false});
    let attributes = |answer: &Answer, name: &str| {
        set_cookies(answer).into_iter().find(|cookie| cookie.0 == name).expect("a cookie").2
    };
    let mut answer = api.post("/api/auth/login", &body, "").await.expect(200);
    for _ in 0..3 {
        let refresh = attributes(&answer, REFRESH);
        assert!(!refresh.contains("Max-Age") && !refresh.contains("Expires"), "{refresh}");
        assert!(refresh.contains("HttpOnly") && refresh.contains("Secure"), "{refresh}");
        let page = Page::of(&answer);
        page.send(&api, Method::GET, "/api/auth/csrf-token", None).await.expect(200);
        answer = page.send(&api, Method::POST, "/api/auth/refresh", Some(&page.csrf)).await.expect(200);
    }
    let page = Page::of(&answer);
    let out = page.send(&api, Method::POST, "/api/auth/logout", Some(&page.csrf)).await.expect(200);
    assert_eq!(out.json(), json!({"revokedSessions": 1}));
    assert!(attributes(&out, REFRESH).contains("Max-Age=0"));
}

#[tokio::test]
async fn logging_out_takes_the_cookies_back() {
    let (_db, _server, api) = start(&[]).await;
    api.signup("ada@example.org").await;
    let cleared = |answer: &Answer| {
        let cookies = set_cookies(answer);
        assert_eq!(cookies.len(), 2, "{cookies:?}");
        for (_, value, attributes) in cookies {
            assert!(value.is_empty() && attributes.contains("Max-Age=0"), "{attributes}");
        }
    };
    let page = log_in(&api).await;
    let answer = page.send(&api, Method::POST, "/api/auth/logout", Some(&page.csrf)).await.expect(200);
    assert_eq!(answer.json(), json!({"revokedSessions": 1}));
    cleared(&answer);
    page.send(&api, Method::GET, "/api/auth/me", None).await.expect_problem(401, "invalid_access_token");
    // Once more: what the page wanted is so already.
    let answer = page.send(&api, Method::POST, "/api/auth/logout", Some(&page.csrf)).await.expect(200);
    assert_eq!(answer.json(), json!({"revokedSessions": 0}));
    cleared(&answer);

    // The access cookie has expired, as it does every quarter of an hour.
    let page = log_in(&api).await;
    let cookie = format!("{REFRESH}={}", page.refresh);
    let answer = send(&api, Method::POST, "/api/auth/logout", &cookie, Some(&page.csrf)).await.expect(200);
    assert_eq!(answer.json(), json!({"revokedSessions": 1}));
    cleared(&answer);

    let (one, two) = (log_in(&api).await, log_in(&api).await);
    let answer = one.send(&api, Method::POST, "/api/auth/logout-all", Some(&one.csrf)).await.expect(200);
    assert_eq!(answer.json()["revokedSessions"], 3, "with the one of the sign-up");
    cleared(&answer);
    two.send(&api, Method::GET, "/api/auth/me", None).await.expect_problem(401, "invalid_access_token");
}

#[tokio::test]
async fn stepping_up_by_cookie_renews_the_access_cookie_alone() {
    let (_db, _server, api) = start(&[]).await;
    api.signup("ada@example.org").await;
    let page = log_in(&api).await;
    let request = api.request(Method::POST, "/api/auth/step-up").header("cookie", page.both());
    let request = request.header("x-csrf-token", &page.csrf).json(&json!({"password": PASSWORD}));
    let answer = api.send(request).await.expect(200);
    let cookies = set_cookies(&answer);
    assert_eq!(cookies.len(), 1);
    assert_eq!(cookies[0].0, ACCESS);
    assert!(answer.json().get("accessToken").is_none());
    let cookie = format!("{ACCESS}={}", cookies[0].1);
    send(&api, Method::GET, "/api/auth/me", &cookie, None).await.expect(200);
}

#[tokio::test]
async fn another_sites_page_opens_no_session() {
    let (db, _server, api) = start(&[("CORS_ORIGINS", "https://app.example.org")]).await;
    api.signup("ada@example.org").await;
    let log_in = json!({"email": "ada@example.org", "password": PASSWORD});
    let sign_up = json!({"email": "eve@example.org", "password": PASSWORD, "name": "Eve"});
    let token = json!({"grantType": "password", "email": "ada@example.org", "password": PASSWORD});
    let from = async |path: &str, body: &Value, headers: &[(&str, &str)]| {
        let request = api.request(Method::POST, path).json(body);
        api.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    };
    let before = db.row_counts().await;
    for headers in [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..],
        &[("sec-fetch-site", "same-site"), ("origin", "https://evil.example.org")],
        &[("sec-fetch-site", "cross-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
    ] {
        for (path, body) in [("/api/auth/login", &log_in), ("/api/auth/signup", &sign_up), ("/api/auth/token", &token)]
        {
            from(path, body, headers).await.expect_problem(403, "cross_site_request");
        }
    }
    assert_eq!(db.row_counts().await, before);
    for headers in [
        &[][..],
        &[("sec-fetch-site", "same-origin"), ("origin", "https://auth.example.org")],
        &[("sec-fetch-site", "cross-site"), ("origin", "https://app.example.org")],
        &[("origin", "https://app.example.org")],
    ] {
        from("/api/auth/login", &log_in, headers).await.expect(200);
    }
}

#[tokio::test]
async fn a_named_origin_may_read_answers_and_refusals_others_may_not() {
    let (_db, _server, api) = start(&[("CORS_ORIGINS", "https://app.example.org, https://admin.example.org")]).await;
    for origin in ["https://app.example.org", "https://admin.example.org"] {
        let preflight = api
            .request(Method::OPTIONS, "/api/auth/refresh")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "x-csrf-token,content-type");
        let answer = api.send(preflight).await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        let headers = answer.header("access-control-allow-headers").expect("headers").to_lowercase();
        assert!(headers.contains("x-csrf-token") && headers.contains("content-type"), "{headers}");

        let refused = api.send(api.request(Method::GET, "/api/auth/me").header("origin", origin)).await;
        let refused = refused.expect_problem(401, "authentication_required");
        assert_eq!(refused.header("access-control-allow-origin"), Some(origin));
        let exposed = refused.header("access-control-expose-headers").expect("exposed").to_lowercase();
        for header in ["x-request-id", "retry-after", "www-authenticate", "ratelimit"] {
            assert!(exposed.contains(header), "{header}: {exposed}");
        }
    }
    for origin in ["https://evil.example", "https://app.example.org.evil.example", "null"] {
        let request = api.request(Method::GET, "/health/live").header("origin", origin);
        let answer = api.send(request).await.expect(200);
        assert!(answer.header("access-control-allow-origin").is_none(), "{origin}");
        let preflight = api
            .request(Method::OPTIONS, "/api/auth/refresh")
            .header("origin", origin)
            .header("access-control-request-method", "POST");
        let answer = api.send(preflight).await;
        assert!(answer.header("access-control-allow-origin").is_none(), "{origin}: {}", answer.status);
    }
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let (_db, _server, api) = start(&[]).await;
    for path in ["/health/live", "/api/auth/me", "/nowhere", "/openapi.json"] {
        let answer = api.get(path, "").await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path} {name}");
        }
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path} {policy}");
    }
}
