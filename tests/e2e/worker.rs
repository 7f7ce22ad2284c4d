//! The background worker: with the library preloaded it runs `auth.run_maintenance` in the databases that it is told,
//! and lets nothing keep it from it, but a standby and the end of the server.

use auth_sessions_tests::sql::{fill_with_dead_sessions, run, sqlstate, value};
use auth_sessions_tests::{OwnCluster, eventually};
use tokio_postgres::Client;

const SESSIONS: &str = "select count(*) from auth.sessions";
const LAUNCHERS: &str = "select count(*) from pg_stat_activity where backend_type = 'auth_sessions launcher'";

/// A cluster whose worker looks after `databases` every second.
async fn at_work(databases: &str) -> OwnCluster {
    let cluster = OwnCluster::preloaded().await;
    cluster.set("auth_sessions.cleanup_interval", "1s").await;
    cluster.set("auth_sessions.cleanup_database", databases).await;
    cluster
}

async fn cleaned(admin: &Client) {
    eventually("the worker has cleaned", async || value::<i64>(admin, SESSIONS, &[]).await == 0).await;
}

#[tokio::test]
async fn it_cleans_again_and_again_in_every_database_of_the_list_and_holds_up_none() {
    let cluster = at_work("auth, auth elsewhere").await;
    let admin = cluster.connect("postgres", "auth").await;
    run(&admin, "create database \"auth elsewhere\"", &[]).await;
    let elsewhere = cluster.connect("postgres", "auth elsewhere").await;
    elsewhere.batch_execute("create extension auth_sessions").await.unwrap();
    // It was there before its database, and waits longer after each failure; a reload makes it look at once.
    cluster.set("auth_sessions.cleanup_database", "auth,auth elsewhere").await;
    for _ in 0..2 {
        for database in [&admin, &elsewhere] {
            fill_with_dead_sessions(database, 15, 15).await;
        }
        cleaned(&admin).await;
        cleaned(&elsewhere).await;
    }
    let months = "select count(*) from pg_inherits where inhparent = 'auth.audit_log'::regclass";
    assert_eq!(value::<i64>(&elsewhere, months, &[]).await, 5, "it makes partitions, too");
    let actor = "select distinct actor from auth.audit_log where action = 'session_cleanup'";
    assert_eq!(value::<String>(&admin, actor, &[]).await, "auth_owner", "and is no superuser while it works");

    drop(elsewhere);
    run(&admin, "create database copy template \"auth elsewhere\"", &[]).await;
    run(&admin, "drop database \"auth elsewhere\"", &[]).await;
    // One that is gone does not keep it from the other.
    fill_with_dead_sessions(&admin, 1, 0).await;
    cleaned(&admin).await;
}

#[tokio::test]
async fn what_goes_wrong_is_logged_counted_and_tried_again() {
    let cluster = at_work("auth").await;
    let admin = cluster.connect("postgres", "auth").await;
    let failed = "select maintenance_failures > 0 and last_failure_at is not null and last_failure = $1 from auth.session_statistics";

    // One task fails: the others are done.
    admin
        .batch_execute(
            "create function public.fail() returns trigger language plpgsql as
               $$ begin raise 'no session is deleted here' using errcode = '23001'; end $$;
             create trigger fail before delete on auth.sessions for each statement execute function public.fail()",
        )
        .await
        .unwrap();
    fill_with_dead_sessions(&admin, 5, 0).await;
    run(&admin, "insert into auth.attempts (key, updated_at) values ('x', now() - interval '3 days')", &[]).await;
    eventually("the failure is counted", async || value(&admin, failed, &[&"23001"]).await).await;
    eventually("the other tasks are done", async || {
        value::<i64>(&admin, "select count(*) from auth.attempts where key = 'x'", &[]).await == 0
    })
    .await;
    assert!(cluster.log().contains("maintenance task \"sessions\" failed: no session is deleted here"));
    let found = "select exists (select from auth.check_installation() where finding ~ '^maintenance failed at .* SQLSTATE 23001')";
    eventually("check_installation tells", async || value(&admin, found, &[]).await).await;
    run(&admin, "drop trigger fail on auth.sessions", &[]).await;
    cleaned(&admin).await;

    // The whole turn fails.
    run(&admin, "alter function auth.run_maintenance rename to nothing_of_the_kind", &[]).await;
    fill_with_dead_sessions(&admin, 5, 0).await;
    eventually("the failure is counted", async || value(&admin, failed, &[&"42883"]).await).await;
    assert!(cluster.log().contains("HINT:  Run there: alter extension auth_sessions update;"), "{}", cluster.log());
    run(&admin, "alter function auth.nothing_of_the_kind rename to run_maintenance", &[]).await;
    cleaned(&admin).await;

    // Whoever ends the launcher gets another one.
    let launcher = "select pid from pg_stat_activity where backend_type = 'auth_sessions launcher'";
    let first: i32 = value(&admin, launcher, &[]).await;
    run(&admin, "select pg_terminate_backend($1)", &[&first]).await;
    eventually(
        "there is another launcher",
        async || matches!(admin.query_opt(launcher, &[]).await, Ok(Some(row)) if row.get::<_, i32>(0) != first),
    )
    .await;
    fill_with_dead_sessions(&admin, 5, 0).await;
    cleaned(&admin).await;
}

#[tokio::test]
async fn a_database_without_the_extension_is_told_what_to_do() {
    let cluster = at_work("postgres").await;
    eventually("the log tells", async || {
        let log = cluster.log();
        log.contains("there is no extension auth_sessions in this database")
            && log.contains("HINT:  Create it, or take the database out of auth_sessions.cleanup_database.")
    })
    .await;
}

/// Holds up the worker in the middle of a batch, when it has committed some; how many sessions were left then.
async fn hold_up(cluster: &OwnCluster, admin: &Client, total: i32) -> (Client, i64) {
    let holder = cluster.connect("postgres", "auth").await;
    fill_with_dead_sessions(admin, total / 2, total / 2).await;
    cluster.set("auth_sessions.cleanup_database", "auth").await;
    let begun = "select count(*) < $1 from auth.sessions";
    eventually("a batch is committed", async || value(admin, begun, &[&i64::from(total)]).await).await;
    // The next batch deletes, and then waits to say so in the audit log.
    holder.batch_execute("begin; lock table auth.audit_log in share mode").await.unwrap();
    let waits = "select exists (select from pg_stat_activity where backend_type = 'auth_sessions worker' and wait_event_type = 'Lock')";
    eventually("the worker waits", async || value(admin, waits, &[]).await).await;
    let left = value::<i64>(admin, SESSIONS, &[]).await;
    assert!(left > 0 && left < i64::from(total), "{left} are left");
    (holder, left)
}

#[tokio::test]
async fn interrupted_it_has_kept_the_batches_it_did_and_ends_at_once() {
    let cluster = OwnCluster::preloaded().await;
    // Once and not again while this test lasts; the launcher sleeps when the server is to stop.
    cluster.set("auth_sessions.cleanup_interval", "1d").await;
    let admin = cluster.connect("postgres", "auth").await;
    while value::<bool>(&admin, "select bool_or(more) from auth.run_maintenance()", &[]).await {}
    let (holder, left) = hold_up(&cluster, &admin, 100_000).await;
    let workers = "select count(*) from pg_stat_activity where backend_type = 'auth_sessions worker'";
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'auth_sessions worker'";
    assert!(value::<bool>(&admin, end, &[]).await);
    // The lock that it waited for is still held.
    eventually("the worker has ended", async || value::<i64>(&admin, workers, &[]).await == 0).await;
    assert_eq!(value::<i64>(&admin, SESSIONS, &[]).await, left, "what was done stays done, and no more");
    let statistics = "select cleaned from auth.session_statistics";
    assert!(value::<i64>(&admin, statistics, &[]).await >= 100_000 - left);
    assert_eq!(sqlstate(&holder, "commit").await, "00000");
    drop((holder, admin));
    // A launcher that slept on would let this wait for two minutes, and fail.
    cluster.stop();

    // After a crash it goes on where it was.
    cluster.start();
    let admin = cluster.connect("postgres", "auth").await;
    cleaned(&admin).await;
    let (_holder, left) = hold_up(&cluster, &admin, 100_000).await;
    cluster.set("auth_sessions.cleanup_database", "").await;
    cluster.crash();
    cluster.start();
    let admin = cluster.connect("postgres", "auth").await;
    assert_eq!(value::<i64>(&admin, SESSIONS, &[]).await, left);
    cluster.set("auth_sessions.cleanup_database", "auth").await;
    cleaned(&admin).await;
}

#[tokio::test]
async fn on_a_standby_it_does_nothing_until_the_standby_is_promoted() {
    let cluster = at_work("").await;
    let admin = cluster.connect("postgres", "auth").await;
    fill_with_dead_sessions(&admin, 10, 10).await;
    eventually("the launcher is there", async || value::<i64>(&admin, LAUNCHERS, &[]).await == 1).await;
    cluster.set("auth_sessions.cleanup_database", "auth").await;
    cluster.set("auth_sessions.cleanup_database", "").await;
    drop(admin);
    cluster.stop();
    cluster.stand_by();
    cluster.start();
    let admin = cluster.connect("postgres", "auth").await;
    assert!(value::<bool>(&admin, "select pg_is_in_recovery()", &[]).await);
    assert_eq!(value::<i64>(&admin, LAUNCHERS, &[]).await, 0);
    // Nor does whoever calls by hand: pg_cron, the service.
    let row = admin.query_one("select task, outcome, more from auth.run_maintenance()", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, bool>(2)), ("all", "standby", false));

    assert!(value::<bool>(&admin, "select pg_promote()", &[]).await);
    cluster.set("auth_sessions.cleanup_database", "auth").await;
    cleaned(&admin).await;
    assert_eq!(value::<i64>(&admin, LAUNCHERS, &[]).await, 1);
}
