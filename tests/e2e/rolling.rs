//! Nodes and the extension are not upgraded at the same moment: a node stays ready on an extension of another version, as long
//! as everything that it asks is there, and says so when it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::{Server, TestDb, eventually};
use tokio_postgres::Client;

/// Makes the database one with the extension, and its library, in another version.
async fn becomes(admin: &Client, version: &str) {
    // The owner stays; so do the grants.
    let library = format!(
        "create or replace function auth.extension_version() returns text language sql immutable return '{version}'"
    );
    let objects = format!("update pg_extension set extversion = '{version}' where extname = 'auth_sessions'");
    admin.batch_execute(&format!("begin; {library}; {objects}; commit")).await.expect("another version");
}

#[tokio::test]
async fn nodes_stay_ready_while_the_extension_becomes_newer() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let mut session = api.signup("ada@example.org").await;
    api.get("/health/ready", "").await.expect(200);
    let done = Arc::new(AtomicBool::new(false));
    let balancer = tokio::spawn({
        let (api, done) = (server.api(), done.clone());
        async move {
            let mut answers = Vec::new();
            while !done.load(Ordering::Relaxed) {
                answers.push(api.get("/health/ready", "").await.status);
            }
            answers
        }
    });
    for version in ["0.3.0", "0.10.0", "1.0.0"] {
        becomes(&admin, version).await;
        session = api.refresh(&session.refresh_token).await.expect(200).session();
        api.login("ada@example.org", PASSWORD).await.expect(200);
        // Of all nodes alike, also one that starts only now.
        Server::start(&db, &[]).await.api().get("/health/ready", "").await.expect(200);
    }
    done.store(true, Ordering::Relaxed);
    let answers = balancer.await.expect("a load balancer");
    assert!(answers.len() > 3 && answers.iter().all(|status| *status == 200), "{answers:?}");
    let said = "understands all that it asks";
    assert_eq!(server.log().matches(said).count(), 3, "tried once for each version");
}

#[tokio::test]
async fn a_node_whose_statements_are_not_understood_is_not_ready_and_says_what_is_missing() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    for (version, change, back, missing) in [
        (
            3,
            "alter function auth.check_slug rename to free",
            "alter function auth.free rename to check_slug",
            "check_slug",
        ),
        (
            4,
            "alter view auth.active_sessions rename column device_name to device",
            "alter view auth.active_sessions rename column device to device_name",
            "device_name",
        ),
        (
            5,
            "alter view auth.security_events rename to events",
            "alter view auth.events rename to security_events",
            "security_events",
        ),
    ] {
        admin.batch_execute(change).await.unwrap_or_else(|error| panic!("{change}: {error:?}"));
        becomes(&admin, &format!("0.{version}.0")).await;
        api.get("/health/ready", "").await.expect_problem(503, "not_ready");
        let log = server.log();
        let said = log.lines().rfind(|line| line.contains("not ready")).expect("the log says why");
        assert!(said.contains(missing) && said.contains(&format!("Start version 0.{version}.0")), "{said}");
        assert!(!api.get("/health/ready", "").await.text().contains(missing), "the world learns nothing of it");
        admin.batch_execute(back).await.unwrap_or_else(|error| panic!("{back}: {error:?}"));
        eventually("it is ready by itself", async || api.get("/health/ready", "").await.status == 200).await;
    }
}

#[tokio::test]
async fn an_extension_that_is_too_old_or_whose_library_is_older_is_not_ready() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let server = Server::start(&db, &[]).await;
    let said = |what: &str| server.log().lines().any(|line| line.contains("not ready") && line.contains(what));
    becomes(&admin, "0.1.9").await;
    server.api().get("/health/ready", "").await.expect_problem(503, "not_ready");
    assert!(said("version 0.1.9 in this database") && said("then run: alter extension auth_sessions update to"));
    // Its files were installed, and the server that preloads them was not restarted.
    becomes(&admin, "0.3.0").await;
    admin.batch_execute("update pg_extension set extversion = '0.4.0' where extname = 'auth_sessions'").await.unwrap();
    server.api().get("/health/ready", "").await.expect_problem(503, "not_ready");
    assert!(said("the library of auth_sessions 0.3.0, the extension in this database has version 0.4.0"));
}
