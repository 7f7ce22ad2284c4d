//! A dump brings everything back into a cluster that has never heard of the extension; and what `create extension` and
//! `drop extension` leave, refuse and take along.

use std::path::{Path, PathBuf};
use std::process::Command;

use auth_sessions_tests::sql::{refusal, revoked_reason, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{PASSWORD, Token, log_in, rotate, rotate_times, sign_up, try_sign_up};
use auth_sessions_tests::{Cluster, OwnCluster, TestDb};
use tokio_postgres::Client;

/// Runs one of PostgreSQL's client programs against a database; panics when it fails.
fn client_program(cluster: &Cluster, program: &str, database: &str, arguments: &[&str]) {
    let pg_config = std::env::var_os("PGRX_PG_CONFIG_PATH").map(PathBuf::from);
    let program =
        pg_config.as_deref().and_then(Path::parent).expect("PGRX_PG_CONFIG_PATH, which make test sets").join(program);
    let output = Command::new(&program)
        .args(["-h", "127.0.0.1", "-U", "postgres", "-d", database, "-p", &cluster.port().to_string()])
        .args(arguments)
        .env("PGPASSWORD", cluster.password("postgres"))
        .output()
        .expect("a PostgreSQL client");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", program.display());
    assert_eq!(said, "", "{}: not even a warning", program.display());
}

/// What there is and who may do what with it, one line a fact, by names only.
async fn catalogue(admin: &Client) -> Vec<String> {
    let facts = "
      with relation as (select * from pg_class where relnamespace = 'auth'::regnamespace)
      select format('%s %s owner %s rls %s %s', relkind, relname, relowner::regrole, relrowsecurity, relforcerowsecurity) from relation
      union all select format('column %s.%s %s %s', relname, attname, format_type(atttypid, atttypmod), attnotnull)
        from relation join pg_attribute on attrelid = relation.oid and attnum > 0 and not attisdropped
      union all select format('acl %s %s %s', relname, grantee::regrole, privilege_type) from relation, aclexplode(coalesce(relacl, acldefault('r', relowner)))
        where relkind <> 'i'
      union all select format('acl %s.%s %s %s', relname, attname, grantee::regrole, privilege_type)
        from relation join pg_attribute on attrelid = relation.oid, aclexplode(attacl)
      union all select format('policy %s %s %s %s %s', relname, polname, polroles::regrole[], pg_get_expr(polqual, polrelid),
                              pg_get_expr(polwithcheck, polrelid)) from relation join pg_policy on polrelid = relation.oid
      union all select format('partition %s %s', relname, pg_get_expr(relpartbound, relation.oid)) from relation where relispartition
      union all select format('trigger %s %s', relname, pg_get_triggerdef(pg_trigger.oid))
        from relation join pg_trigger on tgrelid = relation.oid and not tgisinternal
      union all select format('constraint %s %s', conname, pg_get_constraintdef(pg_constraint.oid))
        from pg_constraint where connamespace = 'auth'::regnamespace and conrelid <> 0
      union all select format('index %s', pg_get_indexdef(indexrelid)) from relation join pg_index on indrelid = relation.oid
      union all select format('function %s owner %s definer %s %s', p.oid::regprocedure, proowner::regrole, prosecdef, proconfig)
        from pg_proc p where pronamespace = 'auth'::regnamespace
      union all select format('acl %s %s', p.oid::regprocedure, grantee::regrole)
        from pg_proc p, aclexplode(proacl) where pronamespace = 'auth'::regnamespace
      union all select format('schema %s %s', grantee::regrole, privilege_type)
        from pg_namespace, aclexplode(nspacl) where nspname = 'auth'
      union all select format('role %s %s %s %s', rolname, rolsuper, rolbypassrls, rolcanlogin) from pg_roles
        where rolname in ('auth_owner', 'auth_api', 'auth_monitor', 'auth_admin', 'auth_mailer', 'auth_federation')
      union all select format('member %s', pg_describe_object(classid, objid, 0)) from pg_depend
        where deptype = 'e' and refobjid = (select oid from pg_extension where extname = 'auth_sessions')
      order by 1";
    values(admin, facts, &[]).await
}

/// What only one of two lists has.
fn difference(before: &[String], after: &[String]) -> Vec<String> {
    let lost = before.iter().filter(|fact| !after.contains(fact)).map(|fact| format!("lost: {fact}"));
    let new = after.iter().filter(|fact| !before.contains(fact)).map(|fact| format!("new: {fact}"));
    lost.chain(new).collect()
}

/// Rows of each table, and what they say; the throttles and the outbox are not dumped.
async fn contents(admin: &Client) -> Vec<String> {
    let tables: Vec<String> = values(
        admin,
        "select oid::regclass::text from pg_class where relnamespace = 'auth'::regnamespace and relkind = 'r'
            and relname not in ('attempts', 'mail_outbox') order by 1",
        &[],
    )
    .await;
    let mut contents = Vec::new();
    for table in tables {
        let digest = format!(
            "select '{table} ' || count(*) || ' ' || md5(coalesce(string_agg(t::text, '|' order by t::text), '')) from {table} t"
        );
        contents.push(value(admin, &digest, &[]).await);
    }
    contents
}

/// What clients hold at the time of the dump.
struct Held {
    current: Token,
    old: Token,
    other_device: Token,
    revoked: Token,
    fake_salt: Vec<u8>,
}

const FAKE_SALT: &str = "select password_salt from auth.begin_login('nobody@example.org')";

async fn live_a_little(service: &Client, admin: &Client) -> Held {
    // Events before the first partitions are made, and after; of this month, and of one long gone.
    let founder = try_sign_up(service, "ada@example.org", Some(("Company", "company"))).await.unwrap().token();
    run(admin, "select auth.maintain_audit_partitions()", &[]).await;
    for created_at in ["2020-02-29", "2100-01-01"] {
        let insert = "insert into auth.audit_log (action, severity, success, created_at) values ('x', 'info', true, $1::text::timestamptz)";
        run(admin, insert, &[&created_at]).await;
    }
    let next_month = "insert into auth.audit_log (action, severity, success, created_at) values ('x', 'info', true, now() + interval '1 month')";
    run(admin, next_month, &[]).await;
    run(admin, "select auth.open_recovery_window('1 hour', 5)", &[]).await;
    let tokens = rotate_times(service, founder, 7).await;
    // Somebody by way of a provider, whose token must not be accepted again from a restored database.
    let link = "insert into auth.identities (provider, subject, user_id, email) select 'https://issuer.example', '1', id, email
                  from auth.users where email = 'ada@example.org'";
    run(admin, link, &[]).await;
    let used =
        "insert into auth.accepted_id_tokens (digest, expires_at) values (sha256('token'), now() + interval '1 hour')";
    run(admin, used, &[]).await;
    let revoked = sign_up(service, "bob@example.org").await;
    run(admin, "update auth.users set disabled_at = now() where email = 'bob@example.org'", &[]).await;
    Held {
        current: tokens[7].clone(),
        old: tokens[2].clone(),
        other_device: log_in(service, "ada@example.org", PASSWORD).await.token(),
        revoked,
        fake_salt: value(service, FAKE_SALT, &[]).await,
    }
}

#[tokio::test]
async fn a_dump_restored_into_an_empty_cluster_goes_on_where_it_was() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let held = live_a_little(&service, &admin).await;
    let (facts, rows) = (catalogue(&admin).await, contents(&admin).await);
    let newest: i64 = value(&admin, "select max(id) from auth.audit_log", &[]).await;

    let elsewhere = OwnCluster::empty();
    let server = elsewhere.connect("postgres", "postgres").await;
    assert_eq!(value::<i64>(&server, "select count(*) from pg_roles where rolname like 'auth%'", &[]).await, 0);
    let file = std::env::temp_dir().join(format!("{}.dump", db.name()));
    let file_name = file.to_str().expect("a temporary directory");
    for format in ["plain", "custom"] {
        run(&server, "create database auth", &[]).await;
        client_program(db.cluster(), "pg_dump", db.name(), &["-F", format, "-f", file_name]);
        match format {
            "plain" => client_program(
                &elsewhere,
                "psql",
                "auth",
                &["-X", "-q", "-o", "/dev/null", "-1", "-v", "ON_ERROR_STOP=1", "-f", file_name],
            ),
            _ => client_program(&elsewhere, "pg_restore", "auth", &["-1", file_name]),
        }

        let there = elsewhere.connect("postgres", "auth").await;
        assert_eq!(difference(&facts, &catalogue(&there).await), Vec::<String>::new(), "{format}");
        assert_eq!(contents(&there).await, rows, "{format}");

        // As the service would: with its rights.
        let service = elsewhere.connect("postgres", "auth").await;
        service.batch_execute("set role auth_api").await.unwrap();
        assert_eq!(value::<Vec<u8>>(&service, FAKE_SALT, &[]).await, held.fake_salt, "{format}: steady over a restore");
        assert_eq!(rotate(&service, &held.other_device).await.outcome, "rotated", "{format}");
        assert_eq!(rotate(&service, &held.revoked).await.outcome, "revoked", "{format}");
        let refreshed = rotate(&service, &held.current).await;
        assert_eq!((refreshed.outcome.as_str(), refreshed.generation), ("rotated", Some(8)), "{format}");
        assert_eq!(rotate(&service, &held.old).await.outcome, "replayed", "{format}: an old token is still one");
        let reason = revoked_reason(&there, held.current.session_id).await;
        assert_eq!(reason.as_deref(), Some("token_replay"), "{format}");
        assert_eq!(log_in(&service, "ada@example.org", PASSWORD).await.outcome, "logged_in", "{format}");
        let next: i64 = value(&there, "select min(id) from auth.audit_log where id > $1", &[&newest]).await;
        assert!(next > newest, "{format}: ids go on");
        assert_eq!(value::<i32>(&there, "select auth.maintain_audit_partitions()", &[]).await, 0, "{format}");
        for table in ["auth.audit_log", "auth.audit_log_default"] {
            assert_eq!(sqlstate(&there, &format!("delete from {table}")).await, "42501", "{format}: {table}");
            assert_eq!(sqlstate(&there, &format!("truncate {table}")).await, "42501", "{format}: {table}");
        }
        drop((there, service));
        run(&server, "drop database auth with (force)", &[]).await;
        for role in ["auth_owner", "auth_api", "auth_monitor", "auth_admin", "auth_mailer", "auth_federation"] {
            run(&server, &format!("drop role {role}"), &[]).await;
        }
    }
    std::fs::remove_file(file).expect("the dump");
}

#[tokio::test]
async fn dropping_the_extension_leaves_nothing_and_it_can_be_created_again() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
    let fresh = TestDb::create().await;
    let expected = catalogue(&fresh.superuser().await).await;

    for _ in 0..2 {
        admin.batch_execute("drop extension auth_sessions").await.unwrap();
        let left: Vec<String> = values(
            &admin,
            "select oid::regclass::text from pg_class where relnamespace = 'auth'::regnamespace
             union all select oid::regprocedure::text from pg_proc where pronamespace = 'auth'::regnamespace
             union all select oid::regtype::text from pg_type where typnamespace = 'auth'::regnamespace",
            &[],
        )
        .await;
        assert_eq!(left, Vec::<String>::new());
        admin.batch_execute("create extension auth_sessions").await.unwrap();
        assert_eq!(difference(&expected, &catalogue(&admin).await), Vec::<String>::new());
        // A connection that has worked with the extension before works with the new one.
        let token = sign_up(&service, "ada@example.org").await;
        assert_eq!(rotate(&service, &token).await.outcome, "rotated");
    }
}

#[tokio::test]
async fn an_installation_over_something_foreign_is_refused_with_a_hint() {
    let cluster = OwnCluster::empty();
    let admin = cluster.connect("postgres", "postgres").await;
    let create = "create extension auth_sessions";
    let roles = "select count(*) from pg_roles where rolname like 'auth\\_%'";

    for (foreign, undo, code) in [
        (
            "create role mallory; create schema auth authorization mallory",
            "drop schema auth; drop role mallory",
            "42P06",
        ),
        ("create schema auth; create table auth.mine ()", "drop schema auth cascade", "42P06"),
        (
            "create schema auth; create function auth.f() returns int language sql return 1",
            "drop schema auth cascade",
            "42P06",
        ),
        ("create schema auth; create type auth.t as enum ('a')", "drop schema auth cascade", "42P06"),
        ("create role auth_api superuser", "drop role auth_api", "0LP01"),
        ("create role auth_api bypassrls", "drop role auth_api", "0LP01"),
        ("create role auth_owner superuser", "drop role auth_owner", "0LP01"),
        ("create role auth_monitor bypassrls", "drop role auth_monitor", "0LP01"),
    ] {
        admin.batch_execute(foreign).await.unwrap();
        let before: i64 = value(&admin, roles, &[]).await;
        let refused = refusal(admin.batch_execute(create).await);
        assert_eq!(refused.code, code, "{foreign}: {refused:?}");
        assert_ne!(refused.hint, "", "{foreign}: {refused:?}");
        assert_eq!(value::<i64>(&admin, roles, &[]).await, before, "{foreign}: nothing is left of the attempt");
        admin.batch_execute(undo).await.unwrap();
    }
    // An empty schema of the installer's, and harmless roles that are there already, are what a restore brings.
    admin.batch_execute("create schema auth; create role auth_api nologin").await.unwrap();
    assert_eq!(sqlstate(&admin, create).await, "00000");
    assert_eq!(sign_up_as_service(&admin).await, "rotated");
}

async fn sign_up_as_service(admin: &Client) -> String {
    admin.batch_execute("set role auth_api").await.unwrap();
    let token = sign_up(admin, "ada@example.org").await;
    rotate(admin, &token).await.outcome
}
