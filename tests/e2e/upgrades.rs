//! `alter extension auth_sessions update`, from every version that was released: what comes of it is what a fresh
//! installation makes, and nobody is logged out by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use auth_sessions_tests::catalogue::{columns, contents, difference, facts};
use auth_sessions_tests::past::Past;
use auth_sessions_tests::releases::{self, THIS};
use auth_sessions_tests::sql::{run, sqlstate, value, values};
use auth_sessions_tests::tokens::{rotate, sign_up, try_rotate};
use auth_sessions_tests::{OwnCluster, Server, TestDb, eventually};
use tokio_postgres::Client;

const UPDATE: &str = "alter extension auth_sessions update";

/// What a DBA adds: grants to roles of theirs (pg_monitor stands for one), and what uses our objects.
async fn add_what_is_the_dbas_own(admin: &Client) {
    let own = "
      grant usage on schema auth to pg_monitor;
      grant execute on function auth.current_user_id, auth.session_is_live to pg_monitor;
      grant select on auth.active_sessions to pg_monitor;
      grant select (email) on auth.users to pg_monitor;
      create policy reports on auth.users for select to pg_monitor using (true);
      create table public.notes (owner_id uuid, note text);
      alter table public.notes enable row level security;
      create policy own_rows on public.notes using (owner_id = (select auth.current_user_id()));
      create view public.who_is_there as select user_email, current_jti from auth.active_sessions;
      create view public.whole_sessions as select s from auth.sessions s";
    admin.batch_execute(own).await.unwrap();
}

#[tokio::test]
async fn an_upgrade_makes_what_a_fresh_installation_makes() {
    let versions = releases::versions();
    assert!(versions.contains(&"0.1.0".to_owned()), "{versions:?}");
    let fresh = TestDb::create().await;
    let fresh_admin = fresh.superuser().await;
    Past::live(&fresh.connect_as("auth_service").await, &fresh_admin).await;
    add_what_is_the_dbas_own(&fresh_admin).await;
    let expected = facts(&fresh_admin).await;
    assert!(expected.len() > 1000, "{}", expected.len());

    for version in versions {
        let (db, admin) = releases::install(&version).await;
        let service = db.connect_as("auth_service").await;
        let past = Past::live(&service, &admin).await;
        add_what_is_the_dbas_own(&admin).await;
        let columns = columns(&admin).await;
        let before = contents(&admin, &columns).await;

        admin.batch_execute(UPDATE).await.unwrap_or_else(|error| panic!("from {version}: {error:?}"));

        assert_eq!(difference(&expected, &facts(&admin).await), Vec::<String>::new(), "from {version}");
        assert_eq!(contents(&admin, &columns).await, before, "from {version}");
        // On the connection that was there before, with the plans that it keeps; and on a new one, over HTTP.
        past.goes_on(&service, &admin, &format!("from {version}")).await;
        past.goes_on_over_http(&db.url("auth_service"), &admin).await;
    }
}

#[tokio::test]
async fn what_was_granted_to_other_roles_is_in_a_dump_made_after_the_upgrade() {
    for version in releases::versions() {
        let (db, admin) = releases::install(&version).await;
        add_what_is_the_dbas_own(&admin).await;
        admin.batch_execute(UPDATE).await.unwrap();
        let expected = facts(&admin).await;

        let elsewhere = OwnCluster::empty();
        let file = std::env::temp_dir().join(format!("{}.dump", db.name()));
        let file_name = file.to_str().expect("a temporary directory");
        db.cluster().client_program("pg_dump", db.name(), &["-F", "custom", "-f", file_name]);
        run(&elsewhere.connect("postgres", "postgres").await, "create database auth", &[]).await;
        elsewhere.client_program("pg_restore", "auth", &["-1", file_name]);
        std::fs::remove_file(file).expect("the dump");

        let there = elsewhere.connect("postgres", "auth").await;
        // pg_dump never takes a policy on an extension's table.
        let policy = "lost: policy users reports r t to {pg_monitor} using true check ";
        assert_eq!(difference(&expected, &facts(&there).await), [policy], "from {version}");
    }
}

#[tokio::test]
async fn every_upgrade_script_is_installed_and_does_nothing_when_psql_reads_it() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let before = facts(&admin).await;
    for version in releases::versions().into_iter().filter(|version| version != THIS) {
        let path: Option<String> = value(
            &admin,
            "select path from pg_extension_update_paths('auth_sessions') where source = $1 and target = $2",
            &[&version, &THIS],
        )
        .await;
        assert_eq!(path, Some(format!("{version}--{THIS}")), "in one step, not by way of the versions between");
        let script = db.cluster().extension_directory().join(format!("auth_sessions--{version}--{THIS}.sql"));
        let script = script.to_str().expect("a path");
        db.cluster().client_program(
            "psql",
            db.name(),
            &["-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-f", script],
        );
        assert_eq!(difference(&before, &facts(&admin).await), Vec::<String>::new(), "from {version}");
    }
}

/// A version that was released is what it was: changes come with the next version and its steps in `sql/upgrades`.
#[tokio::test]
async fn a_released_version_does_not_change_any_more() {
    let installed = TestDb::create().await.cluster().extension_directory().join(format!("auth_sessions--{THIS}.sql"));
    if let Ok(released) = std::fs::read_to_string(releases::script(THIS)) {
        let built = std::fs::read_to_string(installed).expect("the script of this build");
        assert!(built == released, "{THIS} was released: see sql/dba/upgrade.md for how the next version is begun");
    }
}

#[tokio::test]
async fn a_database_that_was_not_upgraded_yet_is_not_ready_and_the_log_says_what_to_run() {
    let (db, admin) = releases::install("0.1.0").await;
    let server = Server::start(&db, &[]).await;
    server.api().get("/health/ready", "").await.expect_problem(503, "not_ready");
    let advice = format!("alter extension auth_sessions update to '{THIS}'");
    assert!(server.log().contains(&advice), "{}", server.log());
    admin.batch_execute(UPDATE).await.unwrap();
    eventually("it is ready by itself", async || server.api().get("/health/ready", "").await.status == 200).await;
}

#[tokio::test]
async fn an_upgrade_under_traffic_logs_nobody_out() {
    let (db, admin) = releases::install("0.1.0").await;
    db.set("auth_sessions.refresh_burst", "0").await;
    let service = db.connect_as("auth_service").await;
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for n in 0..8 {
        let token = sign_up(&service, &format!("user{n}@example.org")).await;
        let (connection, done) = (db.connect_as("auth_service").await, done.clone());
        clients.push(tokio::spawn(async move {
            let (mut token, mut rotated) = (token, 0);
            // One more after the upgrade.
            loop {
                let last = done.load(Ordering::Acquire);
                // A statement that fails is answered 503, and the client shows the same token again.
                if let Ok(outcome) = try_rotate(&connection, &token).await {
                    (token, rotated) = (outcome.token(), rotated + 1);
                    if last {
                        return rotated;
                    }
                }
            }
        }));
    }
    eventually("there is traffic", async || {
        value::<i64>(&admin, "select count(*) from auth.sessions where generation > 2", &[]).await == 8
    })
    .await;
    // Refused when it would have to wait long, as sql/dba/upgrade.md advises; then it is tried again.
    admin.batch_execute("set lock_timeout = '3s'").await.unwrap();
    eventually("the upgrade went through", async || sqlstate(&admin, UPDATE).await == "00000").await;
    done.store(true, Ordering::Release);
    for client in clients {
        assert!(client.await.expect("a client") > 2);
    }
    let ended: Vec<String> =
        values(&admin, "select revoked_reason from auth.sessions where revoked_at is not null", &[]).await;
    assert_eq!(ended, Vec::<String>::new());
    let other = sign_up(&service, "somebody@example.org").await;
    assert_eq!(rotate(&service, &other).await.outcome, "rotated");
}

#[tokio::test]
async fn a_cluster_of_make_run_is_upgraded_with_its_logins() {
    let cluster = OwnCluster::empty();
    std::fs::copy(releases::script("0.1.0"), cluster.extension_directory().join("auth_sessions--0.1.0.sql")).unwrap();
    run(&cluster.connect("postgres", "postgres").await, "create database auth", &[]).await;
    let admin = cluster.connect("postgres", "auth").await;
    admin.batch_execute("create extension auth_sessions version '0.1.0'").await.unwrap();
    for n in 0..2 {
        cluster.upgrade();
        let version: String =
            value(&admin, "select extversion from pg_extension where extname = 'auth_sessions'", &[]).await;
        assert_eq!(version, THIS);
        let token = sign_up(&cluster.connect("auth_service", "auth").await, &format!("ada{n}@example.org")).await;
        assert_eq!(rotate(&cluster.connect("auth_service", "auth").await, &token).await.outcome, "rotated");
    }
}

#[tokio::test]
async fn a_dump_of_a_released_version_restored_where_this_one_is_installed_is_upgraded_by_that() {
    let fresh = TestDb::create().await;
    let fresh_admin = fresh.superuser().await;
    Past::live(&fresh.connect_as("auth_service").await, &fresh_admin).await;
    let expected = facts(&fresh_admin).await;

    for version in releases::versions() {
        let (older, admin) = releases::install(&version).await;
        let past = Past::live(&older.connect_as("auth_service").await, &admin).await;
        let columns = columns(&admin).await;
        let before = contents(&admin, &columns).await;
        let db = TestDb::empty().await;
        let file = std::env::temp_dir().join(format!("{}.dump", db.name()));
        let file_name = file.to_str().expect("a temporary directory");
        db.cluster().client_program("pg_dump", older.name(), &["-F", "custom", "-f", file_name]);
        db.cluster().client_program("pg_restore", db.name(), &["-1", file_name]);
        std::fs::remove_file(file).expect("the dump");

        let admin = db.superuser().await;
        // Months come as they were: sql/dba/upgrade.md says so.
        let months = "select auth.protect_audit_partition(inhrelid) from pg_inherits where inhparent = 'auth.audit_log'::regclass";
        admin.batch_execute(months).await.unwrap();
        assert_eq!(difference(&expected, &facts(&admin).await), Vec::<String>::new(), "from {version}");
        assert_eq!(contents(&admin, &columns).await, before, "from {version}");
        past.goes_on(&db.connect_as("auth_service").await, &admin, &format!("from {version}")).await;
    }
}
