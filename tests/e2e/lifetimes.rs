//! When a session ends by itself: idle and absolute lifetimes, what a client may ask for, and that a time-out is no
//! attack.

use std::time::{Duration, SystemTime};

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{
    Wishes, audit_trail, let_time_pass, log_in_wishing, revoked_reason, run, session_row, value,
};
use auth_sessions_tests::tokens::{PASSWORD, log_in, rotate, rotate_times, sign_up};

const DAY: u64 = 86_400;

/// Whole seconds between two times of one answer.
fn seconds(from: Option<SystemTime>, to: Option<SystemTime>) -> u64 {
    let between = to.unwrap().duration_since(from.unwrap()).expect("in this order");
    (between + Duration::from_millis(500)).as_secs()
}

#[tokio::test]
async fn an_expired_session_does_not_rotate_is_not_burnt_and_counts_as_inactive() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let watcher = db.connect_as("auth_watcher").await;
    sign_up(&service, "ada@example.org").await;
    // Past the idle lifetime; and past the absolute one, although used a moment ago.
    for (expiry, passed) in [("idle_expires_at", "7 days"), ("expires_at", "30 days")] {
        let session = log_in(&service, "ada@example.org", PASSWORD).await;
        let jti = session.jti.unwrap();
        let tokens = rotate_times(&service, session.token(), 3).await;
        let id = tokens[0].session_id;
        run(
            &admin,
            &format!("update auth.sessions set {expiry} = {expiry} - $1::text::interval where id = $2"),
            &[&passed, &id],
        )
        .await;
        let before = session_row(&admin, id).await;

        // The current token, the one before it, and one that would be a replay while the session lives.
        for token in [&tokens[3], &tokens[2], &tokens[0]] {
            assert_eq!(rotate(&service, token).await.outcome, "expired", "{expiry}");
        }
        assert_eq!(session_row(&admin, id).await, before, "{expiry}: nothing is burnt");
        let assumed = service.query("select from auth.assume_session($1, $2)", &[&id, &jti]).await.unwrap();
        assert!(assumed.is_empty(), "{expiry}: its access token is worth nothing");

        let shown = "select count(*) from auth.active_sessions where id = $1";
        assert_eq!(value::<i64>(&watcher, shown, &[&id]).await, 0, "{expiry}");
        let family = watcher
            .query_one(
                "select active_sessions, revoked_sessions from auth.session_families where family_id = $1",
                &[&id],
            )
            .await
            .unwrap();
        assert_eq!((family.get::<_, i64>(0), family.get::<_, i64>(1)), (0, 0), "{expiry}: neither active nor revoked");
        let operator = db.connect_as("auth_operator").await;
        let revoked: i32 = value(&operator, "select auth.revoke_session_family($1)", &[&id]).await;
        assert_eq!((revoked, revoked_reason(&admin, id).await), (0, None), "{expiry}: nothing was live");
    }
}

#[tokio::test]
async fn refusals_of_an_expired_session_are_logged_less_and_less_often() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let token = sign_up(&service, "ada@example.org").await;
    let_time_pass(&admin, token.session_id, "8 days").await;
    for _ in 0..20 {
        assert_eq!(rotate(&service, &token).await.outcome, "expired");
    }
    let trail = audit_trail(&admin, token.session_id).await;
    let logged = trail.iter().filter(|action| *action == "session_expired").count();
    assert_eq!(logged, 5, "the 1st, 2nd, 4th, 8th and 16th of 20: {trail:?}");
}

#[tokio::test]
async fn a_refresh_extends_the_idle_lifetime_and_never_the_absolute_one() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    let session = log_in(&service, "ada@example.org", PASSWORD).await;
    assert_eq!(seconds(session.auth_time, session.idle_expires_at), 7 * DAY);
    assert_eq!(seconds(session.auth_time, session.expires_at), 30 * DAY);

    // A refresh every five days keeps it alive until day 30 and no further.
    let mut token = session.token();
    for day in [5, 10, 15, 20, 25] {
        let_time_pass(&admin, token.session_id, "5 days").await;
        let rotated = rotate(&service, &token).await;
        assert_eq!(seconds(rotated.auth_time, rotated.expires_at), 30 * DAY, "day {day}");
        let idle = seconds(rotated.auth_time, rotated.idle_expires_at);
        assert_eq!(idle, (day + 7).min(30) * DAY, "day {day}: never beyond the absolute end");
        token = rotated.token();
    }
    let_time_pass(&admin, token.session_id, "5 days").await;
    assert_eq!(rotate(&service, &token).await.outcome, "expired", "day 30");
}

#[tokio::test]
async fn a_client_may_ask_for_less_and_never_gets_more() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    sign_up(&service, "ada@example.org").await;
    for (idle_ttl, max_age, idle_days, days) in [
        (Some("1 day"), Some("2 days"), 1, 2),
        (Some("400 days"), Some("400 days"), 7, 30),
        (Some("1 day"), None, 1, 30),
        (None, Some("3 days"), 3, 3),
    ] {
        let wishes = Wishes { idle_ttl, max_age, ..Wishes::default() };
        let session = log_in_wishing(&service, "ada@example.org", wishes).await;
        assert_eq!(seconds(session.auth_time, session.idle_expires_at), idle_days * DAY, "{wishes:?}");
        assert_eq!(seconds(session.auth_time, session.expires_at), days * DAY, "{wishes:?}");
        // The wish is remembered: a refresh does not grant more than the login did.
        let rotated = rotate(&service, &session.token()).await;
        assert_eq!(seconds(rotated.auth_time, rotated.idle_expires_at), idle_days * DAY, "{wishes:?}");
    }
}

#[tokio::test]
async fn a_shorter_setting_reaches_living_sessions_at_their_next_refresh() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let token = sign_up(&service, "ada@example.org").await;
    db.set("auth_sessions.refresh_idle_ttl", "1h").await;

    let rotated = rotate(&db.connect_as("auth_service").await, &token).await;
    assert_eq!(seconds(rotated.auth_time, rotated.idle_expires_at), 3_600);
}
