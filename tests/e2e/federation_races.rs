//! Federated logins that race: with each other, with a sign-up, with a deactivation. All callers are released at once; a
//! deadlock (40P01) is a panic, like every other error.

use std::sync::Arc;

use auth_sessions_tests::sql::{connections, race, run, value};
use auth_sessions_tests::tokens::{Outcome, PASSWORD, log_in, sign_up, try_sign_up};
use tokio_postgres::Client;

use crate::federation::{Scene, claims, federate, scene};

const LIVE: &str = "select count(*) from auth.active_sessions";

async fn racers(scene: &Scene, count: usize) -> Vec<Arc<Client>> {
    connections(&scene.db, "auth_federation_service", count).await
}

/// How many rows of users, identities, live sessions and events of one kind there are for an address.
async fn counts(scene: &Scene, email: &str) -> [i64; 5] {
    let counts = "select count(distinct u.id), count(distinct (i.provider, i.subject)), count(distinct s.id),
            (select count(*) from auth.audit_log a join auth.users v on v.id = a.user_id
              where v.email = $1 and a.action = 'user_created'),
            (select count(*) from auth.audit_log a join auth.users v on v.id = a.user_id
              where v.email = $1 and a.action = 'identity_linked')
        from auth.users u left join auth.identities i on i.user_id = u.id left join auth.sessions s on s.user_id = u.id
       where u.email = $1";
    let row = scene.admin.query_one(counts, &[&email]).await.unwrap();
    [0, 1, 2, 3, 4].map(|n| row.get(n))
}

fn outcomes(all: &[Outcome], wanted: &str) -> usize {
    all.iter().filter(|one| one.outcome == wanted).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_logins_at_once_are_one_user_with_one_identity_and_a_session_each() {
    let scene = scene().await;
    let racers = racers(&scene, 8).await;
    for round in 0..40 {
        let (email, subject) = (format!("ada-{round}@example.org"), round.to_string());
        // In every other round there is a verified account to be linked.
        let verified = round % 2 == 1;
        if verified {
            sign_up(&scene.service, &email).await;
            run(&scene.admin, "update auth.users set email_verified_at = now() where email = $1", &[&email]).await;
        }
        let opened = race(&racers, |_, racer| {
            let token = claims(&subject, &email);
            async move { federate(&racer, &token).await }
        })
        .await;
        assert_eq!(outcomes(&opened, "logged_in"), 8, "round {round}: {opened:?}");
        let sessions = 8 + i64::from(verified);
        assert_eq!(counts(&scene, &email).await, [1, 1, sessions, 1, 1], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_at_once_opens_exactly_one_session() {
    let scene = scene().await;
    let racers = racers(&scene, 8).await;
    for round in 0..40 {
        let email = format!("ada-{round}@example.org");
        let token = claims(&round.to_string(), &email);
        let opened = race(&racers, |_, racer| {
            let token = token.clone();
            async move { federate(&racer, &token).await }
        })
        .await;
        assert_eq!((outcomes(&opened, "logged_in"), outcomes(&opened, "already_used")), (1, 7), "round {round}");
        assert_eq!(counts(&scene, &email).await, [1, 1, 1, 1, 1], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_of_one_address_do_not_share_an_account() {
    let scene = scene().await;
    let racers = racers(&scene, 6).await;
    for round in 0..40 {
        let email = format!("team-{round}@example.org");
        let opened = race(&racers, |n, racer| {
            let token = claims(&format!("{round} {}", n % 2), &email);
            async move { federate(&racer, &token).await }
        })
        .await;
        assert_eq!((outcomes(&opened, "logged_in"), outcomes(&opened, "email_not_linkable")), (3, 3), "round {round}");
        assert_eq!(counts(&scene, &email).await, [1, 1, 3, 1, 1], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_up_of_the_same_address_wins_or_loses_and_never_shares() {
    let scene = scene().await;
    let mut racers = racers(&scene, 3).await;
    racers.extend(connections(&scene.db, "auth_service", 3).await);
    let mut signed_up = 0;
    for round in 0..40 {
        let email = format!("ada-{round}@example.org");
        let all = race(&racers, |n, racer| {
            let (token, email) = (claims(&round.to_string(), &email), email.clone());
            async move {
                match n {
                    0..3 => federate(&racer, &token).await,
                    _ => try_sign_up(&racer, &email, None).await.unwrap(),
                }
            }
        })
        .await;
        let by_sign_up = outcomes(&all, "signed_up");
        signed_up += by_sign_up;
        match by_sign_up {
            1 => assert_eq!((outcomes(&all, "email_not_linkable"), outcomes(&all, "email_taken")), (3, 2), "{all:?}"),
            _ => assert_eq!((outcomes(&all, "logged_in"), outcomes(&all, "email_taken")), (3, 3), "{all:?}"),
        }
        assert_eq!(counts(&scene, &email).await[0], 1);
    }
    println!("the sign-up won {signed_up} of 40");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_federated_session_survives_a_deactivation_whatever_races_with_it() {
    let scene = scene().await;
    let mut racers = racers(&scene, 6).await;
    racers.extend(connections(&scene.db, "auth_service", 2).await);
    racers.extend(connections(&scene.db, "postgres", 1).await);
    for round in 0..60 {
        let email = format!("ada-{round}@example.org");
        sign_up(&scene.service, &email).await;
        run(&scene.admin, "update auth.users set email_verified_at = now() where email = $1", &[&email]).await;
        let known = round.to_string();
        if round % 2 == 0 {
            federate(&scene.federation, &claims(&known, &email)).await;
        }
        let all = race(&racers, |n, racer| {
            let (token, email) = (claims(&known, &email), email.clone());
            async move {
                match n {
                    0..6 => federate(&racer, &token).await.outcome,
                    6..8 => log_in(&racer, &email, PASSWORD).await.outcome,
                    _ => {
                        let disable = "update auth.users set disabled_at = now() where email = $1";
                        assert_eq!(run(&racer, disable, &[&email]).await, 1);
                        assert_eq!(value::<i64>(&racer, LIVE, &[]).await, 0, "round {round}");
                        String::new()
                    }
                }
            }
        })
        .await;
        assert_eq!(value::<i64>(&scene.admin, LIVE, &[]).await, 0, "round {round}: {all:?}");
        assert!(all.iter().all(|one| ["logged_in", "disabled", "refused", ""].contains(&one.as_str())), "{all:?}");
    }
}
