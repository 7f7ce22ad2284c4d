//! `auth-api doctor`: the exit code and the findings, against a cluster that is set up as one should be.

use std::net::TcpListener;

use auth_sessions_tests::server::{JWT_SEED, PEPPER, auth_api, key, test_key};
use auth_sessions_tests::sql::run;
use auth_sessions_tests::tokens::sign_up;
use auth_sessions_tests::{Cluster, OwnCluster};
use serde_json::Value;

/// All that the service needs, with changes; an empty value stands for a setting that is not there.
async fn doctor(cluster: &Cluster, changes: &[(&str, &str)]) -> (i32, Vec<Value>) {
    let (service, admin) = (cluster.url("auth_service", "auth"), cluster.url("auth_watcher", "auth"));
    let (secret, pepper, seed) = (key(&test_key(1)), key(&PEPPER), key(&JWT_SEED));
    let complete = [
        ("DATABASE_URL", service.as_str()),
        ("ADMIN_DATABASE_URL", &admin),
        ("HMAC_SECRETS", &secret),
        ("PASSWORD_PEPPERS", &pepper),
        ("JWT_SIGNING_KEYS", &seed),
    ];
    let kept = complete.iter().filter(|(name, _)| !changes.iter().any(|(other, _)| other == name));
    let settings: Vec<_> = kept.chain(changes).filter(|(_, value)| !value.is_empty()).copied().collect();
    let output = auth_api(&["doctor", "--json"], &settings).await;
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for (name, value) in &settings {
        if let Some((_, password)) = value.split('@').next().and_then(|login| login.rsplit_once(':')) {
            assert!(!said.contains(password) && !log.contains(password), "{name}: a password in {said} {log}");
        }
    }
    let findings: Vec<Value> = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said} {log}"));
    (output.status.code().expect("an exit code"), findings)
}

/// What is not ok, as `topic severity: finding → advice`.
fn bad(findings: &[Value]) -> Vec<String> {
    let bad = findings.iter().filter(|finding| finding["severity"] != "ok");
    let text = |finding: &Value, name: &str| finding[name].as_str().expect("a text").to_owned();
    bad.map(|it| {
        format!("{} {}: {} → {}", text(it, "topic"), text(it, "severity"), text(it, "finding"), text(it, "advice"))
    })
    .collect()
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong_and_says_so_by_its_exit_code() {
    let cluster = OwnCluster::create();
    let admin = cluster.connect("postgres", "auth").await;
    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;

    let (code, findings) = doctor(&cluster, &[]).await;
    assert_eq!((code, bad(&findings)), (0, vec![]));
    let topics: Vec<&str> = findings.iter().map(|finding| finding["topic"].as_str().expect("a topic")).collect();
    let expected = [
        "settings",
        "logins",
        "version",
        "keys",
        "peppers",
        "clock",
        "limits",
        "versions",
        "roles",
        "protection",
        "grants",
        "settings",
        "upkeep",
    ];
    assert_eq!(topics, expected);

    // A verifier that was made with a pepper that nobody has.
    sign_up(&cluster.connect("auth_service", "auth").await, "ada@example.org").await;
    let (code, findings) = doctor(&cluster, &[]).await;
    let found = bad(&findings);
    assert!(found[0].starts_with("peppers error: passwords in the database were made with peppers"), "{found:#?}");
    assert_eq!((code, found.len()), (2, 1), "{found:#?}");
    run(&admin, "delete from auth.users", &[]).await;

    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed =
        format!("postgresql://auth_service:hunter2hunter2@127.0.0.1:{}/auth", nobody.local_addr().unwrap().port());
    drop(nobody);
    let (watcher, elsewhere) = (cluster.url("auth_watcher", "auth"), cluster.url("postgres", "postgres"));
    let remote = "postgresql://auth_service:hunter2hunter2@db.invalid/auth";
    /// Settings, the exit code, and what is said.
    type Case<'a> = (&'a [(&'a str, &'a str)], i32, &'a str);
    let cases: &[Case<'_>] = &[
        (&[("HMAC_SECRETS", "")], 2, "settings error: HMAC_SECRETS is not set."),
        (&[("DATABASE_URL", ""), ("HMAC_SECRETS", "")], 0, "service note: its side is not examined"),
        (&[("DATABASE_URL", &closed)], 2, "logins error: DATABASE_URL: the database does not answer"),
        (
            &[("DATABASE_URL", remote)],
            2,
            "logins warning: DATABASE_URL: the connection to the database is not encrypted",
        ),
        (
            &[("DATABASE_URL", &watcher)],
            2,
            "logins error: DATABASE_URL: auth_watcher is not in auth_api → grant auth_api to auth_watcher;",
        ),
        (
            &[("MAILER_DATABASE_URL", &watcher), ("MAIL_PROVIDER", "console")],
            2,
            "logins error: MAILER_DATABASE_URL: auth_watcher is not in auth_mailer",
        ),
        (
            &[("ACCESS_TOKEN_TTL_SECONDS", "3600")],
            1,
            "limits warning: access tokens say that they live 3600 s, the database believes them for 900 s",
        ),
        (&[("REFRESH_TOKEN_TTL_SECONDS", "1209600")], 0, "limits note: REFRESH_TOKEN_TTL_SECONDS asks for 1209600 s"),
        (&[("DB_POOL_SIZE", "1000")], 1, "limits warning: DB_POOL_SIZE is 1000, the server has "),
        (&[("ADMIN_DATABASE_URL", "")], 1, "database warning: its side is not examined: this login may not"),
        (
            &[("ADMIN_DATABASE_URL", &elsewhere)],
            2,
            "database error: the extension auth_sessions is not in the database postgres → create extension",
        ),
        (&[("ADMIN_DATABASE_URL", &closed)], 2, "database error: the database does not answer"),
    ];
    for (changes, expected_code, expected) in cases {
        let (code, findings) = doctor(&cluster, changes).await;
        let found = bad(&findings);
        assert!(found.iter().any(|finding| finding.starts_with(expected)), "{expected}: {found:#?}");
        assert_eq!(code, *expected_code, "{found:#?}");
    }

    // What the database finds about itself counts likewise.
    run(&admin, "alter role auth_service set log_parameter_max_length = 1000", &[]).await;
    let (code, findings) = doctor(&cluster, &[]).await;
    assert_eq!(code, 1, "{:#?}", bad(&findings));
    run(&admin, "alter role auth_service reset all", &[]).await;
    run(&admin, "update pg_extension set extversion = '0.0.9' where extname = 'auth_sessions'", &[]).await;
    let (code, findings) = doctor(&cluster, &[]).await;
    assert_eq!(code, 2, "{:#?}", bad(&findings));
}
