//! Logins, sign-ups, deactivations, password changes and revocations that race. All callers are released at once; a
//! deadlock (40P01) is a panic, like every other error.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{CROWD, connections, race, run, value, values};
use auth_sessions_tests::tokens::{PASSWORD, log_in, random_bytes, rotate, sha256, sign_up, try_sign_up};
use uuid::Uuid;

const LIVE: &str = "select count(*) from auth.active_sessions";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_survives_a_deactivation_whatever_races_with_it() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let mut racers = connections(&db, "auth_service", 8).await;
    racers.extend(connections(&db, "postgres", 1).await);
    for round in 0..100 {
        let email = format!("ada-{round}@example.org");
        let token = sign_up(&service, &email).await;
        let opened = race(&racers, |n, racer| {
            let (email, token) = (email.clone(), token.clone());
            async move {
                match n {
                    0..4 => log_in(&racer, &email, PASSWORD).await.outcome,
                    4..8 => rotate(&racer, &token).await.outcome,
                    _ => {
                        let disable = "update auth.users set disabled_at = now() where email = $1";
                        assert_eq!(run(&racer, disable, &[&email]).await, 1);
                        // From the moment that the deactivation was answered:
                        assert_eq!(value::<i64>(&racer, LIVE, &[]).await, 0, "round {round}");
                        String::new()
                    }
                }
            }
        })
        .await;
        assert_eq!(value::<i64>(&admin, LIVE, &[]).await, 0, "round {round}: {opened:?}");
        assert_eq!(log_in(&service, &email, PASSWORD).await.outcome, "refused");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_up_that_a_deactivation_saw_has_no_live_session() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let mut racers = connections(&db, "auth_service", 1).await;
    racers.extend(connections(&db, "postgres", 1).await);
    for round in 0..100 {
        let email = format!("ada-{round}@example.org");
        race(&racers, |n, racer| {
            let email = email.clone();
            async move {
                if n == 0 {
                    sign_up(&racer, &email).await;
                    return;
                }
                while run(&racer, "update auth.users set disabled_at = now() where email = $1", &[&email]).await == 0 {}
            }
        })
        .await;
        assert_eq!(value::<i64>(&admin, LIVE, &[]).await, 0, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_of_the_old_password_survives_its_change() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let mut racers = connections(&db, "auth_service", 8).await;
    racers.extend(connections(&db, "postgres", 1).await);
    for round in 0..100 {
        let email = format!("ada-{round}@example.org");
        let token = sign_up(&service, &email).await;
        let outcomes = race(&racers, |n, racer| {
            let (email, token) = (email.clone(), token.clone());
            async move {
                match n {
                    0..4 => log_in(&racer, &email, PASSWORD).await.outcome,
                    4..8 => rotate(&racer, &token).await.outcome,
                    _ => {
                        let change =
                            "update auth.users set password_verifier = $2, password_salt = $3 where email = $1";
                        run(&racer, change, &[&email, &random_bytes(32), &random_bytes(16)]).await;
                        String::new()
                    }
                }
            }
        })
        .await;
        assert_eq!(value::<i64>(&admin, LIVE, &[]).await, 0, "round {round}: {outcomes:?}");
        let known = ["logged_in", "stale", "refused", "rotated", "retried", "revoked", ""];
        assert!(outcomes.iter().all(|outcome| known.contains(&outcome.as_str())), "{outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_membership_that_is_removed_takes_its_sessions_along_whatever_races_with_it() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let mut racers = connections(&db, "auth_service", 6).await;
    racers.extend(connections(&db, "postgres", 1).await);
    for round in 0..60 {
        let (email, slug) = (format!("ada-{round}@example.org"), format!("company-{round}"));
        let token = try_sign_up(&service, &email, Some(("Company", &slug))).await.unwrap().token();
        // In every other round the whole organization goes.
        let remove = match round % 2 {
            0 => {
                "delete from auth.organization_members m using auth.organizations o
                   where o.id = m.organization_id and o.slug = $1"
            }
            _ => "delete from auth.organizations where slug = $1",
        };
        race(&racers, |n, racer| {
            let (email, slug, token) = (email.clone(), slug.clone(), token.clone());
            async move {
                match n {
                    0..3 => drop(log_in(&racer, &email, PASSWORD).await),
                    3..6 => drop(rotate(&racer, &token).await),
                    _ => drop(run(&racer, remove, &[&slug]).await),
                }
            }
        })
        .await;
        let acting: i64 =
            value(&admin, "select count(*) from auth.active_sessions where organization_id is not null", &[]).await;
        assert_eq!(acting, 0, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revokers_in_any_order_do_not_deadlock_and_count_each_session_once() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    let mut racers = connections(&db, "auth_operator", 4).await;
    racers.extend(connections(&db, "auth_service", 2).await);
    for round in 0..60 {
        let mut sessions = Vec::new();
        for _ in 0..6 {
            sessions.push(log_in(&service, "ada@example.org", PASSWORD).await);
        }
        let mut families: Vec<Uuid> = sessions.iter().map(|session| session.session_id.unwrap()).collect();
        let others: i64 = value(&admin, LIVE, &[]).await;
        let (assumed, jti) = (families[0], sessions[0].jti.unwrap());
        let revoked = race(&racers, |n, racer| {
            if n % 2 == 1 {
                families.reverse();
            }
            let families = families.clone();
            async move {
                if n < 4 {
                    // One transaction, family after family, in opposite orders.
                    let each = "select sum(auth.revoke_session_family(family))::int from unnest($1::uuid[]) family";
                    return value::<i32>(&racer, each, &[&families]).await;
                }
                racer.batch_execute("begin").await.unwrap();
                let all = if run(&racer, "select from auth.assume_session($1, $2)", &[&assumed, &jti]).await == 1 {
                    value(&racer, "select auth.revoke_user_sessions(auth.current_user_id())", &[]).await
                } else {
                    0
                };
                racer.batch_execute("commit").await.unwrap();
                all
            }
        })
        .await;
        let left: i64 = value(&admin, LIVE, &[]).await;
        assert_eq!(i64::from(revoked.iter().sum::<i32>()), others - left, "round {round}: {revoked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sign_ups_for_one_address_or_one_slug_at_once_one_succeeds() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let racers = connections(&db, "auth_service", 20).await;
    for round in 0..20 {
        let outcomes = race(&racers, |n, racer| async move {
            // One account, whatever its letters' case.
            let email = format!("{}@example.org", ["ada", "ADA", "Ada", "aDa"][n % 4].to_owned() + &round.to_string());
            try_sign_up(&racer, &email, Some(("Company", &format!("by-{round}-{n}")))).await.unwrap().outcome
        })
        .await;
        let succeeded = outcomes.iter().filter(|outcome| *outcome == "signed_up").count();
        let refused = outcomes.iter().filter(|outcome| *outcome == "email_taken").count();
        assert_eq!((succeeded, refused), (1, 19), "{outcomes:?}");

        let outcomes = race(&racers, |n, racer| async move {
            let (email, slug) = (format!("founder-{round}-{n}@example.org"), format!("company-{round}"));
            try_sign_up(&racer, &email, Some(("Company", &slug))).await.unwrap().outcome
        })
        .await;
        let succeeded = outcomes.iter().filter(|outcome| *outcome == "signed_up").count();
        let refused = outcomes.iter().filter(|outcome| *outcome == "slug_taken").count();
        assert_eq!((succeeded, refused), (1, 19), "{outcomes:?}");
    }
    // Both kinds of losers left nothing.
    for table in ["users", "organizations", "organization_members", "sessions"] {
        assert_eq!(value::<i64>(&admin, &format!("select count(*) from auth.{table}"), &[]).await, 40, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_wrong_logins_at_once_count_two_hundred() {
    let _crowd = CROWD.lock().await;
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let token = sign_up(&service, "ada@example.org").await;
    let racers = connections(&db, "auth_service", 200).await;
    for email in ["ada@example.org", "nobody@example.org"] {
        let outcomes = race(&racers, |n, racer| async move {
            // Whatever begin_login said before: all have begun when the first one fails.
            log_in(&racer, email, &format!("guess {n}")).await.outcome
        })
        .await;
        assert!(outcomes.iter().all(|outcome| outcome == "refused" || outcome == "locked"), "{outcomes:?}");
        let counted: Vec<i32> = values(&admin, "select count from auth.attempts", &[]).await;
        assert_eq!(counted, [200], "{email}");
        let locked = log_in(&service, email, PASSWORD).await;
        assert_eq!(locked.outcome, "locked", "{email}: the right password does not help now");
        assert!(locked.retry_after.is_some_and(|seconds| seconds > 0.0));
        run(&admin, "delete from auth.attempts", &[]).await;
    }
    // Guessing from outside ends nobody's session.
    assert_eq!(rotate(&service, &token).await.outcome, "rotated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_at_once_keep_to_the_allowed_number_of_sessions() {
    let db = TestDb::create().await;
    db.set("auth_sessions.max_sessions_per_user", "3").await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    let racers = connections(&db, "auth_service", 12).await;
    for _ in 0..20 {
        let outcomes = race(&racers, |_, racer| async move { log_in(&racer, "ada@example.org", PASSWORD).await }).await;
        assert!(outcomes.iter().all(|outcome| outcome.outcome == "logged_in"));
        assert_eq!(value::<i64>(&admin, LIVE, &[]).await, 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_that_renew_the_verifier_at_once_renew_it_once_and_end_nothing() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let phone = sign_up(&service, "ada@example.org").await;
    let racers = connections(&db, "auth_service", 8).await;
    let version: i32 = value(&service, "select verifier_version from auth.begin_login('ada@example.org')", &[]).await;
    let outcomes: Vec<String> = race(&racers, |n, racer| async move {
        let (old, new) = (auth_sessions_tests::tokens::password_proof(PASSWORD), vec![n as u8; 32]);
        value(
            &racer,
            "select outcome from auth.complete_login('ada@example.org', $1, $2, $3, renewed_salt => $4,
                                                     renewed_params => 'm=1', renewed_pepper_id => 2, renewed_verifier => $5)",
            &[&version, &old, &random_bytes(32), &random_bytes(16), &sha256(&new)],
        )
        .await
    })
    .await;
    let logged_in = outcomes.iter().filter(|outcome| *outcome == "logged_in").count();
    let stale = outcomes.iter().filter(|outcome| *outcome == "stale").count();
    assert_eq!((logged_in, stale), (1, 7), "{outcomes:?}");
    let versions: Vec<i32> = values(&admin, "select verifier_version from auth.users", &[]).await;
    assert_eq!(versions, [version + 1]);
    assert_eq!(rotate(&service, &phone).await.outcome, "rotated", "the other devices stay logged in");
}
