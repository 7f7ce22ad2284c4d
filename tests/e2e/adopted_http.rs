//! People of a system that was taken over: they stay logged in with the tokens that they hold, and log in with the
//! passwords that they had.

use std::collections::BTreeMap;

use auth_sessions_tests::adopted::{adopt_session, adopt_session_by_proofs};
use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::server::PEPPER;
use auth_sessions_tests::sql::{audit_trail, let_time_pass, revoked_reason, run, value};
use auth_sessions_tests::tokens::sha256;
use auth_sessions_tests::{Answer, Api, Server, TestDb, all_at_once, eventually};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio_postgres::Client;
use uuid::Uuid;

const ADA: &str = "ada@example.org";
const CURRENT: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const CONSUMED: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";

struct Scene {
    _db: TestDb,
    server: Server,
    api: Api,
    admin: Client,
    session: Uuid,
}

/// Ada's session of the old system, with the service set to take its tokens.
async fn scene(settings: &[(&str, &str)]) -> Scene {
    let db = TestDb::create().await;
    let settings = [&[("ADOPTED_TOKEN_FORMAT", "sha256-hex")], settings].concat();
    let server = Server::start(&db, &settings).await;
    let (api, admin) = (server.api(), db.superuser().await);
    api.signup(ADA).await;
    let session = adopt_session(&admin, ADA, CURRENT, &[CONSUMED]).await;
    Scene { _db: db, server, api, admin, session }
}

/// A refused refresh, but for what is each request's own.
fn refusal(answer: &Answer) -> String {
    let id = answer.header("x-request-id").expect("a request id").to_owned();
    format!("{} {}", answer.status, answer.text().replace(&id, "ID"))
}

#[tokio::test]
async fn nobody_is_logged_out_and_an_old_consumed_token_still_burns_its_family() {
    let scene = scene(&[]).await;
    let first = scene.api.refresh(CURRENT).await.expect(200);
    assert_eq!(first.json()["user"]["email"], ADA);
    let first = first.session();
    assert!(first.refresh_token.starts_with("asr_"));
    scene.api.get("/api/auth/me", &first.access_token).await.expect(200);
    // The answer was lost, and the client asks again; then it goes on with what it got.
    let again = scene.api.refresh(CURRENT).await.expect(200).session();
    assert_eq!(again.refresh_token, first.refresh_token);
    let next = scene.api.refresh(&first.refresh_token).await.expect(200).session();

    let unknown = refusal(&scene.api.refresh("a token that nobody ever had").await);
    assert_eq!(revoked_reason(&scene.admin, scene.session).await, None);
    let replay = scene.api.refresh(CONSUMED).await.expect_problem(401, "invalid_refresh_token");
    assert_eq!(refusal(&replay), unknown, "the same to the byte");
    assert_eq!(revoked_reason(&scene.admin, scene.session).await.as_deref(), Some("token_replay"));
    for over in [CURRENT, &next.refresh_token] {
        assert_eq!(refusal(&scene.api.refresh(over).await), unknown);
    }
    scene.api.get("/api/auth/me", &next.access_token).await.expect_problem(401, "invalid_access_token");
    let log = scene.server.log();
    assert!(!log.contains(CURRENT) && !log.contains(CONSUMED), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_tabs_at_once_get_one_successor() {
    let scene = scene(&[]).await;
    let answers = all_at_once(20, |_, start| {
        let api = scene.server.api();
        async move {
            start.wait().await;
            api.refresh(CURRENT).await.expect(200).session().refresh_token
        }
    })
    .await;
    assert!(answers.iter().all(|token| *token == answers[0]));
    scene.api.refresh(&answers[0]).await.expect(200);
}

#[tokio::test]
async fn the_token_endpoint_and_logging_out_take_old_tokens_too() {
    let scene = scene(&[]).await;
    let body = json!({"grantType": "refresh_token", "refreshToken": CURRENT});
    let pair = scene.api.post("/api/auth/token", &body, "").await.expect(200).json();
    scene.api.get("/api/auth/me", pair["accessToken"].as_str().unwrap()).await.expect(200);

    let log_out = async |body: Value| scene.api.post("/api/auth/logout", &body, "").await.expect(200).json();
    assert_eq!(log_out(json!({"refreshToken": "a token that nobody ever had"})).await["revokedSessions"], 0);
    assert_eq!(log_out(json!({"refreshToken": CONSUMED})).await["revokedSessions"], 1, "whoever holds any of them may");
    assert_eq!(log_out(json!({"refreshToken": CURRENT})).await["revokedSessions"], 0, "it is over");
    assert_eq!(audit_trail(&scene.admin, scene.session).await, ["user_logged_out"]);
    adopt_session(&scene.admin, ADA, "another old token", &[]).await;
    let ended = log_out(json!({"refreshToken": "another old token", "all": true})).await;
    assert_eq!(ended["revokedSessions"], 2, "the session of signing up, too");
}

#[tokio::test]
async fn the_old_systems_key_is_its_text() {
    let settings = [("ADOPTED_TOKEN_FORMAT", "hmac-sha256"), ("ADOPTED_TOKEN_KEY", "the old system's key")];
    let scene = scene(&settings).await;
    let hmac = |token: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"the old system's key").unwrap();
        mac.update(token.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let consumed = [hmac("of that key, consumed")];
    let session = adopt_session_by_proofs(&scene.admin, ADA, &hmac("of that key, current"), &consumed).await;
    scene.api.refresh("of that key, current").await.expect(200);
    scene.api.refresh(CURRENT).await.expect_problem(401, "invalid_refresh_token");
    scene.api.refresh("of that key, consumed").await.expect_problem(401, "invalid_refresh_token");
    assert_eq!(revoked_reason(&scene.admin, session).await.as_deref(), Some("token_replay"));
    assert!(!scene.server.log().contains("the old system's key"));
}

/// How often the service sent each statement that a refresh may be.
async fn exchanges(db: &TestDb) -> BTreeMap<String, i64> {
    eventually("the service has looked after the partitions", async || {
        db.statements().await.contains_key("select auth.maintain_audit_partitions()")
    })
    .await;
    let ours = |(statement, _): &(String, i64)| statement.contains("_token(") || statement.contains("end_");
    db.statements().await.into_iter().filter(ours).collect()
}

#[tokio::test]
async fn without_the_setting_the_database_is_not_asked() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let (api, admin) = (server.api(), db.superuser().await);
    api.signup(ADA).await;
    let session = adopt_session(&admin, ADA, CURRENT, &[CONSUMED]).await;
    let before = exchanges(&db).await;
    for token in [CURRENT, CONSUMED] {
        api.refresh(token).await.expect_problem(401, "invalid_refresh_token");
        let ended = api.post("/api/auth/logout", &json!({"refreshToken": token}), "").await.expect(200).json();
        assert_eq!(ended["revokedSessions"], 0);
    }
    // With it, neither for what cannot be one.
    let server = Server::start(&db, &[("ADOPTED_TOKEN_FORMAT", "plain")]).await;
    for token in ["short", &"x".repeat(4097), &format!("asr_{}", "A".repeat(118)), &format!("asp_{}", "A".repeat(64))] {
        server.api().refresh(token).await.expect_problem(401, "invalid_refresh_token");
    }
    assert_eq!(exchanges(&db).await, before);
    assert_eq!(revoked_reason(&admin, session).await, None);
    server.api().refresh(CURRENT).await.expect(200);
}

#[tokio::test]
async fn old_tokens_are_counted_like_every_refresh() {
    let scene = scene(&[("RATE_LIMIT_REFRESH", "5/1h")]).await;
    for _ in 0..5 {
        scene.api.refresh("a token that nobody ever had").await.expect(401);
    }
    scene.api.refresh(CURRENT).await.expect_problem(429, "rate_limited");
}

#[tokio::test]
async fn a_page_of_the_old_system_goes_on_with_its_cookie() {
    let scene = scene(&[("ADOPTED_TOKEN_COOKIE", "old_refresh")]).await;
    let cookie = format!("old_refresh={CURRENT}");
    let send = async |cookie: &str, method: Method, path: &str, csrf: Option<&str>| {
        let mut request = scene.api.request(method, path).header("cookie", cookie);
        if let Some(csrf) = csrf {
            request = request.header("x-csrf-token", csrf);
        }
        scene.api.send(request).await
    };
    let refresh = "/api/auth/refresh";
    send(&cookie, Method::POST, refresh, None).await.expect_problem(403, "csrf_token_missing");
    let csrf = async |cookie: &str| {
        let answer = send(cookie, Method::GET, "/api/auth/csrf-token", None).await.expect(200);
        answer.json()["csrfToken"].as_str().unwrap().to_owned()
    };
    let (mine, others) = (csrf(&cookie).await, csrf(&format!("old_refresh={CONSUMED}")).await);
    send(&cookie, Method::POST, refresh, Some(&others)).await.expect_problem(403, "csrf_token_invalid");
    let answer = send(&cookie, Method::POST, refresh, Some(&mine)).await.expect(200);
    let set: Vec<&str> = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(set.iter().any(|cookie| cookie.starts_with("__Secure-auth_refresh=asr_")), "{set:?}");
    let is_shared = "select is_shared from auth.sessions where id = $1";
    assert!(value::<bool>(&scene.admin, is_shared, &[&scene.session]).await, "its tabs share it");

    // The old cookie is still in the browser, and no longer looked at.
    let ours = set.iter().find_map(|cookie| cookie.strip_prefix("__Secure-auth_refresh=")).unwrap();
    let both = format!("{cookie}; __Secure-auth_refresh={}", ours.split(';').next().unwrap());
    let csrf = csrf(&both).await;
    let_time_pass(&scene.admin, scene.session, "2 minutes").await;
    send(&both, Method::POST, refresh, Some(&csrf)).await.expect(200);
    assert_eq!(revoked_reason(&scene.admin, scene.session).await, None);

    // A token of ours in a cookie that anybody next door may set is none.
    let planted = scene.api.login(ADA, PASSWORD).await.expect(200).session().refresh_token;
    let planted = send(&format!("old_refresh={planted}"), Method::POST, refresh, None).await;
    planted.expect_problem(422, "invalid_request");
}

#[tokio::test]
async fn old_passwords_log_in_and_are_renewed() {
    let scene = scene(&[]).await;
    // "correct horse battery staple", by Python's bcrypt 5.0.0 and argon2-cffi 25.1.0: salt, scheme and output.
    let bcrypt = base64::engine::GeneralPurpose::new(
        &base64::alphabet::BCRYPT,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone),
    );
    let old = [
        (
            "bcrypt,2b,5",
            bcrypt.decode("BEvYILrob/R4kRvuwH4vY.").unwrap(),
            bcrypt.decode("bK6dcwY3.ViLNrsekxllZ2kqKvq.NaK").unwrap(),
        ),
        (
            "argon2i,v=19,l=32,m=128,t=2,p=1",
            b"sixteen letters!".to_vec(),
            STANDARD_NO_PAD.decode("Fsth26e+KGxAdfoucdglbCI/zeKwMql0DufjlZoWdNU").unwrap(),
        ),
    ];
    let pepper_id = i32::from_be_bytes(sha256(&PEPPER)[..4].try_into().unwrap());
    for (params, salt, output) in old {
        let mut mac = Hmac::<Sha256>::new_from_slice(&PEPPER).unwrap();
        mac.update(&output);
        let verifier = sha256(&mac.finalize().into_bytes());
        let keep =
            "update auth.users set password_salt = $1, password_params = $2, pepper_id = $3, password_verifier = $4";
        run(&scene.admin, keep, &[&salt, &params, &pepper_id, &verifier]).await;
        scene.api.login(ADA, "wrong").await.expect_problem(401, "invalid_credentials");
        let kept: String = value(&scene.admin, "select password_params from auth.users", &[]).await;
        assert_eq!(kept, params);
        scene.api.login(ADA, PASSWORD).await.expect(200);
        let renewed: String = value(&scene.admin, "select password_params from auth.users", &[]).await;
        assert_eq!(renewed, "m=64,t=1,p=1", "as today");
        scene.api.login(ADA, PASSWORD).await.expect(200);
    }
    assert_eq!(revoked_reason(&scene.admin, scene.session).await.as_deref(), Some("password_changed"), "by this test");
}

#[tokio::test]
async fn settings_that_do_not_fit_together_stop_the_service() {
    let db = TestDb::create().await;
    for settings in [
        &[("ADOPTED_TOKEN_FORMAT", "md5")][..],
        &[("ADOPTED_TOKEN_FORMAT", "hmac-sha256")],
        &[("ADOPTED_TOKEN_KEY", "swordfish")],
        &[("ADOPTED_TOKEN_FORMAT", "plain"), ("ADOPTED_TOKEN_KEY", "swordfish")],
    ] {
        let (code, said) = Server::refuses_to_start(&db, settings).await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("ADOPTED_TOKEN_") && !said.contains("swordfish"), "{said}");
    }
}
