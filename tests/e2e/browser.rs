//! What only a real browser can show, in Debian's Chromium (`tests/browser`).

use auth_sessions_tests::{Server, TestDb};

/// A port that nobody has at the moment; whoever takes it meanwhile makes the script fail with a clear error.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[tokio::test]
async fn cookies_are_kept_sent_and_withheld_as_they_are_meant_to() {
    let db = TestDb::create().await;
    let app_port = free_port();
    let origin = format!("http://localhost:{app_port}");
    let server = Server::start(&db, &[("CORS_ORIGINS", origin.as_str())]).await;
    let api_port = server.url().rsplit(':').next().expect("a port").to_owned();

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/run");
    let mut command = tokio::process::Command::new(script);
    let output =
        command.args(["cookies.mjs", &api_port, &app_port.to_string()]).output().await.expect("tests/browser/run");

    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{}", server.log());
}
