//! Floods of tokens that we never made: each is refused by its form or its tag, and the database sees none of them.

use auth_sessions_tests::{Server, TestDb, tokens};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::Method;
use serde_json::json;

const FLOOD: usize = 400;

#[tokio::test]
async fn a_flood_of_garbage_does_not_reach_the_database() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let session = api.signup("ada@example.org").await;
    api.get("/api/auth/me", &session.access_token).await.expect(200);
    // What the service does once, soon after its start, may come at any moment.
    let statements = async || {
        let mut statements = db.statements().await;
        statements.retain(|statement, _| !statement.contains("audit_partitions"));
        statements
    };
    let before = (statements().await, db.row_counts().await);

    let genuine = URL_SAFE_NO_PAD.decode(&session.refresh_token[4..]).expect("base64url");
    let mut statuses = std::collections::BTreeMap::new();
    for n in 0..FLOOD {
        // A genuine one with one byte changed, wherever; random ones of the right length; other lengths; other texts.
        let refresh_token = match n % 4 {
            0 => {
                let mut bytes = genuine.clone();
                bytes[n % genuine.len()] ^= 1 << (n % 8);
                format!("asr_{}", URL_SAFE_NO_PAD.encode(bytes))
            }
            1 => format!("asr_{}", URL_SAFE_NO_PAD.encode(tokens::random_bytes(genuine.len()))),
            2 => format!("asr_{}", URL_SAFE_NO_PAD.encode(tokens::random_bytes(16 + n))),
            _ => STANDARD.encode(tokens::random_bytes(64)),
        };
        // An access token whose claims are changed, or whose signature is; a random one.
        let access_token = match n % 3 {
            0 => {
                let mut jwt = session.access_token.clone().into_bytes();
                let at = jwt.len() - 40 + n % 30;
                jwt[at] = if jwt[at] == b'A' { b'B' } else { b'A' };
                String::from_utf8(jwt).expect("ASCII")
            }
            1 => {
                let (head, signature) = session.access_token.rsplit_once('.').expect("a JWT");
                let header = head.split('.').next().expect("a header");
                let claims = json!({"sub": n, "exp": 9_999_999_999_u64}).to_string();
                format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims))
            }
            _ => URL_SAFE_NO_PAD.encode(tokens::random_bytes(200)),
        };
        let by_cookie = api
            .request(Method::POST, "/api/auth/refresh")
            .header("cookie", format!("__Secure-auth_refresh={refresh_token}"));
        // Or a browser is not heard at all.
        let by_cookie = by_cookie.header("sec-fetch-site", "same-origin");
        for answer in [
            api.refresh(&refresh_token).await,
            api.get("/api/auth/me", &access_token).await,
            api.post("/api/auth/token", &json!({"grantType": "refresh_token", "refreshToken": refresh_token}), "")
                .await,
            api.send(by_cookie).await,
            api.delete("/api/auth/sessions/00000000-0000-4000-8000-000000000000", &access_token).await,
        ] {
            *statuses.entry(answer.status).or_insert(0) += 1;
        }
        // What is not ours ends nothing either.
        let logout = api.post("/api/auth/logout", &json!({"refreshToken": refresh_token}), "").await.expect(200);
        assert_eq!(logout.json()["revokedSessions"], 0);
    }
    assert_eq!(statuses, [(401, FLOOD * 5)].into());

    let after = (statements().await, db.row_counts().await);
    assert_eq!(after.0, before.0, "not one statement");
    assert_eq!(after.1, before.1);
    // And the session that they were made of is as it was.
    let next = api.refresh(&session.refresh_token).await.expect(200).session();
    api.get("/api/auth/me", &next.access_token).await.expect(200);
    assert_ne!(statements().await, before.0, "genuine ones do reach it");
}
