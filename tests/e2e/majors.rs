//! From an older major version of PostgreSQL to this one, by dump and restore and by pg_upgrade. `.make/test-majors` runs
//! these, where both servers are; `AUTH_TEST_OLDER` names the older one: MAJOR:TARGET_DIRECTORY of its extension.

use std::fs;
use std::path::Path;
use std::process::Command;

use auth_sessions_tests::catalogue::{columns, contents, difference, facts};
use auth_sessions_tests::past::Past;
use auth_sessions_tests::sql::run;
use auth_sessions_tests::{Cluster, OwnCluster};
use tokio_postgres::Client;

/// A database of the older server with a past, and what it holds.
struct Older {
    cluster: OwnCluster,
    past: Past,
    columns: Vec<(String, String)>,
    contents: Vec<String>,
}

async fn older() -> Older {
    let older = std::env::var("AUTH_TEST_OLDER").expect("AUTH_TEST_OLDER, which .make/test-majors sets");
    let (major, target_directory) = older.split_once(':').expect("MAJOR:TARGET_DIRECTORY");
    let cluster = OwnCluster::empty_of_major(major, target_directory).with_database();
    let admin = cluster.connect("postgres", "auth").await;
    let past = Past::live(&cluster.connect("auth_service", "auth").await, &admin).await;
    let columns = columns(&admin).await;
    let contents = contents(&admin, &columns).await;
    Older { cluster, past, columns, contents }
}

/// What a fresh installation on this server has, after the same past.
async fn expected(cluster: &Cluster) -> Vec<String> {
    run(&cluster.connect("postgres", "postgres").await, "create database fresh", &[]).await;
    let admin = cluster.connect("postgres", "fresh").await;
    admin.batch_execute("create extension auth_sessions").await.unwrap();
    Past::live(&as_service(cluster, "fresh").await, &admin).await;
    facts(&admin).await
}

/// With the service's rights; a dump of one database brings no logins along.
async fn as_service(cluster: &Cluster, database: &str) -> Client {
    let client = cluster.connect("postgres", database).await;
    client.batch_execute("set role auth_api").await.unwrap();
    client
}

/// An expression that went through its text once has other parentheses: `a and (b and c)` is kept as it was written.
fn comparable(facts: Vec<String>) -> Vec<String> {
    facts.into_iter().map(|fact| fact.replace(['(', ')'], "")).collect()
}

async fn goes_on(newer: &Cluster, older: &Older, how: &str) {
    let admin = newer.connect("postgres", "auth").await;
    let (expected, found) = (comparable(expected(newer).await), comparable(facts(&admin).await));
    assert_eq!(difference(&expected, &found), Vec::<String>::new(), "{how}");
    assert_eq!(contents(&admin, &older.columns).await, older.contents, "{how}");
    older.past.goes_on(&as_service(newer, "auth").await, &admin, how).await;
}

#[tokio::test]
#[ignore = "needs an older server beside this one: .make/test-majors"]
async fn a_dump_of_an_older_major_restored_into_this_one_goes_on_where_it_was() {
    let (older, newer) = (older().await, OwnCluster::empty());
    let file = newer.directory().join("dump");
    let file = file.to_str().expect("a temporary directory");
    // By the newer pg_dump, as PostgreSQL's documentation advises.
    older.cluster.client_program("pg_dump", "auth", &["-F", "custom", "-f", file]);
    run(&newer.connect("postgres", "postgres").await, "create database auth", &[]).await;
    newer.client_program("pg_restore", "auth", &["-1", file]);
    goes_on(&newer, &older, "dump and restore").await;
}

#[tokio::test]
#[ignore = "needs an older server beside this one: .make/test-majors"]
async fn pg_upgrade_takes_everything_along() {
    let (older, newer) = (older().await, OwnCluster::empty());
    for cluster in [&older.cluster, &newer] {
        cluster.stop();
        // pg_upgrade connects by a socket that nobody else reaches.
        let rules = cluster.directory().join("data/pg_hba.conf");
        fs::write(&rules, "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n").expect("pg_hba.conf");
    }
    pg_upgrade(&older.cluster, &newer);
    // The logins are the older cluster's now.
    fs::copy(older.cluster.directory().join("secrets"), newer.directory().join("secrets")).expect("the secrets");
    newer.start();

    goes_on(&newer, &older, "pg_upgrade").await;
    let admin = newer.connect("postgres", "auth").await;
    older.past.goes_on_over_http(&newer.url("auth_service", "auth"), &admin).await;
}

/// As the user who owns the clusters; panics with what it said when it fails.
fn pg_upgrade(older: &Cluster, newer: &Cluster) {
    let data = |cluster: &Cluster| cluster.directory().join("data");
    let mut command = match rustix::process::getuid().is_root() {
        true => {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(newer.program_directory().join("pg_upgrade"));
            command
        }
        false => Command::new(newer.program_directory().join("pg_upgrade")),
    };
    let arguments: [(&str, &Path); 5] = [
        ("--old-bindir", &older.program_directory()),
        ("--new-bindir", &newer.program_directory()),
        ("--old-datadir", &data(older)),
        ("--new-datadir", &data(newer)),
        ("--socketdir", newer.directory()),
    ];
    for (option, path) in arguments {
        command.arg(option).arg(path);
    }
    // It writes its logs where it is started.
    let output = command.args(["--username", "postgres"]).current_dir(newer.directory()).output().expect("pg_upgrade");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}
