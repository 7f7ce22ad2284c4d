//! Step-up: a stale session proves its user once more. The same session goes on, and the database agrees.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::oidc::{federation_url, person};
use auth_sessions_tests::sql::{let_authentication_age, value, values};
use auth_sessions_tests::wire::{RefreshToken, parse_jwt};
use auth_sessions_tests::{Answer, Api, OidcProvider, Server, Session, TestDb, all_at_once};
use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

async fn start() -> (TestDb, Server, Api, Client) {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let (api, admin) = (server.api(), db.superuser().await);
    (db, server, api, admin)
}

async fn step_up(api: &Api, bearer: &str, password: &str) -> Answer {
    api.post("/api/auth/step-up", &json!({"password": password}), bearer).await
}

/// A sensitive operation.
async fn make_token(api: &Api, bearer: &str) -> Answer {
    let body = json!({"name": "report", "scopes": ["sessions:read"], "expiresInDays": 1});
    api.post("/api/auth/personal-access-tokens", &body, bearer).await
}

async fn verified(api: &Api, admin: &Client, email: &str) -> Session {
    let session = api.signup(email).await;
    admin.execute("update auth.users set email_verified_at = now()", &[]).await.expect("verified");
    session
}

/// Whether the database's own word for "recently" agrees.
async fn recent(db: &TestDb, session: &Session, access_token: &str) -> bool {
    let (_, claims) = parse_jwt(access_token);
    let jti: Uuid = claims["jti"].as_str().and_then(|jti| jti.parse().ok()).expect("jti");
    let session_id = RefreshToken::parse(&session.refresh_token).session_id;
    let service = db.connect_as("auth_service").await;
    // One transaction: the identity ends with it.
    service.batch_execute("begin").await.expect("begin");
    service.query_one("select * from auth.assume_session($1, $2)", &[&session_id, &jti]).await.expect("assumed");
    value(&service, "select auth.require_auth_age('5 minutes')", &[]).await
}

#[tokio::test]
async fn a_sensitive_operation_wants_a_recent_authentication() {
    let (db, _server, api, admin) = start().await;
    let session = verified(&api, &admin, "ada@example.org").await;
    make_token(&api, &session.access_token).await.expect(201);
    assert!(recent(&db, &session, &session.access_token).await);

    let_authentication_age(&admin, "6 minutes").await;
    assert!(!recent(&db, &session, &session.access_token).await);
    let before = db.row_counts().await;
    let refused = make_token(&api, &session.access_token).await.expect_problem(401, "step_up_required");
    // RFC 9470 §3
    let challenge = refused.header("www-authenticate").expect("a challenge");
    assert!(challenge.contains(r#"error="insufficient_user_authentication""#), "{challenge}");
    assert!(challenge.contains(r#"max_age="300""#), "{challenge}");
    assert_eq!(db.row_counts().await, before);

    let stale = api.refresh(&session.refresh_token).await.expect(200).session().access_token;
    let answer = step_up(&api, &session.access_token, PASSWORD).await.expect(200).json();
    let stepped_up = answer["accessToken"].as_str().expect("a token");
    assert_eq!((&answer["tokenType"], &answer["expiresIn"]), (&json!("Bearer"), &json!(900)));
    assert!(answer.get("refreshToken").is_none());
    let auth_time = |token: &str| parse_jwt(token).1["auth_time"].as_i64().expect("auth_time");
    assert!(auth_time(stepped_up) >= auth_time(&stale) + 360);
    assert!(recent(&db, &session, stepped_up).await);
    make_token(&api, stepped_up).await.expect(201);

    // The authentication is the session's: what other tabs hold goes on working, and is as fresh.
    make_token(&api, &session.access_token).await.expect(201);
    let sessions: i64 = value(&admin, "select count(*) from auth.active_sessions", &[]).await;
    assert_eq!(sessions, 1);
    let events =
        values::<String>(&admin, "select action from auth.audit_log where action like 'step_up%' order by id", &[]);
    assert_eq!(events.await, ["step_up_completed"]);
}

#[tokio::test]
async fn the_age_that_is_wanted_is_the_dbas() {
    let (db, server, api, admin) = start().await;
    let session = verified(&api, &admin, "ada@example.org").await;
    db.set("auth_sessions.step_up_max_age", "1h").await;
    drop(server);
    let server = Server::start(&db, &[]).await;
    let api_with_setting = server.api();
    let_authentication_age(&admin, "6 minutes").await;
    let token = api_with_setting.refresh(&session.refresh_token).await.expect(200).session().access_token;
    make_token(&api_with_setting, &token).await.expect(201);
    let_authentication_age(&admin, "1 hour").await;
    let token = api_with_setting.login("ada@example.org", PASSWORD).await.expect(200).session();
    let_authentication_age(&admin, "61 minutes").await;
    let token = api_with_setting.refresh(&token.refresh_token).await.expect(200).session().access_token;
    let refused = make_token(&api_with_setting, &token).await.expect_problem(401, "step_up_required");
    assert!(refused.header("www-authenticate").expect("a challenge").contains(r#"max_age="3600""#));
}

#[tokio::test]
async fn it_survives_rotation_and_leaves_the_refresh_token_alone() {
    let (_db, _server, api, admin) = start().await;
    let session = verified(&api, &admin, "ada@example.org").await;
    let_authentication_age(&admin, "6 minutes").await;
    step_up(&api, &session.access_token, PASSWORD).await.expect(200);
    // The refresh token from before is the current one still: no replay.
    let mut next = api.refresh(&session.refresh_token).await.expect(200).session();
    for _ in 0..3 {
        next = api.refresh(&next.refresh_token).await.expect(200).session();
    }
    make_token(&api, &next.access_token).await.expect(201);
    let replays: i64 = value(&admin, "select count(*) from auth.replay_incidents", &[]).await;
    assert_eq!(replays, 0);
}

#[tokio::test]
async fn only_the_session_that_stepped_up_is_fresh() {
    let (_db, _server, api, admin) = start().await;
    let phone = verified(&api, &admin, "ada@example.org").await;
    let laptop = api.login("ada@example.org", PASSWORD).await.expect(200).session();
    let_authentication_age(&admin, "6 minutes").await;
    step_up(&api, &phone.access_token, PASSWORD).await.expect(200);
    make_token(&api, &laptop.access_token).await.expect_problem(401, "step_up_required");
    make_token(&api, &phone.access_token).await.expect(201);
}

#[tokio::test]
async fn a_wrong_password_is_counted_by_session_user_and_locks_step_ups_not_logins() {
    let (_db, _server, api, admin) = start().await;
    let session = verified(&api, &admin, "ada@example.org").await;
    for _ in 0..10 {
        step_up(&api, &session.access_token, "wrong password").await.expect_problem(401, "invalid_credentials");
    }
    let locked = step_up(&api, &session.access_token, PASSWORD).await.expect_problem(429, "account_locked");
    let wait: u64 = locked.header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    let failed: i64 =
        value(&admin, "select count(*) from auth.audit_log where action = 'step_up_failed' and not success", &[]).await;
    assert_eq!(failed, 10);
    // A thief who guesses here neither ends the session nor keeps its owner from logging in elsewhere.
    api.get("/api/auth/me", &session.access_token).await.expect(200);
    api.login("ada@example.org", PASSWORD).await.expect(200);
    admin.execute("update auth.attempts set locked_until = now()", &[]).await.expect("time passes");
    step_up(&api, &session.access_token, PASSWORD).await.expect(200);
    // A success forgets the failures: ten are free again.
    for _ in 0..9 {
        step_up(&api, &session.access_token, "wrong password").await.expect_problem(401, "invalid_credentials");
    }
}

#[tokio::test]
async fn guesses_at_once_are_all_counted() {
    let (_db, server, api, admin) = start().await;
    let session = verified(&api, &admin, "ada@example.org").await;
    let answers = all_at_once(30, |_, start| {
        let (api, bearer) = (server.api(), session.access_token.clone());
        async move {
            api.get("/health/live", "").await; // connects
            start.wait().await;
            step_up(&api, &bearer, "wrong password").await
        }
    })
    .await;
    let refused = answers.iter().filter(|answer| answer.status == 401).count();
    assert_eq!(refused, 10, "the rest found the lock");
    assert!(answers.iter().all(|answer| [401, 429].contains(&answer.status)));
}

#[tokio::test]
async fn a_session_that_has_ended_or_a_disabled_user_cannot_step_up() {
    let (_db, _server, api, admin) = start().await;
    let session = verified(&api, &admin, "ada@example.org").await;
    let other = api.login("ada@example.org", PASSWORD).await.expect(200).session();
    api.post("/api/auth/logout", &json!({}), &session.access_token).await.expect(200);
    step_up(&api, &session.access_token, PASSWORD).await.expect_problem(401, "invalid_access_token");
    admin.execute("update auth.users set disabled_at = now()", &[]).await.expect("disabled");
    step_up(&api, &other.access_token, PASSWORD).await.expect_problem(401, "invalid_access_token");
}

#[tokio::test]
async fn an_account_without_a_password_is_refused_like_a_wrong_one() {
    let (_db, _server, api, admin) = start().await;
    let session = verified(&api, &admin, "ada@example.org").await;
    // As a federated account is; quietly, so that the session lives on.
    admin
        .batch_execute(
            "set session_replication_role = replica;
             update auth.users set password_salt = null, password_params = null, pepper_id = null,
                                   password_verifier = null",
        )
        .await
        .expect("no password");
    step_up(&api, &session.access_token, PASSWORD).await.expect_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn an_account_of_a_provider_steps_up_by_a_fresh_id_token_of_its_own() {
    let (db, provider) = (TestDb::create().await, OidcProvider::start().await);
    let url = federation_url(&db);
    let server = Server::start(&db, &provider.settings(&url, &[])).await;
    let (api, admin) = (server.api(), db.superuser().await);
    let token = async |subject: &str| provider.token(&person(subject, &format!("{subject}@example.org"))).await;
    let log_in = json!({"credential": token("ada").await});
    let session = api.post("/api/auth/google", &log_in, "").await.expect(200).session();
    let_authentication_age(&admin, "1 hour").await;
    make_token(&api, &session.access_token).await.expect_problem(401, "step_up_required");
    let show = async |id_token: &str| {
        api.post("/api/auth/step-up", &json!({"credential": id_token}), &session.access_token).await
    };

    show(&token("eve").await).await.expect_problem(401, "invalid_id_token");
    show("nonsense").await.expect_problem(401, "invalid_id_token");
    let both = json!({"credential": token("ada").await, "password": PASSWORD});
    api.post("/api/auth/step-up", &both, &session.access_token).await.expect_problem(422, "invalid_request");
    api.post("/api/auth/step-up", &json!({}), &session.access_token).await.expect_problem(422, "invalid_request");
    // What the user proved to the provider yesterday is no proof of today.
    let mut stale = provider.claims(&person("ada", "ada@example.org"));
    stale["auth_time"] = json!(auth_sessions_tests::oidc::now() - 86_400);
    let stale = provider.sign(json!({"alg": "RS256"}), &stale).await;
    show(&stale).await.expect_problem(401, "step_up_required");
    let fresh = token("ada").await;
    let answer = show(&fresh).await.expect(200).json();
    make_token(&api, answer["accessToken"].as_str().expect("a token")).await.expect(201);
    show(&fresh).await.expect_problem(401, "invalid_id_token");
    // The session is the same, with its refresh token.
    api.refresh(&session.refresh_token).await.expect(200);
}

#[tokio::test]
async fn without_a_provider_there_is_no_step_up_by_one() {
    let (_db, _server, api, admin) = start().await;
    let session = verified(&api, &admin, "ada@example.org").await;
    let answer = api.post("/api/auth/step-up", &json!({"credential": "x.y.z"}), &session.access_token).await;
    answer.expect_problem(404, "federation_not_configured");
}
