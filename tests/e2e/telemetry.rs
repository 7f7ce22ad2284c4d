//! Traces and error reports, as their receivers see them. What must not be in them is looked for in `logs.rs`.

use std::collections::BTreeSet;

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::sql::{value, values};
use auth_sessions_tests::telemetry::{Mood, Receiver, Span};
use auth_sessions_tests::{Answer, Api, Server, TestDb, eventually};
use reqwest::Method;
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Everything that a span of ours may say.
const ATTRIBUTES: [&str; 11] = [
    "auth.operation",
    "auth.problem",
    "auth.request_id",
    "db.query.summary",
    "db.system.name",
    "error.type",
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "server.address",
    "service.name",
];

async fn traced_server(db: &TestDb, receiver: &Receiver, more: &[(&str, &str)]) -> Server {
    let (otlp, dsn) = (receiver.otlp(), receiver.dsn());
    let usual =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "20"), ("SENTRY_DSN", &dsn)];
    // Settings that are given win.
    Server::start(db, &[&usual[..], more].concat()).await
}

async fn post_in_trace(api: &Api, path: &str, body: &Value, traceparent: &str) -> Answer {
    api.send(api.request(Method::POST, path).header("traceparent", traceparent).json(body)).await
}

/// Waits until a trace has a request's span with so many parts: that one, and them by name.
async fn trace_of(receiver: &Receiver, trace_id: &str, parts: usize) -> (Span, Vec<Span>) {
    let is_request = |span: &Span| span.kind == 2;
    eventually("the trace has arrived", async || {
        let trace = receiver.trace(trace_id);
        trace.len() > parts && trace.iter().any(is_request)
    })
    .await;
    let (mut requests, parts): (Vec<_>, Vec<_>) = receiver.trace(trace_id).into_iter().partition(is_request);
    assert_eq!(requests.len(), 1, "{requests:#?}");
    (requests.remove(0), parts)
}

#[tokio::test]
async fn a_trace_goes_from_the_caller_to_the_statements() {
    let db = TestDb::create().await;
    db.set("auth_sessions.audit_level", "all").await;
    let receiver = Receiver::start().await;
    let server =
        traced_server(&db, &receiver, &[("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")]).await;
    let api = server.api();
    let first = api.signup("ada@example.org").await;
    let traceparent = |number: u8| format!("00-{}{number:02x}-{CALLER}-01", &TRACE[..30]);
    let trace_id = |number: u8| format!("{}{number:02x}", &TRACE[..30]);

    let login = json!({"email": "ada@example.org", "password": PASSWORD});
    let second = post_in_trace(&api, "/api/auth/login", &login, &traceparent(1)).await.expect(200);
    let refresh = json!({"refreshToken": first.refresh_token});
    let rotated = post_in_trace(&api, "/api/auth/refresh", &refresh, &traceparent(2)).await.expect(200).session();
    api.refresh(&rotated.refresh_token).await.expect(200);
    post_in_trace(&api, "/api/auth/refresh", &refresh, &traceparent(3)).await.expect(401);

    let (request, parts) = trace_of(&receiver, &trace_id(1), 3).await;
    assert_eq!((request.name.as_str(), request.parent_id.as_str()), ("POST /api/auth/login", CALLER));
    assert_eq!(request.attributes["auth.operation"], "logIn");
    assert_eq!(request.attributes["http.response.status_code"], "200");
    assert_eq!(request.attributes["auth.request_id"], second.header("x-request-id").unwrap());
    assert_eq!(request.resource["service.name"], "auth-api");
    assert_eq!(request.resource["deployment.environment.name"], "test");
    let names: BTreeSet<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    for name in ["select auth.begin_login", "hash password", "select auth.complete_login auth.session_profile"] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    assert!(parts.iter().all(|part| part.parent_id == request.id && !part.is_error), "{parts:#?}");

    let (request, parts) = trace_of(&receiver, &trace_id(2), 1).await;
    assert_eq!(request.attributes["auth.operation"], "refresh");
    let rotation = &parts[0];
    assert_eq!(rotation.name, "select auth.rotate_session_token auth.session_profile");
    assert_eq!((parts.len(), rotation.kind, rotation.parent_id.as_str()), (1, 3, request.id.as_str()));
    assert_eq!(rotation.attributes["db.system.name"], "postgresql");

    // A refusal is no failure of ours, and says why in our words.
    let (request, _) = trace_of(&receiver, &trace_id(3), 1).await;
    assert_eq!(request.attributes["auth.problem"], "invalid_refresh_token");
    assert!(!request.is_error);

    // The same id is in the log and in the audit log, beside the request's own; a root of ours is a trace, too.
    let admin = db.superuser().await;
    let actions = "select action from auth.audit_log where details ->> 'trace_id' = $1 order by id";
    for (number, expected) in
        [(1, "auth_session_created"), (1, "user_logged_in"), (2, "token_refreshed"), (3, "token_replay_detected")]
    {
        let found: Vec<String> = values(&admin, actions, &[&trace_id(number)]).await;
        assert!(found.iter().any(|action| action == expected), "{expected} is not in {found:?}");
        assert!(server.log().contains(&trace_id(number)), "trace {number} is not in the log");
    }
    let id = "select correlation_id from auth.audit_log where details ->> 'trace_id' = $1 limit 1";
    let id: String = value(&admin, id, &[&trace_id(1)]).await;
    assert_eq!(id, second.header("x-request-id").unwrap());
    let untraced: i64 =
        value(&admin, "select count(*) from auth.audit_log where details ->> 'trace_id' is null", &[]).await;
    assert_eq!(untraced, 0, "every request is in a trace");
    let own = "select details ->> 'trace_id' from auth.audit_log where action = 'user_created'";
    let (signup, parts) = trace_of(&receiver, &value::<String>(&admin, own, &[]).await, 1).await;
    assert_eq!((signup.name.as_str(), signup.parent_id.as_str()), ("POST /api/auth/signup", ""));
    assert!(!parts.is_empty());
    for span in receiver.spans() {
        let said: Vec<_> = span.attributes.keys().filter(|name| !ATTRIBUTES.contains(&name.as_str())).collect();
        assert!(said.is_empty(), "{span:#?} says {said:?}");
    }
}

#[tokio::test]
async fn a_span_has_no_name_but_ours() {
    let db = TestDb::create().await;
    let receiver = Receiver::start().await;
    let server = traced_server(&db, &receiver, &[]).await;
    let api = server.api();
    let session = api.signup("ada@example.org").await;
    api.get("/my-secret-path?token=my-secret-query", "").await.expect(404);
    api.delete("/api/auth/sessions/9487196b-43d0-4bdd-b053-209406c627b9", &session.access_token).await.expect(404);
    let request = api.request(Method::from_bytes(b"MYSECRET").unwrap(), "/api/auth/login");
    api.send(request.header("tracestate", "my=secret").header("baggage", "my=secret")).await.expect(405);
    // The time that requests take here, and whoever only asks how we are, are nobody's work in the database.
    let named = |name: &str| receiver.spans().into_iter().find(|span| span.name == name);
    for name in ["GET", "DELETE /api/auth/sessions/{id}", "_OTHER /api/auth/login"] {
        eventually(name, async || named(name).is_some()).await;
    }
    let sent = String::from_utf8_lossy(&receiver.bytes()).to_lowercase();
    assert!(!sent.contains("secret") && !sent.contains("9487196b"), "{:#?}", receiver.spans());
}

#[tokio::test]
async fn what_is_not_sampled_is_not_sent_and_yet_has_its_name() {
    let db = TestDb::create().await;
    let receiver = Receiver::start().await;
    let server = traced_server(&db, &receiver, &[]).await;
    let never = traced_server(&db, &receiver, &[("OTEL_TRACES_SAMPLER", "always_off")]).await;
    let wrong = json!({"email": "ada@example.org", "password": "not-the-password"});
    let not_sampled = format!("00-{TRACE}-{CALLER}-00");
    post_in_trace(&server.api(), "/api/auth/login", &wrong, &not_sampled).await.expect(401);
    let sampled = format!("00-{}ff-{CALLER}-01", &TRACE[..30]);
    post_in_trace(&never.api(), "/api/auth/login", &wrong, &sampled).await.expect(401);
    server.api().signup("ada@example.org").await; // this one is
    eventually("a trace has arrived", async || !receiver.spans().is_empty()).await;
    assert!(receiver.spans().iter().all(|span| !span.trace_id.starts_with(&TRACE[..30])), "{:#?}", receiver.spans());
    let admin = db.superuser().await;
    let traces = "select details ->> 'trace_id' from auth.audit_log where action = 'user_login_failed' order by 1";
    let traces: Vec<String> = values(&admin, traces, &[]).await;
    assert_eq!(traces, [TRACE.to_owned(), format!("{}ff", &TRACE[..30])]);
}

#[tokio::test]
async fn without_a_receiver_the_caller_s_trace_is_written_down_and_nothing_else() {
    let db = TestDb::create().await;
    let (server, deaf) = (Server::start(&db, &[]).await, Server::start(&db, &[("OTEL_PROPAGATORS", "none")]).await);
    let wrong = json!({"email": "ada@example.org", "password": "not-the-password"});
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    for (server, traceparent) in [
        (&server, traceparent.as_str()),
        (&server, "00-my-secret-words-01"),
        (&server, &format!("00-{TRACE};{CALLER}-01")),
        (&deaf, &traceparent),
    ] {
        post_in_trace(&server.api(), "/api/auth/login", &wrong, traceparent).await.expect(401);
    }
    let admin = db.superuser().await;
    let rows = "select coalesce(details ->> 'trace_id', 'none') || ' ' || length(correlation_id)
                  from auth.audit_log where action = 'user_login_failed' order by id";
    let rows: Vec<String> = values(&admin, rows, &[]).await;
    let none = || "none 36".to_owned();
    assert_eq!(rows, [format!("{TRACE} 36"), none(), none(), none()]);
    assert!(server.log().contains(TRACE) && !server.log().contains("my-secret-words") && !deaf.log().contains(TRACE));
}

#[tokio::test]
async fn an_error_is_reported_under_its_request_and_trace() {
    let db = TestDb::create().await;
    let receiver = Receiver::start().await;
    let server = traced_server(&db, &receiver, &[("SENTRY_ENVIRONMENT", "test")]).await;
    let api = server.api();
    let session = api.signup("ada@example.org").await;
    let admin = db.superuser().await;
    admin.batch_execute("alter function auth.rotate_session_token rename to gone").await.expect("renamed");
    let body = json!({"refreshToken": session.refresh_token});
    let request = api.request(Method::POST, "/api/auth/refresh").header("x-request-id", "request-1").json(&body);
    let request = request.header("traceparent", format!("00-{TRACE}-{CALLER}-01")).header("cookie", "a=my-secret");
    api.send(request).await.expect(503);
    api.get("/api/auth/me", &session.access_token).await.expect(200);

    eventually("the error is reported", async || !receiver.events().is_empty()).await;
    let (failed, parts) = trace_of(&receiver, TRACE, 1).await;
    assert!(failed.is_error && parts[0].is_error);
    assert_eq!(parts[0].attributes["error.type"], "42883");
    let events = receiver.events();
    assert_eq!(events.len(), 1, "{events:#?}");
    let event = serde_json::to_value(&events[0]).expect("JSON");
    assert_eq!(
        event["message"],
        "the extension auth_sessions, this version of it, or a right is missing in the database"
    );
    assert_eq!(event["extra"], json!({"code": "42883"}));
    assert_eq!(event["tags"], json!({"operation": "refresh", "request_id": "request-1", "trace_id": TRACE}));
    assert_eq!(event["contexts"]["trace"]["trace_id"], TRACE);
    assert_eq!(event["contexts"]["trace"]["span_id"], failed.id);
    assert_eq!(event["environment"], "test");
    // The library calls its own ones native: this is the one that was made of what may leave.
    assert_eq!(event["platform"], Value::Null, "{event:#}");
    assert_eq!(event["request"]["headers"]["content-type"], "application/json");
    assert!(!event.to_string().contains("my-secret"), "{event:#}");
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_nobody_up() {
    let db = TestDb::create().await;
    let receiver = Receiver::start().await;
    receiver.set_mood(Mood::Hangs);
    // Whoever waited for it would be told so: a request may take 30 seconds, a delivery 60.
    let settings = [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "16"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
    ];
    let mut server = traced_server(&db, &receiver, &settings).await;
    let api = server.api();
    let session = api.signup("ada@example.org").await;
    for _ in 0..20 {
        api.get("/api/auth/me", &session.access_token).await.expect(200); // five spans each
    }
    receiver.set_mood(Mood::Takes);
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0));
    // What was under way, and what the queue holds: the rest was dropped.
    let arrived = receiver.spans().len();
    assert!((1..=20).contains(&arrived), "{arrived} spans");
}

#[tokio::test]
async fn a_receiver_that_hangs_does_not_keep_the_service_from_ending() {
    let db = TestDb::create().await;
    let receiver = Receiver::start().await;
    receiver.set_mood(Mood::Hangs);
    let mut server = traced_server(&db, &receiver, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")]).await;
    let session = server.api().signup("ada@example.org").await;
    let admin = db.superuser().await;
    admin.batch_execute("alter function auth.rotate_session_token rename to gone").await.expect("renamed");
    // Reports of errors, each of which would wait ten seconds for its answer.
    for _ in 0..5 {
        server.api().refresh(&session.refresh_token).await.expect(503);
    }
    let has = |path: &str| String::from_utf8_lossy(&receiver.bytes()).contains(path);
    eventually("deliveries of both kinds are under way", async || has("/v1/traces") && has("/envelope/")).await;
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_receiver_that_fails_is_named_once_and_tried_again() {
    let db = TestDb::create().await;
    let receiver = Receiver::start().await;
    receiver.set_mood(Mood::IsBusy);
    let server = traced_server(&db, &receiver, &[]).await;
    let api = server.api();
    eventually("the failure is in the log", async || {
        api.get("/health/live", "").await.expect(200);
        server.log().contains("traces cannot be delivered")
    })
    .await;
    // The library tries each delivery again by itself before it fails: when as many attempts have been made once more, and
    // another, a second one has failed.
    let attempts = || String::from_utf8_lossy(&receiver.bytes()).matches("POST /v1/traces").count();
    let first = attempts();
    eventually("another delivery has failed", async || {
        api.get("/health/live", "").await.expect(200);
        attempts() > 2 * first
    })
    .await;
    receiver.set_mood(Mood::Takes);
    eventually("so is the recovery", async || {
        api.get("/health/live", "").await.expect(200);
        server.log().contains("traces are delivered again")
    })
    .await;
    assert_eq!(server.log().matches("traces cannot be delivered").count(), 1);
    eventually("spans arrive", async || !receiver.spans().is_empty()).await;
}

#[tokio::test]
async fn what_waits_is_delivered_at_a_graceful_stop() {
    let db = TestDb::create().await;
    let receiver = Receiver::start().await;
    let mut server = traced_server(&db, &receiver, &[("OTEL_BSP_SCHEDULE_DELAY", "600000")]).await;
    server.api().signup("ada@example.org").await;
    assert!(receiver.spans().is_empty());
    server.terminate();
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(receiver.spans().iter().any(|span| span.name == "POST /api/auth/signup"));
}

#[tokio::test]
async fn settings_that_cannot_be_meant_are_refused_in_a_sentence() {
    let db = TestDb::create().await;
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("SENTRY_DSN", "https://hunter2.example.org"),
    ] {
        let (code, said) = Server::refuses_to_start(&db, &[(name, value)]).await;
        assert!(code != 0 && said.contains(name) && !said.contains("hunter2"), "{name}={value}: {code} {said}");
        assert!(said.trim().lines().count() <= 3, "one sentence will do: {said}");
    }
}
