//! The story of a session and of a user, as the audit log tells it: all of it, in order, and only to whom it is due.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{run, sqlstate, value, values};
use auth_sessions_tests::tenants::{Tenant, act_as, assume};
use auth_sessions_tests::tokens::{Outcome, PASSWORD, log_in, rotate, rotate_times, sign_up, try_sign_up};
use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

/// The actions of a session's story, as somebody is told it.
async fn actions_of_session(reader: &Client, session: Uuid) -> Vec<String> {
    values(reader, "select action from auth.session_history($1)", &[&session]).await
}

/// The same in somebody's name, through the service's role.
async fn told(service: &Client, who: &Outcome, session: Uuid) -> Vec<String> {
    let rows = act_as(service, who, "select action from auth.session_history($1)", &[&session]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The actions of a user's story in somebody's name.
async fn told_of_user(service: &Client, who: &Outcome, user: Uuid) -> Vec<String> {
    let rows = act_as(service, who, "select action from auth.user_history($1)", &[&user]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_replay_is_told_from_the_opening_to_the_end() {
    let db = TestDb::create().await;
    db.set("auth_sessions.audit_level", "all").await;
    let (service, watcher) = (db.connect_as("auth_service").await, db.connect_as("auth_watcher").await);
    let token = sign_up(&service, "ada@example.org").await;
    let session = token.session_id;
    let tokens = rotate_times(&service, token.clone(), 3).await;
    let replay = "select from auth.rotate_session_token($1, 0, $2, $3, sha256('next'), substr(sha256('nonce'), 1, 16),
                      ip => '198.51.100.7', user_agent => 'thief/1', correlation_id => 'request 17')";
    run(&service, replay, &[&session, &token.ticket, &token.secret.proof()]).await;
    assert_eq!(rotate(&service, &tokens[3]).await.outcome, "revoked");

    let rows = watcher
        .query(
            "select action, summary, severity, success, session_id, family_id, actor_id, network::text, user_agent,
                    correlation_id, details::text, actor, at from auth.session_history($1)",
            &[&session],
        )
        .await
        .unwrap();
    let actions: Vec<&str> = rows.iter().map(|row| row.get("action")).collect();
    let expected = [
        "auth_session_created",
        "token_refreshed",
        "token_refreshed",
        "token_refreshed",
        "token_replay_detected",
        "session_family_revoked",
    ];
    assert_eq!(actions, expected);
    let times: Vec<std::time::SystemTime> = rows.iter().map(|row| row.get("at")).collect();
    assert!(times.is_sorted(), "{times:?}");
    let (opened, replayed, ended) = (&rows[0], &rows[4], &rows[5]);
    assert_eq!(opened.get::<_, &str>("summary"), "Session opened (proved by: pwd)");
    assert_eq!(
        replayed.get::<_, &str>("summary"),
        "Replay: a token of generation 0 was shown while the session was at 3 (3 behind)"
    );
    assert_eq!((replayed.get::<_, &str>("severity"), replayed.get::<_, bool>("success")), ("critical", false));
    assert_eq!(replayed.get::<_, &str>("network"), "198.51.100.0/24");
    assert_eq!(replayed.get::<_, &str>("user_agent"), "thief/1");
    assert_eq!(replayed.get::<_, &str>("correlation_id"), "request 17");
    assert_eq!(replayed.get::<_, &str>("actor"), "auth_service");
    assert_eq!(ended.get::<_, &str>("summary"), "Family revoked: token_replay (sessions ended: 1)");
    let details: Value = ended.get::<_, &str>("details").parse().unwrap();
    assert_eq!(details["sessions"], serde_json::json!([session]));
    assert!(rows.iter().all(|row| row.get::<_, Option<Uuid>>("session_id") == Some(session)));
    assert!(rows.iter().all(|row| row.get::<_, Option<Uuid>>("family_id") == Some(session)));

    let user: Uuid = value(&watcher, "select user_id from auth.sessions where id = $1", &[&session]).await;
    let of_user: Vec<String> = values(&watcher, "select action from auth.user_history($1)", &[&user]).await;
    assert_eq!(of_user, ["user_created", expected[0], expected[4], expected[5]], "without the refreshes");
}

#[tokio::test]
async fn a_stretch_of_time_can_be_told_and_is_checked() {
    let db = TestDb::create().await;
    let (service, watcher) = (db.connect_as("auth_service").await, db.connect_as("auth_watcher").await);
    let session = sign_up(&service, "ada@example.org").await.session_id;
    run(&db.connect_as("auth_operator").await, "select auth.revoke_session_family($1)", &[&session]).await;
    let opened = "select min(at) from auth.session_history($1)";
    let opened: std::time::SystemTime = value(&watcher, opened, &[&session]).await;
    let between = "select action from auth.session_history($1, from_time => $2, to_time => $3)";
    let soon = opened + std::time::Duration::from_micros(1);
    assert_eq!(values::<String>(&watcher, between, &[&session, &opened, &soon]).await, ["auth_session_created"]);
    let later = soon + std::time::Duration::from_secs(600);
    assert_eq!(values::<String>(&watcher, between, &[&session, &soon, &later]).await, ["session_family_revoked"]);
    for (statement, code) in [
        ("select auth.session_history(null)", "22004"),
        ("select auth.user_history(null)", "22004"),
        ("select auth.session_history(gen_random_uuid(), null)", "22004"),
        ("select auth.user_history(gen_random_uuid(), to_time => null)", "22004"),
        ("select auth.session_history(gen_random_uuid(), 'tomorrow', 'yesterday')", "22023"),
        ("select auth.user_history(gen_random_uuid(), 'tomorrow', 'yesterday')", "22023"),
        ("select auth.session_history(gen_random_uuid())", "00000"),
    ] {
        assert_eq!(sqlstate(&watcher, statement).await, code, "{statement}");
    }
}

#[tokio::test]
async fn what_ended_several_sessions_at_once_is_in_the_story_of_each_and_outlives_them() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let operator = db.connect_as("auth_operator").await;
    sign_up(&service, "ada@example.org").await;
    let mut sessions: Vec<Uuid> = values(&admin, "select id from auth.sessions", &[]).await;
    for _ in 0..2 {
        sessions.push(log_in(&service, "ada@example.org", PASSWORD).await.session_id.unwrap());
    }
    run(&admin, "update auth.users set disabled_at = now()", &[]).await;
    let expected = [
        &["auth_session_created", "session_revoked"][..],
        &["auth_session_created", "user_logged_in", "session_revoked"],
        &["auth_session_created", "user_logged_in", "session_revoked"],
    ];
    for (session, expected) in sessions.iter().zip(expected) {
        assert_eq!(actions_of_session(&operator, *session).await, expected);
    }
    let summary = "select summary from auth.session_history($1) where action = 'session_revoked'";
    let summary: String = value(&operator, summary, &[&sessions[0]]).await;
    assert_eq!(summary, "Session ended: user_disabled (sessions ended: 3)");

    // Cleaned away, and the account deleted: the log still tells.
    let user: Uuid = value(&admin, "select id from auth.users", &[]).await;
    run(&admin, "delete from auth.users", &[]).await;
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.sessions", &[]).await, 0);
    for (session, expected) in sessions.iter().zip(expected) {
        assert_eq!(actions_of_session(&operator, *session).await, expected);
    }
    let last = "select action from auth.user_history($1) order by at desc limit 1";
    assert_eq!(value::<String>(&operator, last, &[&user]).await, "user_deleted");
}

#[tokio::test]
async fn a_failed_step_up_is_in_the_story_of_its_session() {
    let db = TestDb::create().await;
    let (service, watcher) = (db.connect_as("auth_service").await, db.connect_as("auth_watcher").await);
    let ada = try_sign_up(&service, "ada@example.org", None).await.unwrap();
    let session = ada.session_id.unwrap();
    let step_up = "select outcome from auth.complete_step_up(1, sha256('wrong'))";
    let rows = act_as(&service, &ada, step_up, &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, &str>(0), "refused");
    assert_eq!(actions_of_session(&watcher, session).await, ["auth_session_created", "step_up_failed"]);
    let summary = "select summary from auth.session_history($1) where action = 'step_up_failed'";
    let summary: String = value(&watcher, summary, &[&session]).await;
    assert_eq!(summary, "Authentication in a session refused, failure 1 in a row");

    // Who tries the password of somebody else in the same transaction is not told of that account.
    sign_up(&service, "bob@example.org").await;
    service.batch_execute("begin").await.unwrap();
    assume(&service, &ada).await;
    let guess = "select outcome from auth.complete_login('bob@example.org', 1, sha256('wrong'), sha256('token'))";
    assert_eq!(value::<String>(&service, guess, &[]).await, "refused");
    service.batch_execute("commit").await.unwrap();
    assert_eq!(told(&service, &ada, session).await, ["auth_session_created", "step_up_failed"]);
}

/// Every writer of the log sees to it. Should one fail to, the story of a session is its user's alone all the same.
#[tokio::test]
async fn what_somebody_else_did_in_a_session_is_not_told() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let ada = try_sign_up(&service, "ada@example.org", None).await.unwrap();
    let bob = try_sign_up(&service, "bob@example.org", None).await.unwrap();
    let slip = "select auth.record_event('user_login_failed', 'warning', false, $1, session_id => $2, details => '{}')";
    run(&admin, slip, &[&bob.user_id, &ada.session_id]).await;
    let session = ada.session_id.unwrap();
    assert_eq!(told(&service, &ada, session).await, ["auth_session_created"]);
    // Also when the session itself was cleaned away.
    run(&admin, "delete from auth.sessions where id = $1", &[&session]).await;
    let again = log_in(&service, "ada@example.org", PASSWORD).await;
    assert_eq!(told(&service, &again, session).await, ["auth_session_created"]);
}

#[tokio::test]
async fn it_is_told_to_whom_it_concerns() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let operator = db.connect_as("auth_operator").await;
    let ours = Tenant::found(&admin, &service, "ours").await;
    let theirs = Tenant::found(&admin, &service, "theirs").await;
    let eve = try_sign_up(&service, "eve@example.org", None).await.unwrap();
    // Something that happened in the organization's name to each of its people.
    for tenant in [&ours, &theirs] {
        for person in [&tenant.owner, &tenant.admin, &tenant.member] {
            let end = "select auth.record_event('session_expired', 'info', false, $1, $2, $3, $3, details => '{\"times\": 1}')";
            run(&admin, end, &[&person.user_id, &tenant.id, &person.session_id]).await;
        }
    }
    let seen = async |who: &Outcome, whom: &Outcome| {
        let of_session = told(&service, who, whom.session_id.unwrap()).await.len();
        let of_user = told_of_user(&service, who, whom.user_id.unwrap()).await.len();
        (of_session, of_user)
    };
    let (all, in_organization, nothing) = ((2, 3), (1, 1), (0, 0));
    let people = [&ours.owner, &ours.admin, &ours.member];
    for (who, expected) in [
        // The owner founded the organization in the sign-up: 3 events of the user's and 2 of the session's more.
        (&ours.owner, [(2, 6), in_organization, in_organization]),
        (&ours.admin, [nothing, all, in_organization]),
        (&ours.member, [nothing, nothing, all]),
        (&theirs.owner, [nothing, nothing, nothing]),
        (&eve, [nothing, nothing, nothing]),
    ] {
        for (whom, expected) in people.iter().zip(expected) {
            assert_eq!(seen(who, whom).await, expected);
        }
    }
    assert_eq!(seen(&eve, &eve).await, (1, 2));

    // An operator is told everything, as long as they are one; who watches over the database, too.
    run(&operator, "select auth.appoint_operator($1)", &[&eve.user_id]).await;
    let everything = [(2, 6), all, all];
    for (whom, expected) in people.iter().zip(everything) {
        assert_eq!(seen(&eve, whom).await, expected);
    }
    run(&operator, "select auth.dismiss_operator($1)", &[&eve.user_id]).await;
    for whom in people {
        assert_eq!(seen(&eve, whom).await, nothing);
    }
    for watcher in [&operator, &db.connect_as("auth_watcher").await] {
        assert_eq!(actions_of_session(watcher, ours.member.session_id.unwrap()).await.len(), 2);
    }

    // Nobody is told nothing; who was thrown out, of the organization nothing more than their own.
    assert_eq!(sqlstate(&service, "select auth.session_history(gen_random_uuid())").await, "28000");
    assert_eq!(sqlstate(&service, "select auth.user_history(gen_random_uuid())").await, "28000");
    for login in ["auth_mail_service", "auth_federation_service"] {
        let stranger = db.connect_as(login).await;
        assert_eq!(sqlstate(&stranger, "select auth.session_history(gen_random_uuid())").await, "42501", "{login}");
    }
    service.batch_execute("begin").await.unwrap();
    assume(&service, &ours.admin).await;
    let of_member = "select count(*) from auth.session_history($1)";
    assert_eq!(value::<i64>(&service, of_member, &[&ours.member.session_id]).await, 1);
    run(&admin, "delete from auth.organization_members where user_id = $1", &[&ours.admin.user_id]).await;
    assert_eq!(value::<i64>(&service, of_member, &[&ours.member.session_id]).await, 0, "from the next statement on");
    service.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn an_organization_is_told_nothing_of_another_one() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let ours = Tenant::found(&admin, &service, "ours").await;
    let theirs = Tenant::found(&admin, &service, "theirs").await;
    // The member of ours belongs to theirs too, and works there now with the one session, and here with another one.
    let bob = &ours.member;
    let join =
        "insert into auth.organization_members (organization_id, user_id, role) values ($1, $2, 'ORGANIZATION_MEMBER')";
    run(&admin, join, &[&theirs.id, &bob.user_id]).await;
    let switch = "select outcome from auth.switch_organization($1)";
    assert_eq!(act_as(&service, bob, switch, &[&theirs.id]).await.unwrap()[0].get::<_, &str>(0), "switched");
    let other = log_in(&service, &format!("member@{}.example", ours.slug), PASSWORD).await;
    let (session, other_session) = (bob.session_id.unwrap(), other.session_id.unwrap());
    let acts = "update auth.sessions set organization_id = $1 where id = $2";
    run(&admin, acts, &[&ours.id, &other_session]).await;
    run(&admin, "update auth.users set disabled_at = now() where id = $1", &[&bob.user_id]).await;

    let whole = actions_of_session(&admin, session).await;
    assert_eq!(whole, ["auth_session_created", "session_organization_switched", "session_revoked"]);
    for (reader, session, expected) in [
        (&theirs.owner, session, &["session_organization_switched", "session_revoked"][..]),
        (&ours.owner, session, &[]),
        (&ours.owner, other_session, &["auth_session_created", "user_logged_in", "session_revoked"]),
        (&theirs.owner, other_session, &[]),
    ] {
        let rows =
            act_as(&service, reader, "select h::text, h.action from auth.session_history($1) h", &[&session]).await;
        let rows = rows.unwrap();
        let actions: Vec<&str> = rows.iter().map(|row| row.get(1)).collect();
        assert_eq!(actions, expected);
        let foreign = if reader.user_id == ours.owner.user_id {
            [theirs.id.to_string(), bob.session_id.unwrap().to_string()]
        } else {
            [ours.id.to_string(), other_session.to_string()]
        };
        for row in &rows {
            let text: String = row.get(0);
            assert!(foreign.iter().all(|id| !text.contains(id.as_str())), "{text}");
            if row.get::<_, &str>(1) == "session_revoked" {
                assert!(text.contains("user_disabled"), "{text}");
            }
        }
    }
}

/// A reader's eyes see no more of an event than its members, and a template's marks in them stay marks.
#[tokio::test]
async fn a_summary_is_one_line_whatever_is_in_the_details() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let summary = async |template: &str, details: Value| -> String {
        value(&admin, "select auth.event_summary($1, $2::text::jsonb)", &[&template, &details.to_string()]).await
    };
    let template = "Opened[ on {device_name}] ({amr})[, ended: {sessions}]";
    for (details, expected) in [
        (serde_json::json!({"device_name": "Firefox", "amr": ["pwd", "fed"]}), "Opened on Firefox (pwd, fed)"),
        (serde_json::json!({"device_name": null, "amr": []}), "Opened ()"),
        (serde_json::json!({"device_name": "{amr}[x]\u{1b}[31m\n", "amr": ["a"]}), "Opened on (amr)(x) (31m  (a)"),
        (serde_json::json!({"sessions": ["a", "b", "c"], "amr": ["a"]}), "Opened (a), ended: 3"),
        (
            serde_json::json!({"device_name": "x".repeat(1000), "amr": "a"}),
            &format!("Opened on {} (a)", "x".repeat(200)),
        ),
        (serde_json::json!({}), "Opened (?)"),
        (serde_json::json!([1, 2]), "Opened (?)"),
        (serde_json::json!(null), "Opened (?)"),
    ] {
        assert_eq!(summary(template, details).await, expected);
    }
    let without: String = value(&admin, "select auth.event_summary('Logged in[ by {method}]', null)", &[]).await;
    assert_eq!(without, "Logged in");
}

/// The story of one session or user among hundreds of thousands of events is found by an index, in every month.
#[tokio::test]
async fn it_is_found_by_an_index() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
    let session = sign_up(&service, "ada@example.org").await.session_id;
    run(
        &admin,
        "insert into auth.audit_log (action, severity, success, user_id, session_id, family_id, created_at)
         select 'token_refreshed', 'info', true, ids.id, ids.id, ids.id, now() + make_interval(days => n % 60)
           from generate_series(1, 30000) n, lateral (select md5((n / 10)::text)::uuid as id) ids",
        &[],
    )
    .await;
    admin.batch_execute("analyze auth.audit_log").await.unwrap();
    // What was read until now is not counted with what follows.
    admin.batch_execute("select pg_stat_force_next_flush()").await.unwrap();
    let user: Uuid = value(&admin, "select user_id from auth.sessions where id = $1", &[&session]).await;
    for (function, id) in [("session_history", session), ("user_history", user)] {
        admin.batch_execute("begin").await.unwrap();
        let found: i64 = value(&admin, &format!("select count(*) from auth.{function}($1)"), &[&id]).await;
        assert!(found >= 1, "{function}");
        let read: i64 = value(
            &admin,
            "select sum(seq_tup_read)::bigint from pg_stat_xact_all_tables where schemaname = 'auth' and relname like 'audit_log%'",
            &[],
        )
        .await;
        admin.batch_execute("commit").await.unwrap();
        assert_eq!(read, 0, "{function} reads every event of a month");
    }
}
