//! A client generated from `openapi.json` works against the real service.

use auth_sessions_tests::{Server, TestDb};

#[tokio::test]
async fn a_generated_client_signs_up_refreshes_and_logs_out() {
    let db = TestDb::create().await;
    let server = Server::start(&db, &[]).await;

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/client/run");
    let output = tokio::process::Command::new(script).arg(server.url()).output().await.expect("tests/client/run");

    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}
