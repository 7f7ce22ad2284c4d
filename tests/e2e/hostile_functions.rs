//! The same attacker and the functions: shadowing what they use, calling the internal ones, and what the service may
//! call turned against somebody else.

use auth_sessions_tests::sql::{refusal, run, sqlstate, value, values};

use crate::hostile::{Scene, scene};

#[tokio::test]
async fn functions_of_the_attackers_own_are_never_called_in_another_role() {
    let scene = scene().await;
    let before = scene.everything().await;
    // As generous a database as one finds: everybody may create in public.
    scene.admin.batch_execute("grant create on schema public to public").await.unwrap();
    let attacker = &scene.attacker;
    for schema in ["pg_temp", "public"] {
        let tell = "language plpgsql as $$ begin raise exception 'shadowed as %', current_user; end $$";
        for function in [
            "sha256(bytea) returns bytea",
            "clock_timestamp() returns timestamptz",
            "gen_random_uuid() returns uuid",
            "coalesce_to(text) returns text",
            "octet_length(bytea) returns int",
            "lower(text) returns text",
            "left(text, int) returns text",
            "pg_notify(text, text) returns void",
            "jsonb_build_object(text, text) returns jsonb",
            "cardinality(uuid[]) returns int",
            "date_trunc(text, timestamptz, text) returns timestamptz",
            "setting(text) returns text",
            "equal_digests(bytea, bytea) returns boolean",
            "same(timestamptz, timestamptz) returns boolean",
            "same(uuid, uuid) returns boolean",
            "same(text, text) returns boolean",
        ] {
            attacker.batch_execute(&format!("create function {schema}.{function} {tell}")).await.unwrap();
        }
        for (operator, kind) in
            [(">", "timestamptz"), ("<=", "timestamptz"), ("=", "uuid"), ("=", "text"), ("<>", "uuid")]
        {
            let create = format!(
                "create operator {schema}.{operator} (leftarg = {kind}, rightarg = {kind}, function = {schema}.same)"
            );
            attacker.batch_execute(&create).await.unwrap();
        }
        for table in ["users", "sessions", "attempts", "audit_log", "instance", "recovery_windows"] {
            attacker.batch_execute(&format!("create table {schema}.{table} (id int)")).await.unwrap();
        }
        attacker
            .batch_execute(&format!("create domain {schema}.uuid as text; create domain {schema}.interval as text"))
            .await
            .unwrap();
    }
    attacker.batch_execute("set search_path = pg_temp, public, pg_catalog").await.unwrap();
    assert_eq!(sqlstate(attacker, "select sha256('')").await, "P0001", "they do shadow, for the attacker alone");

    scene.become_bob_under_shadows().await;
    for call in [
        "auth.begin_login('ada@example.org')",
        "auth.check_slug('adas')",
        "auth.session_is_live()",
        "auth.require_auth_age('1 hour')",
        "auth.current_roles()",
        "auth.session_profile(auth.current_session_id())",
        "auth.peppers_in_use()",
        "auth.complete_login('ada@example.org', 1, pg_catalog.sha256(''), pg_catalog.sha256(''))",
        "auth.end_session(auth.current_session_id(), 0, pg_catalog.substr(pg_catalog.sha256(''), 1, 16), pg_catalog.sha256(''))",
        "auth.rotate_session_token(auth.current_session_id(), 0, pg_catalog.substr(pg_catalog.sha256(''), 1, 16),
             pg_catalog.sha256(''), pg_catalog.sha256(''), pg_catalog.substr(pg_catalog.sha256(''), 1, 16))",
        "auth.revoke_user_sessions(auth.current_user_id())",
        "auth.maintain_audit_partitions()",
        "auth.run_maintenance()",
        "auth.sign_up('eve@example.org', 'Eve', null, pg_catalog.sha256('x'), 'm=1', 1, pg_catalog.sha256('x'), pg_catalog.sha256('x'))",
    ] {
        assert_eq!(scene.attempt(&format!("select {call}")).await, "00000", "{call}");
    }
    // Views and policies were bound when they were made.
    for relation in ["active_sessions", "session_families", "security_events", "replay_incidents"] {
        assert_eq!(
            scene.attempt(&format!("select pg_catalog.count(*) from auth.{relation}")).await,
            "00000",
            "{relation}"
        );
    }
    attacker.batch_execute("commit").await.unwrap();
    assert_eq!(scene.everything().await, before);

    // The superuser's own triggers run where the attacker's names are first, too.
    scene.admin.batch_execute("set search_path = public, pg_catalog").await.unwrap();
    let disable = "update auth.users set disabled_at = pg_catalog.now() where id operator(pg_catalog.=) $1";
    assert_eq!(run(&scene.admin, disable, &[&scene.ada.user_id]).await, 1);
}

impl Scene {
    /// The same as [`Scene::become_bob`], spelled so that nothing in it can be shadowed.
    async fn become_bob_under_shadows(&self) {
        let assume = format!(
            "begin; select from auth.assume_session('{}'::pg_catalog.uuid, '{}'::pg_catalog.uuid)",
            self.bob.session_id.unwrap(),
            self.bob.jti.unwrap()
        );
        self.attacker.batch_execute(&assume).await.unwrap();
    }
}

#[tokio::test]
async fn no_internal_function_answers() {
    let scene = scene().await;
    let allowed: Vec<String> = values(
        &scene.admin,
        "select oid::regprocedure::text from pg_proc
          where pronamespace = 'auth'::regnamespace and not has_function_privilege('auth_api', oid, 'execute')",
        &[],
    )
    .await;
    assert!(allowed.len() > 20);
    scene.become_bob().await;
    for function in &allowed {
        let row = scene
            .admin
            .query_one(
                "select p.oid::regproc::text, array(select format_type(t, null) from unnest(p.proargtypes) t),
                        p.prorettype = 'trigger'::regtype from pg_proc p where p.oid = $1::text::regprocedure",
                &[function],
            )
            .await
            .unwrap();
        // Not null: a strict function of a null is null before anybody asks who may call it.
        let argument = |kind: &String| match kind.as_str() {
            "integer" | "bigint" | "boolean" => format!("1::{kind}"),
            "uuid" => "gen_random_uuid()".to_owned(),
            "timestamp with time zone" => "now()".to_owned(),
            "text[]" => "'{}'::text[]".to_owned(),
            "interval" | "inet" | "jsonb" | "regclass" => format!("null::{kind}"),
            "text" | "bytea" => format!("''::{kind}"),
            row => format!("null::{row}"),
        };
        let arguments: Vec<String> = row.get::<_, Vec<String>>(1).iter().map(argument).collect();
        let name: String = row.get(0);
        let statement = if row.get(2) {
            // A trigger function is called by a trigger on a table of one's own.
            format!(
                "create temp table mine (like auth.users); create trigger t after update on mine execute function {name}()"
            )
        } else {
            format!("select {name}({})", arguments.join(", "))
        };
        assert_eq!(scene.attempt(&statement).await, "42501", "{statement}");
    }
    scene.attacker.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn what_the_service_may_call_ends_nobody_elses_session() {
    let scene = scene().await;
    let (ada_user, ada_session) = (scene.ada.user_id.unwrap(), scene.ada.session_id.unwrap());
    let before = scene.everything().await;
    for call in ["auth.revoke_session($1)", "auth.revoke_user_sessions($1)"] {
        let refused = scene.attacker.execute(&format!("select {call}"), &[&ada_session]).await;
        assert_eq!(refusal(refused).code, "28000", "{call}: nobody may end anything");
    }
    scene.become_bob().await;
    let ended: bool = value(&scene.attacker, "select auth.revoke_session($1)", &[&ada_session]).await;
    let all: i32 = value(&scene.attacker, "select auth.revoke_user_sessions($1)", &[&ada_user]).await;
    assert_eq!((ended, all), (false, 0), "Bob owns his tenant, not Ada's");
    let profile: i64 = value(&scene.attacker, "select count(*) from auth.session_profile($1)", &[&ada_session]).await;
    assert_eq!(profile, 0);
    scene.attacker.batch_execute("commit").await.unwrap();

    // Statements prepared, and cursors held, as Bob show nobody anything afterwards.
    scene.become_bob().await;
    scene
        .attacker
        .batch_execute("prepare mine as select count(*) from auth.sessions; declare held cursor with hold for select id from auth.users")
        .await
        .unwrap();
    scene.attacker.batch_execute("commit").await.unwrap();
    scene.admin.batch_execute("select 1").await.unwrap();
    assert_eq!(value::<i64>(&scene.attacker, "select count(*) from auth.sessions", &[]).await, 0);
    let executed = scene.attacker.simple_query("execute mine").await.unwrap();
    let rows: Vec<_> = executed
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_eq!(rows, ["0"]);
    assert_eq!(scene.everything().await, before);
}
