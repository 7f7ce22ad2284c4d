//! `auth_sessions.rotation_synchronous_commit = off`: which commits wait for the disk, and which do not. Told by how far
//! the write-ahead log is flushed, on a cluster of its own whose WAL writer is held: nobody else flushes there.

use auth_sessions_tests::OwnCluster;
use auth_sessions_tests::cluster::Held;
use auth_sessions_tests::sql::{Params, refusal, run, session_row, value};
use auth_sessions_tests::tokens::{
    PASSWORD, Token, log_in, random_bytes, rotate, rotate_times, sha256, sign_up, try_rotate,
};
use tokio_postgres::Client;

/// Whether the WAL of what was done reached the disk before it returned.
async fn is_flushed<T>(admin: &Client, work: impl Future<Output = T>) -> (bool, T) {
    let before: String = value(admin, "select pg_current_wal_insert_lsn()::text", &[]).await;
    let result = work.await;
    let flushed = "select pg_current_wal_flush_lsn() > $1::text::pg_lsn";
    (value(admin, flushed, &[&before]).await, result)
}

/// A cluster on which nothing but commits flushes the log, and plain rotations do not.
async fn quiet_cluster() -> (OwnCluster, [Held; 2], Client) {
    let cluster = OwnCluster::create();
    cluster.set("autovacuum", "off").await;
    let admin = cluster.connect("postgres", "auth").await;
    run(&admin, "alter database auth set auth_sessions.rotation_synchronous_commit = off", &[]).await;
    let held = [cluster.hold("walwriter").await, cluster.hold("background writer").await];
    (cluster, held, admin)
}

async fn rotate_from(service: &Client, token: &Token, device: &[u8]) {
    let nonce = random_bytes(16);
    let next = token.successor_secret(&nonce, token.generation + 1).verifier();
    let call = "select from auth.rotate_session_token($1, $2, $3, $4, $5, $6, device_hash => $7)";
    let (proof, ticket) = (token.secret.proof(), &token.ticket);
    run(service, call, &[&token.session_id, &token.generation, ticket, &proof, &next, &nonce, &device]).await;
}

#[tokio::test]
async fn a_plain_rotation_does_not_wait_and_everything_else_does() {
    let (cluster, _held, admin) = quiet_cluster().await;
    let service = cluster.connect("auth_service", "auth").await;

    let (flushed, token) = is_flushed(&admin, sign_up(&service, "ada@example.org")).await;
    assert!(flushed, "signing up waits");
    let (flushed, other) = is_flushed(&admin, log_in(&service, "ada@example.org", PASSWORD)).await;
    assert!(flushed, "a login waits");
    let (flushed, tokens) = is_flushed(&admin, rotate_times(&service, token, 2)).await;
    assert!(!flushed, "a plain rotation does not");
    let current = tokens[2].clone();
    assert_eq!(value::<String>(&service, "show synchronous_commit", &[]).await, "on");

    let (flushed, retried) = is_flushed(&admin, rotate(&service, &tokens[1])).await;
    assert_eq!((flushed, retried.outcome.as_str()), (true, "retried"));
    let (flushed, _) = is_flushed(&admin, rotate_from(&service, &current, &[1; 32])).await;
    assert!(!flushed, "the session has no device, so this is as plain as any");
    let (flushed, replayed) = is_flushed(&admin, rotate(&service, &tokens[0])).await;
    assert_eq!((flushed, replayed.outcome.as_str()), (true, "replayed"));
    let end = "select auth.end_session($1, $2, $3, $4)";
    let token = other.token();
    let proof = token.secret.proof();
    let params: Params = &[&token.session_id, &token.generation, &token.ticket, &proof];
    assert!(is_flushed(&admin, run(&service, end, params)).await.0, "logging out waits");

    // Its audit row is a part of a plain rotation; under the user's lock nothing is told apart; and on means on.
    let mut token = log_in(&service, "ada@example.org", PASSWORD).await.token();
    for (setting, value, flushed) in [
        ("auth_sessions.audit_level", "all", false),
        ("auth_sessions.replay_scope", "user", true),
        ("auth_sessions.replay_scope", "family", false),
        ("auth_sessions.rotation_synchronous_commit", "on", true),
    ] {
        run(&admin, &format!("alter database auth set {setting} = '{value}'"), &[]).await;
        let service = cluster.connect("auth_service", "auth").await;
        let (was_flushed, rotated) = is_flushed(&admin, rotate(&service, &token)).await;
        assert_eq!((rotated.outcome.as_str(), was_flushed), ("rotated", flushed), "{setting} = {value}");
        token = rotated.token();
    }
}

#[tokio::test]
async fn whatever_is_written_beside_a_rotation_is_as_durable_as_ever() {
    let (cluster, _held, admin) = quiet_cluster().await;
    let service = cluster.connect("postgres", "auth").await;
    run(&admin, "create table mine (note text)", &[]).await;
    // An update that only the commit makes.
    admin
        .batch_execute(
            "create table late (note text);
             create function write_late() returns trigger language plpgsql as
               'begin insert into mine values (''late''); return null; end';
             create constraint trigger late after update on auth.sessions deferrable initially deferred
               for each row when (new.user_agent = 'late') execute function write_late()",
        )
        .await
        .unwrap();
    let mut token = sign_up(&service, "ada@example.org").await;

    for (what, before, after, flushed) in [
        ("alone in a block", "select 1", "select 1", false),
        ("a row before", "insert into mine values ('before')", "select 1", true),
        ("a row after", "select 1", "insert into mine values ('after')", true),
        ("a sequence", "select 1", "create temp sequence own", true),
        ("a message", "select 1", "select pg_logical_emit_message(true, 'own', 'message')", true),
    ] {
        service.batch_execute("begin").await.unwrap();
        service.batch_execute(before).await.unwrap();
        token = rotate(&service, &token).await.token();
        service.batch_execute(after).await.unwrap();
        let (was_flushed, _) = is_flushed(&admin, async {
            // Its position is taken before the commit record: the flush of any of it takes all of it.
            service.batch_execute("commit").await.unwrap();
        })
        .await;
        assert_eq!(was_flushed, flushed, "{what}");
    }

    // A rotation that was rolled back in part leaves nothing behind for the transaction that follows it.
    service.batch_execute("begin; savepoint a").await.unwrap();
    rotate(&service, &token).await;
    service.batch_execute("rollback to a; insert into mine values ('instead')").await.unwrap();
    assert!(is_flushed(&admin, service.batch_execute("commit")).await.0);
    service.batch_execute("begin").await.unwrap();
    rotate(&service, &token).await;
    service.batch_execute("rollback").await.unwrap();
    assert!(is_flushed(&admin, service.batch_execute("insert into mine values ('next')")).await.0);

    // Two rotations: the second is not alone.
    service.batch_execute("begin").await.unwrap();
    token = rotate_times(&service, token, 2).await.pop().unwrap();
    assert!(is_flushed(&admin, service.batch_execute("commit")).await.0);

    // What the transaction's end itself writes.
    run(&admin, "update auth.sessions set user_agent = 'late'", &[]).await;
    let (flushed, next) = is_flushed(&admin, rotate(&service, &token)).await;
    assert!(flushed, "a deferred trigger");
    run(&admin, "update auth.sessions set user_agent = null, device_hash = sha256('known')", &[]).await;
    let (flushed, _) = is_flushed(&admin, rotate_from(&service, &next.token(), &sha256(b"another"))).await;
    assert!(flushed, "a security event");
}

/// The whole story: what was answered is lost, nothing else is, and a recovery window lets its client in again.
#[tokio::test]
async fn a_crash_loses_rotations_that_did_not_wait_and_a_window_forgives_it() {
    let (cluster, _held, admin) = quiet_cluster().await;
    let service = cluster.connect("auth_service", "auth").await;
    let kept = rotate_times(&service, sign_up(&service, "ada@example.org").await, 1).await.pop().unwrap();
    let bob = sign_up(&service, "bob@example.org").await;
    let lost = rotate_times(&service, kept.clone(), 3).await.pop().unwrap();
    drop((service, admin));
    cluster.crash();
    cluster.start();

    let (service, admin) = (cluster.connect("auth_service", "auth").await, cluster.connect("postgres", "auth").await);
    let before = session_row(&admin, kept.session_id).await;
    let generation = "select generation from auth.sessions where id = $1";
    let there: i32 = value(&admin, generation, &[&kept.session_id]).await;
    assert_eq!(there, 1, "what bob's login flushed is there, what came after it is not");
    assert_eq!(rotate(&service, &lost).await.outcome, "ahead");
    assert_eq!(session_row(&admin, kept.session_id).await, before);

    let operator = cluster.connect("auth_operator", "auth").await;
    run(&operator, "select auth.open_recovery_window('1 hour', 10)", &[]).await;
    // This commit does not only rotate: it says where the session was moved to, and waits.
    let walwriter = cluster.hold("walwriter").await;
    let (flushed, moved) = is_flushed(&admin, rotate(&service, &lost)).await;
    drop(walwriter);
    assert_eq!((flushed, moved.outcome.as_str(), moved.generation), (true, "rotated", Some(5)));
    assert_eq!(rotate(&service, &bob).await.outcome, "rotated");
}

#[tokio::test]
async fn only_a_superuser_may_turn_it_off() {
    let db = auth_sessions_tests::TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let token = sign_up(&service, "ada@example.org").await;
    try_rotate(&service, &token).await.expect("the library is loaded");
    let refused = refusal(service.batch_execute("set auth_sessions.rotation_synchronous_commit = off").await);
    assert_eq!(refused.code, "42501");
}
