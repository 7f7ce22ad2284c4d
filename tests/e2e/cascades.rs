//! Whatever SQL changes an account or a membership: the sessions and tokens that it must end are ended in that
//! transaction, with audit rows that outlive the user, and notifications.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{Listener, refusal, revoked_reason, run, sqlstate, value, values};
use auth_sessions_tests::tenants::Tenant;
use auth_sessions_tests::tokens::{PASSWORD, log_in, rotate};
use tokio_postgres::Client;

struct Scene {
    db: TestDb,
    service: Client,
    admin: Client,
    tenant: Tenant,
}

impl Scene {
    /// A tenant whose member has a session and a personal access token that act for it.
    async fn new() -> Self {
        let db = TestDb::create().await;
        let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
        let tenant = Tenant::found(&admin, &service, "company").await;
        let token = "insert into auth.personal_access_tokens (user_id, organization_id, name, lookup_id, token_verifier, scopes, expires_at)
                     values ($1, $2, 'backup', auth.random_bytes(16), auth.random_bytes(32), '{sessions:read}', now() + interval '1 day')";
        run(&admin, token, &[&tenant.member.user_id, &tenant.id]).await;
        Self { db, service, admin, tenant }
    }

    /// Why the member's token ended; nothing while it did not.
    async fn token_reason(&self) -> Option<String> {
        value(&self.admin, "select max(revoked_reason) from auth.personal_access_tokens", &[]).await
    }

    /// `action reason` of what the log says of the member, oldest first.
    async fn events(&self) -> Vec<String> {
        let events = "select concat_ws(' ', action, details ->> 'reason') from auth.audit_log
                       where user_id = $1 order by created_at, id";
        values(&self.admin, events, &[&self.tenant.member.user_id]).await
    }
}

#[tokio::test]
async fn every_statement_that_can_change_an_account_ends_its_sessions_and_tokens() {
    let member = "member@company.example";
    let changed = "password_verifier = sha256('new')";
    for (statement, reason) in [
        (format!("update auth.users set disabled_at = now() where email = '{member}'"), "user_disabled"),
        (
            format!("with d as (update auth.users set disabled_at = now() where email = '{member}' returning 1) select from d"),
            "user_disabled",
        ),
        (
            format!("merge into auth.users u using (select '{member}' as email) v on u.email = v.email
                       when matched then update set disabled_at = now()"),
            "user_disabled",
        ),
        (
            format!("insert into auth.users as u (email, name) values ('{member}', 'x')
                       on conflict (lower(email collate \"C\")) do update set disabled_at = now()"),
            "user_disabled",
        ),
        (
            format!("create temp view v as select * from auth.users; update v set disabled_at = now() where email = '{member}'"),
            "user_disabled",
        ),
        (format!("set role auth_owner; update auth.users set disabled_at = now() where email = '{member}'"), "user_disabled"),
        (
            format!("do $$ begin execute 'update auth.users set disabled_at = now() where email = ''{member}'''; end $$"),
            "user_disabled",
        ),
        (format!("update auth.users set {changed} where email = '{member}'"), "password_changed"),
        (
            format!("set local row_security = off; set role auth_owner; set row_security = on;
                     update auth.users set {changed} where email = '{member}'"),
            "password_changed",
        ),
        ("delete from auth.organization_members where role = 'ORGANIZATION_MEMBER'".to_owned(), "membership_removed"),
        (
            "insert into auth.users (email, name) values ('other@x.example', 'x');
                     update auth.organization_members set user_id = (select id from auth.users where email = 'other@x.example')
                      where role = 'ORGANIZATION_MEMBER'".to_owned(),
            "membership_removed",
        ),
        (
            "insert into auth.organizations (slug, name) values ('other', 'x');
                     update auth.organization_members set organization_id = (select id from auth.organizations where slug = 'other')
                      where role = 'ORGANIZATION_MEMBER'".to_owned(),
            "membership_removed",
        ),
        ("delete from auth.organizations".to_owned(), "membership_removed"),
    ] {
        let scene = Scene::new().await;
        let mut listener = Listener::connect(&scene.db.url("auth_service")).await;
        let session = scene.tenant.member.session_id.unwrap();
        scene.admin.batch_execute(&format!("begin; {statement}")).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        assert_eq!(revoked_reason(&scene.admin, session).await.as_deref(), Some(reason), "{statement}: in that transaction");
        assert_eq!(scene.token_reason().await.as_deref(), Some(reason), "{statement}");
        assert_eq!(listener.so_far().await, Vec::<String>::new(), "{statement}: not before it commits");
        scene.admin.batch_execute("commit; reset role").await.unwrap();

        assert_eq!(rotate(&scene.service, &scene.tenant.member.clone().token()).await.outcome, "revoked", "{statement}");
        let (events, heard) = (scene.events().await, listener.so_far().await);
        let user = scene.tenant.member.user_id.unwrap().to_string();
        for action in ["session_revoked", "personal_access_token_revoked"] {
            let event = format!("{action} {reason}");
            assert_eq!(events.iter().filter(|found| **found == event).count(), 1, "{statement}: {events:?}");
            let told = heard.iter().filter(|payload| payload.contains(action) && payload.contains(&user)).count();
            assert_eq!(told, 1, "{statement}: {heard:?}");
        }
    }
}

#[tokio::test]
async fn deleting_a_user_leaves_the_story_of_it_in_the_log() {
    let scene = Scene::new().await;
    let mut listener = Listener::connect(&scene.db.url("auth_service")).await;
    let second = log_in(&scene.service, "member@company.example", PASSWORD).await;
    let before = scene.events().await;
    run(&scene.admin, "delete from auth.users where id = $1", &[&scene.tenant.member.user_id]).await;

    let events = scene.events().await;
    assert_eq!(
        events[before.len()..],
        [
            "session_revoked user_deleted",
            "personal_access_token_revoked user_deleted",
            "user_deleted",
            "user_role_removed"
        ]
    );
    let ended: Vec<String> = values(
        &scene.admin,
        "select jsonb_array_elements_text(details -> 'sessions') from auth.audit_log where details ->> 'reason' = 'user_deleted'
            and action = 'session_revoked'",
        &[],
    )
    .await;
    for session in [&scene.tenant.member, &second] {
        assert!(ended.contains(&session.session_id.unwrap().to_string()), "{ended:?}");
        assert_eq!(rotate(&scene.service, &session.clone().token()).await.outcome, "unknown");
    }
    let heard = listener.so_far().await;
    assert!(
        heard.iter().any(|payload| payload.contains("session_revoked") && payload.contains(r#""sessions" : 2"#)),
        "{heard:?}"
    );
    assert!(heard.iter().any(|payload| payload.contains("personal_access_token_revoked")), "{heard:?}");
    assert_eq!(rotate(&scene.service, &scene.tenant.admin.clone().token()).await.outcome, "rotated", "nobody else's");
}

#[tokio::test]
async fn an_account_without_sessions_is_disabled_enabled_and_deleted_on_record_too() {
    let scene = Scene::new().await;
    run(&scene.admin, "delete from auth.sessions", &[]).await;
    run(&scene.admin, "delete from auth.personal_access_tokens", &[]).await;
    let before = scene.events().await;
    for statement in [
        "update auth.users set disabled_at = now() where id = $1",
        "update auth.users set disabled_at = now() + interval '1 s', name = 'y' where id = $1",
        "update auth.users set disabled_at = null where id = $1",
        "delete from auth.users where id = $1",
    ] {
        run(&scene.admin, statement, &[&scene.tenant.member.user_id]).await;
    }
    assert_eq!(
        scene.events().await[before.len()..],
        ["user_disabled", "user_enabled", "user_deleted", "user_role_removed"]
    );
    run(&scene.admin, "delete from auth.organizations", &[]).await;
    let organization =
        "select count(*) from auth.audit_log where action = 'organization_deleted' and organization_id = $1
                           and details ->> 'slug' = 'company'";
    assert_eq!(value::<i64>(&scene.admin, organization, &[&scene.tenant.id]).await, 1);
}

#[tokio::test]
async fn truncate_which_no_row_trigger_sees_is_refused() {
    let scene = Scene::new().await;
    for table in ["users", "organizations", "organization_members"] {
        for role in ["postgres", "auth_owner"] {
            let truncate = format!("set role {role}; truncate auth.{table} cascade");
            let refused = refusal(scene.admin.batch_execute(&truncate).await);
            assert_eq!(refused.code, "0A000", "{role}: {table}: {refused:?}");
            assert_ne!(refused.hint, "");
        }
    }
    scene.admin.batch_execute("reset role").await.unwrap();
    assert_eq!(rotate(&scene.service, &scene.tenant.member.clone().token()).await.outcome, "rotated");
}

#[tokio::test]
async fn an_old_snapshot_does_not_overlook_a_session_opened_since() {
    for (change, level) in [
        ("update auth.users set disabled_at = now() where id = $1", "repeatable read"),
        ("update auth.users set disabled_at = now() where id = $1", "serializable"),
        ("update auth.users set password_verifier = sha256('new') where id = $1", "repeatable read"),
        ("delete from auth.users where id = $1", "repeatable read"),
        ("delete from auth.organization_members where user_id = $1", "repeatable read"),
    ] {
        let scene = Scene::new().await;
        let user = scene.tenant.member.user_id;
        scene.admin.batch_execute(&format!("begin isolation level {level}; select from auth.users")).await.unwrap();
        let unseen = log_in(&scene.service, "member@company.example", PASSWORD).await;
        let refused = refusal(scene.admin.execute(change, &[&user]).await);
        assert_eq!(refused.code, "40001", "{change}: {refused:?}");
        scene.admin.batch_execute("rollback").await.unwrap();

        // Tried again, as the code asks for, it ends that session too.
        scene.admin.batch_execute(&format!("begin isolation level {level}")).await.unwrap();
        run(&scene.admin, change, &[&user]).await;
        scene.admin.batch_execute("commit").await.unwrap();
        let outcome = rotate(&scene.service, &unseen.clone().token()).await.outcome;
        assert!(outcome == "revoked" || outcome == "unknown", "{change}: {outcome}");
    }
}

#[tokio::test]
async fn a_token_made_since_an_old_snapshot_is_not_overlooked_either() {
    let scene = Scene::new().await;
    run(&scene.admin, "delete from auth.personal_access_tokens", &[]).await;
    scene.admin.batch_execute("begin isolation level repeatable read; select from auth.users").await.unwrap();
    let other = scene.db.superuser().await;
    let token = "insert into auth.personal_access_tokens (user_id, name, lookup_id, token_verifier, scopes, expires_at)
                 values ($1, 'new', auth.random_bytes(16), auth.random_bytes(32), '{sessions:read}', now() + interval '1 day')";
    run(&other, token, &[&scene.tenant.member.user_id]).await;
    assert_eq!(sqlstate(&scene.admin, "update auth.users set disabled_at = now()").await, "40001");
}

/// Not a promise, but what the documentation says: it is as if the triggers were not there.
#[tokio::test]
async fn replication_role_replica_switches_the_cascades_off_for_who_may_set_it() {
    let scene = Scene::new().await;
    let replica = "set session_replication_role = replica";
    for login in ["auth_service", "auth_operator", "auth_watcher"] {
        assert_eq!(sqlstate(&scene.db.connect_as(login).await, replica).await, "42501", "{login}");
    }
    assert_eq!(sqlstate(&scene.admin, &format!("set role auth_owner; {replica}")).await, "42501");
    scene
        .admin
        .batch_execute(&format!("reset role; {replica}; update auth.users set disabled_at = now()"))
        .await
        .unwrap();
    assert_eq!(revoked_reason(&scene.admin, scene.tenant.member.session_id.unwrap()).await, None);
    // A login is refused all the same, and doing by hand what the trigger does is one statement.
    assert_eq!(log_in(&scene.service, "member@company.example", PASSWORD).await.outcome, "refused");
    let by_hand = "set session_replication_role = origin;
                   update auth.users set disabled_at = null; update auth.users set disabled_at = now()";
    scene.admin.batch_execute(by_hand).await.unwrap();
    assert_eq!(
        revoked_reason(&scene.admin, scene.tenant.member.session_id.unwrap()).await.as_deref(),
        Some("user_disabled")
    );
}
