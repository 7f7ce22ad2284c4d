//! Logging in by password, as the database sees it: what it tells before, refusals, lock-outs and renewal.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{refusal, run, value, values};
use auth_sessions_tests::tokens::{
    PASSWORD, log_in, password_proof, random_bytes, rotate, sha256, sign_up, try_sign_up,
};
use tokio_postgres::Client;

/// `begin_login` as text, but for what is random.
async fn begin(service: &Client, email: &str) -> (Vec<u8>, String) {
    let row = service
        .query_one(
            "select password_salt, concat_ws(' ', octet_length(password_salt), password_params, pepper_id, verifier_version,
                                             retry_after)
               from auth.begin_login($1, 'm=65536,t=3,p=1', 1)",
            &[&email],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn an_unknown_address_is_answered_with_a_steady_fake_of_the_same_shape() {
    let db = TestDb::create().await;
    let (service, other) = (db.connect_as("auth_service").await, db.connect_as("auth_service").await);
    sign_up(&service, "ada@example.org").await;
    let (known_salt, known) = begin(&service, "ada@example.org").await;
    let (salt, unknown) = begin(&service, "nobody@example.org").await;
    assert_eq!(unknown, known, "nothing but the salt differs");

    assert_eq!(begin(&other, "nobody@example.org").await.0, salt, "steady");
    assert_eq!(begin(&other, "NoBody@example.org").await.0, salt, "whatever the letters' case, like a real one");
    assert_eq!(begin(&other, "ADA@EXAMPLE.org").await.0, known_salt);
    assert_ne!(begin(&other, "somebody@example.org").await.0, salt);
    let elsewhere = TestDb::create().await;
    let there = begin(&elsewhere.connect_as("auth_service").await, "nobody@example.org").await.0;
    assert_ne!(there, salt, "and nobody can compute it who does not know this database's secret");
}

#[tokio::test]
async fn a_login_needs_the_right_password_of_an_enabled_user() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    for (email, password, outcome) in [
        ("ada@example.org", PASSWORD, "logged_in"),
        ("ADA@example.ORG", PASSWORD, "logged_in"),
        ("ada@example.org", "wrong", "refused"),
        ("ada@example.org", "", "refused"),
        ("nobody@example.org", PASSWORD, "refused"),
    ] {
        let answer = log_in(&service, email, password).await;
        assert_eq!(answer.outcome, outcome, "{email} {password}");
        assert_eq!(answer.token.is_some(), outcome == "logged_in");
        assert_eq!(answer.user_id.is_some(), outcome == "logged_in");
    }
    run(&admin, "update auth.users set disabled_at = now()", &[]).await;
    assert_eq!(log_in(&service, "ada@example.org", PASSWORD).await.outcome, "refused", "disabled");
    run(&admin, "update auth.users set disabled_at = null", &[]).await;
    assert_eq!(log_in(&service, "ada@example.org", PASSWORD).await.outcome, "logged_in");
    // An account without a password (federated) has none that is right.
    let clear = "update auth.users set password_verifier = null, password_salt = null, password_params = null, pepper_id = null";
    run(&admin, clear, &[]).await;
    assert_eq!(log_in(&service, "ada@example.org", PASSWORD).await.outcome, "refused");
}

#[tokio::test]
async fn a_session_acts_for_the_members_organization() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let founded = try_sign_up(&service, "ada@example.org", Some(("Company", "company"))).await.unwrap();
    let session = log_in(&service, "ada@example.org", PASSWORD).await;
    assert_eq!((session.user_id, session.organization_id), (founded.user_id, founded.organization_id));
}

#[tokio::test]
async fn a_login_begun_before_a_change_is_stale_and_not_counted() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    let version: i32 = value(&service, "select verifier_version from auth.begin_login('ada@example.org')", &[]).await;
    let new = sha256(&password_proof("new"));
    run(&admin, "update auth.users set password_verifier = $1", &[&new]).await;

    let complete = "select outcome from auth.complete_login('ada@example.org', $1, $2, $3)";
    for password in [PASSWORD, "new", "wrong"] {
        let proof = password_proof(password);
        let outcome: String = value(&service, complete, &[&version, &proof, &random_bytes(32)]).await;
        assert_eq!(outcome, "stale", "{password}");
    }
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.attempts", &[]).await, 0);
    assert_eq!(log_in(&service, "ada@example.org", "new").await.outcome, "logged_in");
    assert_eq!(log_in(&service, "ada@example.org", PASSWORD).await.outcome, "refused");
}

/// Fails so often, and says how long the lock then holds, in whole minutes; none when it does not hold.
async fn fail(service: &Client, email: &str, times: usize) -> Option<i64> {
    for _ in 0..times {
        log_in(service, email, "wrong").await;
    }
    let minutes = "select ceil(extract(epoch from retry_after) / 60)::bigint from auth.begin_login($1)";
    value(service, minutes, &[&email]).await
}

#[tokio::test]
async fn lock_outs_grow_end_by_themselves_and_are_the_same_for_an_unknown_address() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let token = sign_up(&service, "ada@example.org").await;
    let let_the_lock_pass = async || {
        run(&admin, "update auth.attempts set locked_until = clock_timestamp()", &[]).await;
    };
    // Two more failures while it is locked; for who has an account, one of them with the right password, not counted.
    for (email, answered, locks) in [
        ("ada@example.org", [PASSWORD, "wrong"], [4, 8, 16, 32, 60, 60]),
        ("nobody@example.org", ["wrong", "wrong"], [8, 16, 32, 60, 60, 60]),
    ] {
        assert_eq!(fail(&service, email, 9).await, None, "{email}: nine are free");
        assert_eq!(fail(&service, email, 1).await, Some(1), "{email}");
        for password in answered {
            let locked = log_in(&service, email, password).await;
            assert_eq!(locked.outcome, "locked", "{email} {password}: both answers are the same");
            assert!(locked.retry_after.is_some_and(|seconds| (1.0..=60.0).contains(&seconds)));
            assert!(locked.token.is_none());
        }
        for minutes in locks {
            let_the_lock_pass().await;
            assert_eq!(fail(&service, email, 1).await, Some(minutes), "{email}");
        }
        let_the_lock_pass().await;
    }
    assert_eq!(log_in(&service, "ada@example.org", PASSWORD).await.outcome, "logged_in", "undone by time");
    assert_eq!(fail(&service, "ada@example.org", 9).await, None, "and a success starts the count again");
    // A day without an attempt forgets it, too.
    run(&admin, "update auth.attempts set updated_at = updated_at - interval '25 hours'", &[]).await;
    assert_eq!(fail(&service, "ada@example.org", 9).await, None);
    assert_eq!(rotate(&service, &token).await.outcome, "rotated", "a lock-out ends no session");
}

#[tokio::test]
async fn failures_and_lock_outs_are_logged_and_long_guessing_does_not_fill_the_log() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    fail(&service, "ada@example.org", 10).await;
    let count = "select count(*) from auth.security_events where action = $1
                   and user_id = (select id from auth.users where email = 'ada@example.org')";
    assert_eq!(value::<i64>(&admin, count, &[&"user_login_failed"]).await, 10);
    assert_eq!(value::<i64>(&admin, count, &[&"user_account_locked"]).await, 1);
    fail(&service, "ada@example.org", 90).await;
    assert_eq!(value::<i64>(&admin, count, &[&"user_login_failed"]).await, 10 + 3, "the 16th, 32nd and 64th");
    assert_eq!(value::<i64>(&admin, count, &[&"user_account_locked"]).await, 1, "a lock is not prolonged");

    // The throttle's table names nobody, in letters or in bytes: keys only.
    let shown: Vec<String> = values(&admin, "select a::text from auth.attempts a", &[]).await;
    for name in ["ada@", "example", "61646140", "6578616d706c65"] {
        assert!(!shown.is_empty() && shown.iter().all(|row| !row.contains(name)), "{name}: {shown:?}");
    }
}

#[tokio::test]
async fn renewing_a_verifier_keeps_the_password_and_every_session() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let phone = sign_up(&service, "ada@example.org").await;
    let version: i32 = value(&service, "select verifier_version from auth.begin_login('ada@example.org')", &[]).await;
    let new_proof = random_bytes(32);
    let outcome: String = value(
        &service,
        "select outcome from auth.complete_login('ada@example.org', $1, $2, $3, renewed_salt => $4,
             renewed_params => 'm=131072,t=4,p=1', renewed_pepper_id => 2, renewed_verifier => $5)",
        &[&version, &password_proof(PASSWORD), &random_bytes(32), &random_bytes(16), &sha256(&new_proof)],
    )
    .await;
    assert_eq!(outcome, "logged_in");
    assert_eq!(rotate(&service, &phone).await.outcome, "rotated", "the other devices stay logged in");
    let (_, told) = begin(&service, "ada@example.org").await;
    assert_eq!(told, format!("16 m=131072,t=4,p=1 2 {}", version + 1));
    assert_eq!(values::<i32>(&service, "select auth.peppers_in_use()", &[]).await, [2], "the old pepper can go");
    let complete = "select outcome from auth.complete_login('ada@example.org', $1, $2, $3)";
    for (proof, outcome) in [(new_proof, "logged_in"), (password_proof(PASSWORD), "refused")] {
        let said: String = value(&service, complete, &[&(version + 1), &proof, &random_bytes(32)]).await;
        assert_eq!(said, outcome);
    }
    let changes: i64 =
        value(&admin, "select count(*) from auth.audit_log where action = 'user_password_changed'", &[]).await;
    assert_eq!(changes, 0, "it is the same password");
    // The renewal is no cover for a later change.
    run(&admin, "update auth.users set password_verifier = sha256('changed')", &[]).await;
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.active_sessions", &[]).await, 0);
}

#[tokio::test]
async fn a_bad_argument_is_refused_with_a_hint() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    sign_up(&service, "ada@example.org").await;
    let (_, before) = begin(&service, "ada@example.org").await;
    let right = "'ada@example.org', 1, sha256('password correct horse battery staple'), sha256('token')";
    for (call, code) in [
        ("auth.begin_login(null)".to_owned(), "22004"),
        ("auth.complete_login(null, 1, sha256(''), sha256(''))".to_owned(), "22004"),
        ("auth.complete_login('a@b', null, sha256(''), sha256(''))".to_owned(), "22004"),
        ("auth.complete_login('a@b', 1, null, sha256(''))".to_owned(), "22004"),
        ("auth.complete_login('a@b', 1, sha256(''), null)".to_owned(), "22004"),
        (r"auth.complete_login('a@b', 1, '\x00', sha256(''))".to_owned(), "22023"),
        (r"auth.complete_login('a@b', 1, sha256(''), '\x00')".to_owned(), "22023"),
        // These would work but for one argument.
        (format!(r"auth.complete_login({right}, device_hash => '\x00')"), "22023"),
        (format!(r"auth.complete_login({right}, renewed_verifier => '\x00')"), "22023"),
        (format!("auth.complete_login({right}, renewed_verifier => sha256(''))"), "22023"),
        (
            format!(
                r"auth.complete_login({right}, renewed_verifier => sha256(''), renewed_salt => '\x00',
                                      renewed_params => 'm=1', renewed_pepper_id => 2)"
            ),
            "22023",
        ),
        (format!("auth.complete_login({right}, idle_ttl => '-1 day')"), "22023"),
        (format!("auth.complete_login({right}, max_age => '0')"), "22023"),
        (format!("auth.complete_login({right}, retry_window => '-1 second')"), "22023"),
    ] {
        let refused = refusal(service.execute(&format!("select {call}"), &[]).await);
        assert_eq!(refused.code, code, "{call}: {refused:?}");
        assert_ne!(refused.hint, "", "{call}: {refused:?}");
    }
    assert_eq!(begin(&service, "ada@example.org").await.1, before);
    assert_eq!(log_in(&service, "ada@example.org", PASSWORD).await.outcome, "logged_in");
}
