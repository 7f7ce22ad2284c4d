//! The outbox in SQL: who reads it (the mailer alone), who is given what, and what a hostile service gains by it.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::mail::{take_mail, token_in, token_of};
use auth_sessions_tests::sql::{connections, race, refusal, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{log_in, random_bytes, sign_up};
use tokio_postgres::Client;

use crate::hostile::scene;

const QUEUE: &str =
    "select auth.queue_mail('password_changed', 'user-' || n || '@example.org', '{\"token\": \"aso_x\"}')
                       from generate_series(1, $1::int) n";

async fn claimed(mailer: &Client, batch: i32) -> Vec<(uuid::Uuid, i32)> {
    let rows =
        mailer.query("select id, attempt from auth.claim_mail($1, '1 minute')", &[&batch]).await.expect("claim_mail");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn no_role_but_the_mailer_reads_a_link_and_that_one_nothing_else() {
    let scene = scene().await;
    run(&scene.attacker, "select auth.request_password_reset('ada@example.org')", &[]).await;
    let (session, jti) = (scene.bob.session_id.unwrap(), scene.bob.jti.unwrap());
    for login in ["auth_service", "auth_operator", "auth_watcher", "auth_federation_service"] {
        let client = scene.db.connect_as(login).await;
        if login == "auth_service" {
            client
                .batch_execute(&format!("begin; select from auth.assume_session('{session}', '{jti}'); commit"))
                .await
                .unwrap();
        }
        for statement in [
            "select variables from auth.mail_outbox",
            "select recipient from auth.mail_outbox",
            "select * from auth.mail_outbox",
            "select m from auth.mail_outbox m",
            "select row_to_json(m) from auth.mail_outbox m",
            "copy auth.mail_outbox to stdout",
            "update auth.mail_outbox set recipient = 'eve@example.org'",
            "delete from auth.mail_outbox",
            "insert into auth.mail_outbox (kind, recipient, variables) values ('verify_email', 'a@example.org', '{}')",
            "select * from auth.one_time_tokens",
            "select token_verifier from auth.one_time_tokens",
            "update auth.one_time_tokens set token_verifier = sha256(sha256('mine'))",
            "select auth.claim_mail(1, '1 minute')",
            "select auth.finish_mail(gen_random_uuid())",
            "select auth.fail_mail(gen_random_uuid(), 1, 'x', true)",
            "select auth.new_one_time_token(gen_random_uuid(), 'reset_password', '1 hour')",
            "select auth.use_one_time_token('aso_x', 'reset_password')",
            "select auth.queue_mail('reset_password', 'eve@example.org', '{}')",
            "set role auth_mailer",
            "set role auth_mail_service",
        ] {
            assert_eq!(sqlstate(&client, statement).await, "42501", "{login}: {statement}");
        }
    }
    let mailer = scene.db.connect_as("auth_mail_service").await;
    for statement in [
        "select * from auth.mail_outbox",
        "select id from auth.mail_outbox",
        "select * from auth.one_time_tokens",
        "select * from auth.mail_queue",
        "select id from auth.users",
        "select id from auth.sessions",
        "select id from auth.audit_log",
        "select auth.request_password_reset('ada@example.org')",
        "select auth.reset_password('aso_x', sha256(''), 'm=1', 1, sha256(''))",
        "select auth.assume_session(gen_random_uuid(), gen_random_uuid())",
        "set role auth_api",
        "set role auth_owner",
    ] {
        assert_eq!(sqlstate(&mailer, statement).await, "42501", "the mailer: {statement}");
    }
    let links: Vec<String> = take_mail(&mailer).await.into_iter().filter_map(|(.., token)| token).collect();
    assert_eq!(links.len(), 3, "two sign-ups and a reset");
    // Watching is allowed, without what is in it.
    let watcher = scene.db.connect_as("auth_watcher").await;
    let queue: Vec<String> =
        values(&watcher, "select format('%s %s %s', state, kind, mails) from auth.mail_queue order by 1", &[]).await;
    assert_eq!(queue, ["sending reset_password 1", "sending verify_email 2"]);
    assert_eq!(sqlstate(&scene.attacker, "select * from auth.mail_queue").await, "42501");
    // Nothing of the links is anywhere else.
    for table in ["auth.audit_log", "auth.one_time_tokens", "auth.users", "auth.attempts", "auth.sessions"] {
        let rows: Vec<String> = values(&scene.admin, &format!("select t::text from {table} t"), &[]).await;
        assert!(rows.iter().all(|row| token_in(row).is_none()), "{table}");
    }
    assert!(links.iter().all(|link| !scene.db.log().contains(link.as_str())));
}

#[tokio::test]
async fn a_hostile_service_gets_no_link_and_nobodys_account_by_these_functions() {
    let scene = scene().await;
    let ada = scene.ada.user_id.unwrap();
    let before: String = value(&scene.admin, "select u::text from auth.users u where id = $1", &[&ada]).await;
    scene.become_bob().await;
    for (call, answer) in [
        ("auth.request_password_reset('ada@example.org')::text", ""),
        ("auth.resend_verification('ada@example.org')::text", ""),
        ("auth.verify_email('aso_x')", "invalid_token"),
        ("auth.confirm_email_change('aso_x')", "invalid_token"),
        ("(auth.reset_password('aso_x', sha256(''), 'm=1', 1, sha256(''))).outcome", "invalid_token"),
        ("auth.check_password_reset('aso_x')::text", "false"),
        // To Ada's address, as Bob: Ada is told, Bob gets the same answer as for any other.
        ("auth.request_email_change('ada@example.org')", "requested"),
        ("auth.request_email_change('bobs-new@example.org')", "requested"),
        ("(auth.change_password(1, sha256('guess'), sha256(''), 'm=1', 1, sha256(''))).outcome", "refused"),
    ] {
        assert_eq!(value::<String>(&scene.attacker, &format!("select {call}"), &[]).await, answer, "{call}");
    }
    scene.attacker.batch_execute("commit").await.unwrap();
    let after: String = value(&scene.admin, "select u::text from auth.users u where id = $1", &[&ada]).await;
    assert_eq!(before, after);
    // Without a session there is nobody to act for.
    for call in [
        "auth.request_email_change('eve@example.org')",
        "auth.confirm_email_change('aso_x')",
        "auth.resend_verification()",
        "auth.change_password(1, sha256(''), sha256(''), 'm=1', 1, sha256(''))",
    ] {
        assert_eq!(sqlstate(&scene.attacker, &format!("select {call}")).await, "28000", "{call}");
    }
    // Who holds a stolen session, but no password, sets none: not even with a link, without losing the session by it.
    let mailer = scene.db.connect_as("auth_mail_service").await;
    let link = token_of(&take_mail(&mailer).await, "reset_password", "ada@example.org");
    let (session, jti) = (scene.ada.session_id.unwrap(), scene.ada.jti.unwrap());
    scene
        .attacker
        .batch_execute(&format!("begin; select from auth.assume_session('{session}', '{jti}')"))
        .await
        .unwrap();
    let reset =
        "select outcome || revoked_sessions from auth.reset_password($1, sha256('salt'), 'm=1', 1, sha256('new'))";
    assert_eq!(value::<String>(&scene.attacker, reset, &[&link]).await, "password_reset1");
    scene.attacker.batch_execute("commit").await.unwrap();
    let live: i64 =
        value(&scene.admin, "select count(*) from auth.sessions where user_id = $1 and revoked_at is null", &[&ada])
            .await;
    assert_eq!(live, 0, "a reset ends the session in whose name it was made, too");
}

#[tokio::test]
async fn a_stolen_session_that_is_not_fresh_changes_neither_password_nor_address() {
    let scene = scene().await;
    take_mail(&scene.db.connect_as("auth_mail_service").await).await;
    run(&scene.admin, "update auth.sessions set auth_time = auth_time - interval '6 minutes'", &[]).await;
    let before = scene.everything().await;
    scene.become_bob().await;
    let proof = auth_sessions_tests::tokens::password_proof(auth_sessions_tests::tokens::PASSWORD);
    let change = "select outcome from auth.change_password(1, $1, sha256('salt'), 'm=1', 1, sha256('new'))";
    assert_eq!(value::<String>(&scene.attacker, change, &[&proof]).await, "step_up_required");
    let change = "select auth.request_email_change('eve@example.org')";
    assert_eq!(value::<String>(&scene.attacker, change, &[]).await, "step_up_required");
    scene.attacker.batch_execute("commit").await.unwrap();
    assert_eq!(scene.everything().await, before);
}

#[tokio::test]
async fn mailers_at_once_are_given_each_mail_once() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let mailers = connections(&db, "auth_mail_service", 6).await;
    for round in 0..20 {
        run(&admin, "delete from auth.mail_outbox", &[]).await;
        run(&admin, QUEUE, &[&60_i32]).await;
        let given = race(&mailers, |_, mailer| async move {
            let mut given = Vec::new();
            for _ in 0..6 {
                given.extend(claimed(&mailer, 7).await);
            }
            given
        })
        .await
        .concat();
        let mut ids: Vec<_> = given.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((given.len(), ids.len()), (60, 60), "round {round}");
    }
}

#[tokio::test]
async fn who_lost_the_lease_neither_hastens_nor_gives_up_what_another_sends() {
    let db = TestDb::create().await;
    let (admin, mailer) = (db.superuser().await, db.connect_as("auth_mail_service").await);
    run(&admin, QUEUE, &[&1_i32]).await;
    let (id, first) = claimed(&mailer, 1).await[0];
    assert_eq!(claimed(&mailer, 1).await, [], "leased");
    run(&admin, "update auth.mail_outbox set leased_until = now()", &[]).await;
    let (again, second) = claimed(&mailer, 1).await[0];
    assert_eq!((again, first, second), (id, 1, 2));
    let fail = "select auth.fail_mail($1, $2, 'why', $3)";
    assert_eq!(value::<String>(&mailer, fail, &[&id, &first, &true]).await, "lost");
    assert_eq!(claimed(&mailer, 1).await, [], "leased by the second");
    // But what was sent was sent, whoever says so.
    assert!(value::<bool>(&mailer, "select auth.finish_mail($1)", &[&id]).await);
    assert!(!value::<bool>(&mailer, "select auth.finish_mail($1)", &[&id]).await);
    assert_eq!(value::<String>(&mailer, fail, &[&id, &second, &false]).await, "lost");
    run(&admin, "update auth.mail_outbox set next_attempt_at = now() - interval '1 day'", &[]).await;
    assert_eq!(claimed(&mailer, 1).await, []);
}

#[tokio::test]
async fn what_fails_again_and_again_or_comes_too_late_is_given_up_and_erased() {
    let db = TestDb::create().await;
    let (admin, mailer) = (db.superuser().await, db.connect_as("auth_mail_service").await);
    run(&admin, QUEUE, &[&1_i32]).await;
    let mut became = Vec::new();
    for _ in 0..20 {
        let (id, attempt) = claimed(&mailer, 1).await[0];
        became.push(
            value::<String>(
                &mailer,
                "select auth.fail_mail($1, $2, $3, false)",
                &[&id, &attempt, &"no\r\nanswer to aso_secret_1-x."],
            )
            .await,
        );
        run(&admin, "update auth.mail_outbox set next_attempt_at = now()", &[]).await;
    }
    assert_eq!((became[18].as_str(), became[19].as_str()), ("retried", "given_up"));
    let rest: String =
        value(&admin, "select last_error || ' ' || (variables is null) from auth.mail_outbox", &[]).await;
    assert_eq!(rest, "no answer to aso_…. true");

    // A mailer that dies at each attempt ends like one that fails at each.
    run(&admin, "delete from auth.mail_outbox", &[]).await;
    run(&admin, QUEUE, &[&1_i32]).await;
    run(&admin, "update auth.mail_outbox set attempts = 20, leased_until = now()", &[]).await;
    assert_eq!(claimed(&mailer, 1).await, []);
    let (failed, error): (bool, String) = {
        let row = admin
            .query_one("select failed_at is not null and variables is null, last_error from auth.mail_outbox", &[])
            .await
            .unwrap();
        (row.get(0), row.get(1))
    };
    assert!(failed && error == "tried too often", "{error}");

    // A link that has expired is not sent any more.
    run(&admin, "delete from auth.mail_outbox", &[]).await;
    run(&admin, QUEUE, &[&1_i32]).await;
    run(&admin, "update auth.mail_outbox set expires_at = now()", &[]).await;
    assert_eq!(claimed(&mailer, 1).await, []);
    let error: String = value(&admin, "select last_error from auth.mail_outbox where failed_at is not null", &[]).await;
    assert_eq!(error, "expired before it could be sent");
}

#[tokio::test]
async fn what_is_over_is_forgotten_after_a_while_and_what_waits_is_not() {
    let db = TestDb::create().await;
    let (admin, mailer) = (db.superuser().await, db.connect_as("auth_mail_service").await);
    let service = db.connect_as("auth_service").await;
    sign_up(&service, "ada@example.org").await;
    run(&admin, QUEUE, &[&2_i32]).await;
    let sent = claimed(&mailer, 2).await;
    for (id, _) in &sent {
        run(&mailer, "select auth.finish_mail($1)", &[id]).await;
    }
    run(&admin, "update auth.mail_outbox set created_at = created_at - interval '31 days'", &[]).await;
    run(&admin, "update auth.one_time_tokens set created_at = created_at - interval '3 days', expires_at = now() - interval '25 hours'", &[]).await;
    run(&admin, "select auth.cleanup_expired_sessions()", &[]).await;
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.mail_outbox where sent_at is not null", &[]).await, 0);
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.mail_outbox", &[]).await, 1);
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.one_time_tokens", &[]).await, 0);
}

#[tokio::test]
async fn a_strangers_request_holds_nobody_up() {
    let db = TestDb::create().await;
    let (service, mut stranger) = (db.connect_as("auth_service").await, db.connect_as("auth_service").await);
    sign_up(&service, "ada@example.org").await;
    // The database's own secret is made by the first who needs it.
    log_in(&service, "ada@example.org", auth_sessions_tests::tokens::PASSWORD).await;
    let open = stranger.transaction().await.unwrap();
    open.execute("select auth.request_password_reset('ada@example.org')", &[]).await.unwrap();
    open.execute("select auth.resend_verification('ada@example.org')", &[]).await.unwrap();
    service.batch_execute("set lock_timeout = '2s'").await.unwrap();
    assert_eq!(log_in(&service, "ada@example.org", auth_sessions_tests::tokens::PASSWORD).await.outcome, "logged_in");
}

#[tokio::test]
async fn a_bad_argument_is_refused_with_a_hint() {
    let db = TestDb::create().await;
    let (service, mailer) = (db.connect_as("auth_service").await, db.connect_as("auth_mail_service").await);
    let salt = random_bytes(16);
    for (client, call, code) in [
        (&service, "request_password_reset(null)", "22004"),
        (&service, "request_password_reset('no address')", "22023"),
        (&service, "resend_verification('no address')", "22023"),
        (&service, "resend_verification(repeat('a', 250) || '@example.org')", "22023"),
        (&service, "verify_email(null)", "22004"),
        (&service, "check_password_reset(null)", "22004"),
        (&service, "reset_password(null, $1, 'm=1', 1, sha256(''))", "22004"),
        (&service, "reset_password('x', null, 'm=1', 1, sha256(''))", "22004"),
        (&service, "reset_password('x', $1, 'm=1', 1, '')", "22023"),
        (&service, "reset_password('x', '', 'm=1', 1, sha256(''))", "22023"),
        (&service, "reset_password('x', $1, '', 1, sha256(''))", "22023"),
        (&mailer, "claim_mail(null, '1 minute')", "22004"),
        (&mailer, "claim_mail(0, '1 minute')", "22023"),
        (&mailer, "claim_mail(1, '1 day')", "22023"),
        (&mailer, "finish_mail(null)", "22004"),
        (&mailer, "fail_mail(null, 1, 'x', true)", "22004"),
        (&mailer, "fail_mail(gen_random_uuid(), null, 'x', true)", "22004"),
    ] {
        let statement = format!("select auth.{call}");
        let refused = if call.contains("$1") {
            client.execute(&statement, &[&salt]).await
        } else {
            client.execute(&statement, &[]).await
        };
        let refused = refusal(refused);
        assert_eq!(refused.code, code, "{call}: {refused:?}");
        assert_ne!(refused.hint, "", "{call}: {refused:?}");
    }
}

#[tokio::test]
async fn a_token_is_used_once_for_its_purpose_until_it_expires() {
    let db = TestDb::create().await;
    let (admin, service) = (db.superuser().await, db.connect_as("auth_service").await);
    sign_up(&service, "ada@example.org").await;
    let make = "select auth.new_one_time_token(id, $1, '1 hour', email) from auth.users";
    let used = "select (auth.use_one_time_token($1, $2)).id is not null";
    let checks = "select auth.check_password_reset($1)";
    let first: String = value(&admin, make, &[&"reset_password"]).await;
    assert_eq!((first.len(), &first[..4]), (47, "aso_"));
    let other: String = value(&admin, make, &[&"change_email"]).await;
    assert_eq!((value(&service, checks, &[&first]).await, value(&service, checks, &[&other]).await), (true, false));
    for (token, purpose, works) in [
        (&first, "verify_email", false),
        (&other, "reset_password", false),
        (&first, "reset_password", true),
        (&first, "reset_password", false),
        (&other, "change_email", true),
    ] {
        assert_eq!(value::<bool>(&admin, used, &[token, &purpose]).await, works, "{purpose}");
    }
    assert!(!value::<bool>(&service, checks, &[&first]).await, "used");
    let again: String = value(&admin, make, &[&"reset_password"]).await;
    assert!(value::<bool>(&service, checks, &[&again]).await, "a new one works again");
    run(&admin, "update auth.one_time_tokens set created_at = now() - interval '2 hours', expires_at = now()", &[])
        .await;
    assert!(!value::<bool>(&service, checks, &[&again]).await, "expired");
    assert!(!value::<bool>(&admin, used, &[&again, &"reset_password"]).await, "expired");
}
