//! Devices: a login from a new one is told, and a refresh from another one than the session's is what the operator makes
//! of it.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{audit_trail, run, session_row, value, values};
use auth_sessions_tests::tokens::{
    OUTCOME_COLUMNS, Outcome, PASSWORD, Secret, Token, password_proof, random_bytes, sha256, sign_up,
};
use tokio_postgres::Client;
use uuid::Uuid;

fn device(name: &str) -> Option<Vec<u8>> {
    Some(sha256(name.as_bytes()))
}

async fn log_in_from(service: &Client, device_hash: &Option<Vec<u8>>) -> Outcome {
    let secret = Secret::random();
    let statement = format!(
        "select {OUTCOME_COLUMNS} from auth.complete_login('ada@example.org', 1, $1, $2, device_hash => $3,
                                                           device_name => 'Chrome 120 on macOS')"
    );
    let row = service
        .query_one(&statement, &[&password_proof(PASSWORD), &secret.verifier(), device_hash])
        .await
        .expect("complete_login");
    let outcome = Outcome::from_row(&row);
    assert_eq!(outcome.outcome, "logged_in");
    outcome.granting(secret)
}

async fn rotate_from(service: &Client, token: &Token, device_hash: &Option<Vec<u8>>) -> Outcome {
    let nonce = random_bytes(16);
    let next = token.successor_secret(&nonce, token.generation + 1);
    let statement = format!(
        "select {OUTCOME_COLUMNS} from auth.rotate_session_token($1, $2, $3, $4, $5, $6, device_hash => $7,
                                                                 ip => '192.0.2.7', correlation_id => 'test')"
    );
    let row = service
        .query_one(
            &statement,
            &[
                &token.session_id,
                &token.generation,
                &token.ticket,
                &token.secret.proof(),
                &next.verifier(),
                &nonce,
                device_hash,
            ],
        )
        .await
        .expect("rotate_session_token");
    let outcome = Outcome::from_row(&row);
    match (outcome.rotation_nonce.clone(), outcome.generation) {
        (Some(nonce), Some(generation)) => outcome.granting(token.successor_secret(&nonce, generation)),
        _ => outcome,
    }
}

async fn count(admin: &Client, session_id: Uuid, action: &str) -> usize {
    audit_trail(admin, session_id).await.iter().filter(|logged| *logged == action).count()
}

/// Whether a sensitive operation of this session would be let through.
async fn is_fresh(service: &Client, session: &Outcome) -> bool {
    service.batch_execute("begin").await.unwrap();
    let assumed = service
        .query("select from auth.assume_session($1, $2)", &[&session.session_id.unwrap(), &session.jti.unwrap()])
        .await
        .unwrap();
    assert_eq!(assumed.len(), 1);
    let fresh = value(service, "select auth.require_auth_age('10 years')", &[]).await;
    service.batch_execute("commit").await.unwrap();
    fresh
}

/// A database with this policy, and a session of a phone.
async fn database(policy: &str) -> (TestDb, Client, Client, Outcome) {
    let db = TestDb::create().await;
    db.set("auth_sessions.device_mismatch", policy).await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    let session = log_in_from(&service, &device("phone")).await;
    (db, service, admin, session)
}

#[tokio::test]
async fn by_default_a_refresh_from_another_device_is_logged_less_and_less_often() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    let session = log_in_from(&service, &device("phone")).await;
    let (id, auth_time) = (session.session_id.unwrap(), session.auth_time);
    let mut token = session.token();
    // The same device, and a client that does not say.
    for same in [device("phone"), None] {
        token = rotate_from(&service, &token, &same).await.token();
    }
    assert_eq!(count(&admin, id, "device_fingerprint_mismatch").await, 0);
    for n in 1..=10 {
        let rotated = rotate_from(&service, &token, &device("stranger")).await;
        assert_eq!((rotated.outcome.as_str(), rotated.auth_time), ("rotated", auth_time), "{n}");
        token = rotated.token();
    }
    assert_eq!(count(&admin, id, "device_fingerprint_mismatch").await, 4, "the 1st, 2nd, 4th and 8th of 10");
    let shown: String = value(
        &admin,
        "select concat_ws(' ', severity, ip_cidr, correlation_id, details ->> 'policy', details ->> 'device_name')
           from auth.security_events where action = 'device_fingerprint_mismatch' order by id limit 1",
        &[],
    )
    .await;
    assert_eq!(shown, "warning 192.0.2.0/24 test log Chrome 120 on macOS");
    // A session that was opened without a device has nothing to differ from.
    let unnamed = log_in_from(&service, &None).await;
    let id = unnamed.session_id.unwrap();
    assert_eq!(rotate_from(&service, &unnamed.token(), &device("phone")).await.outcome, "rotated");
    assert_eq!(count(&admin, id, "device_fingerprint_mismatch").await, 0);
}

#[tokio::test]
async fn reject_refuses_another_device_without_ending_anything() {
    let (_db, service, admin, session) = database("reject").await;
    let first = session.token();
    let second = rotate_from(&service, &first, &device("phone")).await.token();
    let before = session_row(&admin, second.session_id).await;
    // The current token, and the one before it, which the right device could still use for a retry.
    for token in [&second, &first, &second] {
        let refused = rotate_from(&service, token, &device("stranger")).await;
        assert_eq!(refused.outcome, "device_mismatch");
        assert!(refused.token.is_none() && refused.user_id.is_none());
    }
    assert_eq!(session_row(&admin, second.session_id).await, before);
    assert_eq!(count(&admin, second.session_id, "device_fingerprint_mismatch").await, 2, "the 1st and 2nd of 3");

    assert_eq!(rotate_from(&service, &first, &device("phone")).await.outcome, "retried", "its owner is not disturbed");
    let third = rotate_from(&service, &second, &device("phone")).await;
    assert_eq!(third.outcome, "rotated");
    let third = third.token();
    assert_eq!(rotate_from(&service, &third, &None).await.outcome, "rotated", "a client that does not say");
    // A stolen old token is a replay from wherever it comes.
    assert_eq!(rotate_from(&service, &first, &device("stranger")).await.outcome, "replayed");
}

#[tokio::test]
async fn step_up_makes_the_authentication_stale_once() {
    let (_db, service, admin, session) = database("step_up").await;
    assert!(is_fresh(&service, &session).await);
    let first = session.token();
    let moved = rotate_from(&service, &first, &device("laptop")).await;
    assert_eq!(moved.outcome, "rotated", "the session lives on");
    assert_eq!(moved.auth_time, Some(std::time::UNIX_EPOCH), "and its token says that nobody has proved anything");
    assert!(!is_fresh(&service, &moved).await);
    // The answer that got lost is repeated as it was.
    let again = rotate_from(&service, &first, &device("laptop")).await;
    assert_eq!((again.outcome.as_str(), again.auth_time), ("retried", moved.auth_time));

    // After a step-up on that device it is the session's own.
    run(&admin, "update auth.sessions set auth_time = clock_timestamp() where id = $1", &[&first.session_id]).await;
    let next = rotate_from(&service, &moved.token(), &device("laptop")).await;
    assert!(next.outcome == "rotated" && is_fresh(&service, &next).await);
    assert_eq!(count(&admin, first.session_id, "device_fingerprint_mismatch").await, 1);
    // And the one before is the stranger now.
    let back = rotate_from(&service, &next.token(), &device("phone")).await;
    assert!(!is_fresh(&service, &back).await);
    assert_eq!(count(&admin, first.session_id, "device_fingerprint_mismatch").await, 2);
}

#[tokio::test]
async fn a_retry_from_another_device_counts_as_one() {
    let (_db, service, admin, session) = database("step_up").await;
    let first = session.token();
    rotate_from(&service, &first, &device("phone")).await.token();
    let stolen = rotate_from(&service, &first, &device("stranger")).await;
    assert_eq!((stolen.outcome.as_str(), stolen.auth_time), ("retried", Some(std::time::UNIX_EPOCH)));
    assert!(!is_fresh(&service, &stolen).await);
    assert_eq!(count(&admin, first.session_id, "device_fingerprint_mismatch").await, 1);
}

#[tokio::test]
async fn a_login_from_a_new_device_is_a_security_event() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    let told = async || {
        let rows = "select concat_ws(' ', session_id = $1::text::uuid, user_id is not null, details ->> 'device_name')
                      from auth.security_events where action = 'new_device_login' order by id desc limit 1";
        let all: i64 =
            value(&admin, "select count(*) from auth.security_events where action = 'new_device_login'", &[]).await;
        (all, rows)
    };
    let first = "select outcome from auth.sign_up(
        email => 'bob@example.org', name => 'Bob', user_type => null, password_salt => sha256('salt'), password_params => 'm=1',
        pepper_id => 1, password_verifier => sha256('v'), token_verifier => sha256('t'), device_hash => $1)";
    assert_eq!(value::<String>(&service, first, &[&device("phone")]).await, "signed_up");
    assert_eq!(told().await.0, 0, "signing up is no news");
    let phone = log_in_from(&service, &device("phone")).await;
    let (all, row) = told().await;
    assert_eq!(all, 1);
    let shown: Vec<String> = values(&admin, row, &[&phone.session_id.unwrap().to_string()]).await;
    assert_eq!(shown, ["t t Chrome 120 on macOS"]);
    for (from, all) in [("phone", 1), ("laptop", 2), ("phone", 2), ("laptop", 2)] {
        log_in_from(&service, &device(from)).await;
        assert_eq!(told().await.0, all, "{from}");
    }
    log_in_from(&service, &None).await;
    assert_eq!(told().await.0, 2, "a client that does not say");
    // Known as long as a session from there is kept, live or not; another user's devices are not one's own.
    run(&admin, "update auth.sessions set revoked_at = now(), revoked_reason = 'test'", &[]).await;
    log_in_from(&service, &device("phone")).await;
    assert_eq!(told().await.0, 2);
    run(&admin, "delete from auth.sessions where device_hash = $1", &[&device("laptop")]).await;
    log_in_from(&service, &device("laptop")).await;
    assert_eq!(told().await.0, 3);
}
