//! Limits as a client meets them: shared by the processes of the service, the same for an e-mail without an account, told
//! in standard headers; and refreshes, which stay one statement.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::sql::{run, value, values};
use auth_sessions_tests::{Answer, Api, Server, TestDb};
use reqwest::Method;
use serde_json::json;

async fn log_in(api: &Api, email: &str, password: &str) -> Answer {
    api.post("/api/auth/login", &json!({"email": email, "password": password}), "").await
}

/// The refusal of a limit: how long to wait, in seconds.
#[track_caller]
fn limited(answer: &Answer) -> u64 {
    assert_eq!((answer.status, answer.problem_code().as_str()), (429, "rate_limited"), "{}", answer.text());
    answer.header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("Retry-After")
}

/// One member of a structured field: `"name";r=3;t=5`.
fn parameter(answer: &Answer, header: &str, policy: &str, parameter: &str) -> Option<u64> {
    let member = answer.header(header)?.split(", ").find(|member| member.starts_with(&format!("\"{policy}\";")))?;
    member.split(';').find_map(|part| part.strip_prefix(&format!("{parameter}=")))?.parse().ok()
}

#[tokio::test]
async fn a_limit_holds_across_two_processes_and_tells_what_is_left() {
    let db = TestDb::create().await;
    let settings = [("RATE_LIMIT_LOGIN", "6/1h"), ("RATE_LIMIT_LOGIN_ACCOUNT", "100/1h")];
    let servers = [Server::start(&db, &settings).await, Server::start(&db, &settings).await];
    let apis = [servers[0].api(), servers[1].api()];
    apis[0].signup("ada@example.org").await;
    for n in 0..6 {
        // Right and wrong ones, of several accounts, here and there: what counts is the network.
        let (email, password) =
            if n % 2 == 0 { ("ada@example.org", PASSWORD) } else { ("bob@example.org", "wrong one") };
        let answer = log_in(&apis[n % 2], email, password).await;
        assert_eq!(answer.status, if n % 2 == 0 { 200 } else { 401 });
        let policy = r#""login_network";q=6;w=3600, "login_account";q=100;w=3600"#;
        assert_eq!(answer.header("ratelimit-policy"), Some(policy));
        assert_eq!(parameter(&answer, "ratelimit", "login_network", "r"), Some(5 - n as u64));
        let more_after = parameter(&answer, "ratelimit", "login_network", "t").expect("t");
        assert!((590..=600).contains(&more_after), "{more_after}");
        assert_eq!(answer.header("ratelimit").unwrap().matches("login_").count(), 1, "nothing is told of the account");
    }
    for api in &apis {
        let answer = log_in(api, "ada@example.org", PASSWORD).await;
        assert!((590..=600).contains(&limited(&answer)));
        assert_eq!(parameter(&answer, "ratelimit", "login_network", "r"), Some(0));
        assert_eq!(parameter(&answer, "ratelimit", "login_network", "t").unwrap(), limited(&answer));
        let grant = json!({"grantType": "password", "email": "ada@example.org", "password": PASSWORD});
        limited(&api.post("/api/auth/token", &grant, "").await);
    }
    // Other operations have limits of their own.
    apis[0].signup("carol@example.org").await;
    let admin = db.superuser().await;
    let logged: Vec<String> = values(
        &admin,
        "select concat_ws(' ', details ->> 'scope', details ->> 'times', ip_cidr, correlation_id is not null)
           from auth.security_events where action = 'rate_limit_exceeded' order by id",
        &[],
    )
    .await;
    let expected = [1, 2, 4].map(|times| format!("login_network {times} 127.0.0.0/24 t"));
    assert_eq!(logged, expected);
    run(&admin, "update auth.attempts set full_at = full_at - interval '10 minutes'", &[]).await;
    log_in(&apis[1], "ada@example.org", PASSWORD).await.expect(200);
    limited(&log_in(&apis[0], "ada@example.org", PASSWORD).await);
}

#[tokio::test]
async fn by_account_it_is_the_same_for_an_e_mail_without_one() {
    let db = TestDb::create().await;
    let server =
        Server::start(&db, &[("RATE_LIMIT_LOGIN_ACCOUNT", "3/1h"), ("RATE_LIMIT_SIGNUP_ACCOUNT", "2/1h")]).await;
    let api = server.api();
    api.signup("ada@example.org").await;
    let mut refusals = Vec::new();
    for (email, spelled) in [("ada@example.org", "ADA@example.org"), ("nobody@example.org", "Nobody@Example.org")] {
        for _ in 0..3 {
            assert_eq!(log_in(&api, email, "wrong password").await.status, 401);
        }
        let refused = log_in(&api, spelled, "wrong password").await;
        assert!((1190..=1200).contains(&limited(&refused)));
        assert_eq!(parameter(&refused, "ratelimit", "login_account", "r"), Some(0), "then it is told");
        let problem = refused.json();
        refusals.push((problem["title"].clone(), problem["detail"].clone(), problem["code"].clone()));
    }
    assert_eq!(refusals[0], refusals[1]);
    // Who is limited can do nothing, also with the right password.
    limited(&log_in(&api, "ada@example.org", PASSWORD).await);

    // The one answer that tells of an account can be had only so often.
    let sign_up = async |email: &str| {
        let body = json!({"email": email, "password": PASSWORD, "name": "Ada"});
        api.post("/api/auth/signup", &body, "").await
    };
    sign_up("ada@example.org").await.expect_problem(409, "email_taken");
    limited(&sign_up("ada@example.org").await);
    sign_up("bob@example.org").await.expect(201);
}

#[tokio::test]
async fn every_operation_with_a_limit_of_its_own_says_so_and_no_other_does() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let session = api.signup("ada@example.org").await;
    let token = session.access_token.as_str();
    let post = async |path: &str, body: serde_json::Value, bearer: &str| api.post(path, &body, bearer).await;
    let policy = |answer: &Answer| {
        let policies = answer.header("ratelimit-policy").unwrap_or_default().to_owned();
        let names = policies.split(", ").map(|policy| policy.split(';').next().unwrap().trim_matches('"').to_owned());
        let told = names.collect::<Vec<_>>().join(" ");
        assert_eq!(told.is_empty(), answer.header("ratelimit").is_none());
        told
    };
    let email = "bob@example.org";
    for (answer, expected) in [
        (log_in(&api, "ada@example.org", PASSWORD).await.expect(200), "login_network login_account"),
        (
            post("/api/auth/token", json!({"grantType": "password", "email": email, "password": "wrong one"}), "")
                .await
                .expect(401),
            "login_network login_account",
        ),
        (
            post("/api/auth/signup", json!({"email": email, "password": PASSWORD, "name": "Bob"}), "")
                .await
                .expect(201),
            "signup_network signup_account",
        ),
        (post("/api/auth/step-up", json!({"password": PASSWORD}), token).await.expect(200), "password_network"),
        (post("/api/auth/step-up", json!({"password": PASSWORD}), "").await.expect(401), "password_network"),
        (post("/api/auth/password/change", json!({}), "").await, "password_network"),
        (post("/api/auth/password/forgot", json!({"email": email}), "").await.expect(202), "mail_network mail_account"),
        (post("/api/auth/email/resend", json!({"email": email}), "").await.expect(202), "mail_network mail_account"),
        (post("/api/auth/email/resend", json!({}), token).await.expect(202), "mail_network mail_account"),
        (
            post("/api/auth/email/change", json!({"newEmail": email}), token).await.expect(202),
            "mail_network mail_account",
        ),
        (
            post(
                "/api/auth/organizations/00000000-0000-4000-8000-000000000000/invitations",
                json!({"email": email, "role": "ORGANIZATION_MEMBER"}),
                token,
            )
            .await,
            "mail_network mail_account",
        ),
        (post("/api/auth/email/verify", json!({}), "").await, "mail_token_network"),
        (post("/api/auth/email/change/confirm", json!({}), "").await, "mail_token_network"),
        (post("/api/auth/password/reset", json!({}), "").await, "mail_token_network"),
        (post("/api/auth/invitations/accept", json!({}), "").await, "mail_token_network"),
        (post("/api/auth/google", json!({}), "").await, "login_network"),
        (api.get("/api/auth/oidc/callback", "").await, "login_network"),
        (api.get("/api/auth/organizations/slug-available/acme", "").await.expect(200), "lookup_network"),
        (api.refresh(&session.refresh_token).await.expect(200), ""),
        (post("/api/auth/token", json!({"grantType": "refresh_token", "refreshToken": "x"}), "").await.expect(401), ""),
        (api.get("/api/auth/me", token).await.expect(200), ""),
        (api.get("/health/live", "").await.expect(200), ""),
        // Refused before anything was counted.
        (post("/api/auth/login", json!({"email": 1}), "").await.expect(422), ""),
    ] {
        assert_eq!(policy(&answer), expected, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_limit_costs_one_statement_and_none_when_it_is_off() {
    let db = TestDb::create().await;
    let limits = async || {
        let statements = db.statements().await;
        let ours = statements.iter().filter(|(statement, _)| statement.contains("take_rate_limits"));
        ours.map(|(_, calls)| calls).sum::<i64>()
    };
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let session = api.signup("ada@example.org").await;
    assert_eq!(limits().await, 1);
    log_in(&api, "ada@example.org", PASSWORD).await.expect(200);
    assert_eq!(limits().await, 2, "network and account");
    api.refresh(&session.refresh_token).await.expect(200);
    api.get("/api/auth/me", &session.access_token).await.expect(200);
    assert_eq!(limits().await, 2);
    let off = [("RATE_LIMIT_LOGIN", "off"), ("RATE_LIMIT_LOGIN_ACCOUNT", "0")];
    let server = Server::start(&db, &off).await;
    let answer = log_in(&server.api(), "ada@example.org", PASSWORD).await.expect(200);
    assert_eq!((limits().await, answer.header("ratelimit")), (2, None));
}

#[tokio::test]
async fn a_flood_of_refreshes_ends_before_anything_is_read() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[("RATE_LIMIT_REFRESH", "5/1h"), ("RATE_LIMIT_REQUESTS", "30/1h")]).await;
    let api = server.api();
    let session = api.signup("ada@example.org").await;
    let session = api.refresh(&session.refresh_token).await.expect(200).session();
    for _ in 0..4 {
        api.refresh("garbage").await.expect_problem(401, "invalid_refresh_token");
    }
    let asked = db.statements().await;
    for body in ["garbage", &"x".repeat(100_000), &session.refresh_token] {
        let answer = api.refresh(body).await;
        assert!((700..=720).contains(&limited(&answer)));
        assert_eq!((answer.header("ratelimit"), answer.header("ratelimit-policy")), (None, None));
    }
    // The other door leads to the same room.
    let grant = json!({"grantType": "refresh_token", "refreshToken": session.refresh_token});
    limited(&api.post("/api/auth/token", &grant, "").await);
    assert_eq!(db.statements().await, asked, "the database is not asked");
    // Whatever else there is has a limit too, but for what watches the service.
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(api.get("/api/auth/me", &session.access_token).await);
    }
    assert_eq!(answers[0].status, 200);
    limited(&answers[39]);
    limited(&api.send(api.request(Method::GET, "/no/such/path")).await);
    api.get("/health/live", "").await.expect(200);
    // It was the process's own count: the session is as it was, and another process takes it.
    let other = Server::start(&db, &[]).await;
    other.api().refresh(&session.refresh_token).await.expect(200);
}

#[tokio::test]
async fn a_session_refreshed_too_often_is_told_when_to_come_back() {
    let db = TestDb::create().await;
    db.set("auth_sessions.refresh_burst", "2").await;
    db.set("auth_sessions.refresh_period", "20min").await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let first = api.signup("ada@example.org").await;
    let second = api.refresh(&first.refresh_token).await.expect(200).session();
    let third = api.refresh(&second.refresh_token).await.expect(200).session();
    let refused = api.refresh(&third.refresh_token).await;
    assert!((590..=600).contains(&limited(&refused)));
    assert_eq!(refused.header("ratelimit"), None);
    // The retry of a lost answer, and the session itself, go on.
    let again = api.refresh(&second.refresh_token).await.expect(200).session();
    assert_eq!(again.refresh_token, third.refresh_token);
    api.get("/api/auth/me", &third.access_token).await.expect(200);
    let admin = db.superuser().await;
    run(&admin, "update auth.sessions set refreshes_full_at = refreshes_full_at - interval '10 minutes'", &[]).await;
    api.refresh(&third.refresh_token).await.expect(200);
}

#[tokio::test]
async fn another_device_is_refused_like_any_wrong_token() {
    let db = TestDb::create().await;
    db.set("auth_sessions.device_mismatch", "reject").await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let from = async |system: &str, refresh_token: &str| {
        let agent =
            format!("Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36");
        let body = json!({"refreshToken": refresh_token});
        let request = api.request(Method::POST, "/api/auth/refresh").header("user-agent", agent).json(&body);
        api.send(request).await
    };
    let agent = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36";
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "name": "Ada"});
    let request = api.request(Method::POST, "/api/auth/signup").header("user-agent", agent).json(&body);
    let session = api.send(request).await.expect(201).session();
    // A newer version of the same browser is the same device; another system is not.
    let session = from("Macintosh; Intel Mac OS X 10_15_7", &session.refresh_token).await.expect(200).session();
    let refused = from("Windows NT 10.0; Win64; x64", &session.refresh_token).await;
    let unknown = api.refresh("asr_nonsense").await;
    let without_id = |answer: &Answer| {
        let mut body = answer.json();
        body["requestId"] = json!("");
        (answer.status, body)
    };
    assert_eq!(without_id(&refused), without_id(&unknown));
    from("Macintosh; Intel Mac OS X 10_15_7", &session.refresh_token).await.expect(200);
    let admin = db.superuser().await;
    let logged = "select count(*) from auth.security_events where action = 'device_fingerprint_mismatch'";
    assert_eq!(value::<i64>(&admin, logged, &[]).await, 1);
}
