//! Logging in with an ID token, over HTTP, against a real OpenID provider: which tokens are taken, what they bring, and what
//! the service asks the provider for meanwhile.

use std::time::{Duration, Instant};

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::oidc::{federation_url, now, parts, person};
use auth_sessions_tests::{Answer, OidcProvider, Server, TestDb, all_at_once};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

pub struct Scene {
    pub db: TestDb,
    pub provider: OidcProvider,
    pub server: Server,
}

/// The service with a provider, and more settings.
pub async fn scene_with(more: &[(&str, &str)]) -> Scene {
    let (db, provider) = (TestDb::create().await, OidcProvider::start().await);
    let url = federation_url(&db);
    let server = Server::start(&db, &provider.settings(&url, more)).await;
    Scene { db, provider, server }
}

async fn scene() -> Scene {
    scene_with(&[]).await
}

impl Scene {
    async fn show(&self, token: &str) -> Answer {
        self.server.api().post("/api/auth/google", &json!({"credential": token}), "").await
    }

    async fn show_with_nonce(&self, token: &str, nonce: &str) -> Answer {
        self.server.api().post("/api/auth/google", &json!({"credential": token, "nonce": nonce}), "").await
    }

    async fn sign(&self, claims: &Value) -> String {
        self.provider.sign(json!({"alg": "RS256"}), claims).await
    }
}

const REFUSED: &str = "invalid_id_token";

#[tokio::test]
async fn a_token_logs_in_once() {
    let scene = scene().await;
    let token = scene.provider.token(&person("1", "Ada@example.org")).await;
    let first = scene.show(&token).await.expect(200).session();
    let user = &first.body["user"];
    assert_eq!((&user["email"], &user["name"]), (&json!("Ada@example.org"), &json!("Ada Lovelace")));
    assert_eq!(user["emailVerified"], true);
    let (_, claims) = parts(&first.access_token);
    assert_eq!((&claims["amr"], &claims["sub"]), (&json!(["fed"]), &user["id"]));
    scene.show(&token).await.expect_problem(401, REFUSED);
    scene.show(&token).await.expect_problem(401, REFUSED);

    // A session like any other.
    let api = scene.server.api();
    api.get("/api/auth/me", &first.access_token).await.expect(200);
    let next = api.refresh(&first.refresh_token).await.expect(200).session();
    api.post("/api/auth/logout", &json!({}), &next.access_token).await.expect(200);
    // The same person, another time.
    let again = scene.provider.token(&person("1", "ada@moved.example")).await;
    assert_eq!(scene.show(&again).await.expect(200).session().user_id(), first.user_id());
    // An account without a password looks to strangers like none.
    api.login("ada@example.org", PASSWORD).await.expect_problem(401, "invalid_credentials");
    assert_eq!(scene.provider.asked("/jwks").await, 1, "keys are asked for once, and kept");
}

#[tokio::test]
async fn a_token_shown_at_once_logs_in_once() {
    let scene = scene().await;
    for round in 0..5 {
        let token = scene.provider.token(&person(&format!("{round}"), &format!("ada-{round}@example.org"))).await;
        let answers = all_at_once(8, |_, start| {
            let (api, token) = (scene.server.api(), token.clone());
            async move {
                start.wait().await;
                api.post("/api/auth/google", &json!({"credential": token}), "").await
            }
        })
        .await;
        let opened = answers.iter().filter(|answer| answer.status == 200).count();
        let refused = answers.iter().filter(|answer| answer.status == 401 && answer.problem_code() == REFUSED).count();
        assert_eq!((opened, refused), (1, 7), "round {round}");
    }
}

#[tokio::test]
async fn on_a_computer_of_others_the_session_ends_sooner() {
    let scene = scene().await;
    let ends = async |more: Value| {
        let mut body = json!({"credential": scene.provider.token(&person("1", "ada@example.org")).await});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let answer = scene.server.api().post("/api/auth/google", &body, "").await.expect(200).json();
        answer["refreshTokenExpiresAt"].as_str().expect("a time").to_owned()
    };
    let (remembered, wish) = (ends(json!({"rememberMe": true})).await, json!({"session": {"idleTimeoutSeconds": 60}}));
    let (unremembered, short) = (ends(json!({"rememberMe": false})).await, ends(wish).await);
    assert!(short < unremembered && unremembered < remembered, "{short} {unremembered} {remembered}");
    let token = scene.provider.token(&person("1", "ada@example.org")).await;
    let body = json!({"credential": token, "session": {"idleTimeoutSeconds": 1}});
    scene.server.api().post("/api/auth/google", &body, "").await.expect_problem(422, "invalid_request");
    scene.show(&token).await.expect(200);
}

/// Claims with one member changed; null takes it away.
fn but(claims: &Value, member: &str, value: Value) -> Value {
    let mut changed = claims.clone();
    match value {
        Value::Null => drop(changed.as_object_mut().expect("claims").remove(member)),
        value => changed[member] = value,
    }
    changed
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

fn with_mac(header: &Value, claims: &Value, key: &[u8]) -> String {
    let signed = unsigned(header, claims);
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

#[tokio::test]
async fn only_what_the_provider_says_of_a_verified_person_to_this_service_now_is_taken() {
    let scene = scene().await;
    let issuer = scene.provider.issuer();
    let claims = scene.provider.claims(&person("1", "ada@example.org"));
    let before = scene.db.row_counts().await;

    let mut refused: Vec<(String, String)> = Vec::new();
    for (member, values) in [
        (
            "aud",
            vec![
                json!("another-app"),
                json!(["another-app"]),
                json!(["service", "another-app"]),
                json!([]),
                json!(""),
                Value::Null,
            ],
        ),
        (
            "iss",
            vec![
                json!("https://accounts.google.com"),
                json!(format!("{issuer}/")),
                json!(issuer.to_uppercase()),
                json!(""),
                Value::Null,
            ],
        ),
        (
            "exp",
            vec![json!(now() - 120), json!(0), json!(now() + 30 * 86_400), json!("soon"), json!(1e300), Value::Null],
        ),
        ("iat", vec![json!(now() + 600), json!(1e300), Value::Null]),
        ("nbf", vec![json!(now() + 600), json!("later")]),
        ("azp", vec![json!("another-app"), json!("")]),
        ("sub", vec![json!(""), json!("x".repeat(256)), json!("a\nb"), json!(1), Value::Null]),
        (
            "email",
            vec![
                json!("ada"),
                json!("a b@example.org"),
                json!(""),
                json!(format!("{}@example.org", "a".repeat(250))),
                Value::Null,
            ],
        ),
        ("email_verified", vec![json!(false), json!("true"), json!(1), Value::Null]),
    ] {
        for value in values {
            let what = format!("{member}: {value}");
            refused.push((what, scene.sign(&but(&claims, member, value)).await));
        }
    }
    let rs256 = json!({"alg": "RS256", "kid": "RS256-1"});
    let good = scene.sign(&claims).await;
    let (signed, signature) = good.rsplit_once('.').expect("a JWT");
    let other = scene.sign(&but(&claims, "sub", json!("2"))).await;
    let modulus = b"any key at all";
    for (what, token) in [
        ("another key under its name", scene.provider.sign_as_somebody_else(json!({"alg": "RS256"}), &claims).await),
        (
            "another ES256 key under its name",
            scene.provider.sign_as_somebody_else(json!({"alg": "ES256"}), &claims).await,
        ),
        ("an unknown key", scene.provider.sign(json!({"alg": "RS256", "kid": "nobody's"}), &claims).await),
        ("no signature", format!("{signed}.")),
        ("no third part", signed.to_owned()),
        ("the signature of another", format!("{signed}.{}", other.rsplit_once('.').expect("a JWT").1)),
        ("another's claims", format!("{}.{signature}", unsigned(&rs256, &but(&claims, "sub", json!("2"))))),
        ("alg none", format!("{}.", unsigned(&json!({"alg": "none"}), &claims))),
        ("alg none with a signature", format!("{}.{signature}", unsigned(&json!({"alg": "none"}), &claims))),
        ("alg None", format!("{}.", unsigned(&json!({"alg": "None"}), &claims))),
        ("HS256 by the client's secret", with_mac(&json!({"alg": "HS256"}), &claims, b"the secret of service")),
        ("HS256 under the key's name", with_mac(&json!({"alg": "HS256", "kid": "RS256-1"}), &claims, modulus)),
        ("HS256 by nothing", with_mac(&json!({"alg": "HS256"}), &claims, b"")),
        (
            "the ES256 key for RS256",
            format!("{}.{signature}", unsigned(&json!({"alg": "RS256", "kid": "ES256-1"}), &claims)),
        ),
        (
            "an extension that must be understood",
            scene.provider.sign(json!({"alg": "RS256", "crit": ["b64"], "b64": true}), &claims).await,
        ),
        ("an access token of ours", scene.server.api().signup("bob@example.org").await.access_token),
        ("nothing", String::new()),
        ("a dot", ".".to_owned()),
        ("dots", "....".to_owned()),
        ("something long", "a".repeat(12_000)),
        ("blanks", " ".repeat(10)),
        ("no ASCII", "ä.ö.ü".to_owned()),
        ("a blank behind", format!("{good} ")),
        ("a line end behind", format!("{good}\n")),
        ("padding", format!("{good}=")),
    ] {
        refused.push((what.to_owned(), token));
    }
    let mut details = Vec::new();
    for (what, token) in &refused {
        let answer = scene.show(token).await;
        assert_eq!((answer.status, answer.problem_code().as_str()), (401, REFUSED), "{what}");
        details.push(answer.json()["detail"].clone());
    }
    details.dedup();
    assert_eq!(details.len(), 1, "they are all told the same");
    let mut after = scene.db.row_counts().await;
    // Bob signed up in between; of the tokens nothing is left.
    for table in ["users", "sessions", "audit_log", "instance", "one_time_tokens", "mail_outbox"] {
        after.insert(table.to_owned(), before.get(table).copied().unwrap_or_default());
    }
    after.retain(|table, _| before.contains_key(table));
    assert_eq!(after, before);

    let log = scene.server.log();
    for (what, token) in &refused {
        let tail = &token[token.len().saturating_sub(40)..];
        assert!(tail.trim().len() < 30 || !log.contains(tail), "{what} is in the log");
    }
    assert!(log.contains("an ID token was refused"));

    // And these are good: what was changed made the difference.
    scene.show(&good).await.expect(200);
    for (member, value) in [
        ("aud", json!(["service"])),
        ("aud", json!("native-app")),
        ("azp", json!("service")),
        ("azp", json!("native-app")),
        ("exp", json!(now() - 20)),
        ("iat", json!(now() + 20)),
        ("nbf", json!(now() - 1)),
        ("name", Value::Null),
        ("sub", json!("x".repeat(255))),
    ] {
        let what = format!("{member}: {value}");
        let mut claims = but(&claims, member, value);
        claims["jti"] = json!(what);
        if member == "sub" {
            claims["email"] = json!("long@example.org");
        }
        let answer = scene.show(&scene.sign(&claims).await).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    }
    let es256 = scene.provider.sign(json!({"alg": "ES256"}), &claims).await;
    scene.show(&es256).await.expect(200);
}

#[tokio::test]
async fn a_nonce_that_is_given_has_to_be_the_tokens() {
    let scene = scene().await;
    let mut claims = scene.provider.claims(&person("1", "ada@example.org"));
    let without = scene.sign(&claims).await;
    scene.show_with_nonce(&without, "n-1").await.expect_problem(401, REFUSED);
    claims["nonce"] = json!("n-1");
    let with = scene.sign(&claims).await;
    for nonce in ["n-2", "n-1 ", "N-1", "", &"n".repeat(513)] {
        scene.show_with_nonce(&with, nonce).await.expect_problem(401, REFUSED);
    }
    // Refused before the database heard of it: it can still be shown as it should be.
    scene.show_with_nonce(&with, "n-1").await.expect(200);
    claims["jti"] = json!("another");
    scene.show(&scene.sign(&claims).await).await.expect(200);
}

#[tokio::test]
async fn whose_account_it_is() {
    let scene = scene().await;
    let (api, admin) = (scene.server.api(), scene.db.superuser().await);
    // Pre-hijacking: an account with the victim's address, never verified.
    api.signup("victim@example.org").await;
    let token = scene.provider.token(&person("1", "victim@example.org")).await;
    scene.show(&token).await.expect_problem(409, "email_not_linkable");
    let none = "select count(*) from auth.identities";
    assert_eq!(admin.query_one(none, &[]).await.expect("count").get::<_, i64>(0), 0);

    let ada = api.signup("ada@example.org").await;
    admin
        .batch_execute("update auth.users set email_verified_at = now() where email = 'ada@example.org'")
        .await
        .expect("verified");
    let token = scene.provider.token(&person("2", "ADA@example.org")).await;
    assert_eq!(scene.show(&token).await.expect(200).session().user_id(), ada.user_id(), "linked");
    api.login("ada@example.org", PASSWORD).await.expect(200);

    admin.batch_execute("update auth.users set disabled_at = now()").await.expect("disabled");
    let token = scene.provider.token(&person("2", "ada@example.org")).await;
    scene.show(&token).await.expect_problem(401, REFUSED);
    let live = "select count(*) from auth.active_sessions";
    assert_eq!(admin.query_one(live, &[]).await.expect("count").get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_signature_in_another_spelling_is_the_same_token() {
    let scene = scene().await;
    // An ECDSA signature (r, s) has a twin (r, n - s) that anybody can compute: as valid, and another text.
    let twin = |token: &str| {
        const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
        let (signed, signature) = token.rsplit_once('.').expect("a JWT");
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        let order: Vec<u8> = (0..32).map(|n| u8::from_str_radix(&ORDER[2 * n..2 * n + 2], 16).expect("hex")).collect();
        let mut borrow = 0;
        for n in (0..32).rev() {
            let difference = i16::from(order[n]) - i16::from(bytes[32 + n]) - borrow;
            borrow = i16::from(difference < 0);
            bytes[32 + n] = difference.rem_euclid(256) as u8;
        }
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes))
    };
    let mut claims = scene.provider.claims(&person("1", "ada@example.org"));
    let token = scene.provider.sign(json!({"alg": "ES256"}), &claims).await;
    scene.show(&token).await.expect(200);
    scene.show(&twin(&token)).await.expect_problem(401, REFUSED);
    assert!(scene.server.log().contains("already_used"), "the signature itself was taken");
    // Indeed: shown first, the twin would have been taken.
    claims["jti"] = json!("another");
    let token = scene.provider.sign(json!({"alg": "ES256"}), &claims).await;
    scene.show(&twin(&token)).await.expect(200);
    scene.show(&token).await.expect_problem(401, REFUSED);
}

#[tokio::test]
async fn new_keys_of_the_provider_are_found() {
    let scene = scene().await;
    scene.show(&scene.provider.token(&person("1", "ada@example.org")).await).await.expect(200);
    let old = scene.provider.token(&person("1", "ada@example.org")).await;
    scene.provider.rotate().await;
    scene.show(&scene.provider.token(&person("1", "ada@example.org")).await).await.expect(200);
    scene.show(&scene.provider.token(&person("2", "bob@example.org")).await).await.expect(200);
    assert_eq!(scene.provider.asked("/jwks").await, 2, "asked again once, for the new key's name");
    scene.show(&old).await.expect_problem(401, REFUSED);
}

#[tokio::test]
async fn made_up_key_names_do_not_make_the_service_ask_the_provider_for_each() {
    let scene = scene().await;
    let genuine = scene.provider.token(&person("1", "ada@example.org")).await;
    let claims = scene.provider.claims(&person("2", "eve@example.org"));
    let made_up: Vec<String> = (0..200)
        .map(|n| format!("{}.c2ln", unsigned(&json!({"alg": "RS256", "kid": format!("made-up-{n}")}), &claims)))
        .collect();
    let started = Instant::now();
    let answers = all_at_once(made_up.len(), |n, start| {
        let (api, token) = (scene.server.api(), made_up[n].clone());
        async move {
            start.wait().await;
            api.post("/api/auth/google", &json!({"credential": token}), "").await
        }
    })
    .await;
    for answer in answers {
        answer.expect_problem(401, REFUSED);
    }
    // One after the other, too: then none finds another's fetch under way.
    for token in &made_up[..20] {
        scene.show(token).await.expect_problem(401, REFUSED);
    }
    // Three, and one more in each ten seconds.
    let budget = 3 + started.elapsed().as_secs() / 10;
    for path in ["/jwks", "/.well-known/openid-configuration"] {
        let asked = scene.provider.asked(path).await;
        assert!((1..=budget).contains(&asked), "{path}: {asked} of {budget}");
    }
    scene.show(&genuine).await.expect(200);
}

#[tokio::test]
async fn while_the_provider_is_away_its_known_keys_are_good_and_unknown_ones_are_not() {
    let mut scene = scene().await;
    scene.show(&scene.provider.token(&person("1", "ada@example.org")).await).await.expect(200);
    let known = scene.provider.token(&person("1", "ada@example.org")).await;
    let claims = scene.provider.claims(&person("2", "bob@example.org"));
    let unknown = scene.provider.sign(json!({"alg": "RS256", "kid": "a-new-one"}), &claims).await;
    let (db, url) = (scene.db.name().to_owned(), federation_url(&scene.db));
    let late = Server::start(&scene.db, &scene.provider.settings(&url, &[])).await;
    scene.provider.kill().await;

    scene.show(&known).await.expect(200);
    for _ in 0..5 {
        let answer = scene.show(&unknown).await.expect_problem(503, "identity_provider_unavailable");
        assert!(answer.header("retry-after").is_some());
    }
    scene.show("no.token.atall").await.expect_problem(401, REFUSED);
    // One that never reached it can tell nothing.
    let answer = late.api().post("/api/auth/google", &json!({"credential": known}), "").await;
    answer.expect_problem(503, "identity_provider_unavailable");
    let start = late.api().get("/api/auth/oidc/start", "").await;
    start.expect_problem(503, "identity_provider_unavailable");
    late.api().get("/health/ready", "").await.expect(200);
    assert!(!db.is_empty());
}

#[tokio::test]
async fn a_provider_that_answers_nonsense_is_no_provider_and_holds_nobody_up() {
    for (jwks, at_least) in [
        (json!({"status": 500, "text": "{}"}), 0),
        (json!({"status": 200, "text": "nonsense"}), 0),
        (json!({"status": 302, "text": "{}"}), 0),
        (json!({"status": 200, "text": format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(300 * 1024))}), 0),
        (json!({"delay": 60_000}), 5),
    ] {
        let scene = scene().await;
        scene.provider.behave(json!({"/jwks": jwks})).await;
        let token = scene.provider.token(&person("1", "ada@example.org")).await;
        let started = Instant::now();
        scene.show(&token).await.expect_problem(503, "identity_provider_unavailable");
        let took = started.elapsed();
        assert!(took >= Duration::from_secs(at_least) && took < Duration::from_secs(15), "{took:?}");
        scene.provider.behave(json!({})).await;
        scene.show(&token).await.expect(200);
    }
}

#[tokio::test]
async fn without_a_provider_there_is_nothing_here() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let show = api.post("/api/auth/google", &json!({"credential": "a.b.c"}), "").await;
    show.expect_problem(404, "federation_not_configured");
    for path in ["/api/auth/oidc/start", "/api/auth/oidc/callback?code=x&state=y"] {
        api.get(path, "").await.expect_problem(404, "federation_not_configured");
    }
    // Half of it: no web logins without a way back.
    let (provider, url) = (OidcProvider::start().await, federation_url(&db));
    let server = Server::start(&db, &provider.settings(&url, &[("OIDC_REDIRECT_URL", "")])).await;
    server.api().get("/api/auth/oidc/start", "").await.expect_problem(404, "federation_not_configured");
    let token = provider.token(&person("1", "ada@example.org")).await;
    server.api().post("/api/auth/google", &json!({"credential": token}), "").await.expect(200);

    for (name, value) in
        [("FEDERATION_DATABASE_URL", ""), ("OIDC_ISSUER", "http://issuer.example"), ("GOOGLE_CLIENT_ID", "")]
    {
        let (code, said) = Server::refuses_to_start(&db, &provider.settings(&url, &[(name, value)])).await;
        assert!(code != 0 && said.contains(name), "{name}: {code} {said}");
    }
}

#[tokio::test]
async fn the_login_of_the_service_itself_opens_no_federated_session() {
    let (db, provider) = (TestDb::create().await, OidcProvider::start().await);
    let url = db.url("auth_service");
    let server = Server::start(&db, &provider.settings(&url, &[])).await;
    let token = provider.token(&person("1", "ada@example.org")).await;
    let answer = server.api().post("/api/auth/google", &json!({"credential": token}), "").await;
    assert!(answer.status >= 500, "{}", answer.text());
    let users = "select count(*) from auth.users";
    assert_eq!(db.superuser().await.query_one(users, &[]).await.expect("count").get::<_, i64>(0), 0);
}
