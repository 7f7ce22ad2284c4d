//! Interrupted anywhere, by kill -9, an adoption goes on where it was, and so does a rollback.

use auth_sessions_tests::adoption::{adopt, everything, example, load_example, rollback, start};
use auth_sessions_tests::catalogue::difference;
use auth_sessions_tests::sql::{run, value};
use auth_sessions_tests::{Server, TestDb, eventually};
use tokio_postgres::Client;

/// A hundred people of three tokens each, beside those of the example. The one in the middle is here already.
const PEOPLE: &str = "
    insert into public.people (id, email, name)
    select md5(n::text)::uuid, n || '@example.net', 'Nobody' from generate_series(1, 100) n;
    insert into public.sessions
    select md5('s' || n)::uuid, md5((n % 100 + 1)::text)::uuid, encode(sha256(('refresh-token-of-' || n)::bytea), 'hex'), null, null, null,
           now() - interval '1 day' + n * interval '1 second', null, now() + interval '20 days', null
      from generate_series(1, 300) n;
    insert into auth.users (id, email, name) values (md5('50')::uuid, '50@example.net', 'Nobody')";

/// Lets a command run into a lock, does something meanwhile, kills the command, and waits until its server process is
/// gone; then the lock is let go.
async fn interrupt<T>(db: &TestDb, lock: &str, arguments: &[&str], meanwhile: impl AsyncFnOnce() -> T) -> T {
    let (holder, admin) = (db.superuser().await, db.superuser().await);
    holder.batch_execute("begin").await.unwrap();
    holder.batch_execute(lock).await.unwrap_or_else(|error| panic!("{lock}: {error:?}"));
    let mut command = start(db, arguments);
    let its = "select count(*) from pg_stat_activity
                where datname = current_database() and usename = 'postgres' and application_name = 'auth-api'";
    let blocked = format!("{its} and wait_event_type = 'Lock'");
    eventually("it waits", async || value::<i64>(&admin, &blocked, &[]).await == 1).await;
    let came = meanwhile().await;
    command.kill().await.expect("kill -9");
    eventually("its server process is gone", async || value::<i64>(&admin, its, &[]).await == 0).await;
    holder.batch_execute("rollback").await.unwrap();
    came
}

async fn done(admin: &Client, step: &str) -> (i64, bool) {
    let row = admin
        .query_one("select done, finished_at is not null from auth_adoption.steps where step = $1", &[&step])
        .await;
    let row = row.expect("the step");
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn killed_in_the_middle_the_same_command_goes_on() {
    let db = TestDb::create().await;
    let admin = db.superuser().await;
    load_example(&admin, "sessions").await;
    admin.batch_execute(PEOPLE).await.unwrap();
    let before = everything(&admin).await;
    let mapping = example("sessions.toml");
    let mapping_file = mapping.to_str().unwrap();
    let adopt_slowly = ["adopt", mapping_file, "--batch-size", "10"];

    // In the users: somebody signs up with an address of the old system at this moment, and thinks better of it.
    let sign_up = "insert into auth.users (email, name) values ('77@example.net', 'x')";
    interrupt(&db, sign_up, &adopt_slowly, async || ()).await;
    let (users, is_finished) = done(&admin, "users").await;
    assert!(users < 102 && users % 10 == 0 && !is_finished, "{users}");
    assert_eq!(value::<i64>(&admin, "select count(*) from auth_adoption.users", &[]).await, users);
    // In the sessions: the user of some is locked.
    let lock_user = "select from auth.users where id = md5('50')::uuid for update";
    interrupt(&db, lock_user, &adopt_slowly, async || ()).await;
    assert_eq!(done(&admin, "users").await, (102, true));
    let (sessions, is_finished) = done(&admin, "sessions").await;
    assert!(sessions > 0 && sessions < 300 && !is_finished, "{sessions}");
    // Old readers read on, and nobody writes.
    assert_eq!(value::<i64>(&admin, "select count(*) from public.sessions", &[]).await, 304);
    let said = adopt(&db, &mapping, &["--verify-only"]).await;
    assert!(said.expect_refusal().contains("not complete"));
    // In the old tokens: somebody looks at the table with a heavy hand.
    let lock_tokens = "lock table auth.adopted_tokens in share mode";
    interrupt(&db, lock_tokens, &adopt_slowly, async || ()).await;
    assert_eq!(done(&admin, "sessions").await, (304, true));
    assert_eq!(done(&admin, "old tokens").await, (0, false));

    // Two at once: one works, the other is told.
    let busy =
        interrupt(&db, lock_tokens, &adopt_slowly, async || adopt(&db, &mapping, &[]).await.expect_refusal()).await;
    assert!(busy.contains("another auth-api adopt or rollback"), "{busy}");
    let other = adopt(&db, &example("auth_sessions.toml"), &[]).await.expect_refusal();
    assert!(other.contains("another mapping file"), "{other}");
    let trial = adopt(&db, &mapping, &["--dry-run"]).await.expect_refusal();
    assert!(trial.contains("has begun"), "{trial}");

    adopt(&db, &mapping, &[]).await.expect();
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.sessions", &[]).await, 303);
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.adopted_tokens", &[]).await, 303);
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.users", &[]).await, 102);
    let server = Server::start(&db, &[("ADOPTED_TOKEN_FORMAT", "sha256-hex")]).await;
    for holder in [1, 7, 150, 300] {
        server.api().refresh(&format!("refresh-token-of-{holder}")).await.expect(200);
    }

    // And back: interrupted when the old table is there again already.
    let lock_user = "select from auth.users where id = md5('77')::uuid for key share";
    let roll_back = ["rollback", "--force", "--no-backup", "--batch-size", "10"];
    interrupt(&db, lock_user, &roll_back, async || ()).await;
    assert_eq!(
        value::<i64>(
            &admin,
            "select count(*) from pg_class where oid = 'public.sessions'::regclass and relkind = 'r'",
            &[]
        )
        .await,
        1
    );
    let said = adopt(&db, &mapping, &[]).await.expect_refusal();
    assert!(said.contains("a rollback of an adoption has begun"), "{said}");
    assert!(rollback(&db, &["--verify-only"]).await.expect_refusal().contains("a rollback has begun"));
    rollback(&db, &[]).await.expect();
    let mut changed = difference(&before, &everything(&admin).await);
    // The service has made its audit partitions, and what it needs to be steady.
    changed.retain(|fact| !fact.contains("audit_log") && !fact.contains("auth.instance "));
    assert_eq!(changed, [""; 0]);
    let left: String = value(&admin, "select string_agg(email, ' ') from auth.users", &[]).await;
    assert_eq!(left, "50@example.net", "who was here before");
    run(&admin, "insert into public.sessions select * from public.sessions where false", &[]).await;
}

#[tokio::test]
async fn a_table_in_use_is_not_waited_for() {
    let db = TestDb::create().await;
    let (admin, user) = (db.superuser().await, db.superuser().await);
    load_example(&admin, "sessions").await;
    user.batch_execute("begin; select from public.sessions").await.unwrap();
    let said = adopt(&db, &example("sessions.toml"), &[]).await.expect_refusal();
    assert!(said.contains("in use") && said.contains("same command again"), "{said}");
    user.batch_execute("select from public.sessions; rollback").await.unwrap();
    adopt(&db, &example("sessions.toml"), &[]).await.expect();
}

#[tokio::test]
async fn there_is_one_at_a_time_and_one_that_is_about_to_end_is_waited_for() {
    let db = TestDb::create().await;
    let (admin, another) = (db.superuser().await, db.superuser().await);
    load_example(&admin, "auth_sessions").await;
    let mapping = example("auth_sessions.toml");
    run(&another, "select pg_advisory_lock(hashtextextended('auth_sessions.adoption', 0))", &[]).await;
    let said = adopt(&db, &mapping, &[]).await.expect_refusal();
    assert!(said.contains("another auth-api adopt or rollback is at work"), "{said}");

    let asked =
        "select exists (select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
                                 and query ~ 'pg_try_advisory_lock')";
    let end = async {
        eventually("it has asked once", async || value::<bool>(&admin, asked, &[]).await).await;
        drop(another);
    };
    let (said, ()) = tokio::join!(adopt(&db, &mapping, &[]), end);
    said.expect();
}
