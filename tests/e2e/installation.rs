//! `auth.check_installation()`: silent about an installation as it should be, and for everything that a DBA can break a
//! finding whose advice mends it. What is broken here is broken in transactions that are rolled back: roles are the
//! whole cluster's, and other tests use them.

use auth_sessions_tests::audit_log::make_past_month;
use auth_sessions_tests::sql::{run, sqlstate, value, values};
use auth_sessions_tests::tokens::sign_up;
use auth_sessions_tests::{OwnCluster, TestDb, eventually};
use tokio_postgres::Client;

/// Findings as `topic severity: finding → advice`, without those of the shared cluster's being made for speed.
async fn findings(client: &Client) -> Vec<String> {
    let checked = "select format('%s %s: %s → %s', topic, severity, finding, advice) from auth.check_installation()
                    where severity <> 'ok' and finding !~ '^(fsync|full_page_writes) is off'
                      and finding !~ 'commits without waiting for the disk'";
    values(client, checked, &[]).await
}

/// A database as it is in use.
async fn database() -> (TestDb, Client) {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
    sign_up(&db.connect_as("auth_service").await, "ada@example.org").await;
    (db, admin)
}

#[tokio::test]
async fn an_installation_as_it_should_be_has_nothing_to_find() {
    let (db, admin) = database().await;
    for login in ["postgres", "auth_watcher", "auth_operator"] {
        assert_eq!(findings(&db.connect_as(login).await).await, Vec::<String>::new(), "{login}");
    }
    let topics: Vec<String> =
        values(&admin, "select distinct topic from auth.check_installation() order by 1", &[]).await;
    assert_eq!(topics, ["grants", "protection", "roles", "settings", "upkeep", "versions"]);
    // A cluster made for speed is not safe, and that is said.
    let unsafe_settings: Vec<String> = values(
        &admin,
        "select severity || ' ' || split_part(finding, ' ', 1) from auth.check_installation() where topic = 'settings' order by 1",
        &[],
    )
    .await;
    assert_eq!(
        unsafe_settings,
        [
            "error fsync",
            "error full_page_writes",
            "warning auth_federation_service",
            "warning auth_mail_service",
            "warning auth_service"
        ]
    );
    for login in ["auth_service", "auth_mail_service", "auth_federation_service"] {
        assert_eq!(sqlstate(&db.connect_as(login).await, "select auth.check_installation()").await, "42501", "{login}");
    }
}

/// Breaks it, expects this finding and no other, follows its advice, and expects none.
async fn broken_and_mended(admin: &Client, breakage: &str, expected: &str) {
    admin.batch_execute(&format!("begin; {breakage}")).await.unwrap_or_else(|error| panic!("{breakage}: {error:?}"));
    let found = findings(admin).await;
    assert!(
        found.iter().any(|finding| finding.starts_with(expected)),
        "{breakage}: expected {expected}, found {found:#?}"
    );
    for finding in &found {
        let advice = finding.split(" → ").nth(1).expect("an advice");
        admin.batch_execute(advice).await.unwrap_or_else(|error| panic!("{breakage}: {advice}: {error:?}"));
    }
    assert_eq!(findings(admin).await, Vec::<String>::new(), "{breakage}, after {found:?}");
    admin.batch_execute("rollback").await.expect("rollback");
}

#[tokio::test]
async fn what_a_dba_breaks_is_found_and_the_advice_mends_it() {
    let (_db, admin) = database().await;
    for (breakage, expected) in [
        ("alter role auth_owner login", "roles error: the group role auth_owner can log in"),
        ("alter role auth_api bypassrls", "roles error: the group role auth_api can log in, or has a right"),
        ("alter role auth_monitor superuser", "roles error: the group role auth_monitor"),
        (
            "grant pg_read_all_data to auth_api",
            "roles error: the group role auth_api is itself a member of pg_read_all_data",
        ),
        ("grant auth_owner to auth_watcher", "roles error: auth_watcher is a member of auth_owner"),
        ("alter role auth_service superuser", "roles error: auth_service is in auth_api and a superuser"),
        ("alter role auth_service createrole", "roles error: auth_service is in auth_api and a superuser"),
        ("grant auth_admin to auth_service", "roles error: auth_service is in auth_api and in auth_admin too"),
        ("grant auth_monitor to auth_service", "roles warning: auth_service is in auth_api and in auth_monitor too"),
        (
            "create role go_between in role auth_federation; grant go_between to auth_service",
            "roles error: auth_service is in auth_api and in auth_federation too",
        ),
        ("create role mallory; alter schema auth owner to mallory", "protection error: schema auth belongs to mallory"),
        ("alter table auth.sessions owner to postgres", "protection error: table auth.sessions belongs to postgres"),
        (
            "alter view auth.active_sessions owner to postgres",
            "protection error: view auth.active_sessions belongs to postgres",
        ),
        (
            "alter function auth.extension_version() owner to postgres",
            "protection error: function auth.extension_version() belongs to postgres",
        ),
        ("alter table auth.users disable row level security", "protection error: row-level security of auth.users"),
        (
            "alter table auth.sessions no force row level security",
            "protection error: row-level security of auth.sessions",
        ),
        (
            "alter table auth.audit_log_default no force row level security",
            "protection error: row-level security of auth.audit_log_default",
        ),
        ("drop policy owner_writes on auth.clients", "protection error: auth.clients has no policy for its owner"),
        (
            "create policy mine on auth.users to auth_api using (true)",
            "protection error: policy mine on auth.users opens it to the service",
        ),
        (
            "create policy mine on auth.sessions for select using (user_agent <> '')",
            "protection error: policy mine on auth.sessions opens it to everybody",
        ),
        ("alter table auth.users disable trigger user", "protection error: trigger "),
        (
            "drop trigger audit_log_no_truncate on auth.audit_log_default",
            "protection error: auth.audit_log_default can be truncated",
        ),
        (
            "alter function auth.cleanup_expired_sessions() reset search_path",
            "protection error: function auth.cleanup_expired_sessions() runs with its owner's rights",
        ),
        (
            "grant execute on function auth.begin_login to public",
            "grants error: PUBLIC has execute on function auth.begin_login",
        ),
        ("grant select on auth.users to public", "grants error: PUBLIC has select on auth.users"),
        (
            "grant select (password_verifier) on auth.users to auth_api",
            "grants error: auth_api has select (password_verifier) on auth.users",
        ),
        (
            "grant execute on function auth.assume_session to auth_admin",
            "grants error: auth_admin has execute on function auth.assume_session",
        ),
        (
            "create role reports; grant select on auth.audit_log to reports",
            "grants warning: reports has select on auth.audit_log",
        ),
        (
            "grant insert on auth.audit_log_default to auth_service",
            "grants warning: auth_service has insert on auth.audit_log_default",
        ),
        (
            "revoke execute on function auth.begin_login from auth_api",
            "grants error: auth_api lacks execute on function auth.begin_login",
        ),
        ("revoke select on auth.sessions from auth_api", "grants error: auth_api lacks select (amr, auth_time, "),
        ("grant create on schema auth to auth_api", "grants error: auth_api may create objects in schema auth"),
        ("grant create on schema auth to public", "grants error: PUBLIC may create objects in schema auth"),
        ("revoke usage on schema auth from auth_mailer", "grants error: auth_mailer may not enter schema auth"),
        (
            "alter role auth_service set log_parameter_max_length = -1",
            "settings warning: parameters of auth_service's statements",
        ),
        (
            "alter role auth_mail_service set log_parameter_max_length_on_error = '1kB'",
            "settings warning: parameters of auth_mail_service's",
        ),
        (
            "alter role auth_service set session_replication_role = replica",
            "settings error: triggers do not fire for auth_service",
        ),
        (
            "alter role auth_service set default_transaction_read_only = on",
            "settings error: auth_service may only read",
        ),
    ] {
        broken_and_mended(&admin, breakage, expected).await;
    }
    // From PostgreSQL 16 on, whether rights are inherited is said with each grant.
    let major: i32 = value(&admin, "select current_setting('server_version_num')::int / 10000", &[]).await;
    let breakage = match major {
        15 => "alter role auth_service noinherit",
        _ => "grant auth_api to auth_service with inherit false",
    };
    broken_and_mended(&admin, breakage, "roles error: the login auth_service is in auth_api but does not inherit")
        .await;
}

/// What has no statement for advice, or one that cannot run in a transaction: that it is found.
#[tokio::test]
async fn what_takes_more_than_a_statement_is_found_too() {
    let (db, admin) = database().await;
    let partition: String =
        value(&admin, "select 'auth.audit_log_' || to_char(now() at time zone 'UTC', 'YYYY_MM')", &[]).await;
    for (breakage, expected) in [
        ("drop policy operators_read on auth.identities", "protection error: auth_monitor may read auth.identities, and no policy"),
        ("drop policy own_rows on auth.users", "protection error: auth_api may read auth.users, and no policy"),
        (
            "do $$ declare t record; begin for t in select tgname, tgrelid::regclass as rel from pg_trigger
               where tgfoid = (select oid from pg_proc where proname = 'refuse_change') and tgname = 'audit_log_append_only' and tgparentid = 0
               loop execute format('drop trigger %I on %s', t.tgname, t.rel); end loop; end $$;
             drop trigger audit_log_no_truncate on auth.audit_log",
            "protection error: auth.audit_log can be truncated",
        ),
        ("revoke auth_api from auth_service", "roles warning: no login is in auth_api"),
        ("alter table auth.users add constraint mine check (name <> '?') not valid", "protection warning: constraint mine of auth.users"),
        ("alter database :db set auth_sessions.retri_window = '1min'", "settings error: there is no setting auth_sessions.retri_window"),
        ("set auth_sessions.retry_window = 0", "settings warning: auth_sessions.retry_window is 0"),
        ("set auth_sessions.refresh_idle_ttl = '60s'", "settings error: auth_sessions.refresh_idle_ttl is not longer"),
        ("set auth_sessions.session_max_age = '1d'", "settings warning: auth_sessions.session_max_age is shorter"),
        ("set auth_sessions.retry_window_max = '10s'", "settings warning: auth_sessions.retry_window_max is shorter"),
        ("update pg_extension set extversion = '0.0.9' where extname = 'auth_sessions'", "versions error: the extension has version 0.0.9, the library"),
        ("drop table :partition", "upkeep warning: the audit log has no partition for 2"),
        (
            "update auth.sessions set created_at = created_at - interval '99 d', expires_at = expires_at - interval '99 d', idle_expires_at = idle_expires_at - interval '99 d'",
            "upkeep warning: sessions that ended before",
        ),
        ("update auth.sessions set revoked_at = now() - interval '9 d', revoked_reason = 'x'", "upkeep warning: sessions that ended before"),
        ("update auth.mail_outbox set created_at = created_at - interval '1 h'", "upkeep warning: mails have been waiting for up to 01:"),
        ("select auth.open_recovery_window('1 hour', 5)", "upkeep note: a recovery window is open until"),
    ] {
        // A connection of its own: where the library is loaded already, a misspelled setting is refused.
        let admin = db.superuser().await;
        let breakage = breakage.replace(":db", db.name()).replace(":partition", &partition);
        admin.batch_execute(&format!("begin; {breakage}")).await.unwrap_or_else(|error| panic!("{breakage}: {error:?}"));
        let found = findings(&admin).await;
        assert!(found.iter().any(|finding| finding.starts_with(expected)), "{breakage}: expected {expected}, found {found:#?}");
        admin.batch_execute("rollback").await.expect("rollback");
    }
}

#[tokio::test]
async fn months_that_are_not_sealed_and_seals_that_do_not_hold_are_found() {
    let (_db, admin) = database().await;
    let (older, newer) = (make_past_month(&admin, 3).await, make_past_month(&admin, 2).await);
    assert_eq!(
        findings(&admin).await,
        [
            "upkeep warning: 2 months of the audit log have ended and are not sealed → select auth.seal_audit_log();  -- and daily: the worker does"
        ]
    );
    run(&admin, "select auth.seal_audit_log()", &[]).await;
    for month in [older, newer] {
        let breakage = format!("drop trigger audit_log_sealed on auth.{month}");
        broken_and_mended(&admin, &breakage, &format!("protection error: auth.{month} is sealed, and takes rows"))
            .await;
    }
}

#[tokio::test]
async fn a_worker_that_is_not_there_or_does_not_work_is_found() {
    let cluster = OwnCluster::preloaded().await;
    let admin = cluster.connect("postgres", "auth").await;
    let watcher = cluster.connect("auth_watcher", "auth").await;
    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
    let found = findings(&watcher).await;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("upkeep note: the library is preloaded, and its worker does not"), "{found:#?}");
    let advice = found[0].split(" → ").nth(1).unwrap().split(';').next().unwrap();
    cluster.set("auth_sessions.cleanup_interval", "1s").await;
    admin.batch_execute(advice).await.unwrap();
    run(&admin, "select pg_reload_conf()", &[]).await;
    eventually("the worker works", async || findings(&watcher).await.is_empty()).await;

    // Somebody keeps it from working.
    admin
        .batch_execute("begin; select pg_advisory_xact_lock(hashtextextended('auth_sessions.run_maintenance', 0))")
        .await
        .unwrap();
    let idle = "upkeep error: the background worker has not finished a turn since";
    eventually("it is missed", async || findings(&watcher).await.iter().any(|it| it.starts_with(idle))).await;
    admin.batch_execute("rollback").await.unwrap();
    eventually("it works again", async || findings(&watcher).await.is_empty()).await;

    // One of its tasks fails.
    run(&admin, "alter function auth.forget_mail(int) rename to forget_no_mail", &[]).await;
    let failed = "upkeep warning: maintenance failed at ";
    eventually("its failure is told", async || findings(&watcher).await.iter().any(|it| it.starts_with(failed))).await;
}

#[tokio::test]
async fn a_worker_that_is_wanted_and_not_preloaded_is_found() {
    let cluster = OwnCluster::create();
    let admin = cluster.connect("postgres", "auth").await;
    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
    // The setting is there when the library is.
    admin.batch_execute("load 'auth_sessions'").await.unwrap();
    admin.batch_execute("alter system set auth_sessions.cleanup_database = 'other, auth'").await.unwrap();
    run(&admin, "select pg_reload_conf()", &[]).await;
    let watcher = cluster.connect("auth_watcher", "auth").await;
    let wanted = "upkeep error: the background worker is to look after this database";
    eventually("it is missed", async || findings(&watcher).await.iter().any(|it| it.starts_with(wanted))).await;
}

#[tokio::test]
async fn roles_of_the_dbas_own_policies_may_ask_who_somebody_is() {
    let (_db, admin) = database().await;
    admin
        .batch_execute(
            "begin; create role app; grant usage on schema auth to app;
             grant execute on function auth.current_user_id, auth.session_is_live, auth.require_auth_age to app",
        )
        .await
        .unwrap();
    assert_eq!(findings(&admin).await, Vec::<String>::new());
    admin.batch_execute("rollback").await.unwrap();
}

/// Nothing that the extension gives can be taken away unnoticed: whatever is added to grants.sql is looked after.
#[tokio::test]
async fn every_privilege_that_is_taken_away_is_named() {
    let (_db, admin) = database().await;
    let given: Vec<String> = values(
        &admin,
        "select format('%s on function %s to %s', lower(a.privilege_type), p.oid::regprocedure, a.grantee::regrole)
           from pg_proc p, aclexplode(p.proacl) a where p.pronamespace = 'auth'::regnamespace and a.grantee <> p.proowner
         union all
         select format('%s on %s to %s', lower(a.privilege_type), c.oid::regclass, a.grantee::regrole)
           from pg_class c, aclexplode(c.relacl) a where c.relnamespace = 'auth'::regnamespace and a.grantee <> c.relowner
         union all
         select format('%s (%s) on %s to %s', lower(a.privilege_type), string_agg(quote_ident(t.attname), ', ' order by quote_ident(t.attname)),
                       c.oid::regclass, a.grantee::regrole)
           from pg_class c join pg_attribute t on t.attrelid = c.oid, aclexplode(t.attacl) a where c.relnamespace = 'auth'::regnamespace
          group by c.oid, a.grantee, a.privilege_type
         order by 1",
        &[],
    )
    .await;
    assert!(given.len() > 100, "{}", given.len());
    admin.batch_execute("begin").await.unwrap();
    for privilege in &given {
        let (what, who) = privilege.rsplit_once(" to ").expect("a grant");
        admin.batch_execute(&format!("revoke {what} from {who}")).await.unwrap();
    }
    let missed: Vec<String> = values(
        &admin,
        "select substr(advice, 7, length(advice) - 7) as privilege from auth.check_grants() where severity = 'error' order by 1",
        &[],
    )
    .await;
    admin.batch_execute("rollback").await.unwrap();
    assert_eq!(missed, given);
}

/// Policies that open a table to somebody whom no other policy opens it to; and triggers.
#[tokio::test]
async fn no_policy_is_dropped_and_no_trigger_disabled_unnoticed() {
    let (_db, admin) = database().await;
    let breakages: Vec<String> = values(
        &admin,
        "select format('drop policy %I on %s', p.polname, p.polrelid::regclass) from pg_policy p join pg_class c on c.oid = p.polrelid
          where c.relnamespace = 'auth'::regnamespace
         union all
         select format('alter table %s disable trigger %I', t.tgrelid::regclass, t.tgname) from pg_trigger t join pg_class c on c.oid = t.tgrelid
          where c.relnamespace = 'auth'::regnamespace and not t.tgisinternal
         order by 1",
        &[],
    )
    .await;
    assert!(breakages.len() > 50, "{}", breakages.len());
    let mut unnoticed = Vec::new();
    for breakage in breakages {
        admin.batch_execute(&format!("begin; {breakage}")).await.unwrap();
        let errors: i64 =
            value(&admin, "select count(*) from auth.check_protection() where severity = 'error'", &[]).await;
        admin.batch_execute("rollback").await.unwrap();
        if errors == 0 {
            unnoticed.push(breakage);
        }
    }
    // Their tables have another policy for the service: its own rows are still seen.
    assert_eq!(
        unnoticed,
        [
            "drop policy own_rows on auth.audit_log",
            "drop policy own_rows on auth.organization_members",
            "drop policy rows_of_active_organization on auth.organization_members",
            "drop policy rows_of_owned_organization on auth.audit_log",
        ]
    );
}
