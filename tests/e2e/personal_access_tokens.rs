//! Personal access tokens: made by a fresh session of a verified user, limited to scopes, and ended by what ends sessions.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::sql::{let_authentication_age, refusal, run, value, values};
use auth_sessions_tests::{Answer, Api, Server, Session, TestDb, all_at_once};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use uuid::Uuid;

const PATH: &str = "/api/auth/personal-access-tokens";

struct World {
    db: TestDb,
    server: Server,
    api: Api,
    admin: Client,
    ada: Session,
}

async fn world() -> World {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let (api, admin) = (server.api(), db.superuser().await);
    let ada = api.signup("ada@example.org").await;
    admin.execute("update auth.users set email_verified_at = now()", &[]).await.expect("verified");
    World { db, server, api, admin, ada }
}

fn wanted(scopes: &[&str]) -> Value {
    json!({"name": "nightly report", "scopes": scopes, "expiresInDays": 30})
}

impl World {
    async fn make(&self, scopes: &[&str]) -> (String, Uuid) {
        let made = self.api.post(PATH, &wanted(scopes), &self.ada.access_token).await.expect(201).json();
        let id = made["personalAccessToken"]["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        (made["token"].as_str().expect("a token").to_owned(), id)
    }

    async fn sessions(&self, token: &str) -> Answer {
        self.api.get("/api/auth/sessions", token).await
    }
}

/// lookup id, proof and verifier of a token.
fn parts(token: &str) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix("asp_").expect("a prefix")).expect("base64url");
    let proof = Sha256::digest(&bytes[16..]).to_vec();
    let verifier = Sha256::digest(&proof).to_vec();
    (bytes[..16].to_vec(), proof, verifier)
}

#[tokio::test]
async fn it_is_shown_once_and_kept_as_a_verifier() {
    let world = world().await;
    let (token, id) = world.make(&["sessions:read", "reports:write", "sessions:read"]).await;
    assert_eq!((token.len(), &token[..4]), (68, "asp_"));
    let (lookup_id, proof, verifier) = parts(&token);
    let stored = world.admin.query_one("select * from auth.personal_access_tokens", &[]).await.expect("one");
    assert_eq!(stored.get::<_, Vec<u8>>("lookup_id"), lookup_id);
    assert_eq!(stored.get::<_, Vec<u8>>("token_verifier"), verifier);
    assert_eq!(stored.get::<_, Vec<String>>("scopes"), ["reports:write", "sessions:read"]);
    let row =
        format!("{:?}", world.admin.simple_query("select * from auth.personal_access_tokens").await.expect("row"));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(!row.contains(&hex(&proof)) && row.contains(&hex(&verifier)));

    let listed = world.api.get(PATH, &world.ada.access_token).await.expect(200);
    assert!(!listed.text().contains(&token[4..]));
    let listed = &listed.json()["personalAccessTokens"];
    assert_eq!(
        (listed[0]["id"].as_str(), listed[0]["name"].as_str()),
        (Some(&*id.to_string()), Some("nightly report"))
    );
    assert!(listed[0].get("lastUsedAt").is_none());
    world.sessions(&token).await.expect(200);
    let listed = world.api.get(PATH, &world.ada.access_token).await.expect(200).json();
    assert!(listed["personalAccessTokens"][0]["lastUsedAt"].is_string());
    let log = world.server.log() + &world.db.log();
    assert!(!log.contains(&token[4..]) && !log.contains(&hex(&proof)));
    let audit: String = value(&world.admin, "select string_agg(a::text, ' ') from auth.audit_log a", &[]).await;
    assert!(!audit.contains(&token[4..]) && !audit.contains(&hex(&proof)) && !audit.contains(&hex(&lookup_id)));
    let events: Vec<String> =
        values(&world.admin, "select action from auth.audit_log where action like 'personal%' order by id", &[]).await;
    assert_eq!(events, ["personal_access_token_created", "personal_access_token_used"]);
}

#[tokio::test]
async fn making_one_needs_a_verified_address_and_a_recent_authentication() {
    let world = world().await;
    world.admin.execute("update auth.users set email_verified_at = null", &[]).await.expect("not verified");
    let make = async || world.api.post(PATH, &wanted(&["sessions:read"]), &world.ada.access_token).await;
    make().await.expect_problem(403, "email_not_verified");
    world.admin.execute("update auth.users set email_verified_at = now()", &[]).await.expect("verified");
    let_authentication_age(&world.admin, "6 minutes").await;
    make().await.expect_problem(401, "step_up_required");
    world.api.post("/api/auth/step-up", &json!({"password": PASSWORD}), &world.ada.access_token).await.expect(200);
    make().await.expect(201);
}

#[tokio::test]
async fn it_keeps_to_its_scopes() {
    let world = world().await;
    let (reader, _) = world.make(&["sessions:read"]).await;
    let (other, _) = world.make(&["reports:write"]).await;
    let (writer, _) = world.make(&["sessions:write", "profile:read"]).await;
    world.sessions(&reader).await.expect(200);
    let refused = world.sessions(&other).await.expect_problem(403, "insufficient_scope");
    let challenge = refused.header("www-authenticate").expect("a challenge");
    assert!(challenge.contains(r#"error="insufficient_scope", scope="sessions:read""#), "{challenge}");
    world.sessions(&writer).await.expect_problem(403, "insufficient_scope");

    let me = world.api.get("/api/auth/me", &writer).await.expect(200).json();
    assert_eq!(me["user"]["email"], "ada@example.org");
    assert!(me.get("authTime").is_none());
    world.api.get("/api/auth/me", &reader).await.expect_problem(403, "insufficient_scope");

    let second = world.api.login("ada@example.org", PASSWORD).await.expect(200).session();
    let id = auth_sessions_tests::wire::RefreshToken::parse(&second.refresh_token).session_id;
    let path = format!("/api/auth/sessions/{id}");
    world.api.delete(&path, &reader).await.expect_problem(403, "insufficient_scope");
    world.api.delete(&path, &writer).await.expect(200);
    world.api.refresh(&second.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    world.api.post("/api/auth/logout-all", &json!({}), &reader).await.expect_problem(403, "insufficient_scope");
    world.api.post("/api/auth/logout-all", &json!({}), &writer).await.expect(200);
    world.api.refresh(&world.ada.refresh_token).await.expect_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn what_needs_a_session_takes_none() {
    let world = world().await;
    let all = ["profile:read", "sessions:read", "sessions:write", "organization:read", "organization:write"];
    let (token, id) = world.make(&all).await;
    world.api.get(PATH, &token).await.expect_problem(403, "session_required");
    world.api.post(PATH, &wanted(&["sessions:read"]), &token).await.expect_problem(403, "session_required");
    world.api.delete(&format!("{PATH}/{id}"), &token).await.expect_problem(403, "session_required");
    let password = json!({"password": PASSWORD});
    world.api.post("/api/auth/step-up", &password, &token).await.expect_problem(403, "session_required");
    world.api.get("/api/auth/token-info", &token).await.expect_problem(403, "session_required");
    world.api.post("/api/auth/logout", &json!({}), &token).await.expect_problem(403, "session_required");
    // Nor is it taken for the other kinds.
    world.api.refresh(&token).await.expect_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn it_ends_by_revocation_expiry_and_whatever_ends_its_user() {
    let world = world().await;
    let mut tokens = Vec::new();
    for _ in 0..5 {
        tokens.push(world.make(&["sessions:read"]).await);
    }
    let refused = async |token: &str| world.sessions(token).await.expect_problem(401, "invalid_access_token");

    let path = format!("{PATH}/{}", tokens[0].1);
    let revoked = world.api.delete(&path, &world.ada.access_token).await.expect(200).json();
    assert_eq!(revoked["revokedTokens"], 1);
    world.api.delete(&path, &world.ada.access_token).await.expect_problem(404, "token_not_found");
    refused(&tokens[0].0).await;

    run(
        &world.admin,
        "update auth.personal_access_tokens set created_at = created_at - interval '1 year',
                expires_at = now() where id = $1",
        &[&tokens[1].1],
    )
    .await;
    refused(&tokens[1].0).await;
    world.api.delete(&format!("{PATH}/{}", tokens[1].1), &world.ada.access_token).await.expect(404);
    let listed = world.api.get(PATH, &world.ada.access_token).await.expect(200).json();
    assert_eq!(listed["personalAccessTokens"].as_array().map(Vec::len), Some(3));

    // A renewal of the same password's verifier leaves them, a change does not.
    let new = "update auth.users set password_verifier = sha256('x'), verifier_renewed_at = now()";
    world.admin.execute(new, &[]).await.expect("renewed");
    world.sessions(&tokens[2].0).await.expect(200);
    world.admin.execute("update auth.users set password_verifier = sha256('y')", &[]).await.expect("changed");
    for (token, _) in &tokens[2..] {
        refused(token).await;
    }
    let reasons: Vec<String> = values(
        &world.admin,
        "select details ->> 'reason' from auth.audit_log where action = 'personal_access_token_revoked' order by id",
        &[],
    )
    .await;
    assert_eq!(reasons, ["token_revoked", "password_changed"], "one row a decision");
}

#[tokio::test]
async fn it_ends_with_its_user_and_with_the_membership_it_acts_for() {
    let world = world().await;
    let body = json!({"email": "bob@example.org", "password": PASSWORD, "name": "Bob",
                      "organization": {"name": "Bobs", "slug": "bobs-company"}});
    let bob = world.api.post("/api/auth/signup", &body, "").await.expect(201).session();
    world.admin.execute("update auth.users set email_verified_at = now()", &[]).await.expect("verified");
    let made = world.api.post(PATH, &wanted(&["sessions:read"]), &bob.access_token).await.expect(201).json();
    let bobs = made["token"].as_str().expect("a token").to_owned();
    let (adas, _) = world.make(&["sessions:read"]).await;
    world.sessions(&bobs).await.expect(200);
    world.admin.execute("delete from auth.organization_members", &[]).await.expect("no member");
    world.sessions(&bobs).await.expect_problem(401, "invalid_access_token");
    world.sessions(&adas).await.expect(200);
    world.admin.execute("update auth.users set disabled_at = now()", &[]).await.expect("disabled");
    world.sessions(&adas).await.expect_problem(401, "invalid_access_token");
    // For good: not only as long as the account stays disabled.
    let live = "select count(*) from auth.personal_access_tokens where revoked_at is null";
    assert_eq!(value::<i64>(&world.admin, live, &[]).await, 0);
}

#[tokio::test]
async fn somebody_elses_is_not_there() {
    let world = world().await;
    let bob = world.api.signup("bob@example.org").await;
    let (_, id) = world.make(&["sessions:read"]).await;
    let listed = world.api.get(PATH, &bob.access_token).await.expect(200).json();
    assert_eq!(listed["personalAccessTokens"], json!([]));
    let missing = Uuid::new_v4();
    for id in [id, missing] {
        world.api.delete(&format!("{PATH}/{id}"), &bob.access_token).await.expect_problem(404, "token_not_found");
    }
    let live: i64 =
        value(&world.admin, "select count(*) from auth.personal_access_tokens where revoked_at is null", &[]).await;
    assert_eq!(live, 1);
}

#[tokio::test]
async fn bad_input_makes_nothing() {
    let world = world().await;
    let before = world.db.row_counts().await;
    let long = "x".repeat(101);
    let many: Vec<String> = (0..51).map(|n| format!("scope:{n}")).collect();
    for (member, bad, code) in [
        ("name", json!(""), "invalid_name"),
        ("name", json!("   "), "invalid_name"),
        ("name", json!(long), "invalid_name"),
        ("name", json!("a\nb"), "invalid_name"),
        ("scopes", json!([]), "invalid_scope"),
        ("scopes", json!(["*"]), "invalid_scope"),
        ("scopes", json!(["Sessions:read"]), "invalid_scope"),
        ("scopes", json!(["a b"]), "invalid_scope"),
        ("scopes", json!([":a"]), "invalid_scope"),
        ("scopes", json!(["a".repeat(65)]), "invalid_scope"),
        ("scopes", json!(many), "invalid_scope"),
        ("scopes", json!("sessions:read"), "invalid_request"),
        ("expiresInDays", json!(0), "invalid_request"),
        ("expiresInDays", json!(366), "invalid_request"),
        ("expiresInDays", json!(-1), "invalid_request"),
        ("expiresInDays", json!(1.5), "invalid_request"),
        ("expiresInDays", Value::Null, "invalid_request"),
        ("userId", json!("00000000-0000-4000-8000-000000000000"), "invalid_request"),
    ] {
        let mut body = wanted(&["sessions:read"]);
        body[member] = bad;
        world.api.post(PATH, &body, &world.ada.access_token).await.expect_problem(422, code);
    }
    world.api.delete(&format!("{PATH}/1"), &world.ada.access_token).await.expect_problem(400, "bad_request");
    assert_eq!(world.db.row_counts().await, before);
    for token in ["asp_", "asp_AAAA", &format!("asp_{}", "A".repeat(64)), &format!("asp_{}", "é".repeat(32))] {
        world.sessions(token).await.expect_problem(401, "invalid_access_token");
    }
}

#[tokio::test]
async fn there_are_fifty_at_most_also_when_made_at_once() {
    let world = world().await;
    for _ in 0..45 {
        world.make(&["sessions:read"]).await;
    }
    let answers = all_at_once(10, |_, start| {
        let (api, bearer) = (world.server.api(), world.ada.access_token.clone());
        async move {
            api.get("/health/live", "").await; // connects
            start.wait().await;
            api.post(PATH, &wanted(&["sessions:read"]), &bearer).await
        }
    })
    .await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 5);
    for answer in refused {
        answer.expect_problem(409, "too_many_tokens");
    }
}

/// A change of password that has committed leaves no token behind, whoever was faster.
#[tokio::test]
async fn none_survives_a_change_of_password_that_it_races_with() {
    let world = world().await;
    for round in 0..20 {
        let ada = match round {
            0 => world.ada.clone(),
            _ => {
                let ada = world.api.signup(&format!("ada{round}@example.org")).await;
                world.admin.execute("update auth.users set email_verified_at = now()", &[]).await.expect("verified");
                ada
            }
        };
        let user = ada.user_id();
        let changer = world.db.superuser().await;
        all_at_once(5, |n, start| {
            let (api, bearer) = (world.server.api(), ada.access_token.clone());
            let url = world.db.url("postgres");
            async move {
                api.get("/health/live", "").await; // connects
                let changer = auth_sessions_tests::cluster::connect(&url).await.expect("connected");
                start.wait().await;
                if n == 0 {
                    let change = "update auth.users set password_verifier = sha256(id::text::bytea) where id = $1";
                    changer.execute(change, &[&user]).await.expect("changed");
                } else {
                    let answer = api.post(PATH, &wanted(&["sessions:read"]), &bearer).await;
                    assert!([201, 401].contains(&answer.status), "{}", answer.text());
                }
            }
        })
        .await;
        let live = "select count(*) from auth.personal_access_tokens where revoked_at is null and user_id = $1";
        assert_eq!(value::<i64>(&changer, live, &[&user]).await, 0, "round {round}");
    }
}

#[tokio::test]
async fn the_database_knows_its_scopes_and_gives_it_no_more() {
    let world = world().await;
    let bob = world.api.signup("bob@example.org").await;
    let (token, _) = world.make(&["orders:read", "sessions:read"]).await;
    let (lookup_id, proof, verifier) = parts(&token);
    let mut service = world.db.connect_as("auth_service").await;

    // A verifier, as a dump shows it, proves nothing.
    let assume = "select * from auth.assume_personal_access_token($1, $2)";
    assert!(service.query(assume, &[&lookup_id, &verifier]).await.expect("no row").is_empty());
    assert!(service.query(assume, &[&vec![0_u8; 16], &proof]).await.expect("no row").is_empty());
    for (lookup_id, proof) in
        [(Some(&lookup_id[..15]), Some(&proof[..])), (None, Some(&proof[..])), (Some(&lookup_id[..]), None)]
    {
        assert_eq!(refusal(service.query(assume, &[&lookup_id, &proof]).await).code, "22023");
    }

    let transaction = service.transaction().await.expect("begin");
    transaction.query_one(assume, &[&lookup_id, &proof]).await.expect("assumed");
    let who = transaction
        .query_one(
            "select auth.current_user_id(), auth.current_session_id(), auth.current_scopes(), auth.has_scope('orders:read'),
                    auth.has_scope('orders:write'), auth.session_is_live(), auth.require_auth_age('1 day')",
            &[],
        )
        .await
        .expect("who");
    assert_eq!(who.get::<_, Uuid>(0), world.ada.user_id());
    assert_eq!(who.get::<_, Option<Uuid>>(1), None);
    assert_eq!(who.get::<_, Vec<String>>(2), ["orders:read", "sessions:read"]);
    assert!(who.get::<_, bool>(3) && !who.get::<_, bool>(4) && !who.get::<_, bool>(5) && !who.get::<_, bool>(6));

    // Sessions it may read; what would make it one, it may not: neither the jti of a session, nor other tokens.
    let sessions = transaction.query("select current_jti from auth.active_sessions", &[]).await.expect("sessions");
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].get::<_, Option<Uuid>>(0), None);
    for (what, query) in [
        ("tokens", "select id from auth.personal_access_tokens"),
        ("the timeline", "select id from auth.security_events"),
        ("memberships", "select user_id from auth.organization_members"),
    ] {
        assert!(transaction.query(query, &[]).await.expect(what).is_empty(), "{what}");
    }
    let emails = transaction.query("select id from auth.users", &[]).await.expect("users");
    assert_eq!(emails.len(), 1);
    transaction.rollback().await.expect("rollback");

    for statement in [
        "select auth.revoke_session('00000000-0000-4000-8000-000000000000')",
        "select auth.revoke_user_sessions(auth.current_user_id())",
        "select auth.create_personal_access_token('x', '{a}', '1 day', sha256('x'), sha256('x'))",
        "select auth.revoke_personal_access_token('00000000-0000-4000-8000-000000000000')",
        "select auth.begin_step_up()",
        "select auth.complete_step_up(1, sha256('x'))",
        "select auth.report_invalid_csrf_token()",
    ] {
        let transaction = service.transaction().await.expect("begin");
        transaction.query_one(assume, &[&lookup_id, &proof]).await.expect("assumed");
        assert_eq!(refusal(transaction.query(statement, &[]).await).code, "42501", "{statement}");
    }
    let nobody = service.query("select auth.current_scopes() is null and not auth.has_scope('orders:read')", &[]).await;
    assert!(nobody.expect("nobody")[0].get::<_, bool>(0), "it ends with its transaction");
    drop(bob);
}

#[tokio::test]
async fn a_stale_session_cannot_borrow_the_mark_of_a_fresh_one() {
    let world = world().await;
    let fresh = world.api.login("ada@example.org", PASSWORD).await.expect(200).session();
    let (_, claims) = auth_sessions_tests::wire::parse_jwt(&world.ada.access_token);
    let jti: Uuid = claims["jti"].as_str().and_then(|jti| jti.parse().ok()).expect("jti");
    let id = |session: &Session| auth_sessions_tests::wire::RefreshToken::parse(&session.refresh_token).session_id;
    let mut service = world.db.connect_as("auth_service").await;
    let transaction = service.transaction().await.expect("begin");
    let own = id(&world.ada);
    transaction.query_one("select * from auth.assume_session($1, $2)", &[&own, &jti]).await.expect("assumed");
    let seen = transaction.query("select id, current_jti from auth.active_sessions", &[]).await.expect("both");
    for row in seen {
        let is_own = row.get::<_, Uuid>(0) == own;
        assert_eq!(row.get::<_, Option<Uuid>>(1).is_some(), is_own, "{is_own}");
    }
    let others = transaction.query_one("select auth.session_jti($1)", &[&id(&fresh)]).await.expect("null");
    assert_eq!(others.get::<_, Option<Uuid>>(0), None);
}
