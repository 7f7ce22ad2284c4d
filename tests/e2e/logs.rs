//! No token, password, proof or key in any log, neither the service's nor PostgreSQL's, however much is logged; nor in
//! anything that the service sends to receivers of traces and of error reports.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::mail::{MailServer, mailing_server};
use auth_sessions_tests::server::{HMAC_KEY, JWT_SEED, PEPPER, key};
use auth_sessions_tests::telemetry::Receiver;
use auth_sessions_tests::tokens::{Secret, sha256};
use auth_sessions_tests::wire::RefreshToken;
use auth_sessions_tests::{Api, Server, Session, TestDb, eventually};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::Method;
use serde_json::json;

/// The ways in which bytes end up in a log.
fn spellings(bytes: &[u8]) -> Vec<String> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let debug = format!("{bytes:?}");
    vec![
        hex.to_uppercase(),
        hex,
        URL_SAFE_NO_PAD.encode(bytes),
        STANDARD.encode(bytes),
        debug.trim_matches(['[', ']']).to_owned(),
    ]
}

/// What must not be seen of a session.
fn secrets_of(session: &Session) -> Vec<String> {
    let refresh = RefreshToken::parse(&session.refresh_token);
    let secret = Secret(refresh.secret);
    let signature = session.access_token.rsplit('.').next().expect("a signature").to_owned();
    let mut secrets = vec![session.refresh_token.clone(), session.access_token.clone(), signature];
    for bytes in [&secret.0, &secret.proof(), &refresh.ticket] {
        secrets.extend(spellings(bytes));
    }
    secrets
}

/// Links of every kind, used rightly and wrongly, of another user than the sessions'; what was in them.
async fn leave_traces_of_mail(api: &Api, post: &MailServer) -> Vec<String> {
    let bob = api.signup("bob@example.org").await;
    let verification = post.wait_for("bob@example.org", 1).await.remove(0).token();
    api.post("/api/auth/email/verify", &json!({"token": [verification]}), "").await.expect(422);
    api.post("/api/auth/email/verify", &json!({"token": verification}), "").await.expect(200);
    api.get(&format!("/api/auth/email/verify?token={verification}"), "").await.expect(405);
    let new_email = json!({"newEmail": "bob2@example.org"});
    api.post("/api/auth/email/change", &new_email, &bob.access_token).await.expect(202);
    let change = post.wait_for("bob2@example.org", 1).await.remove(0).token();
    api.post("/api/auth/email/change/confirm", &json!({"token": change}), &bob.access_token).await.expect(200);
    api.post("/api/auth/password/forgot", &json!({"email": "bob2@example.org"}), "").await.expect(202);
    let reset = post.wait_for("bob2@example.org", 2).await.remove(1).token();
    for status in [200, 422] {
        let body = json!({"token": reset, "password": "hunter3-hunter3"});
        api.post("/api/auth/password/reset", &body, "").await.expect(status);
    }
    post.wait_for("bob2@example.org", 3).await;
    vec![verification, change, reset]
}

/// A session in cookies, and a personal access token; what was secret in them.
async fn leave_traces_of_cookies(api: &Api) -> Vec<String> {
    let login = json!({"email": "ada@example.org", "password": PASSWORD, "delivery": "cookie"});
    let answer = api.post("/api/auth/login", &login, "").await.expect(200);
    let cookies: Vec<String> = answer
        .headers
        .get_all("set-cookie")
        .iter()
        .map(|cookie| cookie.to_str().expect("text").split(';').next().expect("a cookie").to_owned())
        .collect();
    let csrf = answer.json()["csrfToken"].as_str().expect("csrfToken").to_owned();
    let send = |method, path, body: serde_json::Value| {
        let request = api.request(method, path).header("cookie", cookies.join("; ")).header("x-csrf-token", &csrf);
        api.send(request.json(&body))
    };
    let wanted = json!({"name": "report", "scopes": ["sessions:read"], "expiresInDays": 1});
    let made = send(Method::POST, "/api/auth/personal-access-tokens", wanted).await.expect(201);
    let token = made.json()["token"].as_str().expect("token").to_owned();
    api.get("/api/auth/sessions", &token).await.expect(200);
    api.get("/api/auth/me", &token).await.expect(403);
    send(Method::POST, "/api/auth/step-up", json!({"password": PASSWORD})).await.expect(200);
    send(Method::POST, "/api/auth/refresh", json!({})).await.expect(200);
    send(Method::POST, "/api/auth/logout", json!({})).await.expect(200);
    let values = cookies.iter().map(|cookie| cookie.split_once('=').expect("a cookie").1.to_owned());
    values.chain([csrf, token]).collect()
}

/// Latin-1, so that bytes that are no text can be looked for like others.
fn every_byte(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

async fn leave_traces(format: &str) {
    let db = TestDb::create().await;
    // Everything that PostgreSQL can be asked to log, but for what log_parameter_max_length = 0 is there to keep out.
    for (parameter, value) in [
        ("log_statement", "all"),
        ("log_min_duration_statement", "0"),
        ("log_min_messages", "debug5"),
        ("auth_sessions.audit_level", "all"),
    ] {
        db.set(parameter, value).await;
    }
    let post = MailServer::start().await;
    let receiver = Receiver::start().await;
    let (otlp, dsn) = (receiver.otlp(), receiver.dsn());
    let settings = [
        ("RUST_LOG", "trace"),
        ("LOG_FORMAT", format),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter4-hunter4"),
        ("SENTRY_DSN", &dsn),
    ];
    let mut server = mailing_server(&db, post.port(), &settings).await;
    let api = server.api();

    let mut sessions = vec![api.signup("ada@example.org").await];
    sessions.push(api.refresh(&sessions[0].refresh_token).await.expect(200).session());
    sessions.push(api.refresh(&sessions[0].refresh_token).await.expect(200).session());
    sessions.push(api.login("ada@example.org", PASSWORD).await.expect(200).session());
    let bearer = sessions[3].access_token.clone();
    for path in ["/api/auth/me", "/api/auth/sessions", "/api/auth/token-info"] {
        api.get(path, &bearer).await.expect(200);
    }
    // Whatever goes wrong must not show it either: wrong fields, wrong places, refusals, errors of the database.
    let token = &sessions[3].refresh_token;
    api.login("ada@example.org", "hunter2-hunter2").await.expect(401);
    let misplaced =
        json!({"email": "ada@example.org", "password": PASSWORD, "name": "Ada", "userType": "hunter2-hunter2"});
    api.post("/api/auth/signup", &misplaced, "").await.expect(422);
    api.post("/api/auth/login", &json!({"email": "ada@example.org", "hunter2-hunter2": 1}), "").await.expect(422);
    api.post("/api/auth/refresh", &json!({"refreshToken": [token]}), "").await.expect(422);
    api.get(&format!("/api/auth/me?access_token={token}"), "").await.expect(401);
    api.get(&format!("/{token}"), "").await.expect(404);
    let request =
        api.request(Method::GET, "/api/auth/me").header("x-request-id", token).header("cookie", format!("a={token}"));
    api.send(request.bearer_auth(token)).await.expect(401);
    let links = leave_traces_of_mail(&api, &post).await;
    let ada = post.wait_for("ada@example.org", 1).await.remove(0).token();
    api.post("/api/auth/email/verify", &json!({"token": ada}), "").await.expect(200);
    let others = leave_traces_of_cookies(&api).await;
    let broken = "alter table auth.sessions add constraint made_to_fail check (generation < 1) not valid";
    let admin = db.superuser().await;
    admin.batch_execute(broken).await.expect("a constraint");
    let failed = api.refresh(token).await;
    assert!(failed.status >= 400, "{}", failed.status);
    admin.batch_execute("alter function auth.rotate_session_token rename to gone").await.expect("renamed");
    api.refresh(token).await.expect(503);
    admin.batch_execute("alter function auth.gone rename to rotate_session_token").await.expect("renamed");
    admin.batch_execute("alter table auth.sessions drop constraint made_to_fail").await.expect("dropped");
    api.refresh(&sessions[0].refresh_token).await; // by now maybe a replay
    api.post("/api/auth/logout", &json!({"refreshToken": token}), "").await.expect(200);
    api.send(api.request(Method::GET, "/health/live").header("x-request-id", "the-last-request")).await.expect(200);
    eventually("the log is written", async || server.log().contains("the-last-request")).await;

    let mut secrets: Vec<String> = sessions.iter().flat_map(secrets_of).collect();
    secrets.extend([PASSWORD, "hunter2-hunter2", "hunter3-hunter3"].map(str::to_owned));
    secrets.extend(others);
    secrets.push(ada);
    for link in &links {
        secrets.push(link.clone());
        let proof = sha256(link.as_bytes());
        secrets.extend(spellings(&sha256(&proof)).into_iter().chain(spellings(&proof)));
    }
    for bytes in [HMAC_KEY, PEPPER, JWT_SEED] {
        secrets.push(key(&bytes));
        secrets.extend(spellings(&bytes));
    }
    secrets.push(db.cluster().password("auth_service"));
    let verifier = "select password_verifier from auth.users where email = 'ada@example.org'";
    let verifier: Vec<u8> = admin.query_one(verifier, &[]).await.expect("Ada").get(0);
    secrets.extend(spellings(&verifier));
    // What is still to be sent is sent when the service ends.
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0));
    let (service_log, database_log) = (server.log(), db.log());
    let sent = every_byte(&receiver.bytes());
    let (spans, events) = (receiver.spans().len(), receiver.events().len());
    assert!(spans > 100 && events > 0, "what was sent was looked at: {spans} spans, {events} events");
    for bytes in [HMAC_KEY, PEPPER, JWT_SEED] {
        assert!(!sent.contains(&every_byte(&bytes)), "a key was sent");
    }
    assert_eq!(
        sent.matches("hunter4-hunter4").count(),
        sent.matches("POST /v1/traces").count(),
        "its own header alone"
    );
    for (name, text) in [("what was sent", &sent), ("the service's log", &service_log)] {
        assert!(!text.contains("ada@example.org"), "an address is in {name}");
    }
    assert!(service_log.len() > 1000 && database_log.contains("auth.rotate_session_token"), "the logs were looked at");
    for secret in &secrets {
        assert!(
            !service_log.contains(secret.as_str()),
            "{secret} is in the service's log: {}",
            around(&service_log, secret)
        );
        assert!(!sent.contains(secret.as_str()), "{secret} was sent to a receiver");
        assert!(
            !database_log.contains(secret.as_str()),
            "{secret} is in PostgreSQL's log: {}",
            around(&database_log, secret)
        );
    }

    // Nor does the database hold, in any column of any table, what opens a session, or a link once it is sent.
    let tables = "select relname::text from pg_class where relnamespace = 'auth'::regnamespace and relkind in ('r', 'p') and not relispartition";
    for table in admin.query(tables, &[]).await.expect("tables").iter().map(|row| row.get::<_, String>(0)) {
        let rows = admin.query(&format!("select t::text from auth.{table} t"), &[]).await.expect("rows");
        for row in rows.iter().map(|row| row.get::<_, String>(0)) {
            assert!(links.iter().all(|link| !row.contains(link.as_str())), "auth.{table} holds a link: {row}");
            for session in &sessions {
                let secret = RefreshToken::parse(&session.refresh_token).secret;
                for hidden in [secret.clone(), sha256(&secret)]
                    .iter()
                    .flat_map(|bytes| spellings(bytes))
                    .chain([session.refresh_token.clone(), session.access_token.clone()])
                {
                    assert!(!row.contains(&hidden), "auth.{table} holds {hidden}: {row}");
                }
            }
        }
    }
}

fn around<'a>(log: &'a str, secret: &str) -> &'a str {
    log.lines().find(|line| line.contains(secret)).unwrap_or_default()
}

#[tokio::test]
async fn nothing_secret_is_in_a_log_for_people() {
    leave_traces("pretty").await;
}

#[tokio::test]
async fn nothing_secret_is_in_a_log_of_json() {
    leave_traces("json").await;
}

#[tokio::test]
async fn a_log_of_json_is_json() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[("LOG_FORMAT", "json")]).await;
    let api = server.api();
    let session = api.signup("ada@example.org").await;
    db.superuser()
        .await
        .batch_execute("alter function auth.rotate_session_token rename to gone")
        .await
        .expect("renamed");
    api.refresh(&session.refresh_token).await.expect(503);
    api.send(api.request(Method::GET, "/health/live").header("x-request-id", "the-last-request")).await.expect(200);
    eventually("the log is written", async || server.log().contains("the-last-request")).await;
    for line in server.log().lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(record["timestamp"].is_string() && record["level"].is_string(), "{line}");
        // Said twice, readers disagree about which one counts.
        assert_eq!(line.matches(r#""message":"#).count(), 1, "{line}");
    }
}

#[tokio::test]
async fn without_good_keys_the_service_does_not_start() {
    let db = TestDb::create().await;
    for setting in ["HMAC_SECRETS", "PASSWORD_PEPPERS", "JWT_SIGNING_KEYS"] {
        for value in ["", "changeme", "c2VjcmV0", &key(&[0; 32]), &key(&[7; 16])] {
            let (code, said) = Server::refuses_to_start(&db, &[(setting, value)]).await;
            assert!(code != 0 && said.contains(setting), "{setting}={value}: {code} {said}");
            assert!(value.is_empty() || !said.contains(value), "the message repeats the key: {said}");
            assert!(said.trim().lines().count() <= 3, "one sentence will do: {said}");
        }
    }
    let (code, said) = Server::refuses_to_start(&db, &[("DATABASE_URL", "")]).await;
    assert!(code != 0 && said.contains("DATABASE_URL"), "{code} {said}");
}
