//! `auth.session_statistics`: counted in shared memory when the library is preloaded; otherwise the view says so.

use auth_sessions_tests::sql::{fill_with_dead_sessions, let_time_pass, run, sqlstate, value};
use auth_sessions_tests::tokens::{PASSWORD, Secret, Token, log_in, rotate, rotate_received_at, sign_up};
use auth_sessions_tests::{OwnCluster, TestDb};
use tokio_postgres::Client;
use uuid::Uuid;

/// How often each outcome was counted, those that never were left out, with the sessions cleaned.
async fn counted(client: &Client) -> String {
    let outcomes = "select string_agg(key || ' ' || value, ', ' order by key)
                      from auth.session_statistics s, jsonb_each_text(to_jsonb(s))
                     where value <> '0' and key in ('rotated', 'retried', 'retained', 'replayed', 'overtaken', 'revoked',
                           'expired', 'unknown', 'ahead', 'limited', 'device_mismatch', 'cleaned', 'maintenance_failures')";
    value::<Option<String>>(client, outcomes, &[]).await.unwrap_or_default()
}

/// Brings about some outcomes: two rotations, two retries, one of each other.
async fn live(service: &Client, admin: &Client) {
    let first = sign_up(service, "ada@example.org").await;
    let second = rotate(service, &first).await.token();
    for _ in 0..2 {
        assert_eq!(rotate(service, &first).await.outcome, "retried");
    }
    let before = value(service, "select clock_timestamp()", &[]).await;
    assert_eq!(rotate(service, &second).await.outcome, "rotated");
    assert_eq!(rotate_received_at(service, &first, before).await, "overtaken");
    assert_eq!(rotate(service, &first).await.outcome, "replayed");
    assert_eq!(rotate(service, &second).await.outcome, "revoked");
    let old = log_in(service, "ada@example.org", PASSWORD).await.token();
    let_time_pass(admin, old.session_id, "8 days").await;
    assert_eq!(rotate(service, &old).await.outcome, "expired");
    let made_up = Token { session_id: Uuid::new_v4(), secret: Secret::random(), ..old };
    assert_eq!(rotate(service, &made_up).await.outcome, "unknown");
}

const LIVED: &str = "expired 1, overtaken 1, replayed 1, retried 2, revoked 1, rotated 2, unknown 1";

#[tokio::test]
async fn each_outcome_is_counted_by_database_until_a_reset_or_a_restart() {
    let cluster = OwnCluster::preloaded().await;
    let (service, admin) = (cluster.connect("auth_service", "auth").await, cluster.connect("postgres", "auth").await);
    run(&admin, "create database elsewhere", &[]).await;
    let elsewhere = cluster.connect("postgres", "elsewhere").await;
    elsewhere.batch_execute("create extension auth_sessions").await.unwrap();

    live(&service, &admin).await;
    assert_eq!(counted(&admin).await, LIVED);
    assert_eq!(counted(&elsewhere).await, "", "each database has its own");
    let took_time = "select is_counting and note is null and rotation_time > 0 and stats_reset <= now() from auth.session_statistics";
    assert!(value::<bool>(&admin, took_time, &[]).await);

    fill_with_dead_sessions(&admin, 20, 10).await;
    let maintained =
        "select last_maintenance_at is not null and maintenance_runs = $1 and (maintenance_time > 0) = ($1 > 0)
                        from auth.session_statistics";
    assert!(!value::<bool>(&admin, maintained, &[&0_i64]).await);
    // The log's months come first, one a call.
    let mut calls = 1_i64;
    while value::<bool>(&admin, "select bool_or(more) from auth.run_maintenance()", &[]).await {
        calls += 1;
    }
    assert_eq!(counted(&admin).await, format!("cleaned 30, {LIVED}"));
    assert!(value::<bool>(&admin, maintained, &[&calls]).await);

    // Who may look, and who may reset.
    for login in ["auth_watcher", "auth_operator"] {
        let client = cluster.connect(login, "auth").await;
        assert_eq!(counted(&client).await, format!("cleaned 30, {LIVED}"), "{login}");
    }
    let reset = "select auth.reset_session_statistics()";
    for (login, code) in [("auth_service", "42501"), ("auth_watcher", "42501"), ("auth_operator", "00000")] {
        assert_eq!(sqlstate(&cluster.connect(login, "auth").await, reset).await, code, "{login}");
    }
    assert_eq!(counted(&admin).await, "");
    let forgotten =
        "select maintenance_runs = 0 and maintenance_time = 0 and rotation_time = 0 and last_maintenance_at is null
                            and stats_reset > $1::text::timestamptz from auth.session_statistics";
    let before: String = value(&admin, "select (now() - interval '10 seconds')::text", &[]).await;
    assert!(value::<bool>(&admin, forgotten, &[&before]).await);

    // Nothing of it is on disk.
    assert_eq!(rotate(&service, &sign_up(&service, "bob@example.org").await).await.outcome, "rotated");
    assert_eq!(counted(&admin).await, "rotated 1");
    drop((service, admin, elsewhere));
    cluster.stop();
    cluster.start();
    assert_eq!(counted(&cluster.connect("postgres", "auth").await).await, "");
}

#[tokio::test]
async fn without_preloading_the_view_says_so_and_nothing_fails() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    live(&service, &admin).await;
    run(&admin, "select from auth.run_maintenance()", &[]).await;
    run(&admin, "select auth.reset_session_statistics()", &[]).await;
    assert_eq!(counted(&admin).await, "");
    let watcher = db.connect_as("auth_watcher").await;
    let row = watcher.query_one("select is_counting, note, rotated, rotation_time from auth.session_statistics", &[]);
    let row = row.await.unwrap();
    assert!(!row.get::<_, bool>(0));
    assert!(row.get::<_, &str>(1).contains("shared_preload_libraries"), "{row:?}");
    assert_eq!((row.get::<_, Option<i64>>(2), row.get::<_, Option<f64>>(3)), (None, None));
    assert_eq!(sqlstate(&service, "select from auth.session_statistics").await, "42501");
}
