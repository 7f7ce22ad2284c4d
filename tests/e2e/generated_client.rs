//! A client generated from `openapi.json` works against the real service, also when it behaves badly by accident.

use auth_sessions_tests::sql::value;
use auth_sessions_tests::{Server, TestDb};

async fn run(server: &Server, program: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/client/run");
    let output = tokio::process::Command::new(script).args([server.url(), program]).output().await;
    let output = output.expect("tests/client/run");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}

#[tokio::test]
async fn a_generated_client_signs_up_refreshes_and_logs_out() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;
    run(&server, "client").await;
}

/// Twenty tabs at once, every second answer lost, two egress addresses: `tests/client/accidents.ts`.
#[tokio::test]
async fn nobody_is_logged_out_by_accident() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    run(&server, "accidents").await;

    let admin = db.superuser().await;
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.sessions", &[]).await, 6);
    let ended = "select count(*) from auth.sessions where revoked_at is not null";
    assert_eq!(value::<i64>(&admin, ended, &[]).await, 0);
    let replays = "select count(*) from auth.security_events where action like '%replay%' or severity <> 'info'";
    assert_eq!(value::<i64>(&admin, replays, &[]).await, 0);
    let networks = "select count(distinct last_ip_cidr) from auth.sessions";
    assert!(value::<i64>(&admin, networks, &[]).await > 1, "they came from several networks");
}
