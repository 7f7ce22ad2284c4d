//! Alerts, from the cause to a real receiver, which verifies with the standard's own library: at least once under one id,
//! whatever the receiver does, and no secret on the way.

use auth_sessions_tests::server::auth_api;
use auth_sessions_tests::sql::{let_time_pass as let_session_age, run, value, values};
use auth_sessions_tests::webhooks::{SECRETS, alerting_server};
use auth_sessions_tests::{Server, TestDb, WebhookReceiver, eventually, releases};
use serde_json::json;
use tokio_postgres::Client;

/// So much time passes for what is to be sent again.
async fn let_time_pass(admin: &Client, interval: &str) {
    let statement = "update auth.alert_outbox set next_attempt_at = next_attempt_at - $1::text::interval,
                            leased_until = leased_until - $1::text::interval where sent_at is null and failed_at is null";
    run(admin, statement, &[&interval]).await;
}

/// A thief shows an old refresh token.
async fn replay(server: &Server, admin: &Client, email: &str) {
    let api = server.api();
    let session = api.signup(email).await;
    let next = api.refresh(&session.refresh_token).await.expect(200).session();
    let_session_age(admin, newest_session(admin).await, "2 minutes").await;
    api.refresh(&next.refresh_token).await.expect(200);
    api.refresh(&session.refresh_token).await.expect(401);
}

async fn newest_session(admin: &Client) -> uuid::Uuid {
    value(admin, "select id from auth.sessions order by created_at desc limit 1", &[]).await
}

async fn queue_test(admin: &Client) {
    assert!(value::<bool>(admin, "select auth.queue_test_alert()", &[]).await);
}

async fn becomes(admin: &Client, state: &str) {
    let states = "select string_agg(distinct state, ' ' order by state) from auth.alert_queue";
    eventually(&format!("the alerts are {state}"), async || {
        value::<Option<String>>(admin, states, &[]).await.as_deref() == Some(state)
    })
    .await;
}

#[tokio::test]
async fn a_replay_is_told_at_once_signed_with_every_secret_and_names_nobody() {
    let (db, receiver) = (TestDb::create().await, WebhookReceiver::start().await);
    let admin = db.superuser().await;
    // Not by looking every now and then: it is told.
    let url = receiver.url("/hooks/T0P-53CR37");
    let server = alerting_server(&db, &[url], &[("MAIL_POLL_SECONDS", "3600")]).await;
    replay(&server, &admin, "ada@example.org").await;

    let webhook = receiver.wait_for("/hooks/T0P-53CR37", 1).await.remove(0);
    assert!(webhook.is_signed(), "{webhook:?}");
    assert_eq!((webhook.0["method"].as_str(), webhook.header("content-type")), (Some("POST"), "application/json"));
    assert_eq!(webhook.header("user-agent"), concat!("auth-api/", env!("CARGO_PKG_VERSION")));
    assert_eq!(webhook.kind(), "auth.token_replay");
    let session = newest_session(&admin).await.to_string();
    assert_eq!(webhook.json()["data"]["events"][0]["sessionId"], json!(session));
    for personal in ["ada@", "example.org", "127.0.0.", "asr_", "Lovelace"] {
        assert!(!webhook.text().contains(personal), "{personal}: {}", webhook.text());
    }
    let id: String = value(&admin, "select id::text from auth.alert_outbox", &[]).await;
    assert_eq!(webhook.id(), id);
    becomes(&admin, "sent").await;
    eventually("the log says so", async || server.log().contains("an alert was sent")).await;

    // Neither a secret nor what stands in the URL is anywhere.
    let tables: Vec<String> = values(&admin, "select o::text from auth.alert_outbox o", &[]).await;
    for place in [server.log(), db.log(), tables.concat()] {
        assert!(!place.contains("T0P-53CR37") && !SECRETS.iter().any(|secret| place.contains(&secret[6..])), "{place}");
    }
}

#[tokio::test]
async fn whatever_a_receiver_does_each_gets_it_under_one_id_and_who_has_it_not_again() {
    let (db, receiver) = (TestDb::create().await, WebhookReceiver::start().await);
    let admin = db.superuser().await;
    let paths = ["/fine", "/503/x", "/lost/x", "/slow/x", "/redirect/x", "/410/x"];
    let server =
        alerting_server(&db, &paths.map(|path| receiver.url(path)), &[("ALERT_WEBHOOK_TIMEOUT_SECONDS", "1")]).await;
    queue_test(&admin).await;
    // One who wants it no more does not end it for the others.
    becomes(&admin, "retrying").await;
    let error: String = value(&admin, "select last_error from auth.alert_outbox", &[]).await;
    for part in [
        "receiver 2 (127.0.0.1): it answered 503",
        "receiver 3 (127.0.0.1): ",
        "receiver 4 (127.0.0.1): it took too long",
        "receiver 5 (127.0.0.1): it answered 307 Temporary Redirect, and redirects are not followed",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("receiver 1") && !error.contains("/x"), "{error}");
    let delivered: i32 = value(&admin, "select cardinality(delivered_to) from auth.alert_outbox", &[]).await;
    assert_eq!(delivered, 1);

    let_time_pass(&admin, "1 hour").await;
    for path in &paths[1..] {
        let shown = receiver.wait_for(path, 2).await;
        assert_eq!((shown[0].id(), shown[0].text()), (shown[1].id(), shown[1].text()), "{path}");
        assert!(shown.iter().all(|webhook| webhook.is_signed()), "{path}: {shown:?}");
    }
    let still = "select count(*) from auth.alert_outbox where cardinality(delivered_to) = 4 and last_error ~ '^receiver 5 [^;]*; receiver 6 [^;]*$'";
    eventually("only the redirect and the refusal are left", async || value::<i64>(&admin, still, &[]).await == 1)
        .await;
    assert_eq!((receiver.at("/fine").len(), receiver.at("/landing").len()), (1, 0));
    eventually("the log says so", async || server.log().contains("an alert did not reach everybody")).await;
    assert!(!server.log().contains("/redirect/x"), "{}", server.log());
}

#[tokio::test]
async fn a_receiver_that_is_down_gets_it_when_it_is_up() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let receiver = WebhookReceiver::start().await;
    let (port, url) = (receiver.port(), receiver.url("/fine"));
    receiver.stop().await;
    let _server = alerting_server(&db, &[url], &[]).await;
    queue_test(&admin).await;
    becomes(&admin, "retrying").await;
    let row =
        "select last_error, extract(epoch from next_attempt_at - clock_timestamp())::float8 from auth.alert_outbox";
    let row = admin.query_one(row, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "receiver 1 (127.0.0.1): Connection refused (os error 111)");
    assert!((5.5..=12.5).contains(&row.get::<_, f64>(1)), "{row:?}");

    let receiver = WebhookReceiver::start_at(port).await;
    let_time_pass(&admin, "1 minute").await;
    let webhook = receiver.wait_for("/fine", 1).await.remove(0);
    assert!(webhook.is_signed() && webhook.kind() == "auth.test", "{webhook:?}");
    becomes(&admin, "sent").await;
}

#[tokio::test]
async fn who_says_gone_is_not_asked_again_and_that_shows() {
    let (db, receiver) = (TestDb::create().await, WebhookReceiver::start().await);
    let admin = db.superuser().await;
    let server = alerting_server(&db, &[receiver.url("/410/x")], &[]).await;
    queue_test(&admin).await;
    becomes(&admin, "given_up").await;
    eventually("the log says so", async || server.log().contains("an alert was given up")).await;
    let watcher = db.connect_as("auth_watcher").await;
    let found: Vec<String> =
        values(&watcher, "select finding from auth.check_installation() where finding ~ '^alerts'", &[]).await;
    assert_eq!(found, ["alerts do not arrive: receiver 1 (127.0.0.1): it answered 410 Gone"]);
}

#[tokio::test]
async fn what_a_killed_process_was_sending_another_sends_when_the_lease_is_over_and_a_stopped_one_reports() {
    let (db, receiver) = (TestDb::create().await, WebhookReceiver::start().await);
    let admin = db.superuser().await;
    let mut server = alerting_server(&db, &[receiver.url("/slow/x")], &[]).await;
    queue_test(&admin).await;
    receiver.wait_for("/slow/x", 1).await;
    server.kill().await;
    becomes(&admin, "sending").await;
    let _other = alerting_server(&db, &[receiver.url("/slow/x")], &[]).await;
    let_time_pass(&admin, "2 minutes").await;
    let shown = receiver.wait_for("/slow/x", 2).await;
    assert_eq!((shown[0].id(), shown[0].text()), (shown[1].id(), shown[1].text()));
    becomes(&admin, "sent").await;
    drop(_other);

    let never = [receiver.url("/never/x")];
    let mut server = alerting_server(&db, &never, &[("ALERT_WEBHOOK_TIMEOUT_SECONDS", "2")]).await;
    run(&admin, "delete from auth.alert_outbox", &[]).await;
    queue_test(&admin).await;
    receiver.wait_for("/never/x", 1).await;
    // Nobody else is given it while this one may still be at it.
    let lease = "select extract(epoch from leased_until - next_attempt_at)::float8 from auth.alert_outbox";
    let lease: f64 = value(&admin, lease, &[]).await;
    assert!((32.0..60.0).contains(&lease), "{lease}");
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0));
    // It was given its time, and what became of it was told: no lease is left to run out.
    becomes(&admin, "retrying").await;
}

#[tokio::test]
async fn what_became_of_it_is_told_until_the_database_listens() {
    let (db, receiver) = (TestDb::create().await, WebhookReceiver::start().await);
    let admin = db.superuser().await;
    // It breaks twice.
    admin
        .batch_execute(
            "create sequence reports;
             create function refuse_report() returns trigger language plpgsql security definer as $$
             begin
               if nextval('public.reports') <= 2 then raise exception 'not now'; end if;
               return new;
             end $$;
             create trigger refuse_report before update on auth.alert_outbox
               for each row when (new.sent_at is not null) execute function refuse_report()",
        )
        .await
        .unwrap();
    let server = alerting_server(&db, &[receiver.url("/fine")], &[]).await;
    queue_test(&admin).await;
    becomes(&admin, "sent").await;
    assert_eq!((receiver.at("/fine").len(), value::<i64>(&admin, "select last_value from reports", &[]).await), (1, 3));
    assert_eq!(server.log().matches("what became of a delivery could not be told").count(), 2);
}

#[tokio::test]
async fn an_extension_without_an_outbox_is_told_all_the_same() {
    let receiver = WebhookReceiver::start().await;
    let (db, admin) = releases::install("0.1.0").await;
    let first = alerting_server(&db, &[receiver.url("/fine")], &[]).await;
    receiver.wait_for("/fine", 1).await;
    let _second = alerting_server(&db, &[receiver.url("/fine")], &[]).await;
    let shown = receiver.wait_for("/fine", 2).await;
    assert_eq!(shown[0].id(), shown[1].id(), "one alert, whoever tells it, unless midnight was in between");
    for webhook in shown {
        assert_eq!(webhook.kind(), "auth.version_mismatch");
        assert_eq!(webhook.json()["data"]["events"][0]["serviceVersion"], json!(releases::THIS));
        assert!(webhook.is_signed());
    }
    admin.batch_execute("alter extension auth_sessions update").await.unwrap();
    eventually("it goes on", async || first.log().contains("the outbox can be reached again")).await;
    queue_test(&admin).await;
    let shown = receiver.wait_for("/fine", 3).await;
    assert_eq!(shown[2].kind(), "auth.test");
}

#[tokio::test]
async fn a_maintenance_that_the_service_cannot_run_is_told() {
    let (db, receiver) = (TestDb::create().await, WebhookReceiver::start().await);
    let admin = db.superuser().await;
    run(&admin, "alter function auth.run_maintenance rename to nothing_of_the_kind", &[]).await;
    let _server = alerting_server(&db, &[receiver.url("/fine")], &[("MAINTENANCE_INTERVAL_SECONDS", "1")]).await;
    let webhook = receiver.wait_for("/fine", 1).await.remove(0);
    assert_eq!(webhook.kind(), "auth.maintenance_failed");
    assert_eq!(webhook.json()["data"]["events"][0]["task"], json!("all"));
}

#[tokio::test]
async fn receivers_are_tried_by_a_command() {
    let receiver = WebhookReceiver::start().await;
    let urls = [receiver.url("/fine"), receiver.url("/500/hunter2")].join(",");
    let secrets = SECRETS.join(",");
    let settings = [("ALERT_WEBHOOK_URLS", urls.as_str()), ("ALERT_WEBHOOK_SECRETS", &secrets)];
    let output = auth_api(&["alerts", "test"], &settings).await;
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    let expected = "receiver 1 (127.0.0.1): took it\nreceiver 2 (127.0.0.1): it answered 500 Internal Server Error\n";
    assert_eq!(said, expected, "{complaint}");
    assert!(complaint.contains("a receiver did not take the webhook") && !complaint.contains("hunter2"), "{complaint}");
    let webhook = receiver.wait_for("/fine", 1).await.remove(0);
    assert!(webhook.is_signed() && webhook.kind() == "auth.test", "{webhook:?}");

    // What is on this machine is not shown to the proxy for what is outside.
    let (fine, proxy) = (receiver.url("/fine"), ("HTTP_PROXY", "http://127.0.0.1:1"));
    let output =
        auth_api(&["alerts", "test"], &[("ALERT_WEBHOOK_URLS", &fine), ("ALERT_WEBHOOK_SECRETS", &secrets), proxy])
            .await;
    assert_eq!(output.status.code(), Some(0));
    let output = auth_api(&["alerts", "test"], &[]).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("ALERT_WEBHOOK_URLS is not set"));
}

#[tokio::test]
async fn half_a_configuration_is_refused() {
    let db = TestDb::create().await;
    let (database, url) = (db.url("auth_mail_service"), "https://hooks.example.org/T0P-53CR37");
    let complete = [
        ("MAILER_DATABASE_URL", database.as_str()),
        ("MAIL_PROVIDER", "console"),
        ("ALERT_WEBHOOK_URLS", url),
        ("ALERT_WEBHOOK_SECRETS", SECRETS[0]),
    ];
    for (missing, named) in [(0, "MAILER_DATABASE_URL"), (2, "ALERT_WEBHOOK_URLS"), (3, "ALERT_WEBHOOK_SECRETS")] {
        let mut settings = complete.to_vec();
        settings.remove(missing);
        let (code, said) = Server::refuses_to_start(&db, &settings).await;
        assert!(code == 1 && said.contains(named), "{said}");
        assert!(!said.contains("T0P-53CR37") && !said.contains(&SECRETS[0][6..]), "{said}");
    }
}
