//! Refreshing over HTTP: nobody is logged out by accident, a thief is found out, garbage tells nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::server::{HMAC_KEY, JWT_SEED, PEPPER, key, test_key};
use auth_sessions_tests::tokens::random_bytes;
use auth_sessions_tests::wire::{
    RefreshToken, access_token_header, encode_refresh_token, key_id, parse_jwt, refresh_token_bytes, sign_jwt,
    unsigned_jwt,
};
use auth_sessions_tests::{Answer, Api, OwnCluster, Server, TestDb, all_at_once, eventually};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use uuid::Uuid;

async fn start(settings: &[(&str, &str)]) -> (TestDb, Server, Api) {
    let db = TestDb::create().await;
    let server = Server::start(&db, settings).await;
    let api = server.api();
    (db, server, api)
}

fn session_id(refresh_token: &str) -> Uuid {
    RefreshToken::parse(refresh_token).session_id
}

/// Why the session was revoked, if it was, as a new connection sees it.
async fn revocation(db: &TestDb, session_id: Uuid) -> Option<String> {
    let admin = db.superuser().await;
    let row = admin.query_one("select revoked_reason from auth.sessions where id = $1", &[&session_id]).await;
    row.expect("the session").get(0)
}

async fn events(db: &TestDb, session_id: Uuid) -> BTreeMap<String, i64> {
    let admin = db.superuser().await;
    let counted = "select action, count(*) from auth.audit_log where session_id = $1 group by action";
    let rows = admin.query(counted, &[&session_id]).await.expect("audit_log");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// How often the service sent each statement, when it is done with what it asks at its start.
async fn statements(db: &TestDb) -> BTreeMap<String, i64> {
    eventually("the service has looked after the partitions", async || {
        db.statements().await.contains_key("select auth.maintain_audit_partitions()")
    })
    .await;
    db.statements().await
}

/// A refused refresh, whose answer tells nothing: the same to the byte, whatever the reason, but for the request id.
fn refusal(answer: &Answer) -> String {
    let id = answer.header("x-request-id").expect("a request id").to_owned();
    let headers: Vec<_> =
        answer.headers.iter().filter(|(name, _)| *name != "date" && *name != "x-request-id").collect();
    format!("{} {headers:?} {}", answer.status, answer.text().replace(&id, "ID"))
}

#[tokio::test]
async fn a_refresh_returns_a_new_pair_and_a_retry_the_same_successor() {
    let (db, _server, api) = start(&[]).await;
    let first = api.signup("ada@example.org").await;

    let second = api.refresh(&first.refresh_token).await.expect(200).session();
    assert_ne!(second.refresh_token, first.refresh_token);
    assert_ne!(second.access_token, first.access_token);
    let retried = api.refresh(&first.refresh_token).await.expect(200).session();
    assert_eq!(retried.refresh_token, second.refresh_token);
    api.get("/api/auth/me", &retried.access_token).await.expect(200);

    // The successor was used: from now on its predecessor is stolen.
    let third = api.refresh(&second.refresh_token).await.expect(200).session();
    api.refresh(&first.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    assert_eq!(revocation(&db, session_id(&first.refresh_token)).await.as_deref(), Some("token_replay"));
    api.refresh(&third.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    api.get("/api/auth/me", &third.access_token).await.expect_problem(401, "invalid_access_token");
}

#[tokio::test]
async fn after_the_retry_window_the_same_token_is_a_replay() {
    let (db, _server, api) = start(&[]).await;
    let first = api.signup("ada@example.org").await;
    let second = api.refresh(&first.refresh_token).await.expect(200).session();
    let passes = async |seconds: f64| {
        let moved = "update auth.sessions set rotated_at = rotated_at - make_interval(secs => $1)";
        db.superuser().await.execute(moved, &[&seconds]).await.expect("moved");
    };

    passes(55.0).await;
    let retried = api.refresh(&first.refresh_token).await.expect(200).session();
    assert_eq!(retried.refresh_token, second.refresh_token);
    passes(6.0).await;
    api.refresh(&first.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    assert_eq!(revocation(&db, session_id(&first.refresh_token)).await.as_deref(), Some("token_replay"));
}

#[tokio::test]
async fn two_hundred_presenters_of_one_token_get_one_successor() {
    let db = TestDb::create().await;
    db.set("auth_sessions.audit_level", "all").await;
    let server = Server::start(&db, &[]).await;
    let first = server.api().signup("ada@example.org").await;

    let answers = all_at_once(200, |_, start| {
        let (api, token) = (server.api(), first.refresh_token.clone());
        async move {
            api.get("/health/live", "").await; // connects
            start.wait().await;
            api.refresh(&token).await
        }
    });
    let successors: BTreeSet<_> = answers.await.into_iter().map(|a| a.expect(200).session().refresh_token).collect();

    assert_eq!(successors.len(), 1);
    let counted = events(&db, session_id(&first.refresh_token)).await;
    assert_eq!((counted["token_refreshed"], counted["token_retry_served"]), (1, 199));
    server.api().refresh(successors.first().expect("one")).await.expect(200);
}

#[tokio::test]
async fn without_a_retry_window_one_presenter_wins_and_the_family_dies() {
    let db = TestDb::create().await;
    db.set("auth_sessions.retry_window", "0").await;
    let server = Server::start(&db, &[]).await;
    let first = server.api().signup("ada@example.org").await;

    let answers = all_at_once(20, |_, start| {
        let (api, token) = (server.api(), first.refresh_token.clone());
        async move {
            api.get("/health/live", "").await; // connects
            start.wait().await;
            api.refresh(&token).await
        }
    });
    let (won, lost): (Vec<_>, Vec<_>) = answers.await.into_iter().partition(|answer| answer.status == 200);

    assert_eq!((won.len(), lost.len()), (1, 19));
    assert!(lost.into_iter().all(|answer| answer.problem_code() == "invalid_refresh_token"));
    assert_eq!(revocation(&db, session_id(&first.refresh_token)).await.as_deref(), Some("token_replay"));
    server.api().refresh(&won[0].session().refresh_token).await.expect_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn a_client_that_lost_the_answer_goes_on() {
    let (db, server, api) = start(&[]).await;
    let first = api.signup("ada@example.org").await;

    // Sends the whole request and hangs up without reading.
    let body = json!({"refreshToken": first.refresh_token}).to_string();
    let request = format!(
        "POST /api/auth/refresh HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(server.address()).await.expect("connects");
    connection.write_all(request.as_bytes()).await.expect("sends");
    let admin = db.superuser().await;
    eventually("the token is rotated", async || {
        let row = admin.query_one("select generation from auth.sessions", &[]).await.expect("the session");
        row.get::<_, i32>(0) == 1
    })
    .await;
    drop(connection);

    let second = api.refresh(&first.refresh_token).await.expect(200).session();
    api.refresh(&second.refresh_token).await.expect(200);
}

#[tokio::test]
async fn a_login_is_not_idempotent() {
    let (_db, _server, api) = start(&[]).await;
    let first = api.signup("ada@example.org").await;
    let second = api.login("ada@example.org", PASSWORD).await.expect(200).session();
    let third = api.login("ada@example.org", PASSWORD).await.expect(200).session();

    let sessions: BTreeSet<_> = [&first, &second, &third].map(|s| session_id(&s.refresh_token)).into();
    assert_eq!(sessions.len(), 3);
    let listed = api.get("/api/auth/sessions", &third.access_token).await.expect(200).json();
    assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_down_logs_nobody_out() {
    let cluster = OwnCluster::create();
    let server = Server::start_at(&cluster.url("auth_service", "auth"), &[]).await;
    let api = server.api();
    let first = api.signup("ada@example.org").await;
    let second = api.refresh(&first.refresh_token).await.expect(200).session();

    cluster.crash();
    let answer = api.refresh(&second.refresh_token).await.expect_problem(503, "database_unavailable");
    assert!(answer.header("retry-after").is_some());
    api.get("/health/ready", "").await.expect(503);
    api.get("/health/live", "").await.expect(200);
    cluster.start();

    // Both the one who asked in vain and the one whose answer was lost go on.
    eventually("the service recovers by itself", async || api.get("/health/ready", "").await.status == 200).await;
    let retried = api.refresh(&first.refresh_token).await.expect(200).session();
    assert_eq!(retried.refresh_token, second.refresh_token);
    api.refresh(&second.refresh_token).await.expect(200);
}

#[tokio::test]
async fn a_replay_is_refused_and_its_revocation_is_committed() {
    let (db, _server, api) = start(&[]).await;
    let mut tokens = vec![api.signup("ada@example.org").await.refresh_token];
    for generation in 0..50 {
        tokens.push(api.refresh(&tokens[generation]).await.expect(200).session().refresh_token);
    }

    let replay = api.request(Method::POST, "/api/auth/refresh").header("x-request-id", "replay-0001");
    let answer = api.send(replay.json(&json!({"refreshToken": tokens[0]}))).await;
    answer.expect_problem(401, "invalid_refresh_token");

    let id = session_id(&tokens[0]);
    assert_eq!(revocation(&db, id).await.as_deref(), Some("token_replay"));
    let logged = "select details->>'generation_distance' from auth.audit_log
                   where action = 'token_replay_detected' and session_id = $1 and correlation_id = 'replay-0001'";
    let distance: String = db.superuser().await.query_one(logged, &[&id]).await.expect("an audit row").get(0);
    assert_eq!(distance, "50");
    api.refresh(&tokens[50]).await.expect_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn one_changed_bit_is_refused_and_the_database_is_not_asked() {
    let (db, _server, api) = start(&[]).await;
    let token = api.signup("ada@example.org").await.refresh_token;
    let before = statements(&db).await;

    let bytes = refresh_token_bytes(&token);
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        api.refresh(&encode_refresh_token(&changed)).await.expect_problem(401, "invalid_refresh_token");
    }
    // Changed in the spelling: the last character has two bits that no byte needs, a decoder may overlook them.
    for position in 0..token.len() {
        for other in ["A", "B", "_", "=", "+", " "] {
            let mut changed = token.clone();
            changed.replace_range(position..=position, other);
            if changed != token {
                api.refresh(&changed).await.expect_problem(401, "invalid_refresh_token");
            }
        }
    }

    assert_eq!(statements(&db).await, before);
    api.refresh(&token).await.expect(200);
}

#[tokio::test]
async fn a_refresh_is_one_statement() {
    let (db, _server, api) = start(&[("DB_POOL_SIZE", "1")]).await;
    let token = api.signup("ada@example.org").await.refresh_token;
    let token = api.refresh(&token).await.expect(200).session().refresh_token;
    let before = statements(&db).await;

    api.refresh(&token).await.expect(200);

    let mut sent = statements(&db).await;
    sent.retain(|statement, calls| before.get(statement) != Some(calls));
    assert_eq!(sent.len(), 1, "{sent:#?}");
    let (statement, calls) = sent.first_key_value().expect("one");
    assert!(statement.contains("auth.rotate_session_token"), "{statement}");
    assert_eq!(calls - before.get(statement).copied().unwrap_or(0), 1);
}

#[tokio::test]
async fn refused_tokens_are_all_told_the_same() {
    let (db, _server, api) = start(&[]).await;
    let ada = api.signup("ada@example.org").await;
    let bob = api.signup("bob@example.org").await.refresh_token;
    let other_of_ada = api.login("ada@example.org", PASSWORD).await.expect(200).session().refresh_token;
    let signed = |change: &dyn Fn(&mut RefreshToken)| {
        let mut token = RefreshToken::parse(&ada.refresh_token);
        change(&mut token);
        token.signed_with(&HMAC_KEY)
    };
    assert_eq!(signed(&|_| {}), ada.refresh_token, "the tests write tokens as the service does");

    // Whoever has the service's key can write these; the database knows better.
    let mut refused: Vec<(&str, String)> = vec![
        ("of Ada, with the id of Bob's session", signed(&|t| t.session_id = session_id(&bob))),
        ("of Ada, with the id of another session of hers", signed(&|t| t.session_id = session_id(&other_of_ada))),
        ("of a session that does not exist", signed(&|t| t.session_id = Uuid::new_v4())),
        ("with another secret", signed(&|t| t.secret = random_bytes(32))),
        ("of the next generation", signed(&|t| t.generation = 1)),
        ("of a generation far ahead", signed(&|t| t.generation = i32::MAX)),
        ("of a negative generation", signed(&|t| t.generation = -1)),
        ("signed with another key", RefreshToken::parse(&bob).signed_with(&test_key(9))),
        ("an access token", ada.access_token.clone()),
        ("a personal access token", bob.replace("asr_", "asp_")),
        ("without its prefix", bob.replace("asr_", "")),
        ("in capitals", bob.to_uppercase()),
        ("padded", format!("{bob}=")),
        ("with a blank", format!("{bob} ")),
        ("empty", String::new()),
        ("only the prefix", "asr_".to_owned()),
        ("not of ASCII", "asr_€".repeat(30)),
    ];
    for length in [1, 3, 4, 5, 60, bob.len() - 1] {
        refused.push(("cut short", bob[..length].to_owned()));
    }
    let expired = api.login("bob@example.org", PASSWORD).await.expect(200).session().refresh_token;
    let revoked = api.login("bob@example.org", PASSWORD).await.expect(200).session().refresh_token;
    api.post("/api/auth/logout", &json!({"refreshToken": revoked}), "").await.expect(200);
    let expire = "update auth.sessions set idle_expires_at = now() - interval '1 s' where id = $1";
    db.superuser().await.execute(expire, &[&session_id(&expired)]).await.expect("expired");
    refused.push(("expired", expired.clone()));
    refused.push(("revoked", revoked));

    let expected = refusal(&api.refresh("nonsense").await);
    for (what, token) in &refused {
        let answer = api.refresh(token).await;
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(refusal(&answer), expected, "{what}");
    }

    // None of it did any harm: nothing was burnt, and an expired session is not revoked.
    assert_eq!(revocation(&db, session_id(&expired)).await, None);
    for token in [&ada.refresh_token, &bob, &other_of_ada] {
        api.refresh(token).await.expect(200);
    }
    // A replay sounds the same.
    db.superuser()
        .await
        .execute("update auth.sessions set rotated_at = now() - interval '1 h'", &[])
        .await
        .expect("moved");
    assert_eq!(refusal(&api.refresh(&bob).await), expected, "replayed");
}

#[tokio::test]
async fn tokens_of_no_form_at_all_are_client_errors() {
    let (_db, _server, api) = start(&[]).await;
    let token = api.signup("ada@example.org").await.refresh_token;
    let post = |body: Vec<u8>| {
        api.send(api.request(Method::POST, "/api/auth/refresh").header("content-type", "application/json").body(body))
    };

    let megabyte = format!(r#"{{"refreshToken":"asr_{}"}}"#, "A".repeat(1 << 20));
    post(megabyte.into_bytes()).await.expect_problem(413, "body_too_large");
    let not_utf8 = [br#"{"refreshToken":"asr_"#, &[0xff, 0xfe][..], br#""}"#].concat();
    post(not_utf8).await.expect_problem(400, "malformed_json");
    post(br#"{"refreshToken":"asr_\u0000"}"#.to_vec()).await.expect_problem(422, "invalid_request");
    post(br#"{"refreshToken":null}"#.to_vec()).await.expect_problem(422, "invalid_request");

    api.refresh(&token).await.expect(200);
}

#[tokio::test]
async fn an_access_token_is_taken_only_when_it_is_ours_and_fresh() {
    let (db, _server, api) = start(&[]).await;
    let session = api.signup("ada@example.org").await;
    let me = async |token: &str| api.get("/api/auth/me", token).await;
    me(&session.access_token).await.expect(200);
    let (header, claims) = parse_jwt(&session.access_token);
    let kid = header["kid"].as_str().expect("kid").to_owned();
    let ours = access_token_header(&kid);
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    assert_eq!(header, json!({"typ": "at+jwt", "alg": "EdDSA", "kid": kid}));
    me(&sign_jwt(&ours, &claims, &JWT_SEED)).await.expect(200);

    let keys = api.get("/.well-known/jwks.json", "").await.expect(200).json();
    let public_key = keys["keys"][0]["x"].as_str().expect("x").to_owned();
    let hs256 = Header { alg: Algorithm::HS256, ..ours.clone() };
    let by_public_key =
        |secret: &[u8]| jsonwebtoken::encode(&hs256, &claims, &EncodingKey::from_secret(secret)).expect("a JWT");
    let none = |alg: &str| unsigned_jwt(&json!({"typ": "at+jwt", "alg": alg, "kid": kid}), &claims);
    let typed = |typ: Option<&str>| Header { typ: typ.map(str::to_owned), ..ours.clone() };
    let refused: Vec<(&str, String)> = vec![
        ("a refresh token", session.refresh_token.clone()),
        ("alg none", none("none")),
        ("alg None", none("None")),
        ("alg EdDSA without a signature", none("EdDSA")),
        ("HS256 with the public key as its secret", by_public_key(public_key.as_bytes())),
        (
            "HS256 with the public key's bytes as its secret",
            by_public_key(&refresh_token_bytes(&format!("asr_{public_key}"))),
        ),
        ("typ JWT", sign_jwt(&typed(Some("JWT")), &claims, &JWT_SEED)),
        ("no typ", sign_jwt(&typed(None), &claims, &JWT_SEED)),
        ("another issuer", sign_jwt(&ours, &with("iss", "https://evil.example".into()), &JWT_SEED)),
        ("another audience", sign_jwt(&ours, &with("aud", "billing".into()), &JWT_SEED)),
        ("expired", sign_jwt(&ours, &with("exp", (now - 1).into()), &JWT_SEED)),
        ("no expiry", sign_jwt(&ours, &with("exp", Value::Null), &JWT_SEED)),
        ("another key under our kid", sign_jwt(&ours, &claims, &test_key(9))),
        ("an unknown kid", sign_jwt(&access_token_header("nobody"), &claims, &JWT_SEED)),
        (
            "a jti that the database never made",
            sign_jwt(&ours, &with("jti", Uuid::new_v4().to_string().into()), &JWT_SEED),
        ),
        ("another session", sign_jwt(&ours, &with("sid", Uuid::new_v4().to_string().into()), &JWT_SEED)),
        ("nonsense", "a.b.c".to_owned()),
        ("nothing", String::from(".")),
    ];
    for (what, token) in &refused {
        let answer = me(token).await;
        assert_eq!((answer.status, answer.problem_code().as_str()), (401, "invalid_access_token"), "{what}");
    }

    // The age of a jti is judged by the database, whatever the service's clock or settings say.
    let jti = async |minutes: f64| {
        let made = "select auth.make_jti(lineage_key, 0, now() - make_interval(mins => $1::float8::int))::text from auth.sessions";
        let jti: String = db.superuser().await.query_one(made, &[&minutes]).await.expect("a jti").get(0);
        sign_jwt(&ours, &with("jti", jti.into()), &JWT_SEED)
    };
    me(&jti(14.0).await).await.expect(200);
    me(&jti(16.0).await).await.expect_problem(401, "invalid_access_token");

    api.refresh(&session.access_token).await.expect_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn a_new_key_put_first_logs_nobody_out() {
    let (old, new) = (key(&HMAC_KEY), key(&test_key(7)));
    let (old_first, new_first) = (format!("{old},{new}"), format!("{new},{old}"));
    let db = TestDb::create().await;
    let before = Server::start(&db, &[]).await;
    let ada = before.api().signup("ada@example.org").await.refresh_token;
    let bob = before.api().signup("bob@example.org").await.refresh_token;

    // The way the design says: the new key last on every node, then first, then the old one goes.
    let last = Server::start(&db, &[("HMAC_SECRETS", &old_first)]).await;
    let first = Server::start(&db, &[("HMAC_SECRETS", &new_first)]).await;
    let by_old = last.api().refresh(&ada).await.expect(200).session().refresh_token;
    let by_new = first.api().refresh(&ada).await.expect(200).session().refresh_token;
    let (spelled_old, spelled_new) = (RefreshToken::parse(&by_old), RefreshToken::parse(&by_new));
    assert_eq!((spelled_old.key_id, spelled_new.key_id), (key_id(&HMAC_KEY), key_id(&test_key(7))));
    assert_eq!((spelled_old.generation, &spelled_old.secret), (spelled_new.generation, &spelled_new.secret));

    // Both spellings work, on both nodes, and a retry across the change gets the same secret.
    let next = first.api().refresh(&by_old).await.expect(200).session().refresh_token;
    let retried = last.api().refresh(&by_new).await.expect(200).session().refresh_token;
    assert_eq!(RefreshToken::parse(&next).secret, RefreshToken::parse(&retried).secret);

    let after = Server::start(&db, &[("HMAC_SECRETS", &new)]).await;
    after.api().refresh(&next).await.expect(200);
    after.api().refresh(&bob).await.expect_problem(401, "invalid_refresh_token");
    assert_eq!(revocation(&db, session_id(&bob)).await, None, "a token of a removed key is no attack");
}

#[tokio::test]
async fn a_new_pepper_takes_over_at_the_next_login_and_ends_no_session() {
    let (old, new) = (key(&PEPPER), key(&test_key(8)));
    let both = format!("{new},{old}");
    let db = TestDb::create().await;
    let before = Server::start(&db, &[]).await;
    let phone = before.api().signup("ada@example.org").await.refresh_token;
    let admin = db.superuser().await;
    let pepper_id =
        async || admin.query_one("select pepper_id from auth.users", &[]).await.expect("Ada").get::<_, i32>(0);
    let first_pepper = pepper_id().await;

    let rolling = Server::start(&db, &[("PASSWORD_PEPPERS", &both)]).await;
    rolling.api().login("ada@example.org", "wrong password").await.expect(401);
    assert_eq!(pepper_id().await, first_pepper);
    rolling.api().login("ada@example.org", PASSWORD).await.expect(200);
    assert_ne!(pepper_id().await, first_pepper);
    rolling.api().refresh(&phone).await.expect(200);

    // Now the old one may go; while somebody needed it, the service would have refused to start without it.
    let after = Server::start(&db, &[("PASSWORD_PEPPERS", &new)]).await;
    after.api().login("ada@example.org", PASSWORD).await.expect(200);
    let (code, said) = Server::refuses_to_start(&db, &[("PASSWORD_PEPPERS", &old)]).await;
    assert!(code != 0 && said.contains("PASSWORD_PEPPERS"), "{code} {said}");
}

#[tokio::test]
async fn a_disabled_user_does_not_refresh_and_a_locked_out_one_does() {
    let (db, _server, api) = start(&[]).await;
    let ada = api.signup("ada@example.org").await;
    let bob = api.signup("bob@example.org").await;
    let disable = "update auth.users set disabled_at = now() where email = 'ada@example.org'";
    db.superuser().await.execute(disable, &[]).await.expect("disabled");

    api.refresh(&ada.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    api.get("/api/auth/me", &ada.access_token).await.expect_problem(401, "invalid_access_token");
    api.login("ada@example.org", PASSWORD).await.expect_problem(401, "invalid_credentials");

    for _ in 0..12 {
        api.login("bob@example.org", "guess guess guess").await;
    }
    let answer = api.login("bob@example.org", PASSWORD).await.expect_problem(429, "account_locked");
    let seconds: u64 = answer.header("retry-after").and_then(|value| value.parse().ok()).expect("Retry-After");
    assert!((1..=3600).contains(&seconds), "{seconds}");
    let bob = api.refresh(&bob.refresh_token).await.expect(200).session();
    api.get("/api/auth/me", &bob.access_token).await.expect(200);
}

#[tokio::test]
async fn a_role_taken_away_is_gone_at_the_next_token() {
    let (db, _server, api) = start(&[]).await;
    let organization = json!({"name": "Analytical Engines", "slug": "engines"});
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "name": "Ada", "organization": organization});
    let session = api.post("/api/auth/signup", &body, "").await.expect(201).session();
    assert_eq!(parse_jwt(&session.access_token).1["roles"], json!(["ORGANIZATION_OWNER"]));
    assert_eq!(session.body["organization"]["role"], "ORGANIZATION_OWNER");

    let demote = "update auth.organization_members set role = 'ORGANIZATION_MEMBER'";
    db.superuser().await.execute(demote, &[]).await.expect("demoted");
    let session = api.refresh(&session.refresh_token).await.expect(200).session();
    assert_eq!(parse_jwt(&session.access_token).1["roles"], json!(["ORGANIZATION_MEMBER"]));
    assert_eq!(session.body["organization"]["role"], "ORGANIZATION_MEMBER");
    let me = api.get("/api/auth/me", &session.access_token).await.expect(200).json();
    assert_eq!(me["roles"], json!(["ORGANIZATION_MEMBER"]));
}

#[tokio::test]
async fn logging_out_ends_this_session_at_once_and_leaves_the_others() {
    let (db, _server, api) = start(&[]).await;
    let mut sessions = vec![api.signup("ada@example.org").await];
    for _ in 0..4 {
        sessions.push(api.login("ada@example.org", PASSWORD).await.expect(200).session());
    }
    let bob = api.signup("bob@example.org").await;
    let alive = async || {
        let mut alive = Vec::new();
        for session in &sessions {
            alive.push(api.get("/api/auth/me", &session.access_token).await.status == 200);
        }
        alive
    };
    let ended = |answer: Answer| answer.expect(200).json()["revokedSessions"].as_u64();

    // By refresh token, by access token, from the list of sessions.
    assert_eq!(
        ended(api.post("/api/auth/logout", &json!({"refreshToken": sessions[0].refresh_token}), "").await),
        Some(1)
    );
    assert_eq!(alive().await, [false, true, true, true, true]);
    assert_eq!(ended(api.post("/api/auth/logout", &json!({}), &sessions[1].access_token).await), Some(1));
    assert_eq!(alive().await, [false, false, true, true, true]);
    let path = format!("/api/auth/sessions/{}", session_id(&sessions[2].refresh_token));
    api.delete(&path, &bob.access_token).await.expect_problem(404, "session_not_found");
    assert_eq!(ended(api.delete(&path, &sessions[3].access_token).await), Some(1));
    assert_eq!(alive().await, [false, false, false, true, true]);
    for session in &sessions[..3] {
        api.refresh(&session.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    }
    let reason = revocation(&db, session_id(&sessions[0].refresh_token)).await;
    assert_eq!(reason.as_deref(), Some("logged_out"));

    // Again is no error where the token proves it, and changes nothing.
    assert_eq!(
        ended(api.post("/api/auth/logout", &json!({"refreshToken": sessions[0].refresh_token}), "").await),
        Some(0)
    );

    assert_eq!(ended(api.post("/api/auth/logout-all", &json!({}), &sessions[3].access_token).await), Some(2));
    assert_eq!(alive().await, [false; 5]);
    api.get("/api/auth/me", &bob.access_token).await.expect(200);
}

#[tokio::test]
async fn logging_out_of_all_by_refresh_token() {
    let (_db, _server, api) = start(&[]).await;
    let first = api.signup("ada@example.org").await;
    let second = api.login("ada@example.org", PASSWORD).await.expect(200).session();

    let body = json!({"refreshToken": first.refresh_token, "all": true});
    let answer = api.post("/api/auth/logout", &body, "").await.expect(200);
    assert_eq!(answer.json()["revokedSessions"], 2);
    api.get("/api/auth/me", &second.access_token).await.expect(401);
    api.refresh(&second.refresh_token).await.expect(401);
}

#[tokio::test]
async fn the_token_endpoint_knows_both_grants() {
    let (_db, _server, api) = start(&[]).await;
    api.signup("ada@example.org").await;
    let token = async |body: Value| api.post("/api/auth/token", &body, "").await;

    let login = json!({"grantType": "password", "email": "ada@example.org", "password": PASSWORD});
    let pair = token(login).await.expect(200).session();
    let refresh = json!({"grantType": "refresh_token", "refreshToken": pair.refresh_token});
    let next = token(refresh.clone()).await.expect(200).session();
    assert_eq!(token(refresh).await.expect(200).session().refresh_token, next.refresh_token);
    let wrong = json!({"grantType": "password", "email": "ada@example.org", "password": "wrong password"});
    token(wrong).await.expect_problem(401, "invalid_credentials");
    token(json!({"grantType": "implicit"})).await.expect_problem(422, "invalid_request");
}

#[tokio::test]
async fn a_hundred_refreshes_in_a_row() {
    let (db, _server, api) = start(&[]).await;
    let mut token = api.signup("ada@example.org").await.refresh_token;
    let id = session_id(&token);
    for generation in 1..=100 {
        token = api.refresh(&token).await.expect(200).session().refresh_token;
        assert_eq!(RefreshToken::parse(&token).generation, generation);
    }
    let counts = db.row_counts().await;
    assert_eq!(counts["sessions"], 1);
    // By default a plain refresh leaves no audit row.
    assert!(!events(&db, id).await.contains_key("token_refreshed"));
    tokio::time::timeout(Duration::from_secs(5), api.refresh(&token)).await.expect("quick").expect(200);
}
