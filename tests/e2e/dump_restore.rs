//! A dump brings everything back into a cluster that has never heard of the extension; and what `create extension` and
//! `drop extension` leave, refuse and take along.

use auth_sessions_tests::adopted::{adopt_session, exchange};
use auth_sessions_tests::audit_log::{make_past_month, write_past_events};
use auth_sessions_tests::catalogue::{columns, contents, difference, facts};
use auth_sessions_tests::past::Past;
use auth_sessions_tests::sql::{refusal, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{rotate, sign_up};
use auth_sessions_tests::{OwnCluster, TestDb};
use tokio_postgres::Client;

#[tokio::test]
async fn a_dump_restored_into_an_empty_cluster_goes_on_where_it_was() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let past = Past::live(&service, &admin).await;
    // A month of the audit log that is over, and sealed.
    make_past_month(&admin, 2).await;
    write_past_events(&admin, 2, 20).await;
    run(&admin, "select auth.seal_audit_log()", &[]).await;
    adopt_session(&admin, "ada@example.org", "a token of another system", &["consumed there"]).await;
    let columns = columns(&admin).await;
    let (expected, rows) = (facts(&admin).await, contents(&admin, &columns).await);

    let elsewhere = OwnCluster::empty();
    let server = elsewhere.connect("postgres", "postgres").await;
    assert_eq!(value::<i64>(&server, "select count(*) from pg_roles where rolname like 'auth%'", &[]).await, 0);
    let file = std::env::temp_dir().join(format!("{}.dump", db.name()));
    let file_name = file.to_str().expect("a temporary directory");
    for format in ["plain", "custom"] {
        run(&server, "create database auth", &[]).await;
        db.cluster().client_program("pg_dump", db.name(), &["-F", format, "-f", file_name]);
        match format {
            "plain" => elsewhere.client_program(
                "psql",
                "auth",
                &["-X", "-q", "-o", "/dev/null", "-1", "-v", "ON_ERROR_STOP=1", "-f", file_name],
            ),
            _ => elsewhere.client_program("pg_restore", "auth", &["-1", file_name]),
        }

        let there = elsewhere.connect("postgres", "auth").await;
        assert_eq!(difference(&expected, &facts(&there).await), Vec::<String>::new(), "{format}");
        assert_eq!(contents(&there, &columns).await, rows, "{format}");

        // As the service would: with its rights.
        let service = elsewhere.connect("postgres", "auth").await;
        service.batch_execute("set role auth_api").await.unwrap();
        past.goes_on(&service, &there, format).await;
        let verified: Vec<String> = values(&there, "select outcome from auth.verify_audit_log()", &[]).await;
        assert!(verified.len() >= 2 && verified.iter().all(|outcome| outcome == "intact"), "{format}: {verified:?}");
        assert_eq!(value::<i32>(&there, "select auth.seal_audit_log()", &[]).await, 0, "{format}");
        let late =
            "insert into auth.audit_log (action, severity, success, created_at) select 'late', 'info', true, from_time
                      from auth.audit_seals where partition <> 'audit_log_default'";
        assert_eq!(sqlstate(&there, late).await, "55000", "{format}: still sealed");
        assert_eq!(exchange(&service, "a token of another system").await.outcome, "rotated", "{format}");
        drop((there, service));
        run(&server, "drop database auth with (force)", &[]).await;
        for role in ["auth_owner", "auth_api", "auth_monitor", "auth_admin", "auth_mailer", "auth_federation"] {
            run(&server, &format!("drop role {role}"), &[]).await;
        }
    }
    std::fs::remove_file(file).expect("the dump");
}

#[tokio::test]
async fn dropping_the_extension_leaves_nothing_and_it_can_be_created_again() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
    let fresh = TestDb::create().await;
    let expected = facts(&fresh.superuser().await).await;

    for _ in 0..2 {
        admin.batch_execute("drop extension auth_sessions").await.unwrap();
        let left: Vec<String> = values(
            &admin,
            "select oid::regclass::text from pg_class where relnamespace = 'auth'::regnamespace
             union all select oid::regprocedure::text from pg_proc where pronamespace = 'auth'::regnamespace
             union all select oid::regtype::text from pg_type where typnamespace = 'auth'::regnamespace",
            &[],
        )
        .await;
        assert_eq!(left, Vec::<String>::new());
        admin.batch_execute("create extension auth_sessions").await.unwrap();
        assert_eq!(difference(&expected, &facts(&admin).await), Vec::<String>::new());
        // A connection that has worked with the extension before works with the new one.
        let token = sign_up(&service, "ada@example.org").await;
        assert_eq!(rotate(&service, &token).await.outcome, "rotated");
    }
}

#[tokio::test]
async fn an_installation_over_something_foreign_is_refused_with_a_hint() {
    let cluster = OwnCluster::empty();
    let admin = cluster.connect("postgres", "postgres").await;
    let create = "create extension auth_sessions";
    let roles = "select count(*) from pg_roles where rolname like 'auth\\_%'";

    for (foreign, undo, code) in [
        (
            "create role mallory; create schema auth authorization mallory",
            "drop schema auth; drop role mallory",
            "42P06",
        ),
        ("create schema auth; create table auth.mine ()", "drop schema auth cascade", "42P06"),
        (
            "create schema auth; create function auth.f() returns int language sql return 1",
            "drop schema auth cascade",
            "42P06",
        ),
        ("create schema auth; create type auth.t as enum ('a')", "drop schema auth cascade", "42P06"),
        ("create role auth_api superuser", "drop role auth_api", "0LP01"),
        ("create role auth_api bypassrls", "drop role auth_api", "0LP01"),
        ("create role auth_owner superuser", "drop role auth_owner", "0LP01"),
        ("create role auth_monitor bypassrls", "drop role auth_monitor", "0LP01"),
    ] {
        admin.batch_execute(foreign).await.unwrap();
        let before: i64 = value(&admin, roles, &[]).await;
        let refused = refusal(admin.batch_execute(create).await);
        assert_eq!(refused.code, code, "{foreign}: {refused:?}");
        assert_ne!(refused.hint, "", "{foreign}: {refused:?}");
        assert_eq!(value::<i64>(&admin, roles, &[]).await, before, "{foreign}: nothing is left of the attempt");
        admin.batch_execute(undo).await.unwrap();
    }
    // An empty schema of the installer's, and harmless roles that are there already, are what a restore brings.
    admin.batch_execute("create schema auth; create role auth_api nologin").await.unwrap();
    assert_eq!(sqlstate(&admin, create).await, "00000");
    assert_eq!(sign_up_as_service(&admin).await, "rotated");
}

async fn sign_up_as_service(admin: &Client) -> String {
    admin.batch_execute("set role auth_api").await.unwrap();
    let token = sign_up(admin, "ada@example.org").await;
    rotate(admin, &token).await.outcome
}
