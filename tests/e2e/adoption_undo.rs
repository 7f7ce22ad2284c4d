//! Trials change nothing, and the way back gives the old tables as they were.

use auth_sessions_tests::adoption::{OLD_PASSWORD, adopt, everything, example, load_example, rollback};
use auth_sessions_tests::catalogue::difference;
use auth_sessions_tests::sql::{run, value, values};
use auth_sessions_tests::{Server, TestDb};
use tokio_postgres::Client;

const NOTHING: [&str; 0] = [];
const EXAMPLES: [&str; 3] = ["auth_sessions", "refresh_tokens", "sessions"];

/// What hangs on a real old table: rights of others, of columns too, a comment, a trigger, another table's foreign key.
const TRIMMINGS: &str = "
    comment on table public.sessions is 'the old application''s';
    grant select on public.sessions to auth_watcher with grant option;
    grant select (id, person_id), update (revoked_at) on public.sessions to auth_operator;
    alter table public.sessions owner to auth_operator;
    create index sessions_expires_at_idx on public.sessions (expires_at) where revoked_at is null;
    create function public.touch() returns trigger language plpgsql as 'begin new.last_used_at := now(); return new; end';
    create trigger touch before update on public.sessions for each row execute function public.touch();
    create table public.devices (session_id uuid references public.sessions (id) on delete cascade);
    insert into public.devices select id from public.sessions;";

#[tokio::test]
async fn a_trial_changes_nothing() {
    for name in EXAMPLES {
        let db = TestDb::create().await;
        let admin = db.superuser().await;
        load_example(&admin, name).await;
        let before = everything(&admin).await;
        let report = std::env::temp_dir().join(format!("{}.csv", db.name()));
        for trial in [&["--verify-only"][..], &["--dry-run", "--batch-size", "2", "--report", report.to_str().unwrap()]]
        {
            let said = adopt(&db, &example(&format!("{name}.toml")), trial).await.expect();
            assert!(said.out.contains("3  old rows: current") && said.out.contains("1  old rows: refused"), "{said:?}");
            assert_eq!(difference(&before, &everything(&admin).await), NOTHING, "{name} {trial:?}");
        }
        let told = std::fs::read_to_string(&report).expect("the report");
        std::fs::remove_file(report).expect("the report");
        assert!(told.starts_with("source,old_id,outcome,problem,detail\n") && told.contains(",refused,"), "{told}");
    }
}

#[tokio::test]
async fn the_old_table_comes_back_byte_for_byte() {
    for name in EXAMPLES {
        let db = TestDb::create().await;
        let admin = db.superuser().await;
        load_example(&admin, name).await;
        if name == "sessions" {
            admin.batch_execute(TRIMMINGS).await.unwrap();
        }
        let before = everything(&admin).await;
        let users = "select count(*) from auth.users";
        // Twice: nothing is left that stands in the way of the second time.
        for _ in 0..2 {
            adopt(&db, &example(&format!("{name}.toml")), &[]).await.expect();
            assert!(value::<i64>(&admin, users, &[]).await > 0);
            assert_ne!(difference(&before, &everything(&admin).await), NOTHING);
            let verified = everything(&admin).await;
            adopt(&db, &example(&format!("{name}.toml")), &["--verify-only"]).await.expect();
            rollback(&db, &["--verify-only"]).await.expect();
            assert_eq!(difference(&verified, &everything(&admin).await), NOTHING, "{name}: asking changes nothing");
            rollback(&db, &["--no-backup"]).await.expect();
            // The audit log goes on, and nothing else is there that was not before.
            let mut left = difference(&before, &everything(&admin).await);
            left.retain(|fact| {
                !fact.contains(": auth.audit_log_default ") && !fact.contains(": auth.audit_log_id_seq ")
            });
            assert_eq!(left, NOTHING, "{name}");
        }
        let told = "select action from auth.audit_log where action like 'adoption%' order by created_at";
        let once = ["adoption_completed", "adoption_rolled_back"];
        assert_eq!(values::<String>(&admin, told, &[]).await, [once, once].concat());
        assert!(rollback(&db, &[]).await.expect_refusal().contains("no adoption"));
    }
}

#[tokio::test]
async fn what_people_did_since_is_not_lost_by_mistake() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    load_example(&admin, "auth_sessions").await;
    let table = "select string_agg(t::text, '|' order by id) from public.auth_sessions t";
    let before: String = value(&admin, table, &[]).await;
    let mapping = example("auth_sessions.toml");
    adopt(&db, &mapping, &[]).await.expect();
    let server = Server::start(&db, &[("ADOPTED_TOKEN_FORMAT", "sha256-hex")]).await;
    let api = server.api();
    // So that the service, which does this when it starts, finds it done: what is compared below is to stay as it is.
    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;

    api.refresh("refresh-token-of-ada-laptop-1").await.expect(200);
    expect_refused_rollback(&db, &admin, "1  adopted sessions that were refreshed").await;
    api.login("bob@example.org", OLD_PASSWORD).await.expect(200);
    expect_refused_rollback(&db, &admin, "1  rows of auth.sessions").await;
    expect_refused_rollback(&db, &admin, "1  adopted users whose password").await;
    api.refresh("refresh-token-of-ada-phone-1").await.expect_problem(401, "invalid_refresh_token");
    expect_refused_rollback(&db, &admin, "1  adopted sessions that were ended").await;
    run(&admin, "delete from auth_kept.auth_sessions where id = 't7'", &[]).await;
    expect_refused_rollback(&db, &admin, "8  rows of the old table that were changed").await;

    // Who signed up here is nobody of the old system: that one stays, whatever happens to the others.
    let later = api.signup("later@example.org").await;
    let said = rollback(&db, &["--force"]).await.expect();
    let emails: Vec<String> = values(&admin, "select email from auth.users", &[]).await;
    assert_eq!(emails, ["later@example.org"]);
    api.refresh(&later.refresh_token).await.expect(200);
    let after: String = value(&admin, table, &[]).await;
    assert_eq!(after.split('|').count() + 1, before.split('|').count());
    assert!(after.split('|').all(|row| before.contains(row)), "{after}");
    // What was taken out can be looked up.
    let copy: String =
        value(&admin, "select nspname::text from pg_namespace where nspname like 'auth_undone_%'", &[]).await;
    assert!(said.out.contains(&copy), "{said:?}");
    for (copied, many) in [("users", 5), ("sessions", 4), ("adopted_users", 5)] {
        assert_eq!(value::<i64>(&admin, &format!("select count(*) from {copy}.{copied}"), &[]).await, many, "{copied}");
    }
}

/// Refuses, says why, and changes nothing.
async fn expect_refused_rollback(db: &TestDb, admin: &Client, why: &str) {
    let before = everything(admin).await;
    for arguments in [&[][..], &["--verify-only"]] {
        let said = rollback(db, arguments).await;
        assert!(said.out.contains(why), "{why}: {said:?}");
        assert!(said.expect_refusal().contains("--force"));
        assert_eq!(difference(&before, &everything(admin).await), NOTHING, "{why}");
    }
}

#[tokio::test]
async fn without_a_backup_there_is_no_way_back() {
    // At once, and some time after an adoption that kept it.
    for later in [false, true] {
        let db = TestDb::create().await;
        let admin = db.superuser().await;
        load_example(&admin, "auth_sessions").await;
        let mapping = example("auth_sessions.toml");
        if later {
            adopt(&db, &mapping, &[]).await.expect();
        }
        adopt(&db, &mapping, &["--no-backup"]).await.expect();
        assert!(!value::<bool>(&admin, "select to_regnamespace('auth_kept') is not null", &[]).await);
        let shown: Vec<String> =
            values(&admin, "select id || ' ' || user_id from public.auth_sessions order by id", &[]).await;
        assert_eq!(shown, ["t3 usr_ada", "t4 usr_ada", "t5 usr_bob"]);
        adopt(&db, &mapping, &["--verify-only"]).await.expect();
        for arguments in [&["--force"][..], &["--verify-only"]] {
            assert!(rollback(&db, arguments).await.expect_refusal().contains("--no-backup"));
        }
        let server = Server::start(&db, &[("ADOPTED_TOKEN_FORMAT", "sha256-hex")]).await;
        server.api().refresh("refresh-token-of-bob-1").await.expect(200);
    }
}
