//! Refreshes that race: with each other, with revocations, replays and cleaning. All callers are released at once, over
//! connections opened before; a deadlock (40P01) is a panic, like every other error.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{CROWD, connections, let_time_pass, race, revoked_reason, run, value};
use auth_sessions_tests::tokens::{PASSWORD, log_in, one_successor, rotate, rotate_times, sign_up, tally, try_rotate};

const PRESENTERS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_200_concurrent_presenters_one_rotates_and_all_get_the_same_successor() {
    let _crowd = CROWD.lock().await;
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    sign_up(&service, "ada@example.org").await;
    for audit_level in ["security", "all"] {
        db.set("auth_sessions.audit_level", audit_level).await;
        let presenters = connections(&db, "auth_service", PRESENTERS).await;
        for round in 0..8 {
            let token = log_in(&service, "ada@example.org", PASSWORD).await.token();
            let outcomes = race(&presenters, |_, presenter| {
                let token = token.clone();
                async move { rotate(&presenter, &token).await }
            })
            .await;
            let successor = one_successor(outcomes, &format!("round {round}, audit_level = {audit_level}"));
            assert_eq!(rotate(&service, &successor).await.outcome, "rotated", "it works");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_retry_window_one_of_200_rotates_the_rest_are_replays_and_the_family_is_revoked() {
    let _crowd = CROWD.lock().await;
    let db = TestDb::create().await;
    db.set("auth_sessions.retry_window", "0").await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    for scope in ["family", "user"] {
        db.set("auth_sessions.replay_scope", scope).await;
        let presenters = connections(&db, "auth_service", PRESENTERS).await;
        for round in 0..6 {
            let token = log_in(&service, "ada@example.org", PASSWORD).await.token();
            let outcomes = race(&presenters, |_, presenter| {
                let token = token.clone();
                async move { rotate(&presenter, &token).await }
            })
            .await;
            // The first replay revokes; who comes after it finds the session revoked.
            let tally = tally(&outcomes);
            assert_eq!(tally["rotated"], 1, "round {round}: {tally:?}");
            assert_eq!(tally["replayed"], 1, "round {round}: {tally:?}");
            assert_eq!(tally["revoked"], PRESENTERS - 2, "round {round}: {tally:?}");
            let child = outcomes.into_iter().find_map(|outcome| outcome.token).unwrap();
            assert_eq!(rotate(&service, &child).await.outcome, "revoked");
            assert_eq!(revoked_reason(&admin, token.session_id).await.as_deref(), Some("token_replay"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoke_that_races_with_refreshes_leaves_nothing_alive() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    let mut racers = connections(&db, "auth_service", 6).await;
    racers.extend(connections(&db, "auth_operator", 2).await);
    for round in 0..500 {
        // Every other round the token has been rotated already, so that some presenters never wait for the row.
        let token = log_in(&service, "ada@example.org", PASSWORD).await.token();
        if round % 2 == 1 {
            rotate(&service, &token).await;
        }
        let outcomes = race(&racers, |n, racer| {
            let token = token.clone();
            async move {
                if n < 6 {
                    return (rotate(&racer, &token).await.token, 0);
                }
                let revoke = "select auth.revoke_session_family($1)";
                let revoked: i32 = value(&racer, revoke, &[&token.session_id]).await;
                // From the moment that the revoker was answered:
                let live = "select count(*) from auth.active_sessions where id = $1";
                assert_eq!(value::<i64>(&racer, live, &[&token.session_id]).await, 0, "round {round}");
                (None, revoked)
            }
        })
        .await;
        assert_eq!(outcomes.iter().map(|(_, revoked)| revoked).sum::<i32>(), 1, "round {round}: revoked once");
        for child in outcomes.into_iter().filter_map(|(child, _)| child) {
            assert_eq!(rotate(&service, &child).await.outcome, "revoked", "round {round}");
        }
        assert_eq!(revoked_reason(&admin, token.session_id).await.as_deref(), Some("family_revoked"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_refreshes_and_a_disable_of_one_user_do_not_deadlock() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    for scope in ["family", "user"] {
        db.set("auth_sessions.replay_scope", scope).await;
        let mut racers = connections(&db, "auth_service", 12).await;
        racers.extend(connections(&db, "postgres", 1).await);
        for _ in 0..60 {
            run(&admin, "update auth.users set disabled_at = null", &[]).await;
            let mut presented = Vec::new();
            for _ in 0..3 {
                let tokens =
                    rotate_times(&service, log_in(&service, "ada@example.org", PASSWORD).await.token(), 3).await;
                // Current, current, before it, and a replay.
                presented.extend([tokens[3].clone(), tokens[3].clone(), tokens[2].clone(), tokens[0].clone()]);
            }
            race(&racers, |n, racer| {
                let token = presented.get(n).cloned();
                async move {
                    match token {
                        Some(token) => drop(rotate(&racer, &token).await),
                        None => drop(run(&racer, "update auth.users set disabled_at = now()", &[]).await),
                    }
                }
            })
            .await;
            let live: i64 = value(&admin, "select count(*) from auth.active_sessions", &[]).await;
            assert_eq!(live, 0);
        }
    }
}

#[tokio::test]
async fn cleaning_never_waits_for_a_refresh_and_takes_only_what_is_over() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let cleaner = db.superuser().await;
    cleaner.batch_execute("set role auth_admin; set lock_timeout = '5s'").await.unwrap();
    let clean = "select auth.cleanup_expired_sessions(1000, '1 day')";
    sign_up(&service, "ada@example.org").await;
    let refreshing = log_in(&service, "ada@example.org", PASSWORD).await.token();
    let mut dead = Vec::new();
    for _ in 0..10 {
        dead.push(log_in(&service, "ada@example.org", PASSWORD).await.token());
        let_time_pass(&admin, dead[dead.len() - 1].session_id, "20 days").await;
    }

    // One transaction holds two rows: of a session in its last minute, and of one that is over and was presented again.
    let_time_pass(&admin, refreshing.session_id, "6 days 23 hours 59 minutes").await;
    service.batch_execute("begin").await.unwrap();
    let successor = rotate(&service, &refreshing).await.token();
    assert_eq!(rotate(&service, &dead[4]).await.outcome, "expired");
    assert_eq!(value::<i64>(&cleaner, clean, &[]).await, 9, "all but the one in use");
    service.batch_execute("commit").await.unwrap();
    assert_eq!(value::<i64>(&cleaner, clean, &[]).await, 1);
    assert_eq!(value::<i64>(&cleaner, clean, &[]).await, 0);
    assert_eq!(rotate(&service, &dead[4]).await.outcome, "unknown");
    assert_eq!(rotate(&service, &successor).await.outcome, "rotated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cleaners_and_refreshes_at_once_count_each_session_once_and_lose_none() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    let mut racers = connections(&db, "auth_service", 6).await;
    racers.extend(connections(&db, "auth_operator", 3).await);
    for round in 0..40 {
        let mut live = Vec::new();
        for _ in 0..6 {
            live.push(log_in(&service, "ada@example.org", PASSWORD).await.token());
        }
        run(
            &admin,
            "insert into auth.sessions (family_id, user_id, created_at, auth_time, expires_at, idle_ttl, amr,
                                        lineage_key, last_used_at, idle_expires_at, token_verifier)
             select gen_random_uuid(), user_id, created_at, auth_time, expires_at, idle_ttl, amr,
                    lineage_key, last_used_at, idle_expires_at - interval '20 days', token_verifier
               from auth.sessions, generate_series(1, 50) where id = $1",
            &[&live[0].session_id],
        )
        .await;
        let removed = race(&racers, |n, racer| {
            let token = live.get(n).cloned();
            async move {
                let Some(token) = token else {
                    return value(&racer, "select auth.cleanup_expired_sessions(30, '1 day')", &[]).await;
                };
                assert_eq!(try_rotate(&racer, &token).await.unwrap().outcome, "rotated");
                0_i64
            }
        })
        .await;
        let removed: i64 = removed.iter().sum();
        let left: i64 = value(&admin, "select count(*) from auth.sessions where idle_expires_at < now()", &[]).await;
        assert_eq!(removed + left, 50, "round {round}");
        run(&admin, "delete from auth.sessions", &[]).await;
    }
}
