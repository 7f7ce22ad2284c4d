//! Signing up and what an account may become: atomic, with clear refusals; and what plain SQL on users and memberships
//! must bring about by itself.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{Refusal, audit_trail, refusal, revoked_reason, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{PASSWORD, Token, log_in, rotate, sign_up, try_sign_up};
use tokio_postgres::Client;

const COMPANY: Option<(&str, &str)> = Some(("Company", "company"));

#[tokio::test]
async fn signing_up_makes_all_that_belongs_to_an_account() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let founded = try_sign_up(&service, "Ada@example.org", COMPANY).await.unwrap();
    assert_eq!((founded.outcome.as_str(), founded.generation), ("signed_up", Some(0)));
    assert_eq!(founded.amr.as_deref(), Some(&["pwd".to_owned()][..]));

    let made: String = value(
        &admin,
        "select u.email || ' ' || u.user_type || ', ' || m.role || ' of ' || o.slug || ' ' || (s.organization_id = o.id)
           from auth.users u join auth.organization_members m on m.user_id = u.id
           join auth.organizations o on o.id = m.organization_id join auth.sessions s on s.user_id = u.id",
        &[],
    )
    .await;
    assert_eq!(made, "Ada@example.org INDIVIDUAL, ORGANIZATION_OWNER of company true");
    let events: Vec<String> = values(&admin, "select action from auth.audit_log order by id", &[]).await;
    let expected = [
        "user_created",
        "organization_created",
        "user_role_created",
        "organization_signup_completed",
        "auth_session_created",
    ];
    assert_eq!(events, expected);
    assert_eq!(rotate(&service, &founded.token()).await.outcome, "rotated");
}

#[tokio::test]
async fn a_sign_up_that_fails_at_any_step_leaves_nothing() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let steps = [
        ("users", "true"),
        ("organizations", "true"),
        ("organization_members", "true"),
        ("one_time_tokens", "true"),
        ("mail_outbox", "true"),
        ("sessions", "true"),
        ("audit_log", "new.action = 'user_created'"),
        ("audit_log", "new.action = 'organization_created'"),
        ("audit_log", "new.action = 'user_role_created'"),
        ("audit_log", "new.action = 'organization_signup_completed'"),
        ("audit_log", "new.action = 'auth_session_created'"),
    ];
    admin
        .batch_execute("create function public.fail() returns trigger language plpgsql as 'begin raise disk_full; end'")
        .await
        .unwrap();
    for (table, condition) in steps {
        // The row is there when the step fails.
        let trigger = format!(
            "create trigger fail after insert on auth.{table} for each row when ({condition}) execute function public.fail()"
        );
        admin.batch_execute(&trigger).await.unwrap();
        let before = db.row_counts().await;
        let failed = refusal(try_sign_up(&service, "ada@example.org", COMPANY).await);
        assert_eq!(failed.code, "53100", "{table} {condition}: {failed:?}");
        assert_eq!(db.row_counts().await, before, "{table} {condition}");
        admin.batch_execute(&format!("drop trigger fail on auth.{table}")).await.unwrap();
    }
    assert_eq!(try_sign_up(&service, "ada@example.org", COMPANY).await.unwrap().outcome, "signed_up");
}

#[tokio::test]
async fn what_is_taken_or_reserved_is_an_outcome_and_leaves_nothing() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    try_sign_up(&service, "ada@example.org", COMPANY).await.unwrap();
    let before = db.row_counts().await;
    for (email, slug, outcome) in [
        ("ada@example.org", "other", "email_taken"),
        ("ADA@Example.ORG", "other", "email_taken"),
        ("bob@example.org", "company", "slug_taken"),
        ("bob@example.org", "admin", "slug_reserved"),
        ("ada@example.org", "company", "email_taken"),
    ] {
        let refused = try_sign_up(&service, email, Some(("Company", slug))).await.unwrap();
        assert_eq!(refused.outcome, outcome, "{email} {slug}");
        assert!(refused.token.is_none() && refused.user_id.is_none());
    }
    let before_and_counters = db.row_counts().await;
    assert_eq!(before_and_counters, before);
}

/// A call of `sign_up` with some arguments replaced.
async fn sign_up_with(service: &Client, replaced: &[(&str, &str)]) -> Refusal {
    let mut arguments = vec![
        ("email", "'bob@example.org'"),
        ("name", "'Bob'"),
        ("user_type", "null"),
        ("password_salt", "sha256('salt')"),
        ("password_params", "'m=65536,t=3,p=1'"),
        ("pepper_id", "1"),
        ("password_verifier", "sha256('verifier')"),
        ("token_verifier", "sha256('token')"),
    ];
    for (name, value) in replaced {
        arguments.retain(|(known, _)| known != name);
        arguments.push((name, value));
    }
    let list: Vec<String> = arguments.iter().map(|(name, value)| format!("{name} => {value}")).collect();
    refusal(service.execute(&format!("select auth.sign_up({})", list.join(", ")), &[]).await)
}

#[tokio::test]
async fn a_bad_argument_is_refused_with_a_hint_and_changes_nothing() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let before = db.row_counts().await;
    let organization = |name, slug| [("organization_name", name), ("organization_slug", slug)];
    let long = |length: usize| format!("'{}'", "x".repeat(length));
    let (long_name, long_website) = (long(201), long(501));
    for (replaced, code) in [
        (&[("email", "null")][..], "22004"),
        (&[("name", "null")], "22004"),
        (&[("password_salt", "null")], "22004"),
        (&[("password_params", "null")], "22004"),
        (&[("pepper_id", "null")], "22004"),
        (&[("password_verifier", "null")], "22004"),
        (&[("token_verifier", "null")], "22004"),
        (&[("token_verifier", r"'\x00'")], "22023"),
        (&[("password_verifier", r"'\x00'")], "22023"),
        (&[("password_salt", r"'\x00'")], "22023"),
        (&[("password_params", "''")], "22023"),
        (&[("email", "'no address'")], "22023"),
        (&[("email", "'a@b@c'")], "22023"),
        (&[("email", "E'a\\n@b'")], "22023"),
        (&[("email", "repeat('x', 250) || '@example.org'")], "22023"),
        (&[("name", "''")], "22023"),
        (&[("name", "E'new\\nline'")], "22023"),
        (&[("name", &long_name)], "22023"),
        (&[("user_type", "'ADMIN'")], "22023"),
        (&[("user_type", "'individual'")], "22023"),
        (&[("device_hash", r"'\x00'")], "22023"),
        (&[("organization_name", "'Company'")], "22023"),
        (&organization("null", "'company'"), "22023"),
        (&organization("'Company'", "'No Slug'"), "22023"),
        (&organization("'Company'", "'a--b'"), "22023"),
        (&organization("'Company'", "'ab'"), "22023"),
        (&organization("''", "'company'"), "22023"),
        (
            &[
                ("organization_name", "'C'"),
                ("organization_slug", "'company'"),
                ("organization_website", &long_website),
            ],
            "22023",
        ),
    ] {
        let refused = sign_up_with(&service, replaced).await;
        assert_eq!(refused.code, code, "{replaced:?}: {refused:?}");
        assert_ne!(refused.hint, "", "{replaced:?}: {refused:?}");
    }
    assert_eq!(db.row_counts().await, before);
}

#[tokio::test]
async fn what_is_only_too_long_to_keep_is_cut_not_refused() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let call = "select outcome from auth.sign_up('ada@example.org', 'Ada', null, sha256('salt'), 'm=1', 1, sha256('v'),
        sha256('t'), user_agent => repeat('ü', 9999), device_name => repeat('ü', 9999),
        correlation_id => repeat('ü', 9999), ip => '::ffff:10.1.2.3')";
    assert_eq!(value::<String>(&service, call, &[]).await, "signed_up");
    let kept: String =
        value(&admin, "select octet_length(user_agent) || ' ' || char_length(device_name) from auth.sessions", &[])
            .await;
    assert_eq!(kept, "512 200");
}

#[tokio::test]
async fn a_slug_is_checked_without_an_account_and_comes_with_suggestions() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    try_sign_up(&service, "ada@example.org", COMPANY).await.unwrap();
    let long = "x".repeat(50);
    try_sign_up(&service, "bob@example.org", Some(("Long", &long))).await.unwrap();
    for (slug, free) in [("company-two", true), ("company", false), ("admin", false), (long.as_str(), false)] {
        let row = service.query_one("select * from auth.check_slug($1)", &[&slug]).await.unwrap();
        let suggestions: Vec<String> = row.get("suggestions");
        assert_eq!(row.get::<_, bool>("available"), free, "{slug}");
        assert_eq!(suggestions.len(), if free { 0 } else { 3 }, "{slug}: {suggestions:?}");
        for suggestion in suggestions {
            let free: bool = value(&service, "select available from auth.check_slug($1)", &[&suggestion]).await;
            assert!(free, "{suggestion}");
        }
    }
    for (argument, code) in [("null", "22004"), ("''", "22023"), ("'Company'", "22023"), ("'a-'", "22023")] {
        let refused = refusal(service.execute(&format!("select auth.check_slug({argument})"), &[]).await);
        assert_eq!(refused.code, code, "{argument}");
        assert_ne!(refused.hint, "");
    }
}

/// Two devices of a member of `company`, and a user whom nothing concerns.
async fn two_devices(service: &Client) -> (Token, Token, Token) {
    let founder = try_sign_up(service, "ada@example.org", COMPANY).await.unwrap().token();
    let second = log_in(service, "ada@example.org", PASSWORD).await.token();
    (founder, second, sign_up(service, "bob@example.org").await)
}

#[tokio::test]
async fn plain_sql_that_changes_an_account_ends_its_sessions_in_that_transaction() {
    for (statement, reason) in [
        ("update auth.users set disabled_at = now() where email = 'ada@example.org'", "user_disabled"),
        (
            "set local row_security = off; update auth.users set disabled_at = now() where email = 'ada@example.org'",
            "user_disabled",
        ),
        (
            "update auth.users set password_verifier = sha256('new') where email = 'ada@example.org'",
            "password_changed",
        ),
        (
            "update auth.users set password_verifier = null, password_salt = null, password_params = null, pepper_id = null
              where email = 'ada@example.org'",
            "password_changed",
        ),
        ("delete from auth.organization_members", "membership_removed"),
        ("delete from auth.organizations", "membership_removed"),
    ] {
        let db = TestDb::create().await;
        let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
        let (first, second, bystander) = two_devices(&service).await;

        admin.batch_execute(&format!("begin; {statement}")).await.unwrap();
        for device in [&first, &second] {
            let found = revoked_reason(&admin, device.session_id).await;
            assert_eq!(found.as_deref(), Some(reason), "{statement}: in that transaction");
        }
        admin.batch_execute("rollback").await.unwrap();
        assert_eq!(revoked_reason(&admin, first.session_id).await, None, "{statement}: and only in it");

        admin.batch_execute(statement).await.unwrap();
        assert_eq!(rotate(&service, &first).await.outcome, "revoked", "{statement}");
        assert_eq!(rotate(&service, &second).await.outcome, "revoked", "{statement}");
        assert_eq!(rotate(&service, &bystander).await.outcome, "rotated", "{statement}");
        let trail = audit_trail(&admin, first.session_id).await;
        assert_eq!(trail.iter().filter(|action| *action == "session_revoked").count(), 1, "{statement}: {trail:?}");
    }
}

#[tokio::test]
async fn what_changes_nothing_of_that_ends_nothing() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let (first, _, _) = two_devices(&service).await;
    for statement in [
        "update auth.users set name = 'Ada King', email_verified_at = now(), user_type = 'BUSINESS'",
        "update auth.users set password_verifier = password_verifier, disabled_at = null",
        "update auth.organization_members set role = 'ORGANIZATION_MEMBER'",
        "update auth.organizations set name = 'Other'",
    ] {
        run(&admin, statement, &[]).await;
        assert_eq!(revoked_reason(&admin, first.session_id).await, None, "{statement}");
    }
}

#[tokio::test]
async fn deleting_a_user_deletes_what_is_theirs_and_keeps_the_log() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let (first, second, bystander) = two_devices(&service).await;
    let events: i64 = value(&admin, "select count(*) from auth.audit_log", &[]).await;

    run(&admin, "delete from auth.users where email = 'ada@example.org'", &[]).await;
    for device in [&first, &second] {
        assert_eq!(rotate(&service, device).await.outcome, "unknown");
    }
    let left: Vec<i64> = values(
        &admin,
        "select count(*) from auth.users union all select count(*) from auth.sessions
          union all select count(*) from auth.organization_members",
        &[],
    )
    .await;
    assert_eq!(left, [1, 1, 0]);
    assert!(value::<i64>(&admin, "select count(*) from auth.audit_log", &[]).await >= events);
    assert_eq!(rotate(&service, &bystander).await.outcome, "rotated");
}

#[tokio::test]
async fn no_table_takes_what_a_function_would_refuse() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    for statement in [
        "update auth.users set email = 'no address'",
        "update auth.users set password_verifier = null",
        "update auth.users set pepper_id = null",
        "update auth.users set password_salt = ''",
        "update auth.users set user_type = 'ROOT'",
        "update auth.sessions set token_verifier = ''",
        "update auth.sessions set lineage_key = ''",
        "update auth.sessions set generation = -1",
        "update auth.sessions set revoked_at = now()",
        "update auth.sessions set rotation_nonce = ''",
        "insert into auth.organizations (slug, name) values ('No Slug', 'x')",
        "insert into auth.recovery_windows values (now(), now(), 0, 'x')",
    ] {
        assert_eq!(sqlstate(&admin, statement).await, "23514", "{statement}");
    }
}
