//! Revocation (RFC 7009): a token ends its session, whoever's; one that is not valid is answered alike.

use auth_sessions_tests::server::HMAC_KEY;
use auth_sessions_tests::sql::{audit_trail, revoked_reason, value};
use auth_sessions_tests::tokens::sha256;
use auth_sessions_tests::wire::RefreshToken;
use auth_sessions_tests::{Answer, Api, Client, Session, all_at_once};
use serde_json::json;
use uuid::Uuid;

use crate::introspection::Scene;

const PATH: &str = "/api/auth/revoke";

impl Scene {
    async fn revoke(&self, token: &str) -> Answer {
        self.api.form(PATH, &[("token", token)], Some(&self.client)).await
    }
}

fn session_id(session: &Session) -> Uuid {
    RefreshToken::parse(&session.refresh_token).session_id
}

#[tokio::test]
async fn either_token_ends_its_session_and_no_other() {
    let scene = Scene::start().await;
    let other = scene.api.signup("ada@example.org").await;
    for (kind, action) in [("refresh", "refresh_token_revoked"), ("access", "session_revoked")] {
        let session = scene.api.login("ada@example.org", auth_sessions_tests::http::PASSWORD).await.session();
        let id = session_id(&session);
        let token = if kind == "refresh" { &session.refresh_token } else { &session.access_token };
        let request = scene.api.request(reqwest::Method::POST, PATH).header("x-request-id", "revocation-1");
        let request = request.form(&[("token", token)]).basic_auth(&scene.client.id, Some(&scene.client.secret));
        let answer = scene.api.send(request).await.expect(200);
        assert_eq!(answer.text(), "{}");
        assert_eq!(revoked_reason(&scene.admin, id).await.as_deref(), Some("token_revoked"), "{kind}");
        assert_eq!(audit_trail(&scene.admin, id).await.last().map(String::as_str), Some(action));
        scene.api.refresh(&session.refresh_token).await.expect_problem(401, "invalid_refresh_token");
        scene.api.get("/api/auth/me", &session.access_token).await.expect_problem(401, "invalid_access_token");
        let row = scene
            .admin
            .query_one(
                "select details ->> 'client_id', actor_user_id, correlation_id, ip_cidr::text from auth.audit_log
              where session_id = $1 and action = $2",
                &[&id, &action],
            )
            .await
            .expect("one row");
        assert_eq!(row.get::<_, String>(0), scene.client.id);
        assert_eq!(row.get::<_, Option<Uuid>>(1), None, "the client acted, not the user");
        assert_eq!((row.get::<_, &str>(2), row.get::<_, &str>(3)), ("revocation-1", "127.0.0.0/24"));
        // Again is the same, and changes nothing.
        let trail = audit_trail(&scene.admin, id).await;
        assert_eq!(scene.revoke(token).await.expect(200).text(), "{}");
        assert_eq!(audit_trail(&scene.admin, id).await, trail);
    }
    scene.api.get("/api/auth/me", &other.access_token).await.expect(200);
    assert_eq!(revoked_reason(&scene.admin, session_id(&other)).await, None);
}

#[tokio::test]
async fn a_token_that_was_exchanged_long_ago_ends_its_session_and_is_no_replay() {
    let scene = Scene::start().await;
    let first = scene.api.signup("ada@example.org").await;
    let mut session = first.clone();
    for _ in 0..3 {
        session = scene.api.refresh(&session.refresh_token).await.expect(200).session();
    }
    scene.revoke(&first.refresh_token).await.expect(200);
    let id = session_id(&first);
    assert_eq!(revoked_reason(&scene.admin, id).await.as_deref(), Some("token_revoked"));
    assert_eq!(audit_trail(&scene.admin, id).await, ["auth_session_created", "refresh_token_revoked"]);
}

#[tokio::test]
async fn what_is_no_token_of_ours_ends_nothing_and_is_answered_alike() {
    let scene = Scene::start().await;
    let session = scene.api.signup("ada@example.org").await;
    let id = session_id(&session);
    let before = auth_sessions_tests::sql::session_row(&scene.admin, id).await;
    let mut forged = RefreshToken::parse(&session.refresh_token);
    forged.ticket[3] ^= 1;
    let mut other_secret = RefreshToken::parse(&session.refresh_token);
    other_secret.secret[3] ^= 1;
    let mut newer = RefreshToken::parse(&session.refresh_token);
    newer.generation += 1;
    let tokens = [forged.signed_with(&HMAC_KEY), other_secret.signed_with(&HMAC_KEY), newer.signed_with(&HMAC_KEY)];
    for token in tokens.iter().map(String::as_str).chain(["x", "asr_x", "asp_x", "a.b.c"]) {
        for hint in ["access_token", "refresh_token", "whatever"] {
            let form = [("token", token), ("token_type_hint", hint)];
            let answer = scene.api.form(PATH, &form, Some(&scene.client)).await.expect(200);
            assert_eq!(answer.text(), "{}", "{token}");
        }
    }
    assert_eq!(auth_sessions_tests::sql::session_row(&scene.admin, id).await, before);
    // Nor does the database go by the service's word.
    let service = scene.db.connect_as("auth_service").await;
    let proof = sha256(scene.client.secret.as_bytes());
    let by_id = "select ended from auth.revoke_token($1, $2, session_id => $3, jti => gen_random_uuid())";
    assert!(!value::<bool>(&service, by_id, &[&scene.client.id, &proof, &id]).await);
    assert_eq!(auth_sessions_tests::sql::session_row(&scene.admin, id).await, before);
}

#[tokio::test]
async fn without_a_client_nothing_is_ended() {
    let scene = Scene::start().await;
    let session = scene.api.signup("ada@example.org").await;
    let wrong = Client { secret: "wrong".into(), ..scene.client.clone() };
    for client in [None, Some(&wrong)] {
        let form = [("token", session.refresh_token.as_str())];
        let answer = scene.api.form(PATH, &form, client).await.expect_problem(401, "invalid_client");
        assert_eq!(answer.json()["error"], "invalid_client");
    }
    assert_eq!(revoked_reason(&scene.admin, session_id(&session)).await, None);
    assert!(!scene.server.log().contains("wrong"));
    scene.api.post("/api/auth/revoke", &json!({"token": "x"}), "").await.expect_problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn many_revocations_at_once_end_the_session_once() {
    let scene = Scene::start().await;
    for round in 0..10 {
        let session = scene.api.signup(&format!("ada{round}@example.org")).await;
        let (url, client) = (scene.server.url().to_owned(), scene.client.clone());
        all_at_once(8, |n, start| {
            let (api, client, session) = (Api::new(&url), client.clone(), session.clone());
            async move {
                start.wait().await;
                // A refresh runs among them: it wins or loses, and the session is over all the same.
                match n {
                    0 => drop(api.refresh(&session.refresh_token).await),
                    n if n % 2 == 0 => {
                        drop(api.form(PATH, &[("token", &session.access_token)], Some(&client)).await.expect(200))
                    }
                    _ => drop(api.form(PATH, &[("token", &session.refresh_token)], Some(&client)).await.expect(200)),
                }
            }
        })
        .await;
        let id = session_id(&session);
        assert_eq!(revoked_reason(&scene.admin, id).await.as_deref(), Some("token_revoked"));
        let ended: i64 = value(
            &scene.admin,
            "select count(*) from auth.audit_log where session_id = $1 and action in ('session_revoked', 'refresh_token_revoked')",
            &[&id],
        )
        .await;
        assert_eq!(ended, 1);
    }
}
