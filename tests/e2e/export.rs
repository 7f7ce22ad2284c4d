//! `auth-api export`: the audit log as lines of JSON, whole, in order, and taken up again where it was interrupted.

use std::io::Read;

use auth_sessions_tests::TestDb;
use auth_sessions_tests::server::auth_api;
use auth_sessions_tests::sql::{refusal, run, sqlstate, value, values};
use auth_sessions_tests::tokens::sign_up;
use serde_json::Value;
use tokio_postgres::Client as Sql;

const FROM: &str = "2020-03-01";
const TO: &str = "2020-04-01";

/// A month with some tens of thousands of events: quiet days, a burst of many in the same microsecond, and one at each full
/// hour, where a stretch of time that is asked for may end.
async fn month_of_events(admin: &Sql) {
    run(
        admin,
        "insert into auth.audit_log (action, severity, success, created_at, organization_id, correlation_id, ip_cidr, user_agent, details)
         select 'user_logged_in', 'info', true,
                case when n > 20000 then '2020-03-01 00:00Z'::timestamptz + (n - 20001) * interval '1 hour'
                     when n % 3 = 0 then '2020-03-17 12:00:00.123456Z'::timestamptz
                     else '2020-03-01 00:00Z'::timestamptz + (n * 7919 % 31000) * interval '86.4 seconds' end,
                case when n % 10 = 0 then '0f7a3c52-6d1e-4b8f-a0c9-1d2e3f405162'::uuid end, 'request ' || n, '203.0.113.0/24',
                e'Mozilla \"\\\\ \\n\\t \\u2028 \\U0001F511 \\x1b[31m', jsonb_build_object('method', 'password', 'provider', e'line\\nbreak')
           from generate_series(1, 20744) n",
        &[],
    )
    .await;
}

/// Standard output, standard error, and whether it worked.
async fn export(db: &TestDb, login: &str, arguments: &[&str]) -> (String, String, bool) {
    let url = db.url(login);
    let output = auth_api(&[&["export"], arguments].concat(), &[("ADMIN_DATABASE_URL", &url)]).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr), output.status.success())
}

#[tokio::test]
async fn every_event_is_a_line_in_order_and_of_one_organization_when_asked() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    month_of_events(&admin).await;
    // What was just before, and just after, is not in it.
    run(
        &admin,
        "insert into auth.audit_log (action, severity, success, created_at)
         values ('before', 'info', true, '2020-02-29 23:59:59.999999Z'), ('after', 'info', true, '2020-04-01 00:00Z')",
        &[],
    )
    .await;
    let (out, err, worked) = export(&db, "auth_watcher", &["--from", FROM, "--to", TO]).await;
    assert!(worked, "{err}");
    assert!(err.ends_with("s\n") && err.contains("20744 events in"), "{err}");
    let ids: Vec<i64> = values(
        &admin,
        "select id from auth.audit_log where created_at >= '2020-03-01Z' and created_at < '2020-04-01Z' order by created_at, id",
        &[],
    )
    .await;
    let events: Vec<Value> = out.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line}"))).collect();
    assert_eq!(events.iter().map(|event| event["id"].as_i64().unwrap()).collect::<Vec<_>>(), ids);
    let first = out.lines().next().unwrap();
    let members = [
        "format",
        "id",
        "at",
        "action",
        "version",
        "severity",
        "success",
        "user_id",
        "organization_id",
        "session_id",
        "family_id",
        "actor",
        "actor_user_id",
        "correlation_id",
        "network",
        "user_agent",
        "details",
    ];
    let places: Vec<usize> = members.iter().map(|name| first.find(&format!("\"{name}\":")).expect(name)).collect();
    assert!(places.is_sorted(), "{first}");
    assert_eq!(events[0].as_object().unwrap().len(), members.len());
    assert_eq!((&events[0]["format"], &events[0]["version"]), (&1.into(), &1.into()));
    assert_eq!(events[0]["user_agent"], "Mozilla \"\\ \n\t \u{2028} \u{1F511} \u{1b}[31m");
    assert_eq!(events[0]["network"], "203.0.113.0/24");
    assert!(out.contains("\"at\":\"2020-03-17T12:00:00.123456Z\""));
    assert!(events[0]["session_id"].is_null());

    let organization = "0f7a3c52-6d1e-4b8f-a0c9-1d2e3f405162";
    let arguments = ["--from", FROM, "--to", "2020-04-01T02:00:00+02:00", "--organization", organization];
    let (of_one, err, worked) = export(&db, "auth_operator", &arguments).await;
    assert!(worked, "{err}");
    let expected: Vec<&str> = out.lines().filter(|line| line.contains(organization)).collect();
    assert_eq!(of_one.lines().collect::<Vec<_>>(), expected);
    assert_eq!(expected.len(), 2074);
    run(
        &admin,
        "insert into auth.organizations (id, slug, name) values ($1::text::uuid, 'ours', 'Ours')",
        &[&organization],
    )
    .await;
    let (by_slug, ..) = export(&db, "auth_operator", &["--from", FROM, "--to", TO, "--organization", "ours"]).await;
    assert!(by_slug == of_one);
}

#[tokio::test]
async fn what_was_interrupted_goes_on_where_it_was() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    month_of_events(&admin).await;
    let file = std::env::temp_dir().join(format!("{}.jsonl", db.name()));
    let path = file.to_str().unwrap();
    let asked = ["--from", FROM, "--to", TO, "--output", path];
    let (out, err, worked) = export(&db, "auth_watcher", &asked).await;
    assert!(worked && out.is_empty(), "{err}");
    let whole = std::fs::read(&file).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "it names people");

    // Cut anywhere: nothing at all, in the first line, in the middle of a character, between two lines, in the burst.
    let lines: Vec<usize> =
        whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    let key = whole.windows(4).position(|bytes| bytes == "\u{1F511}".as_bytes()).unwrap();
    for cut in [0, 7, key + 2, lines[0], lines[9_999], lines[12_345] + 11, whole.len() - 1, whole.len()] {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let (_, err, worked) = export(&db, "auth_watcher", &[&asked[..], &["--resume"]].concat()).await;
        assert!(worked, "{err}");
        assert!(std::fs::read(&file).unwrap() == whole, "cut at {cut}");
    }
    let last = String::from_utf8(whole[..lines[9_999]].to_vec()).unwrap();
    let last: Value = last.lines().last().unwrap().parse().unwrap();
    let after = format!("{}/{}", last["at"].as_str().unwrap(), last["id"]);
    let (rest, err, worked) = export(&db, "auth_watcher", &["--from", FROM, "--to", TO, "--after", &after]).await;
    assert!(worked, "{err}");
    assert!(whole.ends_with(rest.as_bytes()) && rest.len() == whole.len() - lines[9_999]);

    // Nothing is written over, and what is no export is left alone.
    let (_, err, worked) = export(&db, "auth_watcher", &asked).await;
    assert!(!worked && err.contains("is there already"), "{err}");
    for other in [&b"a diary\n"[..], b"a diary", b"{\"at\": 1}\n", b"\xff\n"] {
        std::fs::write(&file, other).unwrap();
        let (_, err, worked) = export(&db, "auth_watcher", &[&asked[..], &["--resume"]].concat()).await;
        assert!(!worked && err.contains("is no export"), "{err}");
        assert_eq!(std::fs::read(&file).unwrap(), other);
    }
    // Nor is an export of another time gone on with.
    std::fs::write(&file, &whole).unwrap();
    let another = ["--from", "2020-01-01", "--to", "2020-02-01", "--output", path, "--resume"];
    let (_, err, worked) = export(&db, "auth_watcher", &another).await;
    assert!(!worked && err.contains("not of the time"), "{err}");
    assert!(std::fs::read(&file).unwrap() == whole);
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_a_sentence() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    sign_up(&db.connect_as("auth_service").await, "ada@example.org").await;
    let before = db.row_counts().await;
    let missing = ["--from", FROM, "--to", TO, "--output", "/nonexistent/there/x.jsonl"];
    for (login, arguments, said) in [
        ("auth_watcher", &["--from", "yesterday", "--to", TO][..], "it must look like 2026-11-01"),
        ("auth_watcher", &["--from", TO, "--to", FROM], "--from must be before --to"),
        ("auth_watcher", &["--from", FROM], "--to"),
        ("auth_watcher", &["--from", FROM, "--to", "9999-01-01"], "--to must be at least a minute ago"),
        ("auth_watcher", &["--from", FROM, "--to", TO, "--organization", "nobody"], "there is no organization"),
        ("auth_watcher", &["--from", FROM, "--to", TO, "--after", "4711"], "it must look like"),
        ("auth_watcher", &["--from", FROM, "--to", TO, "--after", "2020-04-01T00:00:00Z/1"], "not of the time"),
        ("auth_watcher", &["--from", FROM, "--to", TO, "--resume"], "--output"),
        ("auth_watcher", &missing, "cannot be written"),
        ("auth_service", &["--from", FROM, "--to", TO], "neither in role auth_monitor nor in auth_admin"),
        ("auth_mail_service", &["--from", FROM, "--to", TO], "neither in role auth_monitor nor in auth_admin"),
    ] {
        let (out, err, worked) = export(&db, login, arguments).await;
        assert!(!worked && out.is_empty() && err.contains(said), "{arguments:?}: {out} {err}");
    }
    assert_eq!(db.row_counts().await, before);

    let watcher = db.connect_as("auth_watcher").await;
    for (call, code) in [
        ("null, now()", "22004"),
        ("now(), null", "22004"),
        ("'tomorrow', 'yesterday'", "22023"),
        ("'yesterday', 'tomorrow', after_time => now()", "22023"),
        ("'yesterday', 'tomorrow', after_id => 1", "22023"),
        ("'-infinity', 'infinity'", "00000"),
    ] {
        assert_eq!(sqlstate(&watcher, &format!("select auth.export_audit_log({call})")).await, code, "{call}");
    }
    let service = db.connect_as("auth_service").await;
    let refused = refusal(service.batch_execute("select auth.export_audit_log('-infinity', 'infinity')").await);
    assert_eq!(refused.code, "42501");
    assert!(
        value::<i64>(&admin, "select count(*) from auth.export_audit_log('-infinity', 'infinity')", &[]).await >= 2
    );
}

#[tokio::test]
async fn what_retention_took_away_is_said() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    auth_sessions_tests::audit_log::make_past_month(&admin, 4).await;
    auth_sessions_tests::audit_log::write_past_events(&admin, 4, 5).await;
    run(&admin, "select auth.seal_audit_log()", &[]).await;
    let operator = db.connect_as("auth_operator").await;
    run(&operator, "select auth.drop_audit_partitions('30 days')", &[]).await;
    let yesterday: String = value(&admin, "select (now() - interval '1 day')::date::text", &[]).await;
    let (out, err, worked) = export(&db, "auth_watcher", &["--from", "2020-01-01", "--to", &yesterday]).await;
    assert!(worked && out.is_empty(), "{err}");
    assert!(err.starts_with("Not in it: 5 events of audit_log_"), "{err}");
}

/// A reader may be slow; meanwhile whoever waits is told how far it came, beside the lines and not among them.
#[tokio::test]
async fn how_far_it_came_is_said_on_standard_error() {
    let db = TestDb::create().await;
    month_of_events(&db.superuser().await).await;
    let mut child = export_to_pipe(&db);
    // Until the pipe is full it writes; after a second of waiting for us it has something to say at the next line.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let (mut out, mut err) = (String::new(), String::new());
    tokio::task::spawn_blocking(move || {
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert!(child.wait().unwrap().success(), "{err}");
        assert!(
            out.lines().count() == 20744 && out.lines().all(|line| line.starts_with("{\"format\":1,")),
            "lines alone"
        );
        let (said, done) = err.trim_end().rsplit_once('\n').expect("more than the last line");
        assert!(said.lines().all(|line| line.contains(" events, until 2020-03-") && line.contains(" %), ")), "{err}");
        assert!(done.starts_with("20744 events in "), "{err}");
    })
    .await
    .unwrap();
}

fn export_to_pipe(db: &TestDb) -> std::process::Child {
    std::process::Command::new(std::env::var_os("AUTH_TEST_API").expect("make test sets it"))
        .args(["export", "--from", FROM, "--to", TO])
        .env_clear()
        .env("ADMIN_DATABASE_URL", db.url("auth_watcher"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

/// Somebody who reads lines may go away at any moment.
#[tokio::test]
async fn a_reader_that_goes_away_ends_it_with_where_it_was() {
    let db = TestDb::create().await;
    month_of_events(&db.superuser().await).await;
    let mut child = export_to_pipe(&db);
    drop(child.stdout.take());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("To go on: --after 2020-03-") && said.contains("cannot be written"), "{said}");
}
