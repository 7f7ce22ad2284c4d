//! What a client may ask of its session at login: less, never more.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::{Api, Server, TestDb};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

const DAY: i64 = 86_400;

/// Seconds: until the idle end, until the end, and of the retry window, when it has one.
type Granted = (i64, i64, Option<i64>);

async fn granted(admin: &Client, user: Uuid) -> Granted {
    let row = admin
        .query_one(
            "select round(extract(epoch from idle_expires_at - last_used_at))::bigint,
                    round(extract(epoch from expires_at - created_at))::bigint, extract(epoch from retry_window)::bigint
               from auth.sessions where user_id = $1 order by created_at desc limit 1",
            &[&user],
        )
        .await
        .expect("a session");
    (row.get(0), row.get(1), row.get(2))
}

/// A body for one of the three ways in, with what is asked for.
fn body(path: &str, email: &str, asked: &Value) -> Value {
    let mut body = json!({"email": email, "password": PASSWORD});
    match path {
        "/api/auth/signup" => body["name"] = json!("Ada"),
        "/api/auth/token" => body["grantType"] = json!("password"),
        _ => {}
    }
    body.as_object_mut().unwrap().extend(asked.as_object().unwrap().clone());
    body
}

async fn user_of(api: &Api, token: &Value) -> Uuid {
    let me = api.get("/api/auth/token-info", token["accessToken"].as_str().unwrap()).await.expect(200).json();
    me["userId"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_client_may_ask_for_less_and_never_gets_more() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let server = Server::start(&db, &[("UNREMEMBERED_TTL_SECONDS", "7200")]).await;
    let api = server.api();
    let mut number = 0;
    for (asked, expected) in [
        (json!({}), (7 * DAY, 30 * DAY, None)),
        (json!({"rememberMe": true}), (7 * DAY, 30 * DAY, None)),
        (json!({"rememberMe": null, "session": null}), (7 * DAY, 30 * DAY, None)),
        (json!({"rememberMe": false}), (7200, 7200, None)),
        (json!({"session": {}}), (7 * DAY, 30 * DAY, None)),
        (json!({"session": {"idleTimeoutSeconds": 900, "maxAgeSeconds": 3600}}), (900, 3600, None)),
        (json!({"session": {"maxAgeSeconds": 60}}), (60, 60, None)),
        (json!({"session": {"retryWindowSeconds": 300}}), (7 * DAY, 30 * DAY, Some(300))),
        (json!({"session": {"retryWindowSeconds": 0}}), (7 * DAY, 30 * DAY, Some(0))),
        // Not to be lengthened, by any of them or all together.
        (
            json!({"session": {"idleTimeoutSeconds": 4_000_000_000_u32, "maxAgeSeconds": 4_000_000_000_u32,
                               "retryWindowSeconds": 4_000_000_000_u32}}),
            (7 * DAY, 30 * DAY, Some(600)),
        ),
        (
            json!({"rememberMe": false, "session": {"idleTimeoutSeconds": 4_000_000_000_u32, "maxAgeSeconds": 86400}}),
            (7200, 7200, None),
        ),
        (json!({"rememberMe": false, "session": {"idleTimeoutSeconds": 120}}), (120, 7200, None)),
        (json!({"rememberMe": true, "session": {"idleTimeoutSeconds": 120}}), (120, 30 * DAY, None)),
    ] {
        number += 1;
        let email = format!("ada{number}@example.org");
        // The way in that signs up comes first.
        for (path, status) in [("/api/auth/signup", 201), ("/api/auth/login", 200), ("/api/auth/token", 200)] {
            let answer = api.post(path, &body(path, &email, &asked), "").await.expect(status).json();
            let user = user_of(&api, &answer).await;
            assert_eq!(granted(&admin, user).await, expected, "{path} {asked}");
            // A refresh grants no more than the login did.
            let refreshed = api.refresh(answer["refreshToken"].as_str().unwrap()).await.expect(200);
            let (idle, end, _) = granted(&admin, user).await;
            assert_eq!((idle, end), (expected.0.min(end), expected.1), "{path} {asked}: {}", refreshed.text());
        }
    }
}

#[tokio::test]
async fn the_service_and_the_database_each_have_the_last_word() {
    let db = TestDb::create().await;
    db.set("auth_sessions.session_max_age", "1h").await;
    let admin = db.superuser().await;
    let server = Server::start(&db, &[("REFRESH_TOKEN_TTL_SECONDS", "600")]).await;
    let api = server.api();
    let asked = json!({"session": {"idleTimeoutSeconds": 7200, "maxAgeSeconds": 7200}});
    let answer =
        api.post("/api/auth/signup", &body("/api/auth/signup", "ada@example.org", &asked), "").await.expect(201);
    assert_eq!(granted(&admin, answer.session().user_id()).await, (600, 3600, None));
}

#[tokio::test]
async fn nonsense_is_refused_and_opens_nothing() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    api.signup("ada@example.org").await;
    let before = db.row_counts().await;
    for asked in [
        json!({"rememberMe": "no"}),
        json!({"rememberMe": 0}),
        json!({"session": {"idleTimeoutSeconds": 59}}),
        json!({"session": {"maxAgeSeconds": 0}}),
        json!({"session": {"maxAgeSeconds": -1}}),
        json!({"session": {"maxAgeSeconds": 90.5}}),
        json!({"session": {"maxAgeSeconds": 5_000_000_000_u64}}),
        json!({"session": {"retryWindowSeconds": "60"}}),
        json!({"session": {"lifetime": 600}}),
        json!({"session": [600, 600, 60]}),
        json!({"session": true}),
    ] {
        for path in ["/api/auth/login", "/api/auth/token"] {
            let answer = api.post(path, &body(path, "ada@example.org", &asked), "").await;
            assert_eq!((answer.status, answer.problem_code().as_str()), (422, "invalid_request"), "{path} {asked}");
        }
        let answer = api.post("/api/auth/signup", &body("/api/auth/signup", "bob@example.org", &asked), "").await;
        assert_eq!(answer.status, 422, "{asked}");
    }
    assert_eq!(db.row_counts().await, before);
}
