//! The e-mail of an account: verified by who reads the mailbox, changed by who has both the session and the new mailbox,
//! and told to nobody else.

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::mail::{take_mail, token_of};
use auth_sessions_tests::sql::{run, value, values};
use auth_sessions_tests::{Api, Server, Session, TestDb};
use serde_json::json;
use tokio_postgres::Client;

const VERIFY: &str = "/api/auth/email/verify";
const RESEND: &str = "/api/auth/email/resend";
const CHANGE: &str = "/api/auth/email/change";
const CONFIRM: &str = "/api/auth/email/change/confirm";

/// A service that sends no mail, Ada, and the mailer's own connection.
struct Scene {
    db: TestDb,
    api: Api,
    admin: Client,
    mailer: Client,
    ada: Session,
    _server: Server,
}

async fn scene() -> Scene {
    let db = TestDb::create().await;
    let (admin, mailer) = (db.superuser().await, db.connect_as("auth_mail_service").await);
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let ada = api.signup("ada@example.org").await;
    Scene { db, api, admin, mailer, ada, _server: server }
}

impl Scene {
    async fn verification(&self) -> String {
        token_of(&take_mail(&self.mailer).await, "verify_email", "ada@example.org")
    }

    async fn verify(&self, token: &str, status: u16) {
        self.api.post(VERIFY, &json!({"token": token}), "").await.expect(status);
    }

    async fn ask_for(&self, new_email: &str) {
        self.api.post(CHANGE, &json!({"newEmail": new_email}), &self.ada.access_token).await.expect(202);
    }

    async fn kinds(&self) -> Vec<(String, String)> {
        take_mail(&self.mailer).await.into_iter().map(|(kind, recipient, _)| (kind, recipient)).collect()
    }
}

fn pair(kind: &str, recipient: &str) -> (String, String) {
    (kind.to_owned(), recipient.to_owned())
}

#[tokio::test]
async fn a_sign_up_is_verified_by_its_mail_once() {
    let scene = scene().await;
    assert_eq!(scene.ada.body["user"]["emailVerified"], false);
    let token = scene.verification().await;
    let answer = scene.api.post(VERIFY, &json!({"token": token}), "").await.expect(200);
    assert_eq!(answer.json(), json!({"emailVerified": true}));
    let me = scene.api.get("/api/auth/me", &scene.ada.access_token).await.expect(200).json();
    assert_eq!(me["user"]["emailVerified"], true);
    scene.api.post(VERIFY, &json!({"token": token}), "").await.expect_problem(422, "invalid_one_time_token");
    let events: i64 =
        value(&scene.admin, "select count(*) from auth.audit_log where action = 'email_verified'", &[]).await;
    assert_eq!(events, 1);
}

#[tokio::test]
async fn sent_again_the_link_before_is_dead() {
    let scene = scene().await;
    let first = scene.verification().await;
    scene.api.post(RESEND, &json!({"email": "ADA@example.org"}), "").await.expect(202);
    let second = scene.verification().await;
    scene.api.post(RESEND, &json!({}), &scene.ada.access_token).await.expect(202);
    let third = scene.verification().await;
    scene.verify(&first, 422).await;
    scene.verify(&second, 422).await;
    scene.verify(&third, 200).await;
    // Verified: there is nothing to send, and nobody is told.
    let verified = scene.api.post(RESEND, &json!({"email": "ada@example.org"}), "").await.expect(202);
    let nobody = scene.api.post(RESEND, &json!({"email": "nobody@example.org"}), "").await.expect(202);
    let own = scene.api.post(RESEND, &json!({}), &scene.ada.access_token).await.expect(202);
    assert_eq!((verified.text(), nobody.text()), (nobody.text(), own.text()));
    assert_eq!(scene.kinds().await, []);
    scene.api.post(RESEND, &json!({}), "").await.expect_problem(401, "authentication_required");
    scene.api.post(RESEND, &json!({}), "nonsense").await.expect_problem(401, "invalid_access_token");
}

#[tokio::test]
async fn verification_is_not_a_way_to_fill_a_mailbox() {
    let scene = scene().await;
    scene.verification().await;
    for _ in 0..6 {
        scene.api.post(RESEND, &json!({"email": "ada@example.org"}), "").await.expect(202);
    }
    assert_eq!(scene.kinds().await, vec![pair("verify_email", "ada@example.org"); 3]);
}

#[tokio::test]
async fn a_link_expires_and_proves_the_address_that_it_went_to() {
    let scene = scene().await;
    let token = scene.verification().await;
    run(
        &scene.admin,
        "update auth.one_time_tokens set created_at = created_at - interval '25 hours',
                       expires_at = expires_at - interval '25 hours'",
        &[],
    )
    .await;
    scene.verify(&token, 422).await;
    scene.api.post(RESEND, &json!({}), &scene.ada.access_token).await.expect(202);
    let token = scene.verification().await;
    run(&scene.admin, "update auth.users set email = 'other@example.org'", &[]).await;
    scene.verify(&token, 422).await;
    let verified: i64 = value(&scene.admin, "select count(email_verified_at) from auth.users", &[]).await;
    assert_eq!(verified, 0);
}

#[tokio::test]
async fn an_address_changes_when_its_new_mailbox_says_so() {
    let scene = scene().await;
    let stale = scene.verification().await;
    scene.api.post("/api/auth/password/forgot", &json!({"email": "ada@example.org"}), "").await.expect(202);
    let reset = token_of(&take_mail(&scene.mailer).await, "reset_password", "ada@example.org");
    scene.ask_for("new@example.org").await;
    let mails = take_mail(&scene.mailer).await;
    let token = token_of(&mails, "change_email", "new@example.org");
    assert_eq!((mails.len(), &mails[1]), (2, &("email_change_requested".into(), "ada@example.org".into(), None)));
    scene.api.login("new@example.org", PASSWORD).await.expect(401);

    scene.api.post(CONFIRM, &json!({"token": token}), &scene.ada.access_token).await.expect(200);
    let session = scene.api.login("new@example.org", PASSWORD).await.expect(200).session();
    assert_eq!(
        (&session.body["user"]["email"], &session.body["user"]["emailVerified"]),
        (&json!("new@example.org"), &json!(true))
    );
    scene.api.login("ada@example.org", PASSWORD).await.expect(401);
    scene.api.refresh(&scene.ada.refresh_token).await.expect(200);
    assert_eq!(scene.kinds().await, [pair("email_changed", "ada@example.org")]);
    // What was mailed to the old address proves nothing of the new one, nor later of the old one.
    run(&scene.admin, "update auth.users set email = 'ada@example.org'", &[]).await;
    scene.verify(&stale, 422).await;
    let body = json!({"token": reset, "password": "purple monkey dishwasher"});
    scene.api.post("/api/auth/password/reset", &body, "").await.expect_problem(422, "invalid_one_time_token");
    scene.api.post(CONFIRM, &json!({"token": token}), &scene.ada.access_token).await.expect(422);
    let events: Vec<String> = values(
        &scene.admin,
        "select action from auth.audit_log where action ~ 'email_change' order by created_at",
        &[],
    )
    .await;
    assert_eq!(events, ["email_change_requested", "user_email_changed"]);
}

#[tokio::test]
async fn a_stranger_with_the_link_gets_nothing() {
    let scene = scene().await;
    let eve = scene.api.signup("eve@example.org").await;
    take_mail(&scene.mailer).await;
    scene.ask_for("eves-other@example.org").await;
    let token = token_of(&take_mail(&scene.mailer).await, "change_email", "eves-other@example.org");
    let confirm = json!({"token": token});
    scene.api.post(CONFIRM, &confirm, "").await.expect_problem(401, "authentication_required");
    scene.api.post(CONFIRM, &confirm, &eve.access_token).await.expect_problem(422, "invalid_one_time_token");
    scene.verify(&token, 422).await;
    let emails: Vec<String> = values(&scene.admin, "select email from auth.users order by 1", &[]).await;
    assert_eq!(emails, ["ada@example.org", "eve@example.org"]);
    scene.api.post(CONFIRM, &confirm, &scene.ada.access_token).await.expect(200);
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_to_its_owner_alone() {
    let scene = scene().await;
    scene.api.signup("bob@example.org").await;
    take_mail(&scene.mailer).await;
    let free =
        scene.api.post(CHANGE, &json!({"newEmail": "free@example.org"}), &scene.ada.access_token).await.expect(202);
    let taken =
        scene.api.post(CHANGE, &json!({"newEmail": "BOB@example.org"}), &scene.ada.access_token).await.expect(202);
    assert_eq!(free.text(), taken.text());
    let mails = take_mail(&scene.mailer).await;
    assert!(mails.contains(&("email_in_use".into(), "BOB@example.org".into(), None)), "{mails:?}");
    // Taken between asking and confirming.
    let token = token_of(&mails, "change_email", "free@example.org");
    run(&scene.admin, "update auth.users set email = 'Free@example.org' where email = 'bob@example.org'", &[]).await;
    let late = scene.api.post(CONFIRM, &json!({"token": token}), &scene.ada.access_token).await;
    late.expect_problem(409, "email_taken");
}

#[tokio::test]
async fn a_change_needs_a_recent_authentication_and_is_limited() {
    let scene = scene().await;
    take_mail(&scene.mailer).await;
    run(&scene.admin, "update auth.sessions set auth_time = auth_time - interval '6 minutes'", &[]).await;
    let body = json!({"newEmail": "new@example.org"});
    scene.api.post(CHANGE, &body, &scene.ada.access_token).await.expect_problem(401, "step_up_required");
    assert_eq!(scene.kinds().await, []);
    scene.api.post("/api/auth/step-up", &json!({"password": PASSWORD}), &scene.ada.access_token).await.expect(200);
    for n in 0..6 {
        scene.ask_for(&format!("new-{n}@example.org")).await;
    }
    assert_eq!(scene.kinds().await.len(), 6, "three links and three notices");
}

#[tokio::test]
async fn what_does_not_fit_changes_nothing() {
    let scene = scene().await;
    let token = scene.verification().await;
    let before = scene.db.row_counts().await;
    let bearer = scene.ada.access_token.as_str();
    for (path, bearer, body, status, code) in [
        (VERIFY, "", json!({"token": "aso_x"}), 422, "invalid_one_time_token"),
        (VERIFY, "", json!({"token": format!(" {token}")}), 422, "invalid_one_time_token"),
        (VERIFY, "", json!({"token": "ä".repeat(47)}), 422, "invalid_one_time_token"),
        (VERIFY, "", json!({"token": null}), 422, "invalid_request"),
        (VERIFY, "", json!({"token": token, "email": "x"}), 422, "invalid_request"),
        (RESEND, "", json!({"email": "no address"}), 422, "invalid_email"),
        (RESEND, "", json!({"email": 1}), 422, "invalid_request"),
        (CHANGE, "", json!({"newEmail": "new@example.org"}), 401, "authentication_required"),
        (CHANGE, bearer, json!({"newEmail": "a@b"}), 422, "invalid_email"),
        (CHANGE, bearer, json!({"newEmail": "new@example.org\r\nBcc: eve@example.org"}), 422, "invalid_email"),
        (CHANGE, bearer, json!({}), 422, "invalid_request"),
        (CONFIRM, bearer, json!({"token": token}), 422, "invalid_one_time_token"),
        (CONFIRM, bearer, json!({"token": "x"}), 422, "invalid_one_time_token"),
    ] {
        let answer = scene.api.post(path, &body, bearer).await;
        assert_eq!((answer.status, answer.problem_code().as_str()), (status, code), "{path} {body}");
    }
    assert_eq!(scene.db.row_counts().await, before);
    scene.verify(&token, 200).await;
}
