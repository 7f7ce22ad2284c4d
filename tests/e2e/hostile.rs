//! An attacker runs any SQL as the service's role. Two users of two tenants: as nobody, and as one of them, the other's
//! rows are neither seen nor changed, and nobody becomes somebody else.

use auth_sessions_tests::sql::{refusal, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{Outcome, rotate, try_rotate, try_sign_up};
use auth_sessions_tests::{TestDb, cluster};
use tokio_postgres::Client;
use uuid::Uuid;

pub struct Scene {
    pub db: TestDb,
    pub admin: Client,
    pub attacker: Client,
    pub ada: Outcome,
    pub bob: Outcome,
}

/// Ada's tenant and Bob's; the attacker holds the service's connection, and Bob's own session.
pub async fn scene() -> Scene {
    let db = TestDb::create().await;
    let (admin, attacker) = (db.superuser().await, db.connect_as("auth_service").await);
    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
    let ada = try_sign_up(&attacker, "ada@example.org", Some(("Ada's", "adas"))).await.unwrap();
    let bob = try_sign_up(&attacker, "bob@example.org", Some(("Bob's", "bobs"))).await.unwrap();
    Scene { db, admin, attacker, ada, bob }
}

impl Scene {
    /// Everything stored, all rights and all functions as a digest: equal when nothing changed. Without the throttles, which anybody may trip.
    pub async fn everything(&self) -> String {
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
    pub async fn become_bob(&self) {
        self.attacker.batch_execute("begin").await.unwrap();
        let (session, jti) = (self.bob.session_id.unwrap(), self.bob.jti.unwrap());
        assert_eq!(run(&self.attacker, "select from auth.assume_session($1, $2)", &[&session, &jti]).await, 1);
    }

    /// Tries a statement in a savepoint, so that the transaction and its identity go on.
    pub async fn attempt(&self, statement: &str) -> String {
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
        "email_verification_ttl",
        "password_reset_ttl",
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
