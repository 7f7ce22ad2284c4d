//! Tokens of a system that was taken over, in SQL: exchanged once, retried, replayed, and judged like any other.

use std::collections::BTreeMap;

use auth_sessions_tests::TestDb;
use auth_sessions_tests::adopted::{adopt_session, adopted_tokens, exchange, proof_of, try_exchange};
use auth_sessions_tests::sql::{
    CROWD, audit_trail, connections, let_time_pass, race, refusal, revoked_reason, session_row, sqlstate, value,
};
use auth_sessions_tests::tokens::{Token, one_successor, rotate, rotate_times, sha256, sign_up, tally};
use tokio_postgres::Client;

const ADA: &str = "ada@example.org";

async fn scene() -> (TestDb, Client, Client) {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, ADA).await;
    (db, service, admin)
}

#[tokio::test]
async fn an_old_token_is_exchanged_once_and_a_retry_gets_the_same_successor() {
    let (_db, service, admin) = scene().await;
    let session = adopt_session(&admin, ADA, "current", &["consumed"]).await;
    let first = exchange(&service, "current").await;
    assert_eq!((first.outcome.as_str(), first.generation, first.session_id), ("rotated", Some(1), Some(session)));
    assert!(first.jti.is_some() && first.user_id.is_some() && first.auth_time < first.issued_at);
    let again = exchange(&service, "current").await;
    assert_eq!(again.outcome, "retried");
    assert_eq!(again.jti, first.jti);
    let successor = first.token();
    assert_eq!(again.token(), successor);

    let tokens = rotate_times(&service, successor, 1).await;
    assert_eq!(tokens[1].generation, 2);
    assert_eq!(revoked_reason(&admin, session).await, None);
    // The window closes as soon as the successor is used.
    assert_eq!(exchange(&service, "current").await.outcome, "replayed");
    assert_eq!(revoked_reason(&admin, session).await.as_deref(), Some("token_replay"));
    assert_eq!(rotate(&service, &tokens[1]).await.outcome, "revoked");
    assert_eq!(audit_trail(&admin, session).await, ["token_replay_detected", "session_family_revoked"]);
}

#[tokio::test]
async fn a_retry_is_one_within_its_window() {
    let (_db, service, admin) = scene().await;
    let session = adopt_session(&admin, ADA, "current", &[]).await;
    assert_eq!(exchange(&service, "current").await.outcome, "rotated");
    let_time_pass(&admin, session, "59 seconds").await;
    assert_eq!(exchange(&service, "current").await.outcome, "retried");
    let_time_pass(&admin, session, "2 seconds").await;
    assert_eq!(exchange(&service, "current").await.outcome, "replayed");
}

#[tokio::test]
async fn a_consumed_old_token_burns_its_family_before_the_exchange_and_long_after_it() {
    let (db, service, admin) = scene().await;
    let session = adopt_session(&admin, ADA, "one's current", &["one's first", "one's second"]).await;
    assert_eq!(exchange(&service, "one's first").await.outcome, "replayed");
    // Committed: somebody else sees it.
    let elsewhere = db.superuser().await;
    assert_eq!(revoked_reason(&elsewhere, session).await.as_deref(), Some("token_replay"));
    assert_eq!(exchange(&service, "one's current").await.outcome, "revoked");
    assert_eq!(exchange(&service, "one's second").await.outcome, "revoked");

    let session = adopt_session(&admin, ADA, "two's current", &["two's first"]).await;
    let token = exchange(&service, "two's current").await.token();
    let tokens = rotate_times(&service, token, 50).await;
    assert_eq!(exchange(&service, "two's first").await.outcome, "replayed");
    assert_eq!(rotate(&service, &tokens[50]).await.outcome, "revoked");
    assert_eq!(revoked_reason(&admin, session).await.as_deref(), Some("token_replay"));
}

/// A first try that stood still on the way while its client tried again and went on.
#[tokio::test]
async fn what_was_shown_before_the_session_moved_on_burns_nothing() {
    let (_db, service, admin) = scene().await;
    let session = adopt_session(&admin, ADA, "current", &[]).await;
    let received_at: std::time::SystemTime = value(&service, "select clock_timestamp()", &[]).await;
    let newest = rotate(&service, &exchange(&service, "current").await.token()).await.token();
    let shown = "select outcome from auth.exchange_adopted_token($1, sha256('x'), substr(sha256('x'), 1, 16), received_at => $2)";

    let late: String = value(&service, shown, &[&proof_of("current"), &received_at]).await;
    assert_eq!(late, "overtaken");
    assert_eq!(revoked_reason(&admin, session).await, None);
    rotate(&service, &newest).await.token();
    assert_eq!(exchange(&service, "current").await.outcome, "replayed", "shown now, it is a thief's");
}

#[tokio::test]
async fn what_is_unknown_or_over_changes_nothing() {
    let (db, service, admin) = scene().await;
    let session = adopt_session(&admin, ADA, "current", &["consumed"]).await;
    let before = (session_row(&admin, session).await, db.row_counts().await);
    for token in ["never seen", "", "Current"] {
        let outcome = exchange(&service, token).await;
        assert_eq!((outcome.outcome.as_str(), outcome.session_id), ("unknown", None), "{token}");
    }
    // What a dump of this database holds proves nothing.
    let stolen = sha256(&proof_of("current"));
    let exchanged: String = value(
        &service,
        "select outcome from auth.exchange_adopted_token($1, sha256('x'), substr(sha256('x'), 1, 16))",
        &[&stolen],
    )
    .await;
    assert_eq!(exchanged, "unknown");
    // Nor does an old token pass for one of ours.
    let native = Token {
        session_id: session,
        generation: 0,
        ticket: vec![0; 16],
        secret: auth_sessions_tests::tokens::Secret(b"consumed".to_vec()),
    };
    assert_eq!(rotate(&service, &native).await.outcome, "unknown");
    assert_eq!((session_row(&admin, session).await, db.row_counts().await), before);

    let_time_pass(&admin, session, "6 days 1 minute").await;
    let row = session_row(&admin, session).await;
    assert_eq!(exchange(&service, "current").await.outcome, "expired");
    assert_eq!(exchange(&service, "consumed").await.outcome, "expired", "a time-out is no attack");
    assert_eq!(session_row(&admin, session).await, row);
    assert_eq!(audit_trail(&admin, session).await, ["session_expired", "session_expired"]);
}

#[tokio::test]
async fn whoever_is_disabled_or_logged_out_holds_nothing_any_more() {
    let (_db, service, admin) = scene().await;
    adopt_session(&admin, ADA, "current", &["consumed"]).await;
    admin.batch_execute("update auth.users set disabled_at = now()").await.unwrap();
    assert_eq!(exchange(&service, "current").await.outcome, "revoked");

    admin.batch_execute("update auth.users set disabled_at = null").await.unwrap();
    let end = "select auth.end_adopted_session($1, 'test')";
    for (token, other) in [("current", "consumed"), ("consumed", "current")] {
        admin.batch_execute("delete from auth.sessions").await.unwrap();
        let session = adopt_session(&admin, ADA, "current", &["consumed"]).await;
        assert!(!value::<bool>(&service, end, &[&proof_of("never seen")]).await);
        assert!(value::<bool>(&service, end, &[&proof_of(token)]).await, "{token}");
        assert!(!value::<bool>(&service, end, &[&proof_of(token)]).await, "once");
        assert_eq!(revoked_reason(&admin, session).await.as_deref(), Some("logged_out"));
        assert_eq!(audit_trail(&admin, session).await, ["user_logged_out"]);
        assert_eq!(exchange(&service, other).await.outcome, "revoked");
    }
    // Who has shown it may end the others, too; and may not when the transaction is over.
    adopt_session(&admin, ADA, "third", &[]).await;
    adopt_session(&admin, ADA, "fourth", &[]).await;
    service.batch_execute("begin").await.unwrap();
    assert!(value::<bool>(&service, end, &[&proof_of("third")]).await);
    let others: i32 = value(&service, "select auth.revoke_user_sessions(auth.current_user_id())", &[]).await;
    service.batch_execute("commit").await.unwrap();
    assert_eq!(others, 1, "the session of signing up was ended by the disabling");
    assert_eq!(sqlstate(&service, "select auth.revoke_user_sessions(auth.current_user_id())").await, "28000");
}

#[tokio::test]
async fn an_exchange_into_a_cookie_makes_the_session_its_tabs_own() {
    let (_db, service, admin) = scene().await;
    for (token, is_shared) in [("by cookie", Some(true)), ("by body", Some(false)), ("by nobody", None)] {
        let session = adopt_session(&admin, ADA, token, &[]).await;
        let outcome: String = value(
            &service,
            "select outcome from auth.exchange_adopted_token($1, sha256('x'), substr(sha256('x'), 1, 16), is_shared => $2)",
            &[&proof_of(token), &is_shared],
        )
        .await;
        assert_eq!(outcome, "rotated");
        let shared: bool = value(&admin, "select is_shared from auth.sessions where id = $1", &[&session]).await;
        assert_eq!(shared, is_shared == Some(true), "{token}");
    }
}

#[tokio::test]
async fn old_tokens_go_with_their_session() {
    let (_db, service, admin) = scene().await;
    let session = adopt_session(&admin, ADA, "current", &["consumed"]).await;
    assert_eq!(exchange(&service, "current").await.outcome, "rotated");
    let_time_pass(&admin, session, "7 days 12 hours").await;
    let clean = "select auth.cleanup_expired_sessions(1000, '1 day')";
    assert_eq!(value::<i64>(&admin, clean, &[]).await, 0, "over for half a day: kept");
    assert_eq!(adopted_tokens(&admin, session).await, 2);
    let_time_pass(&admin, session, "1 day").await;
    assert_eq!(value::<i64>(&admin, clean, &[]).await, 1);
    assert_eq!(adopted_tokens(&admin, session).await, 0);
    assert_eq!(exchange(&service, "consumed").await.outcome, "unknown");
}

#[tokio::test]
async fn wrong_arguments_are_refused_with_a_hint() {
    let (_db, service, admin) = scene().await;
    adopt_session(&admin, ADA, "current", &[]).await;
    let (proof, verifier, nonce) = ("sha256('current')", "sha256('x')", "substr(sha256('x'), 1, 16)");
    for (arguments, code) in [
        (format!("null, {verifier}, {nonce}"), "22004"),
        (format!("{proof}, null, {nonce}"), "22004"),
        (format!("{proof}, {verifier}, null"), "22004"),
        (format!("''::bytea, {verifier}, {nonce}"), "22023"),
        (format!("{proof}, '\\x00'::bytea, {nonce}"), "22023"),
        (format!("{proof}, {verifier}, '\\x00'::bytea"), "22023"),
        (format!("{proof}, {verifier}, {nonce}, device_hash => '\\x00'"), "22023"),
    ] {
        let statement = format!("select auth.exchange_adopted_token({arguments})");
        let refused = refusal(service.batch_execute(&statement).await);
        assert_eq!(refused.code, code, "{statement}: {}", refused.message);
        assert!(!refused.hint.is_empty(), "{statement}");
    }
    for (argument, code) in [("null", "22004"), ("''::bytea", "22023")] {
        let refused = refusal(service.batch_execute(&format!("select auth.end_adopted_session({argument})")).await);
        assert_eq!(refused.code, code);
        assert!(!refused.hint.is_empty());
    }
    assert_eq!(sqlstate(&service, "select * from auth.adopted_tokens").await, "42501");
    assert_eq!(try_exchange(&service, "current").await.unwrap().outcome, "rotated", "nothing was changed");
}

const PRESENTERS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_200_concurrent_presenters_of_an_old_token_one_rotates_and_all_get_the_same_successor() {
    let _crowd = CROWD.lock().await;
    let (db, service, admin) = scene().await;
    for scope in ["family", "user"] {
        db.set("auth_sessions.replay_scope", scope).await;
        let presenters = connections(&db, "auth_service", PRESENTERS).await;
        for round in 0..6 {
            let old = format!("{scope} {round}");
            adopt_session(&admin, ADA, &old, &[]).await;
            let outcomes = race(&presenters, |_, presenter| {
                let old = old.clone();
                async move { exchange(&presenter, &old).await }
            })
            .await;
            let successor = one_successor(outcomes, &format!("round {round}"));
            assert_eq!(rotate(&service, &successor).await.outcome, "rotated", "it works");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_retry_window_one_of_200_is_exchanged_and_the_family_is_burnt() {
    let _crowd = CROWD.lock().await;
    let (db, service, admin) = scene().await;
    db.set("auth_sessions.retry_window", "0").await;
    let presenters = connections(&db, "auth_service", PRESENTERS).await;
    for round in 0..4 {
        let old = format!("round {round}");
        let session = adopt_session(&admin, ADA, &old, &[]).await;
        let outcomes = race(&presenters, |_, presenter| {
            let old = old.clone();
            async move { exchange(&presenter, &old).await }
        })
        .await;
        let expected = BTreeMap::from([("replayed", 1), ("revoked", PRESENTERS - 2), ("rotated", 1)]);
        assert_eq!(tally(&outcomes), expected, "round {round}");
        let child = outcomes.into_iter().find_map(|outcome| outcome.token).unwrap();
        assert_eq!(rotate(&service, &child).await.outcome, "revoked");
        assert_eq!(revoked_reason(&admin, session).await.as_deref(), Some("token_replay"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thief_with_a_consumed_token_a_logout_and_the_owner_at_once_leave_nothing_alive() {
    let (db, service, admin) = scene().await;
    let racers = connections(&db, "auth_service", 8).await;
    for round in 0..100 {
        let (current, consumed) = (format!("current {round}"), format!("consumed {round}"));
        let session = adopt_session(&admin, ADA, &current, &[&consumed]).await;
        let children = race(&racers, |n, racer| {
            let (current, consumed) = (current.clone(), consumed.clone());
            async move {
                match n {
                    0 => exchange(&racer, &consumed).await.token,
                    1 => {
                        let end = "select auth.end_adopted_session($1)";
                        value::<bool>(&racer, end, &[&proof_of(&current)]).await;
                        None
                    }
                    _ => exchange(&racer, &current).await.token,
                }
            }
        })
        .await;
        assert!(revoked_reason(&admin, session).await.is_some(), "round {round}");
        for child in children.into_iter().flatten() {
            assert_eq!(rotate(&service, &child).await.outcome, "revoked", "round {round}");
        }
    }
}
