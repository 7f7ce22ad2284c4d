//! What the catalogue must say of every object of the extension, found by walking it: so that a new function or table
//! cannot be forgotten. And who may do what: exactly what is listed here.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{run, value, values};
use tokio_postgres::Client;

/// The names of the objects that break a rule.
async fn offenders(admin: &Client, query: &str) -> Vec<String> {
    values(admin, query, &[]).await
}

/// A database as it is in use: with the monthly partitions.
async fn database() -> (TestDb, Client) {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let made: i32 = value(&admin, "select auth.maintain_audit_partitions()", &[]).await;
    assert_eq!(made, 4);
    (db, admin)
}

#[tokio::test]
async fn every_function_is_revoked_from_public_and_pins_its_search_path_where_it_lends_rights() {
    let (_db, admin) = database().await;
    let functions: i64 =
        value(&admin, "select count(*) from pg_proc where pronamespace = 'auth'::regnamespace", &[]).await;
    assert!(functions > 40, "{functions}");
    for (rule, query) in [
        (
            "PUBLIC may call it",
            "select p.oid::regprocedure::text from pg_proc p,
                    aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) acl
              where p.pronamespace = 'auth'::regnamespace and acl.grantee = 0",
        ),
        (
            "security definer without a pinned search_path",
            "select p.oid::regprocedure::text from pg_proc p join pg_language l on l.oid = p.prolang
              where p.pronamespace = 'auth'::regnamespace and p.prosecdef
                and not coalesce(p.proconfig @> array['search_path=pg_catalog, pg_temp'], false)
                -- For speed; what they run names everything with its schema (hostile_functions.rs shadows it all).
                and not (l.lanname = 'c' and p.proname in ('rotate_session_token', 'session_profile'))",
        ),
        (
            "a trigger function runs in whoever's search_path",
            "select oid::regprocedure::text from pg_proc where pronamespace = 'auth'::regnamespace
                and prorettype = 'trigger'::regtype
                and not coalesce(proconfig @> array['search_path=pg_catalog, pg_temp'], false)",
        ),
        (
            "not owned by auth_owner",
            "select oid::regprocedure::text from pg_proc
              where pronamespace = 'auth'::regnamespace and proowner <> 'auth_owner'::regrole",
        ),
        (
            "leakproof: would be allowed to look at rows before the policies",
            "select oid::regprocedure::text from pg_proc where pronamespace = 'auth'::regnamespace and proleakproof",
        ),
        (
            "reads the identity, and may be sent to a parallel worker that has none",
            "select oid::regprocedure::text from pg_proc where pronamespace = 'auth'::regnamespace and proparallel = 's'
                and (prosrc ~ '(current_(user|session|organization)_id|current_roles|calling_role|set_identity)')",
        ),
        (
            "not a part of the extension",
            "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'auth'::regnamespace and not exists (
               select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')",
        ),
    ] {
        assert_eq!(offenders(&admin, query).await, Vec::<String>::new(), "{rule}");
    }
}

#[tokio::test]
async fn every_table_is_guarded_owned_and_granted_column_by_column() {
    let (_db, admin) = database().await;
    let tables: i64 = value(
        &admin,
        "select count(*) from pg_class where relnamespace = 'auth'::regnamespace and relkind in ('r', 'p')",
        &[],
    )
    .await;
    assert!(tables >= 9 + 4, "{tables}");
    for (rule, query) in [
        (
            "row-level security is not enabled and forced",
            "select oid::regclass::text from pg_class where relnamespace = 'auth'::regnamespace and relkind in ('r', 'p')
                and not (relrowsecurity and relforcerowsecurity)",
        ),
        (
            "not owned by auth_owner",
            "select oid::regclass::text from pg_class where relnamespace = 'auth'::regnamespace
                and relkind in ('r', 'p', 'v', 'S', 'c') and relowner <> 'auth_owner'::regrole",
        ),
        (
            "somebody but the owner may write",
            "select c.oid::regclass || ' ' || acl.grantee::regrole || ' ' || acl.privilege_type
               from pg_class c, aclexplode(c.relacl) acl
              where c.relnamespace = 'auth'::regnamespace and acl.grantee <> c.relowner and acl.privilege_type <> 'SELECT'",
        ),
        (
            "PUBLIC may read",
            "select c.oid::regclass::text from pg_class c, aclexplode(c.relacl) acl
              where c.relnamespace = 'auth'::regnamespace and acl.grantee = 0",
        ),
        (
            "a whole table with secrets is granted",
            "select c.oid::regclass || ' ' || acl.grantee::regrole from pg_class c, aclexplode(c.relacl) acl
              where c.oid in ('auth.users'::regclass, 'auth.sessions'::regclass, 'auth.instance'::regclass,
                              'auth.attempts'::regclass, 'auth.one_time_tokens'::regclass, 'auth.mail_outbox'::regclass,
                              'auth.organization_invitations'::regclass, 'auth.adopted_tokens'::regclass) and acl.grantee <> c.relowner",
        ),
        (
            "a secret column is granted",
            "select attrelid::regclass || '.' || attname from pg_attribute, aclexplode(attacl) acl
              where attrelid in (select oid from pg_class where relnamespace = 'auth'::regnamespace)
                and attname ~ '(verifier|salt|params|pepper|lineage_key|nonce|secret|recipient|variables)'",
        ),
        (
            "a view runs with its owner's rights",
            "select oid::regclass::text from pg_class where relnamespace = 'auth'::regnamespace and relkind = 'v'
                and not coalesce(reloptions @> array['security_invoker=true'], false)",
        ),
        (
            "an insert trigger on a table that a dump restores",
            "select tgrelid::regclass || ' ' || tgname from pg_trigger where not tgisinternal and tgtype & 4 <> 0
                and tgrelid in (select oid from pg_class where relnamespace = 'auth'::regnamespace)",
        ),
        (
            "an index, key or unique constraint on the partitioned parent",
            "select indexrelid::regclass::text from pg_index where indrelid = 'auth.audit_log'::regclass",
        ),
    ] {
        assert_eq!(offenders(&admin, query).await, Vec::<String>::new(), "{rule}");
    }
}

#[tokio::test]
async fn every_object_says_what_it_is() {
    let (_db, admin) = database().await;
    let silent = offenders(
        &admin,
        "select oid::regprocedure::text from pg_proc
          where pronamespace = 'auth'::regnamespace and obj_description(oid, 'pg_proc') is null
         union all select oid::regclass::text from pg_class
          where relnamespace = 'auth'::regnamespace and relkind in ('r', 'p', 'v', 'S') and obj_description(oid, 'pg_class') is null
         union all select oid::regtype::text from pg_type
          where typnamespace = 'auth'::regnamespace and typtype = 'c' and obj_description(oid, 'pg_type') is null
            and (select relkind from pg_class where oid = typrelid) = 'c'
         union all select extname from pg_extension where obj_description(oid, 'pg_extension') is null
            and extname = 'auth_sessions'",
    )
    .await;
    assert_eq!(silent, Vec::<String>::new());
}

#[tokio::test]
async fn a_dump_takes_every_table_but_the_throttles_and_the_outboxes() {
    let (_db, admin) = database().await;
    let left_out = offenders(
        &admin,
        "select c.oid::regclass::text from pg_class c
           join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
           join pg_extension e on e.oid = d.refobjid and e.extname = 'auth_sessions'
          where c.relkind in ('r', 'S') and c.oid <> all (e.extconfig) order by 1",
    )
    .await;
    assert_eq!(left_out, ["auth.alert_events", "auth.alert_outbox", "auth.attempts", "auth.mail_outbox"]);
    let unlogged = offenders(
        &admin,
        "select oid::regclass::text from pg_class where relnamespace = 'auth'::regnamespace
        and relpersistence = 'u' and relkind = 'r'",
    )
    .await;
    assert_eq!(unlogged, ["auth.attempts"]);
    let months = offenders(
        &admin,
        "select c.oid::regclass::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
           join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
          where i.inhparent = 'auth.audit_log'::regclass",
    )
    .await;
    assert_eq!(months, ["auth.audit_log_default"], "months belong to the database, not to the extension");
}

/// What `auth_api` may call. A name that is added here is a decision: an attacker who has broken into the service calls
/// it with arguments of his own.
const FOR_THE_SERVICE: &[&str] = &[
    "accept_invitation",
    "assume_personal_access_token",
    "assume_session",
    "begin_login",
    "begin_step_up",
    "change_member_role",
    "change_password",
    "check_password_reset",
    "check_slug",
    "complete_login",
    "complete_step_up",
    "confirm_email_change",
    "create_organization",
    "create_personal_access_token",
    "current_organization_id",
    "current_roles",
    "current_scopes",
    "current_session_id",
    "current_user_id",
    "current_user_is_operator",
    "end_adopted_session",
    "end_organization_session",
    "end_overseen_family",
    "end_overseen_sessions",
    "end_session",
    "exchange_adopted_token",
    "extension_version",
    "has_scope",
    "introspect_token",
    "invite_member",
    "leave_organization",
    "list_invitations",
    "list_members",
    "list_organization_sessions",
    "list_organizations",
    "maintain_audit_partitions",
    "oversee_activity",
    "oversee_figures",
    "oversee_incidents",
    "oversee_lockouts",
    "oversee_news",
    "oversee_sessions",
    "oversee_upkeep",
    "oversight",
    "peppers_in_use",
    "remove_member",
    "report_failed_maintenance",
    "report_invalid_csrf_token",
    "request_email_change",
    "request_password_reset",
    "require_auth_age",
    "resend_verification",
    "reset_password",
    "revoke_invitation",
    "revoke_personal_access_token",
    "revoke_session",
    "revoke_token",
    "revoke_user_sessions",
    "rotate_session_token",
    "run_maintenance",
    "service_figures",
    "session_history",
    "session_is_live",
    "session_jti",
    "session_profile",
    "sign_up",
    "step_up_max_age",
    "switch_organization",
    "take_rate_limit",
    "take_rate_limits",
    "user_history",
    "verify_email",
];

#[tokio::test]
async fn each_role_may_call_exactly_what_is_listed() {
    let (_db, admin) = database().await;
    let who_am_i = [
        "current_organization_id",
        "current_roles",
        "current_scopes",
        "current_session_id",
        "current_user_id",
        "current_user_is_operator",
        "extension_version",
        "has_scope",
        "require_auth_age",
        "session_is_live",
        "session_jti",
    ];
    let operator = [
        "appoint_operator",
        "cleanup_expired_sessions",
        "close_recovery_window",
        "disable_client",
        "dismiss_operator",
        "drop_audit_partitions",
        "handle_token_replay",
        "list_clients",
        "maintain_audit_partitions",
        "open_recovery_window",
        "queue_test_alert",
        "register_client",
        "reset_session_statistics",
        "revoke_session_family",
        "rotate_client_secret",
        "run_maintenance",
        "seal_audit_log",
        "unlock_account",
    ];
    let watcher = [
        "audit_line",
        "check_grants",
        "check_installation",
        "check_protection",
        "check_roles",
        "check_settings",
        "check_upkeep",
        "check_versions",
        "export_audit_log",
        "members_of_roles",
        "read_session_statistics",
        "require_span",
        "seal_header",
        "service_figures",
        "session_history",
        "setting_of_role",
        "user_history",
        "verify_audit_log",
    ];
    let sorted = |parts: &[&[&'static str]]| {
        let mut names = parts.concat();
        names.sort_unstable();
        names
    };
    let for_watchers = sorted(&[&who_am_i, &watcher]);
    let for_operators = sorted(&[&for_watchers, &operator]);
    for (role, expected) in [
        ("auth_api", FOR_THE_SERVICE),
        ("auth_monitor", &for_watchers),
        ("auth_admin", &for_operators),
        ("auth_mailer", &["claim_alerts", "claim_mail", "fail_alert", "fail_mail", "finish_alert", "finish_mail"]),
        ("auth_federation", &["open_federated_session", "step_up_federated"]),
    ] {
        let may: Vec<String> = values(
            &admin,
            "select distinct proname::text from pg_proc
              where pronamespace = 'auth'::regnamespace and has_function_privilege($1, oid, 'execute') order by 1",
            &[&role],
        )
        .await;
        assert_eq!(may, expected, "{role}");
    }
}

#[tokio::test]
async fn the_roles_are_harmless_groups_that_do_not_reach_each_other() {
    let (_db, admin) = database().await;
    let roles = "('auth_owner', 'auth_api', 'auth_monitor', 'auth_admin', 'auth_mailer', 'auth_federation')";
    let harmful = offenders(
        &admin,
        &format!(
            "select rolname::text from pg_roles where rolname in {roles}
                and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolcanlogin or rolreplication)"
        ),
    )
    .await;
    assert_eq!(harmful, Vec::<String>::new());
    let members = format!(
        "select member::regrole || ' in ' || roleid::regrole from pg_auth_members
          where member in (select oid from pg_roles where rolname in {roles})"
    );
    assert_eq!(offenders(&admin, &members).await, Vec::<String>::new());
    // Whoever may create in the schema could shadow what is in it.
    let creators = offenders(
        &admin,
        "select acl.grantee::regrole::text from pg_namespace n, aclexplode(n.nspacl) acl
          where n.nspname = 'auth' and acl.privilege_type = 'CREATE' and acl.grantee <> n.nspowner",
    )
    .await;
    assert_eq!(creators, ["auth_owner"]);
}

#[tokio::test]
async fn a_second_database_of_the_cluster_takes_the_extension_too() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    let second = format!("{}_second", db.name());
    run(&admin, &format!("create database {second}"), &[]).await;
    let there = db.cluster().connect("postgres", &second).await;
    let made = there.batch_execute("create extension auth_sessions").await;
    let service = db.cluster().connect("auth_service", &second).await;
    let token = auth_sessions_tests::tokens::sign_up(&service, "ada@example.org").await;
    let rotated = auth_sessions_tests::tokens::rotate(&service, &token).await.outcome;
    drop((there, service));
    run(&admin, &format!("drop database {second} with (force)"), &[]).await;
    made.expect("create extension");
    assert_eq!(rotated, "rotated");
}
