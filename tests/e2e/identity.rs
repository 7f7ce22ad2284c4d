//! Who a transaction is: proved by a jti, forged by nothing, gone with the transaction.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{let_time_pass, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{Outcome, PASSWORD, log_in, random_bytes, rotate, sign_up, try_sign_up};
use tokio_postgres::Client;
use uuid::Uuid;

/// Whom the database takes this connection for, at this moment.
async fn who(client: &Client) -> Option<Uuid> {
    let row = client
        .query_one("select auth.current_user_id(), auth.current_session_id(), auth.current_organization_id()", &[])
        .await
        .unwrap();
    let [user, session, organization]: [Option<Uuid>; 3] = [row.get(0), row.get(1), row.get(2)];
    if user.is_none() {
        assert_eq!((session, organization), (None, None), "nobody has neither session nor organization");
    }
    user
}

/// Whether the jti was accepted.
async fn assume(client: &Client, session_id: Uuid, jti: Uuid) -> bool {
    run(client, "select from auth.assume_session($1, $2)", &[&session_id, &jti]).await == 1
}

async fn assumes(client: &Client, session: &Outcome) -> bool {
    assume(client, session.session_id.unwrap(), session.jti.unwrap()).await
}

#[tokio::test]
async fn the_identity_ends_with_its_transaction_however_that_ends() {
    let db = TestDb::create().await;
    let (service, other) = (db.connect_as("auth_service").await, db.connect_as("auth_service").await);
    sign_up(&service, "ada@example.org").await;
    let ada = log_in(&service, "ada@example.org", PASSWORD).await;

    for end in ["commit", "rollback", "prepare transaction 'ends'", "commit and chain", "rollback and chain"] {
        service.batch_execute("begin").await.unwrap();
        assert!(assumes(&service, &ada).await);
        assert_eq!(who(&service).await, ada.user_id, "{end}: inside");
        assert_eq!(who(&other).await, None, "{end}: no other connection sees it");
        service.batch_execute(end).await.unwrap();
        assert_eq!(who(&service).await, None, "{end}");
        service.batch_execute("rollback").await.unwrap();
    }
    service.batch_execute("commit prepared 'ends'").await.unwrap();
    assert_eq!(who(&service).await, None, "COMMIT PREPARED brings nothing back");

    service.batch_execute("begin").await.unwrap();
    assert!(assumes(&service, &ada).await);
    assert_eq!(sqlstate(&service, "select 1 / 0").await, "22012");
    service.batch_execute("rollback").await.unwrap();
    assert_eq!(who(&service).await, None, "after an error");

    // Outside a transaction block each statement is its own; and a session's state is not where the identity lives.
    assert!(assumes(&service, &ada).await);
    assert_eq!(who(&service).await, None);
    service.batch_execute("discard all").await.unwrap();
    assert_eq!(who(&service).await, None);

    // Nothing of the above was by chance of an old transaction's number: a thousand transactions later, still nobody.
    for _ in 0..1000 {
        service.batch_execute("select 1").await.unwrap();
    }
    assert_eq!(who(&service).await, None);
}

#[tokio::test]
async fn savepoints_and_resets_inside_the_transaction_do_not_lose_or_change_it() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    sign_up(&service, "ada@example.org").await;
    let ada = log_in(&service, "ada@example.org", PASSWORD).await;
    service.batch_execute("begin").await.unwrap();
    assert!(assumes(&service, &ada).await);
    for statement in [
        "savepoint a",
        "rollback to savepoint a",
        "release savepoint a",
        "reset all",
        "set role auth_api",
        "reset role",
        "deallocate all",
        "discard plans",
        "declare c cursor for select 1; fetch c; close c",
    ] {
        service.batch_execute(statement).await.unwrap();
        assert_eq!(who(&service).await, ada.user_id, "{statement}");
    }
    // An account that a savepoint took back is not somebody: there is no such user to see anything of.
    service.batch_execute("savepoint b").await.unwrap();
    let taken_back = try_sign_up(&service, "bob@example.org", None).await.unwrap();
    service.batch_execute("rollback to savepoint b").await.unwrap();
    assert!(!value::<bool>(&service, "select auth.session_is_live()", &[]).await || who(&service).await == ada.user_id);
    let profile: i64 =
        value(&service, "select count(*) from auth.session_profile($1)", &[&taken_back.session_id]).await;
    assert_eq!(profile, 0);
    service.batch_execute("rollback").await.unwrap();
}

#[tokio::test]
async fn an_access_token_of_an_earlier_generation_works_until_it_expires() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    sign_up(&service, "ada@example.org").await;
    let login = log_in(&service, "ada@example.org", PASSWORD).await;
    let session_id = login.session_id.unwrap();
    let mut tabs = vec![login];
    for _ in 0..3 {
        tabs.push(rotate(&service, &tabs[tabs.len() - 1].clone().token()).await);
    }
    for tab in &tabs {
        assert!(assumes(&service, tab).await, "generation {:?}", tab.generation);
    }
    // The same generations' tokens, as they would be had they been issued earlier; only the database can make them.
    for (age, works) in [("14 minutes 50 seconds", true), ("15 minutes", false), ("3 days", false)] {
        for generation in [0, 3] {
            let issued_earlier: Uuid = value(
                &admin,
                "select auth.make_jti(lineage_key, $1, clock_timestamp() - $2::text::interval) from auth.sessions where id = $3",
                &[&generation, &age, &session_id],
            )
            .await;
            assert_eq!(assume(&service, session_id, issued_earlier).await, works, "{age} old, generation {generation}");
        }
    }
    // Only the token has expired, not the session.
    assert_eq!(
        value::<i64>(&admin, "select count(*) from auth.active_sessions where id = $1", &[&session_id]).await,
        1
    );
}

#[tokio::test]
async fn what_is_expired_revoked_foreign_or_forged_proves_nothing() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let operator = db.connect_as("auth_operator").await;
    sign_up(&service, "ada@example.org").await;
    sign_up(&service, "bob@example.org").await;
    let ada = log_in(&service, "ada@example.org", PASSWORD).await;
    let bob = log_in(&service, "bob@example.org", PASSWORD).await;
    let (ada_session, ada_jti) = (ada.session_id.unwrap(), ada.jti.unwrap());

    service.batch_execute("begin").await.unwrap();
    assert!(!assume(&service, ada_session, bob.jti.unwrap()).await, "another user's");
    assert!(!assume(&service, bob.session_id.unwrap(), ada_jti).await, "another user's");
    assert!(!assume(&service, Uuid::new_v4(), ada_jti).await, "no such session");
    assert!(!assume(&service, ada_session, Uuid::new_v4()).await, "any UUID");
    assert!(!assume(&service, ada_session, ada_session).await, "the session's id is no proof");
    for bit in 0..128 {
        let mut bytes = *ada_jti.as_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!assume(&service, ada_session, Uuid::from_bytes(bytes)).await, "bit {bit} changed");
    }
    assert_eq!(who(&service).await, None, "none of these made it somebody");
    for nulls in ["null, $1", "$1, null"] {
        let call = format!("select from auth.assume_session({nulls})");
        assert_eq!(run(&service, &call, &[&ada_jti]).await, 0);
    }
    service.batch_execute("commit").await.unwrap();

    // A failed attempt does not end an identity that was proved, and does not widen it.
    service.batch_execute("begin").await.unwrap();
    assert!(assumes(&service, &ada).await);
    assert!(!assume(&service, bob.session_id.unwrap(), ada_jti).await);
    assert_eq!(who(&service).await, ada.user_id);
    service.batch_execute("commit").await.unwrap();

    let_time_pass(&admin, ada_session, "7 days").await;
    assert!(!assumes(&service, &ada).await, "an expired session");
    run(&operator, "select auth.revoke_session_family($1)", &[&bob.session_id]).await;
    assert!(!assumes(&service, &bob).await, "a revoked session");
    let carol = sign_up(&service, "carol@example.org").await;
    let carol = rotate(&service, &carol).await;
    run(&admin, "update auth.users set disabled_at = now() where email = 'carol@example.org'", &[]).await;
    assert!(!assumes(&service, &carol).await, "a disabled user");
}

/// A DBA's own table, under policies that use what the extension offers.
const NOTES: &str = "
    create table public.notes (owner uuid, body text);
    alter table public.notes enable row level security;
    grant select, insert, update on public.notes to auth_api;
    create policy mine on public.notes for select to auth_api
      using (owner = (select auth.current_user_id()) and auth.session_is_live());
    create policy fresh on public.notes for update to auth_api
      using (owner = (select auth.current_user_id()) and auth.require_auth_age('5 minutes'));
    create policy write on public.notes for insert to auth_api with check (owner = (select auth.current_user_id()));";

#[tokio::test]
async fn a_dbas_own_policies_follow_the_session() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    let operator = db.connect_as("auth_operator").await;
    admin.batch_execute(NOTES).await.unwrap();
    sign_up(&service, "ada@example.org").await;
    let ada = log_in(&service, "ada@example.org", PASSWORD).await;
    let other = Uuid::new_v4();
    run(&admin, "insert into public.notes values ($1, 'hers'), ($2, 'not hers')", &[&ada.user_id, &other]).await;
    let read = "select body from public.notes";

    assert!(values::<String>(&service, read, &[]).await.is_empty(), "nobody sees nothing");
    service.batch_execute("begin").await.unwrap();
    assert!(assumes(&service, &ada).await);
    assert_eq!(values::<String>(&service, read, &[]).await, ["hers"]);
    assert_eq!(run(&service, "update public.notes set body = 'hers' ", &[]).await, 1);
    run(&service, "insert into public.notes values (auth.current_user_id(), 'hers')", &[]).await;
    let foreign = format!("savepoint s; insert into public.notes values ('{other}', 'forged')");
    assert_eq!(sqlstate(&service, &foreign).await, "42501");
    service.batch_execute("rollback to savepoint s").await.unwrap();

    // Six minutes after the login, reading goes on; what asks for a fresh login does not.
    service.batch_execute("commit").await.unwrap();
    run(&admin, "update auth.sessions set auth_time = auth_time - interval '6 minutes'", &[]).await;
    service.batch_execute("begin").await.unwrap();
    assert!(assumes(&service, &ada).await);
    assert_eq!(values::<String>(&service, read, &[]).await, ["hers", "hers"]);
    assert_eq!(run(&service, "update public.notes set body = 'changed'", &[]).await, 0);
    assert!(!value::<bool>(&service, "select auth.require_auth_age('5 minutes')", &[]).await);
    assert!(value::<bool>(&service, "select auth.require_auth_age('7 minutes')", &[]).await);

    // Revoked by somebody else, in the middle of this transaction: the very next statement sees nothing.
    run(&operator, "select auth.revoke_session_family($1)", &[&ada.session_id]).await;
    assert!(values::<String>(&service, read, &[]).await.is_empty());
    assert!(!value::<bool>(&service, "select auth.session_is_live()", &[]).await);
    assert!(!value::<bool>(&service, "select auth.require_auth_age('1 day')", &[]).await);
    service.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn parallel_workers_neither_lose_nor_leak_it() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    admin.batch_execute(NOTES).await.unwrap();
    sign_up(&service, "ada@example.org").await;
    let ada = log_in(&service, "ada@example.org", PASSWORD).await;
    run(
        &admin,
        "insert into public.notes select case when n % 2 = 0 then $1 else gen_random_uuid() end, repeat('x', 200)
           from generate_series(1, 40000) n",
        &[&ada.user_id],
    )
    .await;
    admin.batch_execute("analyze public.notes").await.unwrap();
    let parallel = "set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;
                    set max_parallel_workers_per_gather = 4";
    service.batch_execute(parallel).await.unwrap();
    let mine = "select count(*) from public.notes where length(body) > 0";
    // PostgreSQL 16 renamed it.
    let names = "select name from pg_settings where name in ('force_parallel_mode', 'debug_parallel_query')";
    let force: String = value(&admin, names, &[]).await;
    for forced in ["off", "on"] {
        service.batch_execute(&format!("set {force} = {forced}; begin")).await.unwrap();
        assert_eq!(value::<i64>(&service, mine, &[]).await, 0);
        assert!(assumes(&service, &ada).await);
        assert_eq!(value::<i64>(&service, mine, &[]).await, 20_000, "{force} = {forced}");
        assert_eq!(who(&service).await, ada.user_id);
        service.batch_execute("commit").await.unwrap();
        // The workers of the next query belong to nobody.
        assert_eq!(value::<i64>(&service, mine, &[]).await, 0);
    }
}

#[tokio::test]
async fn roles_are_those_of_this_moment() {
    let db = TestDb::create().await;
    let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
    try_sign_up(&service, "ada@example.org", Some(("Company", "company"))).await.unwrap();
    let ada = log_in(&service, "ada@example.org", PASSWORD).await;
    let roles = "select auth.current_roles()";
    assert_eq!(value::<Option<Vec<String>>>(&service, roles, &[]).await, None, "nobody");
    assert_eq!(value::<Option<Vec<String>>>(&service, "select auth.current_scopes()", &[]).await, None);

    service.batch_execute("begin").await.unwrap();
    assert!(assumes(&service, &ada).await);
    assert_eq!(value::<Vec<String>>(&service, roles, &[]).await, ["ORGANIZATION_OWNER"]);
    assert_eq!(value::<Vec<String>>(&service, "select auth.current_scopes()", &[]).await, ["*"]);
    run(&admin, "update auth.organization_members set role = 'ORGANIZATION_MEMBER'", &[]).await;
    assert_eq!(value::<Vec<String>>(&service, roles, &[]).await, ["ORGANIZATION_MEMBER"], "in the same transaction");
    service.batch_execute("commit").await.unwrap();

    let profile = "select p.roles from auth.rotate_session_token($1, 0, $2, $3, $4, $5) r
                     left join lateral auth.session_profile(r.session_id) p on true";
    let token = ada.token();
    run(&admin, "update auth.organization_members set role = 'ORGANIZATION_ADMIN'", &[]).await;
    let proof = token.secret.proof();
    let params: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&token.session_id, &token.ticket, &proof, &random_bytes(32), &random_bytes(16)];
    assert_eq!(value::<Vec<String>>(&service, profile, params).await, ["ORGANIZATION_ADMIN"], "and in the next token");
}

#[tokio::test]
async fn recognising_somebody_takes_no_transaction_id() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    sign_up(&service, "ada@example.org").await;
    let ada = log_in(&service, "ada@example.org", PASSWORD).await;

    service.batch_execute("begin").await.unwrap();
    assert!(assumes(&service, &ada).await);
    let profile = "select count(*) from auth.session_profile(auth.current_session_id())";
    assert_eq!(value::<i64>(&service, profile, &[]).await, 1);
    let writes = "select pg_current_xact_id_if_assigned() is not null";
    assert!(!value::<bool>(&service, writes, &[]).await, "each request would cost a commit record");
    service.batch_execute("commit").await.unwrap();
}
