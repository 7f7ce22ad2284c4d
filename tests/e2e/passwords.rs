//! Passwords forgotten and changed: a link works once and for its purpose alone, a reset ends everything, a change
//! everything else, and nobody learns who has an account.

use std::time::{Duration, Instant};

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::mail::{take_mail, token_of};
use auth_sessions_tests::sql::{connections, race, run, value, values};
use auth_sessions_tests::tokens::{log_in, random_bytes, rotate, sha256, sign_up};
use auth_sessions_tests::{Api, Server, Session, TestDb};
use serde_json::{Value, json};
use tokio_postgres::Client;

const NEW_PASSWORD: &str = "purple monkey dishwasher";
const RESET: &str = "/api/auth/password/reset";
const CHANGE: &str = "/api/auth/password/change";
const FORGOT: &str = "/api/auth/password/forgot";

/// A service that sends no mail, Ada with two sessions, and the mailer's own connection.
struct Scene {
    db: TestDb,
    server: Server,
    api: Api,
    admin: Client,
    mailer: Client,
    first: Session,
    second: Session,
}

async fn scene() -> Scene {
    let db = TestDb::create().await;
    let (admin, mailer) = (db.superuser().await, db.connect_as("auth_mail_service").await);
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let first = api.signup("ada@example.org").await;
    let second = api.login("ada@example.org", PASSWORD).await.expect(200).session();
    take_mail(&mailer).await;
    Scene { db, server, api, admin, mailer, first, second }
}

impl Scene {
    async fn forgot(&self, email: &str) {
        self.api.post(FORGOT, &json!({"email": email}), "").await.expect(202);
    }

    /// Asks for a reset and takes the link's token out of the mail.
    async fn reset_token(&self) -> String {
        self.forgot("ada@example.org").await;
        token_of(&take_mail(&self.mailer).await, "reset_password", "ada@example.org")
    }

    async fn live_sessions(&self) -> i64 {
        value(&self.admin, "select count(*) from auth.sessions where revoked_at is null", &[]).await
    }

    async fn events(&self) -> Vec<String> {
        let query = "select action from auth.audit_log where action !~ 'created|logged_in' order by created_at";
        values(&self.admin, query, &[]).await
    }
}

fn reset(token: &str) -> Value {
    json!({"token": token, "password": NEW_PASSWORD})
}

#[tokio::test]
async fn a_reset_sets_the_password_ends_everything_and_works_once() {
    let scene = scene().await;
    let api = &scene.api;
    let scopes = json!({"name": "report", "scopes": ["profile:read"], "expiresInDays": 30});
    run(&scene.admin, "update auth.users set email_verified_at = now()", &[]).await;
    let made =
        api.post("/api/auth/personal-access-tokens", &scopes, &scene.first.access_token).await.expect(201).json();
    let program = made["token"].as_str().expect("a token");
    api.get("/api/auth/me", program).await.expect(200);
    run(&scene.admin, "update auth.users set email_verified_at = null", &[]).await;

    let token = scene.reset_token().await;
    let answer = api.post(RESET, &reset(&token), "").await.expect(200);
    assert_eq!(answer.json(), json!({"revokedSessions": 2}), "no session, no token comes of it");
    for session in [&scene.first, &scene.second] {
        api.get("/api/auth/me", &session.access_token).await.expect_problem(401, "invalid_access_token");
        api.refresh(&session.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    }
    api.get("/api/auth/me", program).await.expect_problem(401, "invalid_access_token");
    api.login("ada@example.org", PASSWORD).await.expect_problem(401, "invalid_credentials");
    let session = api.login("ada@example.org", NEW_PASSWORD).await.expect(200).session();
    assert_eq!(session.body["user"]["emailVerified"], true, "the mailbox was proved");

    api.post(RESET, &reset(&token), "").await.expect_problem(422, "invalid_one_time_token");
    assert_eq!(scene.live_sessions().await, 1);
    let mails = take_mail(&scene.mailer).await;
    assert_eq!(mails, [("password_changed".to_owned(), "ada@example.org".to_owned(), None)]);
    let expected = [
        "password_reset_requested",
        "session_revoked",
        "user_password_changed",
        "personal_access_token_revoked",
        "password_reset_completed",
        "email_verified",
        "user_login_failed",
    ];
    let events = scene.events().await;
    for event in expected {
        assert_eq!(events.iter().filter(|found| *found == event).count(), 1, "{event}: {events:?}");
    }
}

#[tokio::test]
async fn a_link_is_dead_when_replaced_expired_or_for_something_else() {
    let scene = scene().await;
    let dead = async |token: &str, why: &str| {
        let answer = scene.api.post(RESET, &reset(token), "").await;
        assert_eq!((answer.status, answer.problem_code().as_str()), (422, "invalid_one_time_token"), "{why}");
    };
    let first = scene.reset_token().await;
    let second = scene.reset_token().await;
    dead(&first, "asked for again").await;
    dead(&format!("aso_{}", "A".repeat(43)), "made up").await;

    run(
        &scene.admin,
        "update auth.one_time_tokens set created_at = created_at - interval '61 minutes',
                       expires_at = expires_at - interval '61 minutes' where purpose = 'reset_password'",
        &[],
    )
    .await;
    dead(&second, "expired").await;

    scene.api.post("/api/auth/email/resend", &json!({"email": "ada@example.org"}), "").await.expect(202);
    let verification = token_of(&take_mail(&scene.mailer).await, "verify_email", "ada@example.org");
    dead(&verification, "of another purpose").await;

    let third = scene.reset_token().await;
    let verify = scene.api.post("/api/auth/email/verify", &json!({"token": third}), "").await;
    verify.expect_problem(422, "invalid_one_time_token");
    run(&scene.admin, "update auth.users set disabled_at = now()", &[]).await;
    dead(&third, "the user is disabled").await;
    run(&scene.admin, "update auth.users set disabled_at = null", &[]).await;
    dead(&third, "and does not come back").await;
    assert_eq!(scene.api.login("ada@example.org", PASSWORD).await.status, 200, "nothing has changed");
}

#[tokio::test]
async fn a_change_of_password_or_address_ends_the_links_that_were_mailed_before() {
    let scene = scene().await;
    let token = scene.reset_token().await;
    let body = json!({"currentPassword": PASSWORD, "newPassword": NEW_PASSWORD});
    scene.api.post(CHANGE, &body, &scene.first.access_token).await.expect(200);
    scene.api.post(RESET, &reset(&token), "").await.expect_problem(422, "invalid_one_time_token");

    let token = scene.reset_token().await;
    run(&scene.admin, "update auth.users set email = 'other@example.org'", &[]).await;
    scene.api.post(RESET, &reset(&token), "").await.expect_problem(422, "invalid_one_time_token");
}

/// Presents a reset token in SQL, as the service does.
async fn reset_in_sql(service: &Client, token: &str, password: &str) -> String {
    let verifier = sha256(&auth_sessions_tests::tokens::password_proof(password));
    let sql = "select outcome from auth.reset_password(token => $1, password_salt => $2,
                 password_params => 'm=65536,t=3,p=1', pepper_id => 1, password_verifier => $3)";
    value(service, sql, &[&token, &random_bytes(16), &verifier]).await
}

#[tokio::test]
async fn presented_at_once_a_link_works_once_and_no_session_is_left_behind() {
    let db = TestDb::create().await;
    let (admin, mailer) = (db.superuser().await, db.connect_as("auth_mail_service").await);
    let clients = connections(&db, "auth_service", 6).await;
    sign_up(&clients[0], "ada@example.org").await;
    let mut password = auth_sessions_tests::tokens::PASSWORD.to_owned();
    for round in 0..40 {
        run(&admin, "delete from auth.attempts", &[]).await;
        run(&clients[0], "select auth.request_password_reset('ada@example.org')", &[]).await;
        let token = token_of(&take_mail(&mailer).await, "reset_password", "ada@example.org");
        // Two who present the link, one who asks for another, one who verifies, and logins and refreshes in between.
        let session = log_in(&clients[0], "ada@example.org", &password).await.token();
        let outcomes = race(&clients, |n, client| {
            let (token, password, session) = (token.clone(), password.clone(), session.clone());
            async move {
                match n {
                    0 | 1 => reset_in_sql(&client, &token, &format!("new password {round} {n}")).await,
                    2 => {
                        run(&client, "select auth.resend_verification('ada@example.org')", &[]).await;
                        String::new()
                    }
                    3 => log_in(&client, "ada@example.org", &password).await.outcome,
                    4 => rotate(&client, &session).await.outcome,
                    _ => {
                        run(
                            &client,
                            "select auth.end_session(gen_random_uuid(), 0, substr(sha256(''), 1, 16), sha256(''))",
                            &[],
                        )
                        .await;
                        String::new()
                    }
                }
            }
        })
        .await;
        let won: Vec<usize> = (0..2).filter(|n| outcomes[*n] == "password_reset").collect();
        assert_eq!(won.len(), 1, "round {round}: {outcomes:?}");
        assert_eq!(outcomes[1 - won[0]], "invalid_token", "round {round}");
        let live: i64 = value(&admin, "select count(*) from auth.sessions where revoked_at is null", &[]).await;
        assert_eq!(live, 0, "round {round}: {outcomes:?}");
        password = format!("new password {round} {}", won[0]);
    }
    let changed: i64 =
        value(&admin, "select count(*) from auth.audit_log where action = 'password_reset_completed'", &[]).await;
    assert_eq!(changed, 40);
}

#[tokio::test]
async fn whatever_meets_at_one_user_nobody_waits_in_a_circle() {
    let db = TestDb::create().await;
    let (admin, mailer) = (db.superuser().await, db.connect_as("auth_mail_service").await);
    let clients = connections(&db, "auth_service", 5).await;
    let operator = std::sync::Arc::new(db.superuser().await);
    for round in 0..25 {
        let email = format!("ada{round}@example.org");
        let session = sign_up(&clients[0], &email).await;
        run(&clients[0], "select auth.request_password_reset($1)", &[&email]).await;
        let mails = take_mail(&mailer).await;
        let reset = token_of(&mails, "reset_password", &email);
        let verify = token_of(&mails, "verify_email", &email);
        let mut racers = clients.clone();
        racers.extend([operator.clone()]);
        // A deadlock (40P01) is an error, and an error a panic.
        race(&racers, |n, client| {
            let (email, reset, verify, session) = (email.clone(), reset.clone(), verify.clone(), session.clone());
            async move {
                let statement = match n {
                    0 => return drop(reset_in_sql(&client, &reset, "new password").await),
                    1 => return drop(rotate(&client, &session).await),
                    2 => "select auth.request_password_reset($1)",
                    3 => "select auth.resend_verification($1)",
                    4 => "select auth.verify_email($1)",
                    _ if round % 2 == 0 => "delete from auth.users where email = $1",
                    _ => "update auth.users set disabled_at = now() where email = $1",
                };
                run(&client, statement, &[if n == 4 { &verify } else { &email }]).await;
            }
        })
        .await;
        let live: i64 = value(&admin, "select count(*) from auth.sessions where revoked_at is null", &[]).await;
        assert_eq!(live, 0, "round {round}");
    }
}

#[tokio::test]
async fn forgot_tells_nobody_who_has_an_account() {
    let scene = scene().await;
    let mut times = [Vec::new(), Vec::new()];
    let mut bodies = Vec::new();
    for _ in 0..7 {
        run(&scene.admin, "delete from auth.attempts", &[]).await;
        for (email, times) in ["ada@example.org", "nobody@example.org"].iter().zip(&mut times) {
            let started = Instant::now();
            let answer = scene.api.post(FORGOT, &json!({"email": email}), "").await.expect(202);
            times.push(started.elapsed());
            bodies.push(answer.text());
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    times.iter_mut().for_each(|times| times.sort_unstable());
    let (known, unknown) = (times[0][3], times[1][3]);
    // None comes before the time that all of them take, whatever the disk is like.
    assert!(times.iter().all(|times| times[0] >= Duration::from_millis(195)), "{times:?}");
    assert!(known.abs_diff(unknown) < Duration::from_millis(15), "{known:?} and {unknown:?}");
    // The log knows, for those who may read it.
    let logged: Vec<bool> = values(
        &scene.admin,
        "select user_id is not null from auth.audit_log where action = 'password_reset_requested' order by created_at",
        &[],
    )
    .await;
    assert_eq!(logged, [true, false].repeat(7));
}

#[tokio::test]
async fn a_mailbox_is_not_filled() {
    let scene = scene().await;
    for _ in 0..10 {
        scene.forgot("ada@example.org").await;
        scene.forgot("ADA@example.org").await;
    }
    let mailed = take_mail(&scene.mailer).await.len();
    assert_eq!(mailed, 3);
    // What is asked for beyond it does not end the link that was sent last, either; and time heals.
    let link: i64 =
        value(&scene.admin, "select count(*) from auth.one_time_tokens where purpose = 'reset_password'", &[]).await;
    assert_eq!(link, 1);
    run(&scene.admin, "update auth.attempts set full_at = full_at - interval '10 minutes'", &[]).await;
    scene.forgot("ada@example.org").await;
    scene.forgot("ada@example.org").await;
    assert_eq!(take_mail(&scene.mailer).await.len(), 1);
    scene.forgot("nobody@example.org").await;
    assert_eq!(take_mail(&scene.mailer).await.len(), 0);
}

#[tokio::test]
async fn a_reset_lifts_the_lock_out() {
    let scene = scene().await;
    for _ in 0..10 {
        scene.api.login("ada@example.org", "wrong password").await;
    }
    scene.api.login("ada@example.org", PASSWORD).await.expect_problem(429, "account_locked");
    let token = scene.reset_token().await;
    scene.api.post(RESET, &reset(&token), "").await.expect(200);
    scene.api.login("ada@example.org", NEW_PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_change_keeps_this_session_and_ends_the_others() {
    let scene = scene().await;
    let api = &scene.api;
    let body = json!({"currentPassword": PASSWORD, "newPassword": NEW_PASSWORD});
    let answer = api.post(CHANGE, &body, &scene.first.access_token).await.expect(200);
    assert_eq!(answer.json(), json!({"revokedSessions": 1}));
    api.get("/api/auth/me", &scene.first.access_token).await.expect(200);
    api.refresh(&scene.first.refresh_token).await.expect(200);
    api.get("/api/auth/me", &scene.second.access_token).await.expect_problem(401, "invalid_access_token");
    api.refresh(&scene.second.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    api.login("ada@example.org", PASSWORD).await.expect(401);
    api.login("ada@example.org", NEW_PASSWORD).await.expect(200);
    let mails = take_mail(&scene.mailer).await;
    assert_eq!(mails, [("password_changed".to_owned(), "ada@example.org".to_owned(), None)]);
    let reasons: Vec<String> =
        values(&scene.admin, "select revoked_reason from auth.sessions where revoked_at is not null", &[]).await;
    assert_eq!(reasons, ["password_changed"]);
}

#[tokio::test]
async fn a_change_needs_a_recent_authentication_and_the_current_password() {
    let scene = scene().await;
    let api = &scene.api;
    let right = json!({"currentPassword": PASSWORD, "newPassword": NEW_PASSWORD});
    let wrong = json!({"currentPassword": "wrong password", "newPassword": NEW_PASSWORD});
    let bearer = &scene.first.access_token;
    api.post(CHANGE, &wrong, bearer).await.expect_problem(401, "invalid_credentials");
    api.post(CHANGE, &json!({"newPassword": NEW_PASSWORD}), bearer).await.expect_problem(422, "invalid_request");
    run(&scene.admin, "update auth.sessions set auth_time = auth_time - interval '6 minutes'", &[]).await;
    let answer = api.post(CHANGE, &right, bearer).await.expect_problem(401, "step_up_required");
    let challenge = answer.header("www-authenticate").expect("RFC 9470");
    assert!(challenge.contains("insufficient_user_authentication"), "{challenge}");
    api.post("/api/auth/step-up", &json!({"password": PASSWORD}), bearer).await.expect(200);
    api.post(CHANGE, &right, bearer).await.expect(200);
}

#[tokio::test]
async fn guessing_the_current_password_is_counted_and_locked() {
    let scene = scene().await;
    let body = json!({"currentPassword": "wrong password", "newPassword": NEW_PASSWORD});
    let mut answers = Vec::new();
    for _ in 0..11 {
        answers.push(scene.api.post(CHANGE, &body, &scene.first.access_token).await.problem_code());
    }
    assert_eq!(answers[9..], ["invalid_credentials", "account_locked"], "{answers:?}");
    let right = json!({"currentPassword": PASSWORD, "newPassword": NEW_PASSWORD});
    scene.api.post(CHANGE, &right, &scene.first.access_token).await.expect_problem(429, "account_locked");
    // The session that was guessed from is what is shut out, not the user.
    scene.api.login("ada@example.org", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn what_does_not_fit_changes_nothing() {
    let scene = scene().await;
    let token = scene.reset_token().await;
    let before = scene.db.row_counts().await;
    let bearer = scene.first.access_token.as_str();
    let good = reset(&token);
    for (path, bearer, body, status, code) in [
        (FORGOT, "", json!({"email": "no address"}), 422, "invalid_email"),
        (FORGOT, "", json!({"email": format!("{}@example.org", "a".repeat(250))}), 422, "invalid_email"),
        (RESET, "", json!({"token": token, "password": "short"}), 422, "invalid_password"),
        (RESET, "", json!({"token": format!("{token}x"), "password": NEW_PASSWORD}), 422, "invalid_one_time_token"),
        (RESET, "", json!({"token": token.to_uppercase(), "password": NEW_PASSWORD}), 422, "invalid_one_time_token"),
        (RESET, "", json!({"token": "", "password": NEW_PASSWORD}), 422, "invalid_one_time_token"),
        (RESET, "", json!({"token": [token], "password": NEW_PASSWORD}), 422, "invalid_request"),
        (CHANGE, "", json!({"currentPassword": PASSWORD, "newPassword": NEW_PASSWORD}), 401, "authentication_required"),
        (
            CHANGE,
            "nonsense",
            json!({"currentPassword": PASSWORD, "newPassword": NEW_PASSWORD}),
            401,
            "invalid_access_token",
        ),
        (CHANGE, bearer, json!({"currentPassword": PASSWORD, "newPassword": "short"}), 422, "invalid_password"),
        (CHANGE, bearer, json!({"currentPassword": "", "newPassword": NEW_PASSWORD}), 422, "invalid_request"),
        (CHANGE, bearer, json!({"currentPassword": PASSWORD}), 422, "invalid_request"),
        (
            CHANGE,
            bearer,
            json!({"currentPassword": PASSWORD, "newPassword": NEW_PASSWORD, "x": 1}),
            422,
            "invalid_request",
        ),
    ] {
        let answer = scene.api.post(path, &body, bearer).await;
        assert_eq!((answer.status, answer.problem_code().as_str()), (status, code), "{path} {body}");
    }
    assert_eq!(scene.db.row_counts().await, before);
    assert_eq!(scene.live_sessions().await, 2);
    // A password that does not fit does not use the link up.
    scene.api.post(RESET, &good, "").await.expect(200);
    drop(scene.server);
}
