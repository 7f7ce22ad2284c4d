//! `/metrics` of the service: what is served is what `sql/monitoring/README.md` says, the board and the alert rules read it
//! and nothing else, the numbers are right, nothing of anybody is in them, and a scrape costs the database next to nothing.

use std::collections::BTreeSet;

use auth_sessions_tests::chaos::proxy::Proxy;
use auth_sessions_tests::metrics::{Metric, Samples, metrics, samples, scrape, value_of};
use auth_sessions_tests::sql::{run, value};
use auth_sessions_tests::tokens::sign_up;
use auth_sessions_tests::webhooks::alerting_server;
use auth_sessions_tests::{Api, OwnCluster, Server, TestDb, WebhookReceiver, all_at_once, eventually};
use reqwest::Method;
use serde_json::json;

use crate::monitoring::{alert_expressions, board_expressions, is_of_the_service, is_served, monitoring, selectors};

/// Something of everything: refreshes, a replay, logins, refusals, errors. Who was there, and their tokens.
async fn tour(api: &Api) -> Vec<String> {
    let first = api.signup("ada@example.org").await;
    let second = api.refresh(&first.refresh_token).await.expect(200).session();
    api.refresh(&first.refresh_token).await.expect(200);
    let third = api.refresh(&second.refresh_token).await.expect(200).session();
    api.refresh(&first.refresh_token).await.expect(401);
    api.refresh("asr_garbage").await.expect(401);
    api.login("ada@example.org", "not the password").await.expect(401);
    api.get("/health/ready", "").await.expect(200);
    api.get("/api/auth/organizations/slug-available/acme", "").await.expect(200);
    api.get("/api/auth/organizations/slug-available/acme", "").await.expect_problem(429, "rate_limited");
    [first, second, third].into_iter().flat_map(|session| [session.access_token, session.refresh_token]).collect()
}

/// The table of metrics in the documentation: `| name | type | labels | meaning |`.
fn documented() -> BTreeSet<Metric> {
    let text = std::fs::read_to_string(monitoring().join("README.md")).expect("README.md");
    let word = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let labels = cells[2].split(',').map(word).filter(|label| !label.is_empty());
        Metric { name: word(cells[0]), kind: word(cells[1]), labels: labels.collect() }
    };
    text.lines().filter(|line| line.starts_with("| `auth_api_")).map(row).collect()
}

#[tokio::test]
async fn what_is_served_is_documented_and_watched_and_right() {
    // With counters in shared memory, which the figures of the database tell.
    let cluster = OwnCluster::preloaded().await;
    let server = Server::start_at(&cluster.url("auth_service", "auth"), &[("RATE_LIMIT_LOOKUP", "1/1h")]).await;
    let api = server.api();
    run(&cluster.connect("postgres", "auth").await, "select auth.run_maintenance()", &[]).await;
    let tokens = tour(&api).await;
    let text = scrape(&api).await;

    assert_eq!(metrics(&text), documented(), "left: served, right: the table in sql/monitoring/README.md");

    let samples = samples(&text);
    let (alerts, board) = (alert_expressions(), board_expressions());
    let mut read = BTreeSet::new();
    for (title, expression) in alerts.iter().chain(&board) {
        for (name, matchers) in selectors(expression).into_iter().filter(|(name, _)| is_of_the_service(name)) {
            assert!(is_served(&samples, &name, &matchers), "{title}: {name} {matchers:?} is not served");
            read.insert(name);
        }
    }
    let is_read = |metric: &&Metric| {
        let parts = ["", "_bucket", "_count", "_sum"];
        parts.iter().any(|part| read.contains(&format!("{}{part}", metric.name)))
    };
    let documented = documented();
    let unread: Vec<&Metric> = documented.iter().filter(|metric| !is_read(metric)).collect();
    assert!(unread.is_empty(), "neither the board nor a rule reads {unread:?}");

    the_numbers_are_right(&samples);
    for secret in tokens.iter().map(String::as_str).chain(["ada@example.org", "correct horse", "acme"]) {
        assert!(!text.contains(secret), "{secret}");
    }
}

fn the_numbers_are_right(samples: &Samples) {
    let number = |name: &str, labels: &[(&str, &str)]| value_of(samples, &format!("auth_api_{name}"), labels);
    for (outcome, expected) in
        [("rotated", 2.0), ("retried", 1.0), ("replayed", 1.0), ("malformed", 1.0), ("unknown", 0.0)]
    {
        assert_eq!(number("refreshes_total", &[("outcome", outcome)]), expected, "{outcome}");
        if outcome != "malformed" {
            let by_the_database = number("database_refreshes_total", &[("outcome", outcome)]);
            assert_eq!(by_the_database, expected, "{outcome}, counted by the database");
        }
    }
    assert_eq!(number("password_logins_total", &[("outcome", "refused")]), 1.0);
    for (operation, status, expected) in
        [("refresh", "200", 3.0), ("refresh", "401", 2.0), ("signUp", "201", 1.0), ("checkSlug", "429", 1.0)]
    {
        let labels = [("operation", operation), ("status", status)];
        assert_eq!(number("requests_total", &labels), expected, "{operation} {status}");
    }
    assert_eq!(number("request_duration_seconds_count", &[("operation", "refresh")]), 5.0);
    assert!(number("request_duration_seconds_sum", &[("operation", "refresh")]) > 0.0);
    assert_eq!(number("rate_limited_total", &[("limit", "lookup_network")]), 1.0);
    assert_eq!(number("rate_limited_total", &[("limit", "login_network")]), 0.0);
    assert_eq!(number("problems_total", &[("code", "invalid_refresh_token")]), 2.0);
    // The one that asks.
    assert_eq!(number("requests_in_flight", &[]), 1.0);
    // The sign-up and the login.
    assert_eq!(number("password_hash_duration_seconds_count", &[]), 2.0);
    assert_eq!(number("password_hash_wait_seconds_count", &[]), 2.0);
    assert_eq!(number("password_hashes_running", &[]), 0.0);
    assert_eq!(number("pool_connections_max", &[("pool", "main")]), 16.0);
    assert!(number("pool_connections", &[("state", "idle")]) >= 1.0);
    assert!(number("connections", &[]) >= 1.0);
    assert_eq!(number("connections_max", &[]), 10_000.0);
    assert_eq!(number("ready", &[]), 1.0);
    assert_eq!(number("database_up", &[]), 1.0);
    // The mail that verifies her address; nobody sends it here.
    assert_eq!(number("database_outbox_mails", &[("state", "waiting")]), 1.0);
    assert!(number("database_outbox_oldest_seconds", &[("state", "waiting")]) > 0.0);
    assert_eq!(number("database_cleanup_lag_seconds", &[]), 0.0);
    assert_eq!(number("database_audit_months_ahead", &[]), 3.0);
    assert!(number("database_table_bytes", &[("table", "sessions")]) > 0.0);
}

/// The series, without their values.
fn series(text: &str) -> BTreeSet<&str> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect()
}

#[tokio::test]
async fn nothing_that_a_client_sends_makes_a_series() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let ask = async |number: u32| {
        for path in [
            format!("/{number}"),
            format!("/api/auth/{number}?x={number}"),
            format!("/api/auth/organizations/slug-available/slug-{number}"),
            format!("/api/auth/organizations/{number}/sessions"),
            format!("/docs/{number}"),
            "//metrics".to_owned(),
        ] {
            let request = api.request(Method::GET, &path).header("user-agent", format!("agent {number}"));
            api.send(request.header("x-request-id", format!("request-{number}"))).await;
        }
        let method = Method::from_bytes(format!("METHOD{number}").as_bytes()).unwrap();
        api.send(api.request(method, "/api/auth/login")).await;
        api.login(&format!("{number}@example.org"), "a password of somebody").await.expect(401);
        api.refresh(&format!("asr_{number}")).await.expect(401);
    };
    ask(1000).await;
    // The first one makes those of being asked.
    scrape(&api).await;
    let before = scrape(&api).await;
    for number in 1001..1020 {
        ask(number).await;
    }
    assert_eq!(series(&before), series(&scrape(&api).await));
}

#[tokio::test]
async fn however_often_it_is_scraped_the_database_is_asked_once() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    let texts = all_at_once(20, |_, start| {
        let api = server.api();
        async move {
            start.wait().await;
            scrape(&api).await
        }
    });
    for text in texts.await {
        assert_eq!(value_of(&samples(&text), "auth_api_database_up", &[]), 1.0);
    }
    let asked: Vec<(String, i64)> =
        db.statements().await.into_iter().filter(|(statement, _)| statement.contains("service_figures")).collect();
    assert!(matches!(&asked[..], [(_, 1)]), "{asked:?}");
}

#[tokio::test]
async fn a_database_that_does_not_answer_holds_no_scrape_up() {
    let db = TestDb::create().await;
    let proxy = Proxy::start(db.cluster().port()).await;
    let url = db.url("auth_service").replace(&format!(":{}/", db.cluster().port()), &format!(":{}/", proxy.port()));
    let server = Server::start_at(&url, &[("DB_POOL_SIZE", "1")]).await;
    let api = server.api();
    eventually("it has done what it does at its start", async || {
        db.statements().await.keys().any(|statement| statement.contains("maintain_audit_partitions"))
    })
    .await;
    api.get("/health/ready", "").await.expect(200);
    // From now on neither an answer comes nor an error; a request that waited for one would be told 503 in the end.
    proxy.hold(1);
    let text = scrape(&api).await;
    assert_eq!(value_of(&samples(&text), "auth_api_database_up", &[]), 0.0);
    assert!(!text.contains("auth_api_database_table_rows"), "what is not known is not told");
    assert_eq!(value_of(&samples(&text), "auth_api_pool_connections", &[("state", "used")]), 0.0, "it was given up");
    // A new connection would do. But it is left alone for a while: who watches must not add to what is the matter.
    assert_eq!(value_of(&samples(&scrape(&api).await), "auth_api_database_up", &[]), 0.0);
}

#[tokio::test]
async fn a_service_without_its_database_is_scraped_all_the_same() {
    let cluster = OwnCluster::create();
    let server = Server::start_at(&cluster.url("auth_service", "auth"), &[]).await;
    cluster.stop_immediately();
    server.api().get("/health/ready", "").await.expect(503);
    let samples = samples(&scrape(&server.api()).await);
    for metric in ["auth_api_ready", "auth_api_database_up"] {
        assert_eq!(value_of(&samples, metric, &[]), 0.0, "{metric}");
    }
    assert!(value_of(&samples, "auth_api_database_errors_total", &[("kind", "unavailable")]) >= 1.0);
}

/// Where the log says that metrics are served.
fn metrics_url(server: &Server) -> Option<String> {
    let log = server.log();
    let (_, rest) = log.split_once("metrics are served on ")?;
    Some(rest.split_whitespace().next()?.trim_end_matches("/metrics").to_owned())
}

#[tokio::test]
async fn on_a_listener_of_its_own_it_is_nowhere_else() {
    let db = TestDb::create().await;
    let mut server = Server::start(&db, &[("METRICS_LISTEN", "127.0.0.1:0")]).await;
    server.api().get("/metrics", "").await.expect_problem(404, "not_found");
    let own = Api::new(&metrics_url(&server).expect("the log says where"));
    scrape(&own).await;
    for path in ["/", "/health/live", "/api/auth/me", "/openapi.json", "/docs"] {
        own.get(path, "").await.expect(404);
    }
    assert_eq!(own.post("/metrics", &json!({}), "").await.status, 405);
    server.terminate();
    assert!(server.ended().await.success(), "it ends with the service");

    let server = Server::start(&db, &[("METRICS_LISTEN", "off")]).await;
    server.api().get("/metrics", "").await.expect_problem(404, "not_found");
    assert_eq!(metrics_url(&server), None);

    let taken = ("METRICS_LISTEN", server.address());
    let (code, said) = Server::refuses_to_start(&db, &[taken]).await;
    assert!(code == 1 && said.contains("METRICS_LISTEN"), "{code} {said}");
}

#[tokio::test]
async fn webhooks_are_counted_by_what_became_of_them() {
    let (db, receiver) = (TestDb::create().await, WebhookReceiver::start().await);
    let admin = db.superuser().await;
    let sender = alerting_server(&db, &[receiver.url("/503/x")], &[]).await;
    let api = sender.api();
    let tried = async |outcome: &str| {
        let samples = samples(&scrape(&api).await);
        value_of(&samples, "auth_api_alert_deliveries_total", &[("outcome", outcome)])
    };
    run(&admin, "select auth.queue_test_alert()", &[]).await;
    eventually("it was refused once", async || tried("retried").await == 1.0).await;
    assert_eq!(tried("sent").await, 0.0);

    // Any node tells what waits in the database.
    let watcher = Server::start(&db, &[]).await;
    let seen = samples(&scrape(&watcher.api()).await);
    for (state, expected) in [("held", 0.0), ("waiting", 0.0), ("sending", 0.0), ("retrying", 1.0)] {
        assert_eq!(value_of(&seen, "auth_api_database_outbox_webhooks", &[("state", state)]), expected, "{state}");
        let oldest = value_of(&seen, "auth_api_database_outbox_webhooks_oldest_seconds", &[("state", state)]);
        assert_eq!(oldest > 0.0, expected > 0.0, "{state}: {oldest}");
    }

    run(&admin, "update auth.alert_outbox set next_attempt_at = clock_timestamp()", &[]).await;
    eventually("it is taken the second time", async || tried("sent").await == 1.0).await;
    assert_eq!((tried("retried").await, tried("given_up").await), (1.0, 0.0));
}

#[tokio::test]
async fn the_figures_of_a_large_database_are_read_by_index() {
    let db = TestDb::create().await;
    let mut admin = db.superuser().await;
    sign_up(&db.connect_as("auth_service").await, "ada@example.org").await;
    let columns =
        "select string_agg(attname, ', ') from pg_attribute where attrelid = $1::text::regclass and attnum > 0
                      and not attisdropped and attgenerated = '' and attname <> 'id'";
    for table in ["auth.sessions", "auth.mail_outbox"] {
        let columns: String = value(&admin, columns, &[&table]).await;
        run(
            &admin,
            &format!("insert into {table} ({columns}) select {columns} from {table}, generate_series(1, 30000)"),
            &[],
        )
        .await;
    }
    // Nearly all mail was sent; a third of the sessions was revoked a while ago, another one is due since a month.
    admin
        .batch_execute(
            "update auth.mail_outbox set sent_at = now(), recipient = null, variables = null where ctid <> '(0,1)';
             update auth.sessions set revoked_at = now() - interval '1 day', revoked_reason = 'test' where get_byte(uuid_send(id), 0) % 3 = 0;
             update auth.sessions set created_at = now() - interval '60 days', idle_expires_at = now() - interval '37 days'
              where get_byte(uuid_send(id), 0) % 3 = 1",
        )
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    admin.batch_execute("vacuum analyze auth.sessions, auth.mail_outbox").await.expect("vacuum");
    // What was read until now is not counted with what follows.
    admin.batch_execute("select pg_stat_force_next_flush()").await.expect("flush");
    let transaction = admin.transaction().await.expect("begin");
    let lag = "select value from auth.service_figures() where figure = 'cleanup_lag_seconds'";
    let lag: f64 = transaction.query_one(lag, &[]).await.expect("figures").get(0);
    assert!((29.9 * 86400.0..30.1 * 86400.0).contains(&lag), "30 days beyond the retention of a week: {lag}");
    let read =
        "select relname::text || ': ' || (seq_tup_read + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables
                 where schemaname = 'auth' and seq_tup_read + coalesce(idx_tup_fetch, 0) > 2000";
    let read: Vec<String> = transaction.query(read, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(read, Vec::<String>::new(), "rows read");
}
