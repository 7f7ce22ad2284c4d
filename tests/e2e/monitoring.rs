//! What a DBA watches with: the queries run for who may only watch, the exporter serves what the board and the alert rules
//! ask for, and the rules fire when they should.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use auth_sessions_tests::TestDb;
use auth_sessions_tests::audit_log::make_past_month;
use auth_sessions_tests::exporter::Exporter;
use auth_sessions_tests::metrics::Samples;
use auth_sessions_tests::sql::{let_time_pass, run, value, values};
use auth_sessions_tests::tokens::{log_in, rotate, rotate_times, sign_up, try_sign_up};
use serde_json::Value;
use tokio_postgres::Client;

pub fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sql/monitoring")
}

/// A database in which there is something of everything to see.
async fn lived() -> (TestDb, Client) {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    make_past_month(&admin, 2).await;
    run(&admin, "select auth.maintain_audit_partitions(), auth.seal_audit_log()", &[]).await;
    let founder = try_sign_up(&service, "ada@example.org", Some(("Company", "company"))).await.unwrap().token();
    let tokens = rotate_times(&service, founder, 40).await;
    assert_eq!(rotate(&service, &tokens[40]).await.outcome, "rotated");
    let thief = sign_up(&service, "bob@example.org").await;
    let tokens = rotate_times(&service, thief, 3).await;
    assert_eq!(rotate(&service, &tokens[0]).await.outcome, "replayed");
    assert_eq!(log_in(&service, "ada@example.org", "wrong").await.outcome, "refused");
    let over = sign_up(&service, "carol@example.org").await;
    let_time_pass(&admin, over.session_id, "20 days").await;
    run(&admin, "update auth.users set disabled_at = now() where email = 'carol@example.org'", &[]).await;
    run(&admin, "select auth.open_recovery_window('1 hour', 5)", &[]).await;
    // So that what counts rows by its statistics has some.
    run(&admin, "select pg_stat_force_next_flush()", &[]).await;
    admin.batch_execute("analyze auth.sessions, auth.users, auth.audit_log").await.unwrap();
    (db, admin)
}

#[tokio::test]
async fn every_query_says_what_it_is_for_and_runs_for_who_may_only_watch() {
    let (db, _) = lived().await;
    let watcher = db.connect_as("auth_watcher").await;
    let read_me = std::fs::read_to_string(monitoring().join("README.md")).expect("README.md");
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(monitoring()).expect("sql/monitoring") {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            queries.push(path);
        }
    }
    assert!(queries.len() >= 12, "{queries:?}");
    for path in queries {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("-- ") && text.contains("\n--\n"), "{name}: first what it tells, then what is normal");
        assert!(read_me.contains(&format!("`{name}`")), "{name} is not in README.md");
        let rows = watcher.query(&text, &[]).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(!rows.is_empty(), "{name}: shows nothing of what is there");
    }
}

#[tokio::test]
async fn the_queries_find_what_happened() {
    let (db, admin) = lived().await;
    let watcher = db.connect_as("auth_watcher").await;
    let query = async |name: &str, select: &str| {
        let text = std::fs::read_to_string(monitoring().join(name)).unwrap();
        let text = format!("select ({select})::text from ({}) q", text.trim_end().trim_end_matches(';'));
        values::<String>(&watcher, &text, &[]).await
    };
    assert_eq!(
        query("active_sessions.sql", "organization || ' ' || sessions || ' ' || used_in_last_hour").await,
        ["company 1 1"]
    );
    assert_eq!(query("replay_rate.sql", "replays || ' ' || users").await, ["1 1"]);
    assert_eq!(query("rotated_too_fast.sql", "rotations").await, ["41"]);
    assert_eq!(query("failed_logins.sql", "failed_logins || ' ' || most_failures_of_one").await, ["1 1"]);
    assert_eq!(
        query("cleaning_lag.sql", "live || ' ' || ended_and_kept || ' ' || ended_more_than_8_days_ago").await,
        ["1 2 1"]
    );
    assert_eq!(
        query("privileges_changed.sql", "action").await,
        ["recovery_window_opened", "user_disabled", "user_role_created"]
    );
    let newest: String =
        value(&admin, "select encode(digest, 'hex') from auth.audit_seals order by number desc limit 1", &[]).await;
    assert_eq!(query("seals.sql", "digest").await, [newest]);
    let seals: i64 =
        value(&admin, "select count(*) from auth.audit_seals where partition <> 'audit_log_default'", &[]).await;
    assert_eq!(query("partitions.sql", "count(seal)").await, [seals.to_string()]);
}

/// The selectors in a PromQL expression: the metric, and its matchers as `label=value` or `label=~value`. Panics on a name
/// that is neither a metric of ours nor a word of the language.
pub fn selectors(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    const FUNCTIONS: [&str; 9] =
        ["rate", "increase", "sum", "min", "max", "count", "absent", "time", "histogram_quantile"];
    const OPERATORS: [&str; 6] = ["by", "ignoring", "on", "and", "or", "unless"];
    const LABELS: [&str; 11] =
        ["outcome", "table", "state", "le", "operation", "instance", "pool", "code", "limit", "version", "kind"];
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '[' || c == '"') {
        rest = &rest[start..];
        if rest.starts_with('[') {
            // A range: [15m].
            rest = &rest[rest.find(']').expect("]")..];
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if name.starts_with("auth_") || name.starts_with("pg_") {
            let mut matchers = Vec::new();
            if let Some(inside) = rest.strip_prefix('{') {
                let (inside, after) = inside.split_once('}').expect("}");
                rest = after;
                for matcher in inside.split("\",") {
                    let (label, value) = matcher.split_once('=').expect("label=value");
                    matchers.push((
                        label.trim().to_owned(),
                        value.trim_start_matches(['~', '"']).trim_end_matches('"').to_owned(),
                    ));
                }
            }
            found.push((name.to_owned(), matchers));
        } else {
            let known = [&FUNCTIONS[..], &OPERATORS, &LABELS].concat().contains(&name);
            assert!(known, "{name} in {expression}");
        }
    }
    assert!(!found.is_empty(), "{expression}");
    found
}

#[test]
fn selectors_are_found() {
    let found = selectors(
        r#"rate(auth_a{outcome="x"}[15m]) / ignoring(outcome) (auth_b{state=~"y|z"} > 0.1) or absent(pg_up)"#,
    );
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["auth_a", "auth_b", "pg_up"]);
    assert_eq!(found[1].1, [("state".to_owned(), "y|z".to_owned())]);
}

/// The expressions of a rules file, by the names of their alerts.
pub fn alert_expressions() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(monitoring().join("prometheus/alerts.yml")).unwrap();
    let mut expressions: Vec<(String, String)> = Vec::new();
    let mut in_expression = false;
    for line in text.lines() {
        let content = line.trim();
        if let Some(name) = content.strip_prefix("- alert: ") {
            expressions.push((name.to_owned(), String::new()));
        } else if let Some(start) = content.strip_prefix("expr:") {
            in_expression = true;
            expressions.last_mut().unwrap().1.push_str(start.trim_start_matches(" >"));
        } else if content.starts_with("for:") || content.starts_with("labels:") {
            in_expression = false;
        } else if in_expression {
            expressions.last_mut().unwrap().1 += &format!(" {content}");
        }
    }
    expressions
}

/// The expressions of the board, by the titles of their panels; with a range where Grafana puts one.
pub fn board_expressions() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(monitoring().join("grafana/board.json")).unwrap();
    let board: Value = serde_json::from_str(&text).expect("JSON");
    let mut expressions = Vec::new();
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
            expressions.push((panel["title"].as_str().unwrap().to_owned(), expression));
        }
    }
    expressions
}

/// Served by the service itself: `metrics.rs` compares those.
pub fn is_of_the_service(metric: &str) -> bool {
    metric.starts_with("auth_api_")
}

/// Whether there are samples of that name for each alternative of each matcher.
pub fn is_served(samples: &Samples, name: &str, matchers: &[(String, String)]) -> bool {
    let fits = |labels: &BTreeMap<String, String>, label: &str, value: &str| {
        labels.get(label).map(String::as_str) == Some(value)
    };
    samples.get(name).is_some_and(|samples| {
        // Each alternative of a matcher, so that none is a misspelling.
        matchers.iter().all(|(label, values)| {
            values.split('|').all(|value| samples.iter().any(|(labels, _)| fits(labels, label, value)))
        })
    })
}

#[tokio::test]
async fn the_exporter_serves_every_metric_that_the_board_and_the_rules_name() {
    let (db, _) = lived().await;
    let exporter = Exporter::start(&db).await;
    let samples = exporter.samples().await;
    let number = |name: &str, label: &str, value: &str| {
        let samples = samples.get(name).unwrap_or_else(|| panic!("{name} is not served"));
        let fits = |labels: &BTreeMap<String, String>| {
            label.is_empty() || labels.get(label).is_some_and(|found| found == value)
        };
        samples.iter().find(|(labels, _)| fits(labels)).unwrap_or_else(|| panic!("{name}: no {value}")).1
    };
    for complaint in ["pg_exporter_last_scrape_error", "pg_exporter_user_queries_load_error"] {
        assert_eq!(number(complaint, "", ""), 0.0, "{complaint}");
    }
    let (alerts, board) = (alert_expressions(), board_expressions());
    assert!(alerts.len() >= 19 && board.len() >= 30, "{} {}", alerts.len(), board.len());
    for (title, expression) in alerts.iter().chain(&board) {
        for (name, matchers) in selectors(expression).into_iter().filter(|(name, _)| !is_of_the_service(name)) {
            assert!(is_served(&samples, &name, &matchers), "{title}: {name} {matchers:?} is not served");
        }
    }
    // And what is served is read by somebody.
    let used: Vec<String> =
        alerts.iter().chain(&board).flat_map(|(_, expression)| selectors(expression)).map(|(name, _)| name).collect();
    let unused: Vec<&String> =
        samples.keys().filter(|name| name.starts_with("auth_") && !used.contains(name)).collect();
    assert_eq!(unused, Vec::<&String>::new());

    assert_eq!(number("pg_up", "", ""), 1.0);
    assert_eq!(number("auth_sessions_live", "", ""), 1.0);
    assert_eq!(number("auth_sessions_ended", "", ""), 2.0);
    assert!(number("auth_sessions_oldest_ended_seconds", "", "") > 9.0 * 86400.0);
    assert_eq!(number("auth_sessions_rotated_too_fast_sessions", "", ""), 1.0);
    assert_eq!(number("auth_events_last_5_minutes", "action", "token_replay_detected"), 1.0);
    assert_eq!(number("auth_events_last_5_minutes", "action", "user_deleted"), 0.0);
    assert_eq!(number("auth_info_recovery_windows_open", "", ""), 1.0);
    assert_eq!(number("auth_audit_months_ahead", "", ""), 3.0);
    assert!(number("auth_audit_seals", "", "") >= 2.0);
    assert!(number("auth_audit_unsealed_seconds", "", "") <= 32.0 * 86400.0);
    assert_eq!(number("auth_mail_mails", "state", "waiting"), 3.0);
    assert_eq!(number("auth_alerts_webhooks", "state", "queued"), 2.0, "a replay, and a failed login");
    assert!(number("auth_tables_bytes", "table", "sessions") > 0.0);
}

fn promtool(arguments: &[&str], directory: &Path) {
    let output = Command::new("promtool").args(arguments).current_dir(directory).output();
    let output = output.expect("promtool, which .make/setup test unpacks");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn the_alert_rules_are_right_and_fire_when_they_should() {
    let directory = monitoring().join("prometheus");
    let tests = ["alerts_test.yml", "alerts_thresholds_test.yml"];
    promtool(&["check", "rules", "alerts.yml"], &directory);
    promtool(&[&["test", "rules"], &tests[..]].concat(), &directory);
    // And each of them is among what is tried.
    let tried = tests.map(|file| std::fs::read_to_string(directory.join(file)).unwrap()).concat();
    let is_seen = |name: &str| {
        let case = format!("alertname: {name}\n        exp_alerts:\n          - exp_labels:");
        tried.contains(&format!("{{alertname=\"{name}\"}}', value: ")) || tried.contains(&case)
    };
    let names: Vec<String> = alert_expressions().into_iter().map(|(name, _)| name).collect();
    let never: Vec<&String> = names.iter().filter(|name| !is_seen(name)).collect();
    assert!(never.is_empty(), "no test sees them fire: {never:?}");
}

#[test]
fn the_board_asks_in_promql() {
    // As recording rules, which promtool reads.
    let rules: Vec<Value> = board_expressions()
        .iter()
        .enumerate()
        .map(|(number, (_, expression))| serde_json::json!({"record": format!("board:{number}"), "expr": expression}))
        .collect();
    let file = std::env::temp_dir().join(format!("board-{}.yml", std::process::id()));
    // JSON is YAML.
    let text = serde_json::json!({"groups": [{"name": "board", "rules": rules}]}).to_string();
    std::fs::write(&file, text).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], &monitoring());
    std::fs::remove_file(file).unwrap();
}
