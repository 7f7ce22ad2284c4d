//! Introspection (RFC 7662): what is active, what is not and looks alike, and that asking changes nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::server::HMAC_KEY;
use auth_sessions_tests::sql::{audit_trail, let_time_pass, revoked_reason, run, session_row, value};
use auth_sessions_tests::wire::{RefreshToken, parse_jwt, unsigned_jwt};
use auth_sessions_tests::{Answer, Api, Client, Server, Session, TestDb, all_at_once, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const PATH: &str = "/api/auth/introspect";

/// The service, and a confidential client of it; for revocation too.
pub struct Scene {
    pub db: TestDb,
    pub admin: tokio_postgres::Client,
    pub server: Server,
    pub api: Api,
    pub client: Client,
}

impl Scene {
    pub async fn start() -> Self {
        let db = TestDb::create().await;
        let client = Client::register(&db.connect_as("auth_operator").await, "Billing").await;
        let (admin, server) = (db.superuser().await, Server::start(&db, &[]).await);
        let api = server.api();
        Self { db, admin, server, api, client }
    }

    async fn ask(&self, token: &str) -> Value {
        self.answer(token).await.expect(200).json()
    }

    async fn answer(&self, token: &str) -> Answer {
        self.api.form(PATH, &[("token", token)], Some(&self.client)).await
    }

    async fn is_active(&self, token: &str) -> bool {
        self.ask(token).await["active"].as_bool().expect("active")
    }
}

fn session_id(session: &Session) -> Uuid {
    RefreshToken::parse(&session.refresh_token).session_id
}

#[tokio::test]
async fn an_access_token_says_what_it_stands_for_now() {
    let scene = Scene::start().await;
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "name": "Ada",
                      "organization": {"name": "Engines", "slug": "engines"}});
    let session = scene.api.post("/api/auth/signup", &body, "").await.expect(201).session();
    let (_, claims) = parse_jwt(&session.access_token);
    let said = scene.ask(&session.access_token).await;
    assert_eq!(
        said,
        json!({
            "active": true, "token_use": "access_token", "token_type": "Bearer", "scope": "*",
            "username": "ada@example.org", "sub": claims["sub"], "iss": claims["iss"], "aud": claims["aud"],
            "iat": claims["iat"], "nbf": claims["iat"], "exp": claims["exp"], "jti": claims["jti"],
            "sid": claims["sid"], "auth_time": claims["auth_time"], "amr": ["pwd"], "org": claims["org"],
            "roles": ["ORGANIZATION_OWNER"],
        })
    );
    let answer = scene.answer(&session.access_token).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    for hint in ["access_token", "refresh_token", "nonsense", ""] {
        let form = [("token", session.access_token.as_str()), ("token_type_hint", hint)];
        let hinted = scene.api.form(PATH, &form, Some(&scene.client)).await.expect(200).json();
        assert_eq!(hinted, said, "a hint is no more than that: {hint}");
    }

    // The older token of a session that moved on is good until it expires, as it is for our own endpoints.
    scene.api.refresh(&session.refresh_token).await.expect(200);
    assert_eq!(scene.ask(&session.access_token).await, said);
    // A role that was taken away is gone, whatever the token says.
    let member = "update auth.organization_members set role = 'ORGANIZATION_MEMBER'";
    run(&scene.admin, member, &[]).await;
    assert_eq!(scene.ask(&session.access_token).await["roles"], json!(["ORGANIZATION_MEMBER"]));
    // A session that ends before its token says so.
    run(&scene.admin, "update auth.sessions set expires_at = clock_timestamp() + interval '60 s'", &[]).await;
    let said = scene.ask(&session.access_token).await;
    assert!(said["exp"].as_i64() < claims["exp"].as_i64(), "{said}");
}

#[tokio::test]
async fn a_refresh_token_is_active_while_a_refresh_would_be_granted() {
    let scene = Scene::start().await;
    let first = scene.api.signup("ada@example.org").await;
    let id = session_id(&first);
    let said = scene.ask(&first.refresh_token).await;
    let (_, claims) = parse_jwt(&first.access_token);
    assert_eq!((&said["active"], &said["token_use"]), (&json!(true), &json!("refresh_token")));
    assert_eq!((&said["sub"], &said["sid"]), (&claims["sub"], &claims["sid"]));
    for absent in ["token_type", "jti", "org"] {
        assert!(said.get(absent).is_none(), "{absent}: {said}");
    }
    assert!(said["exp"].as_i64() > claims["exp"].as_i64(), "{said}");

    let second = scene.api.refresh(&first.refresh_token).await.expect(200).session();
    let retry = scene.ask(&first.refresh_token).await;
    assert_eq!(retry["active"], true, "a retry would be answered");
    assert!(retry.get("iat").is_none(), "{retry}");
    assert!(scene.is_active(&second.refresh_token).await);
    // Once the successor is used, the window is closed.
    let third = scene.api.refresh(&second.refresh_token).await.expect(200).session();
    let before = session_row(&scene.admin, id).await;
    assert!(!scene.is_active(&first.refresh_token).await);
    assert!(scene.is_active(&second.refresh_token).await);
    assert!(scene.is_active(&third.refresh_token).await);
    run(&scene.admin, "update auth.sessions set rotated_at = rotated_at - interval '61 s'", &[]).await;
    assert!(!scene.is_active(&second.refresh_token).await, "after the retry window");
    run(&scene.admin, "update auth.sessions set rotated_at = rotated_at + interval '61 s'", &[]).await;

    // Asking about an old token is no replay, and leaves no trace.
    assert_eq!(session_row(&scene.admin, id).await, before);
    assert_eq!(audit_trail(&scene.admin, id).await, ["auth_session_created"]);
    assert!(scene.is_active(&third.refresh_token).await);
    // Showing it to a refresh is one.
    scene.api.refresh(&first.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    assert_eq!(revoked_reason(&scene.admin, id).await.as_deref(), Some("token_replay"));
    assert!(!scene.is_active(&third.refresh_token).await);
    assert!(!scene.is_active(&third.access_token).await);
}

#[tokio::test]
async fn a_personal_access_token_says_its_scopes_and_ends_by_revocation() {
    let scene = Scene::start().await;
    let (api, admin) = (&scene.api, &scene.admin);
    let session = api.signup("ada@example.org").await;
    run(admin, "update auth.users set email_verified_at = now()", &[]).await;
    let wanted = json!({"name": "report", "scopes": ["orders:read", "sessions:read"], "expiresInDays": 30});
    let make = async || {
        let made = api.post("/api/auth/personal-access-tokens", &wanted, &session.access_token).await.expect(201);
        let made = made.json();
        (made["token"].as_str().expect("token").to_owned(), made["personalAccessToken"]["id"].clone())
    };
    let (token, id) = make().await;
    let (other, _) = make().await;
    let said = scene.ask(&token).await;
    for (member, value) in [
        ("active", json!(true)),
        ("token_use", json!("personal_access_token")),
        ("token_type", json!("Bearer")),
        ("scope", json!("orders:read sessions:read")),
        ("username", json!("ada@example.org")),
        ("sub", session.body["user"]["id"].clone()),
        ("jti", id),
        ("roles", json!([])),
    ] {
        assert_eq!(said[member], value, "{member}: {said}");
    }
    for absent in ["sid", "auth_time", "amr", "org"] {
        assert!(said.get(absent).is_none(), "{absent}: {said}");
    }
    let days = (said["exp"].as_i64().expect("exp") - said["iat"].as_i64().expect("iat")) / 86_400;
    assert_eq!(days, 30);
    let used: i64 = value(admin, "select count(last_used_at) from auth.personal_access_tokens", &[]).await;
    assert_eq!(used, 1, "its owner sees that it is used");

    let mut wrong = token.clone().into_bytes();
    wrong[60] = if wrong[60] == b'A' { b'B' } else { b'A' };
    assert!(!scene.is_active(&String::from_utf8(wrong.clone()).expect("ASCII")).await);
    // A wrong secret revokes nothing, the right one its own token only.
    let revoke = async |token: &str| api.form("/api/auth/revoke", &[("token", token)], Some(&scene.client)).await;
    assert_eq!(revoke(&String::from_utf8(wrong).expect("ASCII")).await.expect(200).text(), "{}");
    assert!(scene.is_active(&token).await);
    assert_eq!(revoke(&token).await.expect(200).text(), "{}");
    assert_eq!(scene.answer(&token).await.expect(200).text(), r#"{"active":false}"#);
    assert!(scene.is_active(&other).await && scene.is_active(&session.access_token).await);
    let by: String = value(
        admin,
        "select details ->> 'client_id' from auth.audit_log where action = 'personal_access_token_revoked'",
        &[],
    )
    .await;
    assert_eq!(by, scene.client.id);
    run(admin, "update auth.personal_access_tokens set created_at = now() - interval '9 d', expires_at = now()", &[])
        .await;
    assert!(!scene.is_active(&other).await);
    let (third, _) = make().await;
    assert!(scene.is_active(&third).await);
    run(admin, "update auth.users set disabled_at = now()", &[]).await;
    assert!(!scene.is_active(&third).await);
}

#[tokio::test]
async fn whatever_is_not_good_has_one_answer() {
    let scene = Scene::start().await;
    let (api, admin) = (&scene.api, &scene.admin);
    let revoked = api.signup("revoked@example.org").await;
    let idle = api.signup("idle@example.org").await;
    let expired = api.signup("expired@example.org").await;
    let disabled = api.signup("disabled@example.org").await;
    let stale = api.signup("stale@example.org").await;
    let deleted = api.signup("deleted@example.org").await;
    let live = api.signup("live@example.org").await;
    api.post("/api/auth/logout", &json!({}), &revoked.access_token).await;
    let past = "clock_timestamp() - interval '1 s'";
    for (column, session) in [("idle_expires_at", &idle), ("expires_at", &expired)] {
        run(admin, &format!("update auth.sessions set {column} = {past} where id = $1"), &[&session_id(session)]).await;
    }
    run(admin, "update auth.users set disabled_at = now() where id = $1", &[&disabled.user_id()]).await;
    run(admin, "delete from auth.users where id = $1", &[&deleted.user_id()]).await;
    let _ = &stale;

    let mut tokens = Vec::new();
    for session in [&revoked, &idle, &expired, &disabled, &deleted] {
        tokens.push(session.access_token.clone());
        tokens.push(session.refresh_token.clone());
    }
    let (header, claims) = parse_jwt(&live.access_token);
    let mut unsigned = header.clone();
    unsigned["alg"] = json!("none");
    tokens.push(unsigned_jwt(&unsigned, &claims));
    let mut forged = live.access_token.clone();
    let at = forged.len() - 10;
    let other = if &forged[at..=at] == "A" { "B" } else { "A" };
    forged.replace_range(at..=at, other);
    tokens.push(forged);
    let mut secret = RefreshToken::parse(&live.refresh_token);
    secret.secret[0] ^= 1;
    tokens.push(secret.signed_with(&HMAC_KEY));
    let mut newer = RefreshToken::parse(&live.refresh_token);
    newer.generation += 1;
    tokens.push(newer.signed_with(&HMAC_KEY));
    let mut elsewhere = RefreshToken::parse(&live.refresh_token);
    elsewhere.session_id = Uuid::nil();
    tokens.push(elsewhere.signed_with(&HMAC_KEY));
    let mut others = RefreshToken::parse(&live.refresh_token);
    others.session_id = session_id(&stale);
    tokens.push(others.signed_with(&HMAC_KEY));
    for token in ["x", "asr_", "asp_", "asp_AAAA", "ä", " ", "a.b.c", &"x".repeat(10_000)] {
        tokens.push(token.to_owned());
    }

    let mut bodies = BTreeSet::new();
    for token in &tokens {
        let answer = scene.answer(token).await.expect(200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.text(), r#"{"active":false}"#, "{token}");
        let mut headers: Vec<String> = answer.headers.iter().map(|header| format!("{header:?}")).collect();
        headers.retain(|header| !header.contains("x-request-id") && !header.contains("\"date\""));
        bodies.insert(headers);
    }
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert!(scene.is_active(&live.access_token).await && scene.is_active(&live.refresh_token).await);

    // The jti of a generation and time that was made, but is too old for the database.
    let_time_pass(admin, session_id(&live), "1 s").await;
    scene.db.set("auth_sessions.access_token_ttl", "1s").await;
    let server = Server::start(&scene.db, &[]).await;
    let strict = Scene { api: server.api(), server, admin: scene.db.superuser().await, ..scene };
    eventually("the token is too old", async || !strict.is_active(&live.access_token).await).await;
    assert!(strict.is_active(&live.refresh_token).await);
    assert_eq!(strict.server.log().matches(&live.refresh_token[..40]).count(), 0);
}

#[tokio::test]
async fn an_inactive_token_takes_as_long_whatever_is_wrong_with_it() {
    let scene = Scene::start().await;
    let revoked = scene.api.signup("ada@example.org").await;
    scene.api.post("/api/auth/logout", &json!({}), &revoked.access_token).await;
    let kinds = ["x", &revoked.access_token, &revoked.refresh_token];
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..60 {
        for (kind, times) in kinds.iter().zip(&mut times) {
            let started = Instant::now();
            scene.answer(kind).await.expect(200);
            times.push(started.elapsed());
        }
    }
    let medians = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    let (least, most) = (medians.iter().min().expect("three"), medians.iter().max().expect("three"));
    // All ask the database once. Without that, garbage would be answered in a small part of the time.
    assert!(*most < *least * 2 + Duration::from_millis(1), "{medians:?}");
    let asked: i64 = scene
        .db
        .statements()
        .await
        .iter()
        .filter(|(sql, _)| sql.contains("introspect_token"))
        .map(|(_, calls)| calls)
        .sum();
    assert_eq!(asked, 180);
}

#[tokio::test]
async fn a_hostile_service_learns_nothing_by_a_sessions_id() {
    let scene = Scene::start().await;
    let session = scene.api.signup("ada@example.org").await;
    let service = scene.db.connect_as("auth_service").await;
    let id = session_id(&session);
    let token = RefreshToken::parse(&session.refresh_token);
    let client_proof = auth_sessions_tests::tokens::sha256(scene.client.secret.as_bytes());
    let proof = auth_sessions_tests::tokens::sha256(&token.secret);
    let by_jti = "select outcome from auth.introspect_token($1, $2, session_id => $3, jti => gen_random_uuid())";
    let outcome: String = value(&service, by_jti, &[&scene.client.id, &client_proof, &id]).await;
    assert_eq!(outcome, "inactive");
    let by_parts = "select outcome from auth.introspect_token($1, $2, session_id => $3, generation => $4,
                                                              ticket => $5, token_proof => $6)";
    let other_ticket = vec![0_u8; 16];
    for (generation, ticket, proof, expected) in [
        (0, &token.ticket, &proof, "active"),
        // The current token's proof without its ticket is what a rotation takes too; another generation is not.
        (1, &token.ticket, &proof, "inactive"),
        (0, &other_ticket, &client_proof, "inactive"),
        (0, &token.ticket, &client_proof, "inactive"),
    ] {
        let params: auth_sessions_tests::sql::Params =
            &[&scene.client.id, &client_proof, &id, &generation, ticket, proof];
        assert_eq!(value::<String>(&service, by_parts, params).await, expected, "{generation} {ticket:?}");
    }
    // With the right token, but as nobody.
    let params: auth_sessions_tests::sql::Params = &[&scene.client.id, &proof, &id, &0, &token.ticket, &proof];
    let row = service.query_one(&by_parts.replace("outcome", "*"), params).await.unwrap();
    assert_eq!(row.get::<_, String>("outcome"), "invalid_client");
    for column in 1..row.len() {
        let cell = format!("{:?}", row.columns()[column]);
        let is_null = row.try_get::<_, Option<Uuid>>(column).map_or(true, |value| value.is_none());
        assert!(is_null, "{cell}");
    }
    // And it becomes nobody by it.
    let who = "select auth.current_user_id() from (select * from auth.introspect_token($1, $2, session_id => $3,
               generation => $4, ticket => $5, token_proof => $6) offset 0) t where t.outcome = 'active'";
    let params: auth_sessions_tests::sql::Params = &[&scene.client.id, &client_proof, &id, &0, &token.ticket, &proof];
    assert_eq!(value::<Option<Uuid>>(&service, who, params).await, None);
}

#[tokio::test]
async fn the_client_authenticates_in_exactly_one_way() {
    let scene = Scene::start().await;
    let session = scene.api.signup("ada@example.org").await;
    let (id, secret) = (scene.client.id.as_str(), scene.client.secret.as_str());
    let token = ("token", session.access_token.as_str());
    let form = |pairs: &[(&str, &str)]| scene.api.request(Method::POST, PATH).form(pairs);
    let by_post = scene.api.send(form(&[token, ("client_id", id), ("client_secret", secret)])).await.expect(200);
    assert_eq!(by_post.json()["active"], true);
    // Both encoded, as RFC 6749 §2.3.1 wants, although ours would not need it.
    let encoded: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let by_basic = scene.api.send(form(&[token]).basic_auth(&encoded, Some(secret))).await.expect(200);
    assert_eq!(by_basic.json()["active"], true);
    let named = scene.api.send(form(&[token, ("client_id", id)]).basic_auth(id, Some(secret))).await;
    named.expect(200);

    for (what, request) in [
        ("basic and post", form(&[token, ("client_id", id), ("client_secret", secret)]).basic_auth(id, Some(secret))),
        ("basic and a secret", form(&[token, ("client_secret", secret)]).basic_auth(id, Some(secret))),
        ("another id", form(&[token, ("client_id", "other")]).basic_auth(id, Some(secret))),
        ("bearer and post", form(&[token, ("client_id", id), ("client_secret", secret)]).bearer_auth(token.1)),
    ] {
        let answer = scene.api.send(request).await.expect_problem(400, "malformed_form");
        assert_eq!(answer.json()["error"], "invalid_request", "{what}");
    }
    for (what, request) in [
        ("nothing", form(&[token])),
        ("a bearer", form(&[token]).bearer_auth(&session.access_token)),
        ("a wrong secret", form(&[token]).basic_auth(id, Some("wrong"))),
        ("no secret", form(&[token]).basic_auth(id, None::<&str>)),
        ("an unknown client", form(&[token]).basic_auth("client_unknown", Some(secret))),
        ("an impossible client", form(&[token]).basic_auth("client unknown", Some(secret))),
        ("an id alone", form(&[token, ("client_id", id)])),
        ("a secret alone", form(&[token, ("client_secret", secret)])),
        ("a wrong secret by post", form(&[token, ("client_id", id), ("client_secret", "wrong")])),
        ("nonsense", form(&[token]).header("authorization", "Basic !")),
    ] {
        let answer = scene.api.send(request).await.expect_problem(401, "invalid_client");
        assert_eq!(answer.json()["error"], "invalid_client", "{what}");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, Some(r#"Basic realm="auth_sessions", charset="UTF-8""#), "{what}");
    }
    // A person's credential is none here, and a cookie neither.
    let cookie = form(&[token]).header("cookie", format!("__Host-access={}", session.access_token));
    scene.api.send(cookie).await.expect_problem(401, "invalid_client");
}

#[tokio::test]
async fn malformed_requests() {
    let scene = Scene::start().await;
    let before = scene.db.row_counts().await;
    for path in [PATH, "/api/auth/revoke"] {
        let post = || {
            let request = scene.api.request(Method::POST, path);
            request.basic_auth(&scene.client.id, Some(&scene.client.secret))
        };
        let form = "application/x-www-form-urlencoded";
        for body in [
            "",
            "token",
            "token=",
            "other=x",
            "token=x&token=x",
            "token=%",
            "token=%zz",
            "token=%ff",
            "token=a%00b",
            "token=x&token_type_hint=a&token_type_hint=b",
            "{\"token\":\"x\"}",
        ] {
            let request = post().header("content-type", form).body(body.to_owned());
            let answer = scene.api.send(request).await.expect_problem(400, "malformed_form");
            assert_eq!(answer.json()["error"], "invalid_request", "{path} {body}");
        }
        for (content_type, body) in
            [("application/json", "{\"token\":\"x\"}"), ("text/plain", "token=x"), ("", "token=x")]
        {
            let request = post().header("content-type", content_type).body(body.to_owned());
            scene.api.send(request).await.expect_problem(415, "unsupported_media_type");
        }
        scene.api.send(post()).await.expect_problem(415, "unsupported_media_type");
        let large = post().header("content-type", form).body(format!("token={}", "x".repeat(20_000)));
        scene.api.send(large).await.expect_problem(413, "body_too_large");
        let wrong_method = scene.api.get(path, "").await.expect_problem(405, "method_not_allowed");
        assert_eq!(wrong_method.header("allow"), Some("POST"));
        // Unknown parameters are passed over, and a token in the URL is none.
        let extra = post().form(&[("token", "x"), ("extra", "1"), ("extra", "2")]);
        scene.api.send(extra).await.expect(200);
        let in_url = scene.api.request(Method::POST, &format!("{path}?token=x")).header("content-type", form);
        scene.api.send(in_url).await.expect_problem(400, "malformed_form");
    }
    assert_eq!(scene.db.row_counts().await, before);
}

#[tokio::test]
async fn asking_while_a_session_rotates_neither_disturbs_it_nor_is_told_nonsense() {
    let scene = Scene::start().await;
    let first = scene.api.signup("ada@example.org").await;
    let id = session_id(&first);
    let (server, client) = (scene.server.url().to_owned(), scene.client.clone());
    let rotations = 40;
    let results = all_at_once(4, |n, start| {
        let (api, client, first) = (Api::new(&server), client.clone(), first.clone());
        async move {
            start.wait().await;
            let mut session = first.clone();
            for _ in 0..rotations {
                if n == 0 {
                    session = api.refresh(&session.refresh_token).await.expect(200).session();
                    // What was just handed out is good.
                    let said = api.form(PATH, &[("token", &session.refresh_token)], Some(&client)).await;
                    assert_eq!(said.expect(200).json()["active"], true);
                } else {
                    // The login's own access token stays good, the login's refresh token ends at some time.
                    let said = api.form(PATH, &[("token", &first.access_token)], Some(&client)).await;
                    assert_eq!(said.expect(200).json()["active"], true);
                    api.form(PATH, &[("token", &first.refresh_token)], Some(&client)).await.expect(200);
                }
            }
            session
        }
    })
    .await;
    assert_eq!(revoked_reason(&scene.admin, id).await, None, "nobody was taken for a thief");
    assert!(scene.is_active(&results[0].refresh_token).await);
    assert!(!scene.is_active(&first.refresh_token).await);
    let generation: i32 = value(&scene.admin, "select generation from auth.sessions where id = $1", &[&id]).await;
    assert_eq!(generation, rotations);
}
