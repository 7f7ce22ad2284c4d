//! The mailer against a real mail server: every mail arrives, once or, when nobody can know, twice under one
//! Message-ID; whatever the server does; and nothing of it is left behind.

use auth_sessions_tests::mail::{MailServer, mailing_server};
use auth_sessions_tests::sql::{run, value, values};
use auth_sessions_tests::{TestDb, eventually};
use serde_json::json;
use tokio_postgres::Client;

/// State and last error of the mails to whoever signed up as that address; the outbox itself forgets the address.
async fn states(admin: &Client, email: &str) -> Vec<String> {
    let query = "select case when sent_at is not null then 'sent' when failed_at is not null then 'given_up'
                             when leased_until is not null then 'leased' when attempts > 0 then 'waits' else 'new' end
                   from auth.mail_outbox where user_id = (select id from auth.users where email = $1) order by created_at";
    values(admin, query, &[&email]).await
}

async fn becomes(admin: &Client, email: &str, state: &str) {
    eventually(&format!("the mail to {email} is {state}"), async || states(admin, email).await == [state]).await;
}

/// So much time passes for the outbox: every time in it moves back.
async fn let_time_pass(admin: &Client, interval: &str) {
    let statement = "update auth.mail_outbox set next_attempt_at = next_attempt_at - $1::text::interval,
                            leased_until = leased_until - $1::text::interval where sent_at is null and failed_at is null";
    run(admin, statement, &[&interval]).await;
}

/// Nothing that a mail said, or who it was to, is left in the outbox.
async fn assert_erased(admin: &Client) {
    let left = "select count(*) from auth.mail_outbox where sent_at is not null
                   and (variables is not null or recipient is not null)";
    assert_eq!(value::<i64>(admin, left, &[]).await, 0);
    let left = "select count(*) from auth.mail_outbox where failed_at is not null and variables is not null";
    assert_eq!(value::<i64>(admin, left, &[]).await, 0);
}

#[tokio::test]
async fn a_mail_arrives_at_once_in_text_and_html_and_is_erased() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let admin = db.superuser().await;
    // Not by looking every now and then: it is told.
    let server = mailing_server(&db, post.port(), &[("MAIL_POLL_SECONDS", "3600")]).await;
    server.api().signup("ada@example.org").await;

    let mail = post.wait_for("ada@example.org", 1).await.remove(0);
    assert_eq!(mail.text("sender"), "no-reply@auth.example");
    assert_eq!(mail.header("from"), "Auth <no-reply@auth.example>");
    assert_eq!(mail.header("to"), "ada@example.org");
    assert_eq!(mail.header("subject"), "Confirm your e-mail address");
    assert_eq!(mail.header("auto-submitted"), "auto-generated");
    assert_eq!(mail.header("mime-version"), "1.0");
    assert_eq!((mail.text("content_type"), &mail.0["defects"]), ("multipart/alternative", &json!([])));
    let id: String = value(&admin, "select id::text from auth.mail_outbox", &[]).await;
    assert_eq!(mail.header("message-id"), format!("<{id}@auth.example>"));
    let link = format!("https://app.example/account/verify-email#token={}", mail.token());
    assert!(mail.text("text").contains(&link), "{}", mail.text("text"));
    assert!(mail.text("html").contains(&format!("<a href=\"{link}\"")), "{}", mail.text("html"));
    // Whoever signs up with somebody else's address has no message carried there.
    assert!(!mail.text("raw").contains("Lovelace"));

    becomes(&admin, "ada@example.org", "sent").await;
    assert_erased(&admin).await;
    assert!(!server.log().contains(&mail.token()) && !db.log().contains(&mail.token()));
}

#[tokio::test]
async fn without_being_told_it_looks_every_now_and_then() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let server = mailing_server(&db, post.port(), &[("MAIL_DIRECT", "false")]).await;
    server.api().signup("ada@example.org").await;
    post.wait_for("ada@example.org", 1).await;
}

#[tokio::test]
async fn a_process_without_the_mailers_login_leaves_mail_to_another() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let (admin, without) = (db.superuser().await, auth_sessions_tests::Server::start(&db, &[]).await);
    without.api().signup("ada@example.org").await;
    assert!(without.log().contains("no mail is sent by this process"));
    assert_eq!(states(&admin, "ada@example.org").await, ["new"]);

    let _mailer = mailing_server(&db, post.port(), &[]).await;
    post.wait_for("ada@example.org", 1).await;
    // And it hears of what other processes queue.
    without.api().signup("bob@example.org").await;
    post.wait_for("bob@example.org", 1).await;
}

#[tokio::test]
async fn a_lost_answer_means_twice_under_one_message_id() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let admin = db.superuser().await;
    let server = mailing_server(&db, post.port(), &[]).await;
    server.api().signup("lost-ada@example.org").await;
    becomes(&admin, "lost-ada@example.org", "waits").await;
    let_time_pass(&admin, "1 hour").await;
    let both = post.wait_for("lost-ada@example.org", 2).await;
    becomes(&admin, "lost-ada@example.org", "sent").await;
    assert_eq!(both[0].header("message-id"), both[1].header("message-id"));
    assert_eq!((both[0].token(), both[0].header("date")), (both[1].token(), both[1].header("date")));
}

#[tokio::test]
async fn a_server_that_is_down_gets_it_when_it_is_up() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let post = MailServer::start().await;
    let port = post.port();
    post.stop().await;
    let server = mailing_server(&db, port, &[]).await;
    server.api().signup("ada@example.org").await;
    let tried = "select attempts from auth.mail_outbox where leased_until is null";
    for attempt in 1..=3 {
        eventually("it was tried", async || values::<i32>(&admin, tried, &[]).await == [attempt]).await;
        let wait: f64 = value(
            &admin,
            "select extract(epoch from next_attempt_at - clock_timestamp())::float8 from auth.mail_outbox",
            &[],
        )
        .await;
        let backoff = 10.0 * f64::from(1 << (attempt - 1));
        assert!((0.75 * backoff - 2.0..=1.25 * backoff).contains(&wait), "attempt {attempt}: {wait} s");
        if attempt < 3 {
            let_time_pass(&admin, "1 hour").await;
        }
    }
    let error: String = value(&admin, "select last_error from auth.mail_outbox", &[]).await;
    assert!(error.starts_with("the mail server: "), "{error}");

    let post = MailServer::start_with(&["--port", &port.to_string()]).await;
    let_time_pass(&admin, "1 hour").await;
    post.wait_for("ada@example.org", 1).await;
    becomes(&admin, "ada@example.org", "sent").await;
    assert_eq!(post.all().len(), 1);
}

#[tokio::test]
async fn a_slow_server_holds_up_its_own_mail_only() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let admin = db.superuser().await;
    let server = mailing_server(&db, post.port(), &[("MAIL_TIMEOUT_SECONDS", "5")]).await;
    server.api().signup("slow-ada@example.org").await;
    post.wait_for("slow-ada@example.org", 1).await;
    server.api().signup("bob@example.org").await;
    post.wait_for("bob@example.org", 1).await;
    becomes(&admin, "bob@example.org", "sent").await;
    assert_eq!(states(&admin, "slow-ada@example.org").await, ["leased"], "meanwhile");
    becomes(&admin, "slow-ada@example.org", "waits").await;
    let error: String = value(&admin, "select last_error from auth.mail_outbox where sent_at is null", &[]).await;
    assert_eq!(error, "the mail server took too long");
}

#[tokio::test]
async fn more_slow_mails_than_there_are_places_do_not_stop_the_others() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let server = mailing_server(&db, post.port(), &[("MAIL_TIMEOUT_SECONDS", "1")]).await;
    for n in 0..10 {
        server.api().signup(&format!("slow-{n}@example.org")).await;
    }
    server.api().signup("bob@example.org").await;
    post.wait_for("bob@example.org", 1).await;
}

#[tokio::test]
async fn a_refusal_for_good_is_the_end_and_any_other_is_not() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let admin = db.superuser().await;
    let server = mailing_server(&db, post.port(), &[]).await;
    let refused = ["refused-ada@example.org", "spam-ada@example.org"];
    for email in refused.into_iter().chain(["greylisted-ada@example.org", "lost-bob@example.org"]) {
        server.api().signup(email).await;
    }
    for email in refused {
        becomes(&admin, email, "given_up").await;
    }
    becomes(&admin, "greylisted-ada@example.org", "waits").await;
    becomes(&admin, "lost-bob@example.org", "waits").await;
    let errors: Vec<String> =
        values(&admin, "select last_error from auth.mail_outbox where failed_at is not null order by last_error", &[])
            .await;
    assert!(errors[0].contains("the mail: ") && errors[0].contains("554") && errors[0].contains("aso_…"), "{errors:?}");
    assert!(errors[1].contains("the recipient: ") && errors[1].contains("550"), "{errors:?}");
    assert_erased(&admin).await;
    // The server quoted the link in its refusal.
    let quoted = post.to("spam-ada@example.org")[0].token();
    assert!(!errors[0].contains(&quoted) && !server.log().contains(&quoted), "{errors:?}");

    let_time_pass(&admin, "1 hour").await;
    for email in ["greylisted-ada@example.org", "lost-bob@example.org"] {
        becomes(&admin, email, "sent").await;
    }
    assert_eq!(post.to("greylisted-ada@example.org").len(), 1);
    let seen: Vec<String> =
        values(&db.connect_as("auth_watcher").await, "select state from auth.mail_queue order by 1", &[]).await;
    assert_eq!(seen, ["given_up", "sent"]);
}

#[tokio::test]
async fn a_wrong_sender_or_login_is_the_operators_to_mend_and_no_mail_is_lost() {
    let db = TestDb::create().await;
    let post = MailServer::start_with(&["--user", "mailer", "--password", "sesame"]).await;
    let admin = db.superuser().await;
    let login = [("SMTP_USER", "mailer"), ("SMTP_PASS", "wrong-word")];
    let mut server = mailing_server(&db, post.port(), &login).await;
    server.api().signup("ada@example.org").await;
    becomes(&admin, "ada@example.org", "waits").await;
    assert!(!server.log().contains("wrong-word"));
    server.terminate();
    server.ended().await;

    let login = [("SMTP_USER", "mailer"), ("SMTP_PASS", "sesame"), ("SMTP_FROM", "unwelcome@auth.example")];
    let mut server = mailing_server(&db, post.port(), &login).await;
    let_time_pass(&admin, "1 hour").await;
    let tried = "select attempts from auth.mail_outbox where leased_until is null";
    eventually("it was tried again", async || values::<i32>(&admin, tried, &[]).await == [2]).await;
    assert_eq!(states(&admin, "ada@example.org").await, ["waits"]);
    server.terminate();
    server.ended().await;

    let _server = mailing_server(&db, post.port(), &login[..2]).await;
    let_time_pass(&admin, "1 hour").await;
    let mail = post.wait_for("ada@example.org", 1).await.remove(0);
    assert_eq!(mail.text("login"), "mailer");
}

#[tokio::test]
async fn a_server_that_cannot_encrypt_gets_nothing_unless_it_is_allowed() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let admin = db.superuser().await;
    let server = mailing_server(&db, post.port(), &[("SMTP_TLS", "starttls")]).await;
    server.api().signup("ada@example.org").await;
    becomes(&admin, "ada@example.org", "waits").await;
    let error: String = value(&admin, "select last_error from auth.mail_outbox", &[]).await;
    assert!(error.contains("STARTTLS"), "{error}");
    assert_eq!(post.all().len(), 0);
}

/// A certificate for 127.0.0.1 that nobody but itself vouches for, and its key.
pub fn certificate(directory: &std::path::Path) -> (String, String) {
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| directory.join(name).to_str().expect("a path").to_owned());
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=mail", "-addext", "subjectAltName=IP:127.0.0.1", "-addext"])
        .args(["basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &cert])
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
    (cert, key)
}

#[tokio::test]
async fn encryption_is_used_and_the_servers_certificate_checked() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let directory = std::env::temp_dir().join(format!("auth_sessions-{}", db.name()));
    std::fs::create_dir(&directory).expect("a directory");
    let (cert, key) = certificate(&directory);
    let post = MailServer::start_with(&["--cert", &cert, "--key", &key]).await;
    let mut stranger = mailing_server(&db, post.port(), &[("SMTP_TLS", "starttls")]).await;
    stranger.api().signup("ada@example.org").await;
    becomes(&admin, "ada@example.org", "waits").await;
    let error: String = value(&admin, "select last_error from auth.mail_outbox", &[]).await;
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(post.all().len(), 0);
    stranger.terminate();
    stranger.ended().await;

    let trusting = [("SMTP_TLS", "starttls"), ("SSL_CERT_FILE", cert.as_str())];
    let _server = mailing_server(&db, post.port(), &trusting).await;
    let_time_pass(&admin, "1 hour").await;
    let mail = post.wait_for("ada@example.org", 1).await.remove(0);
    assert_eq!(mail.0["tls"], true);
    std::fs::remove_dir_all(directory).expect("removed");
}

#[tokio::test]
async fn two_mailers_side_by_side_send_each_mail_once() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let admin = db.superuser().await;
    // They are told once; nothing else wakes them.
    let never = [("MAIL_POLL_SECONDS", "3600")];
    let one = mailing_server(&db, post.port(), &never).await;
    let other = mailing_server(&db, post.port(), &never).await;
    for server in [&one, &other] {
        eventually("it listens", async || server.log().contains("mail is sent by this process")).await;
    }
    let listening = "select count(*) from pg_stat_activity where datname = current_database()
                        and application_name = 'auth-api mailer' and query like '%claim_mail%' and state = 'idle'";
    eventually("both have looked", async || value::<i64>(&admin, listening, &[]).await == 2).await;
    // All become due in one moment.
    let queue = "select count(auth.queue_mail('password_changed', 'user-' || n || '@example.org', '{}'))
                   from generate_series(1, 200) n";
    value::<i64>(&admin, queue, &[]).await;
    let done = "select count(*) from auth.mail_outbox where sent_at is not null";
    eventually("all were sent", async || value::<i64>(&admin, done, &[]).await == 200).await;
    let mut to: Vec<String> = post.all().iter().map(|mail| mail.header("to").to_owned()).collect();
    assert_eq!(to.len(), 200);
    to.sort_unstable();
    to.dedup();
    assert_eq!(to.len(), 200);
    for server in [&one, &other] {
        assert!(server.log().contains("a mail was sent"), "both took part");
    }
    let attempts: i32 = value(&admin, "select max(attempts) from auth.mail_outbox", &[]).await;
    assert_eq!(attempts, 1);
}

#[tokio::test]
async fn what_a_killed_mailer_was_sending_is_sent_when_its_lease_is_over() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let admin = db.superuser().await;
    let mut server = mailing_server(&db, post.port(), &[]).await;
    server.api().signup("slow-ada@example.org").await;
    let first = post.wait_for("slow-ada@example.org", 1).await.remove(0);
    server.kill().await;
    assert_eq!(states(&admin, "slow-ada@example.org").await, ["leased"]);

    let _server = mailing_server(&db, post.port(), &[]).await;
    run(&admin, "select auth.queue_mail('password_changed', 'bob@example.org', '{}')", &[]).await;
    post.wait_for("bob@example.org", 1).await;
    assert_eq!(post.to("slow-ada@example.org").len(), 1, "the lease holds");
    let_time_pass(&admin, "2 minutes").await;
    let again = post.wait_for("slow-ada@example.org", 2).await.remove(1);
    assert_eq!((first.header("message-id"), first.token()), (again.header("message-id"), again.token()));
}

#[tokio::test]
async fn a_graceful_stop_finishes_what_is_under_way() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let admin = db.superuser().await;
    let mut server = mailing_server(&db, post.port(), &[("MAIL_TIMEOUT_SECONDS", "3")]).await;
    server.api().signup("slow-ada@example.org").await;
    post.wait_for("slow-ada@example.org", 1).await;
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0));
    // It was given its time, and what became of it was told: no lease is left to run out.
    assert_eq!(states(&admin, "slow-ada@example.org").await, ["waits"]);
}

#[tokio::test]
async fn the_database_away_for_a_while() {
    let (db, post) = (TestDb::create().await, MailServer::start().await);
    let admin = db.superuser().await;
    let server = mailing_server(&db, post.port(), &[("MAIL_POLL_SECONDS", "3600")]).await;
    server.api().signup("ada@example.org").await;
    post.wait_for("ada@example.org", 1).await;
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and application_name = 'auth-api mailer'";
    assert_eq!(value::<i64>(&admin, end, &[]).await, 1);
    server.api().signup("bob@example.org").await;
    post.wait_for("bob@example.org", 1).await;
}

#[tokio::test]
async fn the_console_prints_the_mail_and_says_that_it_is_for_development() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let url = db.url("auth_mail_service");
    let settings = [("MAILER_DATABASE_URL", url.as_str()), ("MAIL_PROVIDER", "console")];
    let server = auth_sessions_tests::Server::start(&db, &settings).await;
    server.api().signup("ada@example.org").await;
    eventually("it is printed", async || server.log().contains("http://localhost:3000/verify-email#token=aso_")).await;
    assert!(server.log().contains("mail to ada@example.org") && server.log().contains("this is for development"));
    becomes(&admin, "ada@example.org", "sent").await;
    assert_erased(&admin).await;
}
