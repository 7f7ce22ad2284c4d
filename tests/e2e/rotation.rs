//! Rotation and replay, one caller at a time: which token is exchanged, answered again, or taken for a thief's.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{
    Wishes, audit_trail, let_time_pass, log_in_wishing, refusal, revoked_reason, run, session_row, value,
};
use auth_sessions_tests::tokens::{
    PASSWORD, Secret, Token, log_in, random_bytes, rotate, rotate_times, sign_up, try_rotate,
};
use uuid::Uuid;

#[tokio::test]
async fn a_retry_is_answered_with_the_very_same_successor() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let first = sign_up(&service, "ada@example.org").await;

    let rotated = rotate(&service, &first).await;
    assert_eq!((rotated.outcome.as_str(), rotated.generation), ("rotated", Some(1)));
    let retried = rotate(&service, &first).await;
    assert_eq!(retried.outcome, "retried");
    assert_eq!(retried.token, rotated.token, "the same secret, ticket and generation");
    assert_eq!((retried.jti, retried.issued_at), (rotated.jti, rotated.issued_at));
    assert_eq!((retried.idle_expires_at, retried.expires_at), (rotated.idle_expires_at, rotated.expires_at));

    assert_eq!(rotate(&service, &rotated.token()).await.outcome, "rotated", "the successor works");
}

#[tokio::test]
async fn after_the_retry_window_an_old_token_is_a_replay() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let first = sign_up(&service, "ada@example.org").await;
    let successor = rotate(&service, &first).await.token();

    let_time_pass(&admin, first.session_id, "58 seconds").await;
    assert_eq!(rotate(&service, &first).await.outcome, "retried");
    // The retry did not make the window slide: it still ends 60 seconds after the rotation.
    let_time_pass(&admin, first.session_id, "2 seconds").await;
    assert_eq!(rotate(&service, &first).await.outcome, "replayed");
    assert_eq!(rotate(&service, &successor).await.outcome, "revoked", "the successor died with its family");
}

#[tokio::test]
async fn the_retry_window_closes_once_the_successor_was_used() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 2).await;

    assert_eq!(rotate(&service, &tokens[0]).await.outcome, "replayed");
    assert_eq!(rotate(&service, &tokens[2]).await.outcome, "revoked");
}

#[tokio::test]
async fn without_a_retry_window_the_second_presentation_is_a_replay() {
    let db = TestDb::create().await;
    db.set("auth_sessions.retry_window", "0").await;
    let service = db.connect_as("auth_service").await;
    let first = sign_up(&service, "ada@example.org").await;

    assert_eq!(rotate(&service, &first).await.outcome, "rotated");
    assert_eq!(rotate(&service, &first).await.outcome, "replayed");
}

#[tokio::test]
async fn a_replay_is_detected_however_old_the_token() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    for (generations, presented) in [(2, 0), (3, 1), (50, 0), (50, 25), (50, 48)] {
        let first = sign_up(&service, &format!("{generations}-{presented}@example.org")).await;
        let tokens = rotate_times(&service, first, generations).await;

        let outcome = rotate(&service, &tokens[presented]).await;
        assert_eq!(outcome.outcome, "replayed", "generation {presented} of {generations}");
        assert!(outcome.token.is_none() && outcome.jti.is_none() && outcome.user_id.is_none());
        assert_eq!(rotate(&service, &tokens[generations]).await.outcome, "revoked");

        let distance: i32 = value(
            &admin,
            "select generation_distance from auth.replay_incidents where session_id = $1",
            &[&tokens[0].session_id],
        )
        .await;
        assert_eq!(distance as usize, generations - presented);
    }
}

#[tokio::test]
async fn the_revocation_of_a_replay_is_there_for_who_looks_afterwards() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 7).await;
    rotate(&service, &tokens[3]).await;
    drop(service);

    let operator = db.connect_as("auth_operator").await;
    let session_id = tokens[0].session_id;
    let row = operator
        .query_one(
            "select revoked_at is not null, revoked_reason, reused_jti_of, rotations, replays, active_sessions
               from auth.sessions join auth.session_families using (family_id) where id = $1",
            &[&session_id],
        )
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0));
    assert_eq!(row.get::<_, &str>(1), "token_replay");
    let reused: Uuid = row.get(2);
    assert_eq!(reused.as_bytes()[..4], [0, 0, 0, 3], "the jti of the generation that was presented again");
    assert_eq!((row.get::<_, i64>(3), row.get::<_, i64>(4), row.get::<_, i64>(5)), (7, 1, 0));
    let active: i64 = value(&operator, "select count(*) from auth.active_sessions", &[]).await;
    assert_eq!(active, 0);
}

#[tokio::test]
async fn a_replay_ends_its_family_or_by_setting_all_of_its_user() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let bystander = sign_up(&service, "bob@example.org").await;
    sign_up(&service, "ada@example.org").await;
    for (scope, other_device) in [("family", "rotated"), ("user", "revoked")] {
        db.set("auth_sessions.replay_scope", scope).await;
        let service = db.connect_as("auth_service").await;
        let phone = log_in(&service, "ada@example.org", PASSWORD).await.token();
        let laptop = log_in(&service, "ada@example.org", PASSWORD).await.token();
        let tokens = rotate_times(&service, laptop, 2).await;

        assert_eq!(rotate(&service, &tokens[0]).await.outcome, "replayed");
        assert_eq!(rotate(&service, &phone).await.outcome, other_device, "replay_scope = {scope}");
    }
    assert_eq!(rotate(&service, &bystander).await.outcome, "rotated");
}

#[tokio::test]
async fn a_forged_token_changes_nothing_whoever_knows_the_session() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let theirs = sign_up(&service, "bob@example.org").await;
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 5).await;
    let current = &tokens[5];
    let before = session_row(&admin, current.session_id).await;
    let events: i64 = value(&admin, "select count(*) from auth.audit_log", &[]).await;

    for generation in [0, 3, 4, 5, 6, 7, 100, i32::MAX] {
        let made_up =
            Token { generation, ticket: random_bytes(16), secret: Secret::random(), session_id: current.session_id };
        // Every genuine piece that an attacker could have seen, in the wrong place.
        let pieces = [
            Token { secret: tokens[0].secret.clone(), ..made_up.clone() },
            Token { ticket: tokens[0].ticket.clone(), ..made_up.clone() },
            Token { ticket: current.ticket.clone(), ..made_up.clone() },
            Token { generation: generation.max(6), ..current.clone() },
            Token { session_id: current.session_id, generation, ..theirs.clone() },
            made_up,
        ];
        for forged in pieces {
            assert_eq!(rotate(&service, &forged).await.outcome, "unknown", "{forged:?}");
            let ended: bool = value(
                &service,
                "select auth.end_session($1, $2, $3, $4)",
                &[&forged.session_id, &forged.generation, &forged.ticket, &forged.secret.proof()],
            )
            .await;
            assert!(!ended, "{forged:?}");
        }
    }
    let nobody = Token { session_id: Uuid::new_v4(), ..current.clone() };
    assert_eq!(rotate(&service, &nobody).await.outcome, "unknown");

    assert_eq!(session_row(&admin, current.session_id).await, before);
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.audit_log", &[]).await, events, "nothing to log either");
    assert_eq!(rotate(&service, current).await.outcome, "rotated");
}

#[tokio::test]
async fn an_operator_burns_a_family_by_an_old_jti_and_by_no_other() {
    let db = TestDb::create().await;
    let (service, operator) = (db.connect_as("auth_service").await, db.connect_as("auth_operator").await);
    let admin = db.superuser().await;
    let theirs = rotate(&service, &sign_up(&service, "bob@example.org").await).await;
    let first = sign_up(&service, "ada@example.org").await;
    let family = first.session_id;
    let old_jti = rotate(&service, &first).await;
    let live = rotate(&service, &old_jti.clone().token()).await;
    let (old_jti, live_jti) = (old_jti.jti.unwrap(), live.jti.unwrap());
    let before = session_row(&admin, family).await;

    let handle = async |jti: Uuid, family_id: Uuid| -> bool {
        value(&operator, "select auth.handle_token_replay($1, $2)", &[&jti, &family_id]).await
    };
    assert!(!handle(live_jti, family).await, "the live one is no replay");
    assert!(!handle(Uuid::new_v4(), family).await, "nobody made this one");
    assert!(!handle(theirs.jti.unwrap(), family).await, "another family's");
    assert!(!handle(old_jti, theirs.family_id.unwrap()).await, "in another family");
    assert!(!handle(old_jti, Uuid::new_v4()).await, "in no family");
    let refused = service.execute("select auth.handle_token_replay($1, $2)", &[&old_jti, &family]).await;
    assert_eq!(refusal(refused).code, "42501", "not for the service's role");
    assert_eq!(session_row(&admin, family).await, before);

    assert!(handle(old_jti, family).await);
    let reused: Uuid = value(&admin, "select reused_jti_of from auth.sessions where id = $1", &[&family]).await;
    assert_eq!(reused, old_jti);
    assert_eq!(rotate(&service, &live.token()).await.outcome, "revoked");
    let burnt = session_row(&admin, family).await;
    assert!(handle(old_jti, family).await, "it still was one");
    assert_eq!(session_row(&admin, family).await, burnt, "but happens once");
    let trail = audit_trail(&admin, family).await;
    assert_eq!(trail.iter().filter(|action| *action == "token_replay_detected").count(), 1, "{trail:?}");
}

#[tokio::test]
async fn revoking_again_reports_nothing_and_keeps_the_first_time_and_reason() {
    let db = TestDb::create().await;
    let (service, operator) = (db.connect_as("auth_service").await, db.connect_as("auth_operator").await);
    let admin = db.superuser().await;
    let ended = sign_up(&service, "ada@example.org").await;
    let other = log_in(&service, "ada@example.org", PASSWORD).await;
    let revoke_family = "select auth.revoke_session_family($1, $2)";

    assert_eq!(value::<i32>(&operator, revoke_family, &[&ended.session_id, &"stolen laptop"]).await, 1);
    let row = session_row(&admin, ended.session_id).await;
    assert_eq!(revoked_reason(&admin, ended.session_id).await.as_deref(), Some("stolen laptop"));

    assert_eq!(value::<i32>(&operator, revoke_family, &[&ended.session_id, &"again"]).await, 0);
    assert_eq!(rotate(&service, &ended).await.outcome, "revoked");
    let tickets = "select auth.end_session($1, $2, $3, $4)";
    let again: bool = value(&service, tickets, &[&ended.session_id, &0, &ended.ticket, &ended.secret.proof()]).await;
    assert!(!again, "the token is genuine, but its session was over");
    let transaction = "begin; select from auth.assume_session('{session}', '{jti}')"
        .replace("{session}", &other.session_id.unwrap().to_string())
        .replace("{jti}", &other.jti.unwrap().to_string());
    service.batch_execute(&transaction).await.unwrap();
    assert!(!value::<bool>(&service, "select auth.revoke_session($1)", &[&ended.session_id]).await);
    let all: i32 = value(&service, "select auth.revoke_user_sessions(auth.current_user_id())", &[]).await;
    assert_eq!(all, 1, "only the one that was live");
    service.batch_execute("commit").await.unwrap();
    assert_eq!(session_row(&admin, ended.session_id).await, row);
}

#[tokio::test]
async fn a_login_beyond_the_allowed_number_ends_the_oldest_session() {
    let db = TestDb::create().await;
    db.set("auth_sessions.max_sessions_per_user", "3").await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let other_user = sign_up(&service, "bob@example.org").await;
    let mut sessions = vec![sign_up(&service, "ada@example.org").await];
    for _ in 0..3 {
        sessions.push(log_in(&service, "ada@example.org", PASSWORD).await.token());
    }

    assert_eq!(revoked_reason(&admin, sessions[0].session_id).await.as_deref(), Some("max_sessions_per_user"));
    for survivor in &sessions[1..] {
        assert_eq!(rotate(&service, survivor).await.outcome, "rotated");
    }
    assert_eq!(rotate(&service, &other_user).await.outcome, "rotated");

    // An expired session takes up no place.
    let_time_pass(&admin, sessions[3].session_id, "8 days").await;
    log_in(&service, "ada@example.org", PASSWORD).await.token();
    assert_eq!(revoked_reason(&admin, sessions[1].session_id).await, None);
}

#[tokio::test]
async fn under_repeatable_read_a_lost_race_is_an_error_and_never_a_second_successor() {
    let db = TestDb::create().await;
    let (early, late) = (db.connect_as("auth_service").await, db.connect_as("auth_service").await);
    let first = sign_up(&early, "ada@example.org").await;

    late.batch_execute("begin isolation level repeatable read; select from auth.active_sessions").await.unwrap();
    let rotated = rotate(&early, &first).await;
    assert_eq!(refusal(try_rotate(&late, &first).await).code, "40001");
    late.batch_execute("rollback").await.unwrap();

    // The loser's next try is the retry that it was; and alone, a refresh works under any isolation level.
    assert_eq!(rotate(&late, &first).await.token, rotated.token);
    for level in ["repeatable read", "serializable"] {
        let token = log_in(&early, "ada@example.org", PASSWORD).await.token();
        late.batch_execute(&format!("begin isolation level {level}")).await.unwrap();
        assert_eq!(rotate(&late, &token).await.outcome, "rotated", "{level}");
        late.batch_execute("commit").await.unwrap();
    }
}

#[tokio::test]
async fn the_jti_in_the_view_is_the_jti_that_was_returned() {
    let db = TestDb::create().await;
    let (service, watcher) = (db.connect_as("auth_service").await, db.connect_as("auth_watcher").await);
    let admin = db.superuser().await;
    sign_up(&service, "ada@example.org").await;
    let shown = "select current_jti from auth.active_sessions where id = $1";

    let mut session = log_in(&service, "ada@example.org", PASSWORD).await;
    for _ in 0..3 {
        let (session_id, jti) = (session.session_id, session.jti.unwrap());
        assert_eq!(value::<Uuid>(&watcher, shown, &[&session_id]).await, jti);
        // To its owner too.
        service.batch_execute("begin").await.unwrap();
        run(&service, "select from auth.assume_session($1, $2)", &[&session_id, &jti]).await;
        assert_eq!(value::<Uuid>(&service, shown, &[&session_id]).await, jti);
        service.batch_execute("commit").await.unwrap();
        // So that the login's time, and the rotation's before, are not this rotation's.
        let_time_pass(&admin, session_id.unwrap(), "10 seconds").await;
        session = rotate(&service, &session.token()).await;
    }
}

#[tokio::test]
async fn the_last_generation_does_not_rotate_and_burns_nothing() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let token = sign_up(&service, "ada@example.org").await;
    let at = "update auth.sessions set generation = $1 where id = $2";
    run(&admin, at, &[&(i32::MAX - 1), &token.session_id]).await;

    let last = rotate(&service, &Token { generation: i32::MAX - 1, ..token }).await.token();
    assert_eq!(last.generation, i32::MAX);
    assert_eq!(rotate(&service, &last).await.outcome, "expired");
    assert_eq!(revoked_reason(&admin, last.session_id).await, None);
}

#[tokio::test]
async fn a_client_may_ask_for_its_own_retry_window_up_to_the_limit() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    // What was asked for at login, and after how many seconds a retry is still one, and is not any more.
    for (asked, retried, replayed) in [
        (None, 58, 60),
        (Some("5 minutes"), 298, 300),
        (Some("10 minutes"), 598, 600),
        (Some("3 days"), 598, 600),
        (Some("2 seconds"), 0, 2),
    ] {
        let wishes = Wishes { retry_window: asked, ..Wishes::default() };
        for (seconds, outcome) in [(retried, "retried"), (replayed, "replayed")] {
            let token = log_in_wishing(&service, "ada@example.org", wishes).await.token();
            rotate(&service, &token).await;
            let_time_pass(&admin, token.session_id, &format!("{seconds} seconds")).await;
            assert_eq!(rotate(&service, &token).await.outcome, outcome, "{asked:?} after {seconds} s");
        }
    }
    // A setting counts from the next presentation on, for sessions without a wish of their own.
    let token = log_in(&service, "ada@example.org", PASSWORD).await.token();
    rotate(&service, &token).await;
    db.set("auth_sessions.retry_window", "0").await;
    assert_eq!(rotate(&db.connect_as("auth_service").await, &token).await.outcome, "replayed");
}
