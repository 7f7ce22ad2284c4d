//! Stepping up through an OpenID provider, as the database decides it: for a proved session, with an identity of its user's.

use auth_sessions_tests::sql::{audit_trail, refusal, run, value, values};
use auth_sessions_tests::tokens::{Outcome, random_bytes, rotate, sign_up};
use uuid::Uuid;

use crate::federation::{ISSUER, Scene, claims, federate, scene};

/// A token that is shown for a step-up.
struct Shown<'a> {
    subject: &'a str,
    digest: Vec<u8>,
    expires_in: &'a str,
    authenticated: &'a str,
}

fn fresh(subject: &str) -> Shown<'_> {
    Shown { subject, digest: random_bytes(32), expires_in: "1 hour", authenticated: "-10 seconds" }
}

/// The outcome, and the new jti.
async fn step_up(scene: &Scene, session: &Outcome, token: &Shown<'_>) -> (String, Option<Uuid>) {
    let statement = "select outcome, jti from auth.step_up_federated(session_id => $1, jti => $2, provider => $3,
        subject => $4, id_token_digest => $5, id_token_expires_at => clock_timestamp() + $6::text::interval,
        authenticated_at => clock_timestamp() + $7::text::interval, correlation_id => 'test')";
    let Shown { subject, digest, expires_in, authenticated } = token;
    let row = scene
        .federation
        .query_one(statement, &[&session.session_id, &session.jti, &ISSUER, subject, digest, expires_in, authenticated])
        .await
        .expect("step_up_federated");
    (row.get(0), row.get(1))
}

/// A session that was authenticated a day ago.
async fn stale(scene: &Scene, subject: &str, email: &str) -> Outcome {
    let opened = federate(&scene.federation, &claims(subject, email)).await;
    assert_eq!(opened.outcome, "logged_in");
    let age = "update auth.sessions set auth_time = auth_time - interval '1 day' where id = $1";
    run(&scene.admin, age, &[&opened.session_id]).await;
    opened
}

async fn auth_age(scene: &Scene, session: &Outcome) -> f64 {
    let age = "select extract(epoch from clock_timestamp() - auth_time)::float8 from auth.sessions where id = $1";
    value(&scene.admin, age, &[&session.session_id]).await
}

#[tokio::test]
async fn a_recent_token_of_the_users_own_identity_is_a_step_up() {
    let scene = scene().await;
    let session = stale(&scene, "1", "ada@example.org").await;
    let (outcome, jti) = step_up(&scene, &session, &fresh("1")).await;
    assert_eq!(outcome, "stepped_up");
    let age = auth_age(&scene, &session).await;
    assert!((10.0..60.0).contains(&age), "as old as the provider's own authentication: {age}");
    scene.service.batch_execute("begin").await.unwrap();
    assert_eq!(run(&scene.service, "select from auth.assume_session($1, $2)", &[&session.session_id, &jti]).await, 1);
    assert!(value::<bool>(&scene.service, "select auth.require_auth_age('5 minutes')", &[]).await);
    scene.service.batch_execute("commit").await.unwrap();
    let amr = "select amr from auth.sessions where id = $1";
    assert_eq!(value::<Vec<String>>(&scene.admin, amr, &[&session.session_id]).await, ["fed"]);
    let trail = audit_trail(&scene.admin, session.session_id.unwrap()).await;
    assert_eq!(trail.last().map(String::as_str), Some("step_up_completed"));
    // It never makes a session look older than it is.
    let mut older = fresh("1");
    older.authenticated = "-2 minutes";
    assert_eq!(step_up(&scene, &session, &older).await.0, "stepped_up");
    assert!(auth_age(&scene, &session).await < 60.0);
    assert_eq!(rotate(&scene.service, &session.token()).await.outcome, "rotated", "the refresh token stays");
}

#[tokio::test]
async fn anybody_elses_an_old_or_a_used_token_is_none() {
    let scene = scene().await;
    let session = stale(&scene, "1", "ada@example.org").await;
    federate(&scene.federation, &claims("2", "bob@example.org")).await;
    let used = fresh("1");
    let mut login = claims("1", "ada@example.org");
    login.digest.clone_from(&used.digest);
    federate(&scene.federation, &login).await;
    let old = Shown { authenticated: "-6 minutes", ..fresh("1") };
    let expired = Shown { expires_in: "-1 hour", ..fresh("1") };
    for (what, token, outcome) in [
        ("another user's identity", fresh("2"), "refused"),
        ("nobody's", fresh("3"), "refused"),
        ("authenticated too long ago", old, "not_recent"),
        ("used for a login", used, "already_used"),
        ("expired", expired, "expired"),
    ] {
        assert_eq!(step_up(&scene, &session, &token).await, (outcome.to_owned(), None), "{what}");
        assert_eq!(step_up(&scene, &session, &token).await.0.replace("expired", "already_used"), "already_used");
    }
    assert!(auth_age(&scene, &session).await > 3600.0);
    let reasons = "select details ->> 'reason' from auth.security_events
        where action = 'step_up_failed' and session_id = $1 and user_id = $2 order by id";
    let reasons: Vec<String> = values(&scene.admin, reasons, &[&session.session_id, &session.user_id]).await;
    assert_eq!(reasons.iter().filter(|reason| *reason == "another_identity").count(), 2);
    assert_eq!(reasons.iter().filter(|reason| *reason == "not_recent").count(), 1);
}

#[tokio::test]
async fn a_session_that_is_not_proved_or_over_cannot_step_up() {
    let scene = scene().await;
    let session = stale(&scene, "1", "ada@example.org").await;
    let forged = Outcome { jti: Some(Uuid::new_v4()), ..session.clone() };
    let token = fresh("1");
    assert_eq!(step_up(&scene, &forged, &token).await.0, "ended");
    let unknown = Outcome { session_id: Some(Uuid::new_v4()), ..session.clone() };
    assert_eq!(step_up(&scene, &unknown, &token).await.0, "ended");
    // A proved session of somebody without any identity.
    let bob = sign_up(&scene.service, "bob@example.org").await;
    let bob = rotate(&scene.service, &bob).await;
    assert_eq!(step_up(&scene, &bob, &fresh("1")).await.0, "refused");
    run(&scene.admin, "update auth.users set disabled_at = now()", &[]).await;
    assert_eq!(step_up(&scene, &session, &token).await.0, "ended");
    run(&scene.admin, "update auth.users set disabled_at = null", &[]).await;
    assert_eq!(step_up(&scene, &session, &token).await.0, "ended", "it was ended by that");
}

#[tokio::test]
async fn hostile_arguments_of_a_step_up_are_refused_with_a_hint() {
    let scene = scene().await;
    let good = [
        "gen_random_uuid()",
        "gen_random_uuid()",
        "'https://x'",
        "'1'",
        "sha256('x')",
        "now() + interval '1 hour'",
        "now()",
    ];
    for (position, bad, code) in [
        (0, "null", "22004"),
        (1, "null", "22004"),
        (2, "null", "22004"),
        (2, "''", "22023"),
        (3, "null", "22004"),
        (3, "repeat('x', 256)", "22023"),
        (4, "null", "22004"),
        (4, r"'\x00'", "22023"),
        (5, "null", "22004"),
        (6, "null", "22004"),
    ] {
        let mut arguments = good;
        arguments[position] = bad;
        let call = format!("select auth.step_up_federated({})", arguments.join(", "));
        let refused = refusal(scene.federation.execute(&call, &[]).await);
        assert_eq!(refused.code, code, "{call}: {refused:?}");
        assert_ne!(refused.hint, "", "{call}");
    }
    let call = format!("select outcome from auth.step_up_federated({})", good.join(", "));
    assert_eq!(value::<String>(&scene.federation, &call, &[]).await, "ended");
}
