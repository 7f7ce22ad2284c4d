//! What a session costs and what a stolen copy is worth: one row however often it is refreshed, by the right index, and
//! verifiers that prove nothing.

use auth_sessions_tests::sql::{run, session_row, value, values};
use auth_sessions_tests::tokens::{
    PASSWORD, Secret, Token, log_in, random_bytes, rotate, rotate_times, sign_up, try_sign_up,
};
use auth_sessions_tests::{OwnCluster, TestDb};
use tokio_postgres::Client;

/// How big each index of the sessions is, by name.
const INDEX_SIZES: &str = "select c.relname || ' ' || pg_relation_size(c.oid)
  from pg_index i join pg_class c on c.oid = i.indexrelid where i.indrelid = 'auth.sessions'::regclass order by 1";

#[tokio::test]
async fn a_thousand_refreshes_leave_one_row_and_no_index_grows() {
    // A cluster of its own: while a transaction writes in any database of a cluster, PostgreSQL prunes no page of another.
    let cluster = OwnCluster::create();
    let (service, admin) = (cluster.connect("auth_service", "auth").await, cluster.connect("postgres", "auth").await);
    let token = try_sign_up(&service, "ada@example.org", Some(("Company", "company"))).await.unwrap().token();
    let row = "select id from auth.sessions";
    // Some neighbours, so that the row does not have its page for itself.
    for _ in 0..50 {
        log_in(&service, "ada@example.org", PASSWORD).await.token();
    }
    let before: Vec<String> = values(&admin, INDEX_SIZES, &[]).await;

    // From changing networks of one family, as a phone would.
    let mut current = token;
    let mut wal = String::new();
    for n in 0..1000 {
        if n == 500 {
            wal = value(&admin, "select pg_current_wal_insert_lsn()::text", &[]).await;
        }
        let nonce = random_bytes(16);
        let next = current.successor_secret(&nonce, n + 1);
        let refreshed = service
            .query_one(
                "select outcome, ticket from auth.rotate_session_token($1, $2, $3, $4, $5, $6, ip => $7::text::inet)",
                &[
                    &current.session_id,
                    &n,
                    &current.ticket,
                    &current.secret.proof(),
                    &next.verifier(),
                    &nonce,
                    &format!("192.0.{}.1", n % 250),
                ],
            )
            .await
            .unwrap();
        assert_eq!(refreshed.get::<_, &str>(0), "rotated");
        current = Token { generation: n + 1, ticket: refreshed.get(1), secret: next, ..current };
    }

    // Logged is one short stretch of the row, and the commit: see the order of the columns in sql/tables.sql.
    let logged = "select (pg_current_wal_insert_lsn() - $1::text::pg_lsn)::float8 / 500";
    let bytes: f64 = value(&admin, logged, &[&wal]).await;
    assert!(bytes < 350.0, "{bytes} bytes of WAL a refresh");

    assert_eq!(values::<uuid::Uuid>(&admin, row, &[]).await.len(), 51, "no row was added");
    assert_eq!(values::<String>(&admin, INDEX_SIZES, &[]).await, before);
    let pages: i64 = value(&admin, "select pg_relation_size('auth.sessions') / 8192", &[]).await;
    // The service's backend reports its counters when it ends.
    drop(service);
    let counted = "select n_tup_upd, n_tup_hot_upd, n_tup_ins, n_tup_del from pg_stat_user_tables where relid = 'auth.sessions'::regclass";
    let mut counters = (0, 0, 0, 0);
    auth_sessions_tests::eventually("the statistics are in", async || {
        run(&admin, "select pg_stat_clear_snapshot()", &[]).await;
        let row = admin.query_one(counted, &[]).await.unwrap();
        counters = (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2), row.get::<_, i64>(3));
        counters.0 >= 1000
    })
    .await;
    let (updates, hot, inserted, deleted) = counters;
    assert_eq!((updates, inserted, deleted), (1000, 51, 0));
    assert!(hot >= 980, "only {hot} of 1000 refreshes were HOT updates");
    assert!(pages <= 5, "the table has {pages} pages");
}

#[tokio::test]
async fn no_index_is_on_a_column_that_a_refresh_changes() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let token = sign_up(&service, "ada@example.org").await;
    let columns: Vec<String> = values(
        &admin,
        "select attname::text from pg_attribute where attrelid = 'auth.sessions'::regclass and attnum > 0 and not attisdropped",
        &[],
    )
    .await;
    let as_json = "select to_jsonb(s)::text from auth.sessions s";
    let before: serde_json::Value = value::<String>(&admin, as_json, &[]).await.parse().unwrap();
    run(&admin, "update auth.sessions set idle_expires_at = idle_expires_at - interval '1 hour'", &[]).await;
    rotate(&service, &token).await;
    let after: serde_json::Value = value::<String>(&admin, as_json, &[]).await.parse().unwrap();
    let changed: Vec<&String> = columns.iter().filter(|column| before[column] != after[column]).collect();
    assert!(changed.len() >= 7, "{changed:?}");

    // Keys, expressions and predicates of every index, by the column numbers they mention. cleanup_week is the one
    // exception: it changes once a week.
    let indexed: Vec<String> = values(
        &admin,
        "select distinct a.attname::text from pg_index i
           join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
                and d.refclassid = 'pg_class'::regclass and d.refobjid = i.indrelid
           join pg_attribute a on a.attrelid = i.indrelid and a.attnum = d.refobjsubid
          where i.indrelid = 'auth.sessions'::regclass
          union select a.attname::text from pg_index i, unnest(i.indkey) key
                  join pg_attribute a on a.attrelid = 'auth.sessions'::regclass and a.attnum = key
          where i.indrelid = 'auth.sessions'::regclass",
        &[],
    )
    .await;
    assert!(indexed.iter().any(|column| column == "revoked_at"), "{indexed:?}");
    let both: Vec<_> = changed.iter().filter(|column| indexed.contains(column) && **column != "cleanup_week").collect();
    assert!(both.is_empty(), "indexed, and changed by every refresh: {both:?}");
}

#[tokio::test]
async fn what_a_dump_holds_proves_nothing() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let tokens = rotate_times(&service, sign_up(&service, "ada@example.org").await, 2).await;
    let current = &tokens[2];
    let before = session_row(&admin, current.session_id).await;
    let stolen = admin
        .query_one(
            "select token_verifier, previous_token_verifier, lineage_key, rotation_nonce, auth.make_ticket(lineage_key, 2, token_verifier),
                    password_verifier, password_salt
               from auth.sessions s join auth.users u on u.id = s.user_id",
            &[],
        )
        .await
        .unwrap();
    let column = |n: usize| stolen.get::<_, Vec<u8>>(n);

    for (generation, proof) in [(2, column(0)), (1, column(1)), (2, column(2)), (0, column(0))] {
        for ticket in [column(4), current.ticket.clone(), column(3)] {
            let outcome: String = value(
                &service,
                "select outcome from auth.rotate_session_token($1, $2, $3, $4, $5, $6)",
                &[&current.session_id, &generation, &ticket, &proof, &random_bytes(32), &random_bytes(16)],
            )
            .await;
            assert_eq!(outcome, "unknown");
            let ended: bool = value(
                &service,
                "select auth.end_session($1, $2, $3, $4)",
                &[&current.session_id, &generation, &ticket, &proof],
            )
            .await;
            assert!(!ended);
        }
    }
    for proof in [column(5), [column(6), column(6)].concat()] {
        let outcome: String = value(
            &service,
            "select outcome from auth.complete_login('ada@example.org', 1, $1, $2)",
            &[&proof, &Secret::random().verifier()],
        )
        .await;
        assert_eq!(outcome, "refused");
    }
    assert_eq!(session_row(&admin, current.session_id).await, before);
    assert_eq!(rotate(&service, current).await.outcome, "rotated");
}

/// Fills the tables: users, each with a hundred sessions, some of them expired or revoked long ago.
async fn fill(admin: &Client) {
    admin
        .batch_execute(
            "insert into auth.users (email, name, password_salt, password_params, pepper_id, password_verifier)
             select 'user-' || n || '@example.org', 'User', sha256('salt'), 'm=1', 1, sha256('verifier')
               from generate_series(1, 2000) n;
             insert into auth.sessions (family_id, user_id, created_at, auth_time, expires_at, idle_ttl, amr, lineage_key,
                                        last_used_at, idle_expires_at, token_verifier, revoked_at, revoked_reason)
             select gen_random_uuid(), u.id, now(), now(), now() + interval '30 days', '7 days', '{pwd}', sha256('key'),
                    now(), case when n = 1 then now() - interval '40 days' else now() + interval '7 days' end, sha256('token'),
                    case when n = 2 then now() - interval '40 days' end, case when n = 2 then 'test' end
               from auth.users u, generate_series(1, 50) n",
        )
        .await
        .unwrap();
    admin.batch_execute("vacuum analyze auth.users, auth.sessions").await.unwrap();
}

#[tokio::test]
async fn every_statement_of_the_hot_paths_finds_its_rows_by_an_index() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    fill(&admin).await;
    let token = sign_up(&service, "ada@example.org").await;

    // The plans are those that the functions really ran: each is called, and the statistics tell how its rows were
    // found. A sequential scan of 100,000 sessions could not hide there.
    let scans = "select relname || ': ' || seq_scan || ' ' || seq_tup_read from pg_stat_xact_all_tables
                  where schemaname = 'auth' and relname in ('sessions', 'users', 'organization_members') and seq_scan > 0";
    service.batch_execute("begin").await.unwrap();
    let tokens = rotate_times(&service, token, 3).await;
    let session = rotate(&service, &tokens[2]).await;
    assert_eq!(session.outcome, "retried");
    let again = log_in(&service, "ada@example.org", PASSWORD).await;
    log_in(&service, "ada@example.org", "wrong").await;
    log_in(&service, "nobody@example.org", "wrong").await;
    for call in [
        "select count(*) from auth.assume_session($1, $2)",
        "select count(*) from auth.session_profile($1) where $2::uuid is not null",
        "select count(*) from auth.active_sessions where ($1::uuid, $2::uuid) is not null",
        "select count(*) from auth.session_families where ($1::uuid, $2::uuid) is not null",
        "select auth.session_is_live()::int::bigint where ($1::uuid, $2::uuid) is not null",
        "select auth.require_auth_age('1 hour')::int::bigint where ($1::uuid, $2::uuid) is not null",
        "select auth.revoke_session($1)::int::bigint where $2::uuid is not null",
        "select auth.revoke_user_sessions(auth.current_user_id())::bigint where ($1::uuid, $2::uuid) is not null",
    ] {
        let rows: i64 = value(&service, call, &[&again.session_id, &again.jti]).await;
        assert!(rows > 0, "{call}");
    }
    assert_eq!(rotate(&service, &tokens[0]).await.outcome, "revoked");
    assert_eq!(values::<String>(&service, scans, &[]).await, Vec::<String>::new());
    service.batch_execute("commit").await.unwrap();

    let operator = db.connect_as("auth_operator").await;
    operator.batch_execute("begin").await.unwrap();
    let family: uuid::Uuid =
        value(&admin, "select family_id from auth.sessions where revoked_at is null limit 1", &[]).await;
    run(&operator, "select auth.revoke_session_family($1)", &[&family]).await;
    run(&operator, "select auth.handle_token_replay(gen_random_uuid(), $1)", &[&family]).await;
    // First those that were revoked long ago, then those that expired: 2,000 of each.
    for _ in 0..8 {
        let removed: i64 = value(&operator, "select auth.cleanup_expired_sessions(500, '7 days')", &[]).await;
        assert_eq!(removed, 500);
    }
    assert_eq!(values::<String>(&operator, scans, &[]).await, Vec::<String>::new());
    operator.batch_execute("commit").await.unwrap();
}
