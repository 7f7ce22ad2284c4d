//! An attacker runs any SQL as the service's role. Two users of two tenants: as nobody, and as one of them, the other's
//! rows are neither seen nor changed, and nobody becomes somebody else.

use auth_sessions_tests::sql::{refusal, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{Outcome, rotate, try_rotate, try_sign_up};
use auth_sessions_tests::{TestDb, cluster};
use tokio_postgres::Client;
use uuid::Uuid;

struct Scene {
    db: TestDb,
    admin: Client,
    attacker: Client,
    ada: Outcome,
    bob: Outcome,
}

/// Ada's tenant and Bob's; the attacker holds the service's connection, and Bob's own session.
async fn scene() -> Scene {
    let db = TestDb::create().await;
    let (admin, attacker) = (db.superuser().await, db.connect_as("auth_service").await);
    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
    let ada = try_sign_up(&attacker, "ada@example.org", Some(("Ada's", "adas"))).await.unwrap();
    let bob = try_sign_up(&attacker, "bob@example.org", Some(("Bob's", "bobs"))).await.unwrap();
    Scene { db, admin, attacker, ada, bob }
}

impl Scene {
    /// Everything stored, all rights and all functions as a digest: equal when nothing changed. Without the throttles, which anybody may trip.
    async fn everything(&self) -> String {
        let tables: Vec<String> = values(
            &self.admin,
            "select oid::regclass::text from pg_class where relnamespace = 'auth'::regnamespace
                and relkind in ('r', 'p') and not relispartition and relname <> 'attempts' order by 1",
            &[],
        )
        .await;
        let rights = "select md5(string_agg(concat(c.oid::text, c.relacl, c.relowner, c.relrowsecurity, c.relforcerowsecurity), '|'
                                  order by c.oid)) || (select md5(string_agg(p.*::text, '|' order by oid)) from pg_proc p
                                                        where p.pronamespace = 'auth'::regnamespace)
                        from pg_class c where c.relnamespace = 'auth'::regnamespace";
        let mut digests: String = value(&self.admin, rights, &[]).await;
        for table in tables {
            let digest = format!("select coalesce(md5(string_agg(t::text, '|' order by t::text)), '') from {table} t");
            digests += &value::<String>(&self.admin, &digest, &[]).await;
        }
        digests
    }

    /// Begins a transaction as Bob.
    async fn become_bob(&self) {
        self.attacker.batch_execute("begin").await.unwrap();
        let (session, jti) = (self.bob.session_id.unwrap(), self.bob.jti.unwrap());
        assert_eq!(run(&self.attacker, "select from auth.assume_session($1, $2)", &[&session, &jti]).await, 1);
    }

    /// Tries a statement in a savepoint, so that the transaction and its identity go on.
    async fn attempt(&self, statement: &str) -> String {
        self.attacker.batch_execute("savepoint attempt").await.unwrap();
        let code = sqlstate(&self.attacker, statement).await;
        self.attacker.batch_execute("rollback to savepoint attempt").await.unwrap();
        code
    }
}

/// What is readable at all, and the column that says whose row it is.
const READABLE: [(&str, &str); 9] = [
    ("auth.users", "id"),
    ("auth.sessions", "user_id"),
    ("auth.organization_members", "user_id"),
    ("auth.audit_log", "user_id"),
    ("auth.active_sessions", "user_id"),
    ("auth.session_families", "user_id"),
    ("auth.security_events", "user_id"),
    ("auth.replay_incidents", "user_id"),
    ("auth.organizations", "id"),
];

#[tokio::test]
async fn nobody_sees_nothing_and_a_user_sees_their_own() {
    let scene = scene().await;
    for (relation, whose) in READABLE {
        let count = format!("select count({whose}) from {relation}");
        assert_eq!(value::<i64>(&scene.attacker, &count, &[]).await, 0, "{relation}");
    }
    scene.become_bob().await;
    for (relation, whose) in READABLE {
        let own = if relation == "auth.organizations" { scene.bob.organization_id } else { scene.bob.user_id };
        let seen: Vec<Uuid> = values(&scene.attacker, &format!("select distinct {whose} from {relation}"), &[]).await;
        let expected = if relation == "auth.replay_incidents" { vec![] } else { vec![own.unwrap()] };
        assert_eq!(seen, expected, "{relation}");
    }
    // A function of the attacker's, cheap enough to be asked before any other condition, is still asked after the policy.
    scene
        .attacker
        .batch_execute(
            "create function pg_temp.tell(text) returns boolean language plpgsql cost 0.0000001
               as $$ begin if $1 ~* 'ada' then raise exception 'leaked %', $1; end if; return true; end $$",
        )
        .await
        .unwrap();
    for query in [
        "select from auth.active_sessions where pg_temp.tell(user_email)",
        "select from auth.users where pg_temp.tell(email)",
        "select from auth.organizations where pg_temp.tell(name)",
        "select from auth.security_events where pg_temp.tell(details::text)",
    ] {
        assert_eq!(scene.attempt(query).await, "00000", "{query}");
    }
    let most_common = "select count(*) from pg_stats where schemaname = 'auth'";
    run(&scene.admin, "analyze", &[]).await;
    assert_eq!(value::<i64>(&scene.attacker, most_common, &[]).await, 0, "nor by the planner's statistics");
    // The jti of another's session is not told.
    let jti = "select auth.session_jti($1)";
    assert_eq!(value::<Option<Uuid>>(&scene.attacker, jti, &[&scene.ada.session_id]).await, None);
    assert_eq!(value::<Option<Uuid>>(&scene.attacker, jti, &[&scene.bob.session_id]).await, scene.bob.jti);
}

#[tokio::test]
async fn no_table_is_written_and_no_secret_read_directly() {
    let scene = scene().await;
    let before = scene.everything().await;
    scene.become_bob().await;
    let relations: Vec<String> = values(
        &scene.admin,
        "select oid::regclass::text from pg_class where relnamespace = 'auth'::regnamespace and relkind in ('r', 'p', 'v')",
        &[],
    )
    .await;
    for relation in &relations {
        let columns: Vec<String> = values(
            &scene.admin,
            "select quote_ident(attname) from pg_attribute where attrelid = $1::text::regclass and attnum > 0",
            &[relation],
        )
        .await;
        for column in &columns {
            let update = format!("update {relation} set {column} = default");
            let code = scene.attempt(&update).await;
            // A view over a join, or of groups, takes no update from anybody.
            assert!(["42501", "55000"].contains(&code.as_str()), "{update}: {code}");
            let secret = ["verifier", "salt", "params", "pepper", "lineage_key", "nonce", "secret"];
            if secret.iter().any(|word| column.contains(word)) {
                for read in [
                    format!("select {column} from {relation}"),
                    format!("select from {relation} where {column} is not null"),
                    format!("select from {relation} order by {column}"),
                    format!("copy {relation} ({column}) to stdout"),
                ] {
                    assert_eq!(scene.attempt(&read).await, "42501", "{read}");
                }
            }
        }
        for statement in [
            format!("insert into {relation} default values"),
            format!("delete from {relation}"),
            format!("truncate {relation} cascade"),
            format!("select from {relation} for update"),
            format!("copy {relation} from program 'true'"),
            format!("create trigger t before insert on {relation} for each row execute function pg_temp.t()"),
            format!("create rule r as on insert to {relation} do nothing"),
            format!("create policy p on {relation} using (true)"),
            format!("create index on {relation} (({relation}::text))"),
        ] {
            let code = scene.attempt(&statement).await;
            assert!(
                ["42501", "42809", "42883", "42P01", "42703", "55000"].contains(&code.as_str()),
                "{statement}: {code}"
            );
        }
        for statement in ["disable row level security", "no force row level security", "owner to auth_api"] {
            let alter = format!("alter table {relation} {statement}");
            let code = scene.attempt(&alter).await;
            assert!(["42501", "42809"].contains(&code.as_str()), "{alter}: {code}");
        }
    }
    // A GRANT of what one may not pass on is only a warning; that it did nothing is seen below.
    scene.attacker.batch_execute("grant all on auth.active_sessions, auth.organizations to public").await.unwrap();
    for sequence in ["select nextval('auth.audit_log_id_seq')", "select setval('auth.audit_log_id_seq', 1)"] {
        assert_eq!(scene.attempt(sequence).await, "42501", "{sequence}");
    }
    scene.attacker.batch_execute("commit").await.unwrap();
    assert_eq!(scene.everything().await, before);
}

#[tokio::test]
async fn no_setting_and_no_role_makes_somebody_of_nobody() {
    let scene = scene().await;
    let (ada_user, ada_session) = (scene.ada.user_id.unwrap(), scene.ada.session_id.unwrap());
    for role in
        ["auth_owner", "auth_monitor", "auth_admin", "auth_mailer", "auth_federation", "auth_operator", "postgres"]
    {
        for statement in [
            format!("set role {role}"),
            format!("set session authorization {role}"),
            format!("select set_config('role', '{role}', false)"),
            format!("grant {role} to auth_api"),
            format!("alter role {role} password 'mine'"),
        ] {
            assert_eq!(sqlstate(&scene.attacker, &statement).await, "42501", "{statement}");
        }
    }
    for name in [
        "access_token_ttl",
        "refresh_idle_ttl",
        "session_max_age",
        "retry_window",
        "retry_window_max",
        "session_retention",
    ] {
        for statement in [
            format!("set auth_sessions.{name} = 1000"),
            format!("set local auth_sessions.{name} = 1000"),
            format!("select set_config('auth_sessions.{name}', '1000', false)"),
            format!("alter role auth_service set auth_sessions.{name} = 1000"),
            format!("alter database {} set auth_sessions.{name} = 1000", scene.db.name()),
            format!("alter system set auth_sessions.{name} = 1000"),
        ] {
            assert_eq!(sqlstate(&scene.attacker, &statement).await, "42501", "{statement}");
        }
    }
    for (statement, code) in [
        ("set session_replication_role = replica", "42501"),
        ("set auth_sessions.user_id = 'x'", "42602"),
        ("create function auth.f() returns int language sql as 'select 1'", "42501"),
        ("create table auth.t ()", "42501"),
        ("alter schema auth rename to mine", "42501"),
        ("drop schema auth cascade", "42501"),
        ("alter extension auth_sessions update", "42501"),
        ("drop extension auth_sessions", "42501"),
        (
            "create function pg_temp.f(bytea) returns bytea language c as '$libdir/auth_sessions', 'random_bytes_wrapper'",
            "42501",
        ),
        ("do language plpgsql 'begin perform pg_read_file(''/etc/passwd''); end'", "42501"),
        ("select lo_import('/etc/passwd')", "42501"),
        ("copy (select 1) to program 'true'", "42501"),
        ("load '/tmp/evil'", "42501"),
    ] {
        let got = sqlstate(&scene.attacker, statement).await;
        assert_eq!(got, code, "{statement}");
    }
    // Names that look like the identity, but are anybody's settings.
    let forged = format!(
        "set auth.user_id = '{ada_user}'; set auth.current_user_id = '{ada_user}'; set auth.session_id = '{ada_session}';
         set \"request.jwt.claim.sub\" = '{ada_user}'; set row_security = off"
    );
    assert_eq!(sqlstate(&scene.attacker, &forged).await, "00000");
    assert_eq!(value::<Option<Uuid>>(&scene.attacker, "select auth.current_user_id()", &[]).await, None);
    // row_security = off never shows more: it refuses where a policy would have hidden something.
    assert_eq!(sqlstate(&scene.attacker, "select from auth.sessions").await, "42501");
    assert_eq!(sqlstate(&scene.attacker, "select from auth.active_sessions").await, "42501");
    assert_eq!(refusal(try_rotate(&scene.attacker, &scene.bob.clone().token()).await).code, "42501");
    scene.attacker.batch_execute("reset row_security").await.unwrap();
    assert_eq!(rotate(&scene.attacker, &scene.bob.clone().token()).await.outcome, "rotated");
}

#[tokio::test]
async fn a_setting_made_before_the_library_is_loaded_does_not_outlive_its_loading() {
    let scene = scene().await;
    let old: Uuid = value(
        &scene.admin,
        "select auth.make_jti(lineage_key, 0, clock_timestamp() - interval '20 minutes') from auth.sessions where id = $1",
        &[&scene.bob.session_id],
    )
    .await;
    // Until the library is loaded its settings are names like any other, and anybody may set those.
    let early = scene.db.connect_as("auth_service").await;
    early
        .batch_execute("set auth_sessions.access_token_ttl = 86400; set auth_sessions.retry_window = 3600")
        .await
        .unwrap();
    let assumed = early.query("select from auth.assume_session($1, $2)", &[&scene.bob.session_id, &old]).await.unwrap();
    assert!(assumed.is_empty(), "its token is 20 minutes old");
    assert_eq!(value::<String>(&early, "show auth_sessions.access_token_ttl", &[]).await, "15min");

    let url = scene.db.url("auth_service") + "?options=-cauth_sessions.access_token_ttl%3D86400";
    if let Ok(early) = cluster::connect(&url).await {
        let assumed =
            early.query("select from auth.assume_session($1, $2)", &[&scene.bob.session_id, &old]).await.unwrap();
        assert!(assumed.is_empty(), "nor by the connection's options");
    }
}

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
            "integer" | "boolean" => format!("1::{kind}"),
            "uuid" => "gen_random_uuid()".to_owned(),
            "timestamp with time zone" => "now()".to_owned(),
            "interval" | "inet" | "jsonb" | "text[]" | "regclass" => format!("null::{kind}"),
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

#[tokio::test]
async fn monitoring_reads_no_secret_and_becomes_nobody() {
    let scene = scene().await;
    for login in ["auth_watcher", "auth_operator"] {
        let client = scene.db.connect_as(login).await;
        let sees: i64 =
            value(&client, "select count(*) from auth.active_sessions where current_jti is not null", &[]).await;
        assert_eq!(sees, 2, "{login} sees every session, and its jti");
        let assume =
            client.execute("select auth.assume_session($1, $2)", &[&scene.ada.session_id, &scene.ada.jti]).await;
        assert_eq!(refusal(assume).code, "42501", "{login} becomes nobody by it");
        for statement in [
            "select token_verifier from auth.sessions",
            "select previous_token_verifier from auth.sessions",
            "select lineage_key from auth.sessions",
            "select rotation_nonce from auth.sessions",
            "select * from auth.sessions",
            "select s from auth.sessions s",
            "select password_verifier from auth.users",
            "select password_salt from auth.users",
            "select * from auth.instance",
            "select * from auth.attempts",
            "select auth.make_jti(sha256(''), 0, now())",
            "select auth.begin_login('ada@example.org')",
            "update auth.sessions set revoked_at = null",
            "delete from auth.sessions",
            "set auth_sessions.retry_window = 0",
            "set role auth_owner",
            "set role auth_api",
        ] {
            assert_eq!(sqlstate(&client, statement).await, "42501", "{login}: {statement}");
        }
    }
    let watcher = scene.db.connect_as("auth_watcher").await;
    for call in ["auth.revoke_session_family(gen_random_uuid())", "auth.cleanup_expired_sessions()"] {
        assert_eq!(sqlstate(&watcher, &format!("select {call}")).await, "42501", "watching is not ending: {call}");
    }
}
