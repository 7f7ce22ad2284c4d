//! A hot standby that follows its primary: verifying and watching work there, and whatever writes says where to go.

use auth_sessions_tests::failover::catch_up;
use auth_sessions_tests::http::PASSWORD;
use auth_sessions_tests::server::auth_api;
use auth_sessions_tests::sql::{refusal, run, value, values};
use auth_sessions_tests::tokens::{random_bytes, sha256, try_sign_up};
use auth_sessions_tests::{OwnCluster, Server, eventually};
use serde_json::json;
use tokio_postgres::Client;

#[tokio::test]
async fn a_standby_verifies_and_watches_and_sends_writers_to_the_primary() {
    let primary = OwnCluster::create();
    let standby = OwnCluster::standby_of(&primary);
    let (service, admin) = (primary.connect("auth_service", "auth").await, primary.connect("postgres", "auth").await);
    let (there, operator) =
        (standby.connect("auth_service", "auth").await, standby.connect("auth_operator", "auth").await);

    run(&admin, "select auth.maintain_audit_partitions()", &[]).await;
    let ada = try_sign_up(&service, "ada@example.org", Some(("Company", "company"))).await.unwrap();
    let (session, jti) = (ada.session_id.unwrap(), ada.jti.unwrap());
    let lookup_id = random_bytes(16);
    run(
        &admin,
        "insert into auth.personal_access_tokens (user_id, name, lookup_id, token_verifier, scopes, expires_at)
         select id, 'a program', $1, $2, '{sessions:read}', now() + interval '1 day' from auth.users",
        &[&lookup_id, &sha256(&sha256(b"proof"))],
    )
    .await;
    catch_up(&admin, &there).await;

    // Who this is, what it may see, and whether it is live.
    let assume = format!("begin; select from auth.assume_session('{session}', '{jti}')");
    there.batch_execute(&assume).await.unwrap();
    for (what, query) in [
        ("the user", "select auth.current_user_id() is not null"),
        ("the role", "select auth.current_roles() = '{ORGANIZATION_OWNER}'"),
        ("the profile", "select count(*) = 1 from auth.session_profile(auth.current_session_id())"),
        ("liveness", "select auth.session_is_live()"),
        ("freshness", "select auth.require_auth_age('5 minutes')"),
        ("the user's sessions", "select count(*) = 1 from auth.active_sessions"),
        ("the user's events", "select count(*) > 2 from auth.security_events"),
    ] {
        assert!(value::<bool>(&there, query, &[]).await, "{what}");
    }
    there.batch_execute("commit").await.unwrap();
    assert!(!value::<bool>(&there, "select auth.session_is_live()", &[]).await, "the transaction is over");
    let program = "select scopes from auth.assume_personal_access_token($1, $2)";
    let scopes: Vec<String> = value(&there, program, &[&lookup_id, &sha256(b"proof")]).await;
    assert_eq!(scopes, ["sessions:read"]);
    assert!(there.query(program, &[&lookup_id, &sha256(b"wrong")]).await.unwrap().is_empty());

    let watcher = standby.connect("auth_watcher", "auth").await;
    for view in ["active_sessions", "session_families", "security_events", "replay_incidents", "mail_queue"] {
        run(&watcher, &format!("select * from auth.{view}"), &[]).await;
    }

    // A session that ended on the primary is over here as soon as the standby has heard of it.
    assert_eq!(value::<i32>(&admin, "select auth.revoke_session_family($1)", &[&session]).await, 1);
    catch_up(&admin, &there).await;
    assert!(there.query("select from auth.assume_session($1, $2)", &[&session, &jti]).await.unwrap().is_empty());

    // Whatever writes is refused in one way, whichever table it would have touched first.
    let (proof, ticket) = ("sha256('x')", "substr(sha256('x'), 1, 16)");
    let genuine = |bytes: &[u8]| format!("'\\x{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let token = ada.token();
    let (its_ticket, its_proof) = (genuine(&token.ticket), genuine(&token.secret.proof()));
    for call in [
        format!("auth.rotate_session_token('{session}', 0, {its_ticket}, {its_proof}, {proof}, {ticket})"),
        format!("auth.rotate_session_token(gen_random_uuid(), 0, {ticket}, {proof}, {proof}, {ticket})"),
        format!("auth.exchange_adopted_token({proof}, {proof}, {ticket})"),
        format!("auth.end_session('{session}', 0, {its_ticket}, {its_proof})"),
        format!("auth.sign_up('b@example.org', 'B', null, {proof}, 'm=64,t=1,p=1', 1, {proof}, {proof})"),
        "auth.begin_login('ada@example.org')".to_owned(),
        format!("auth.complete_login('ada@example.org', 1, {proof}, {proof})"),
        "auth.take_rate_limit('export', 'ada', 10, '1 minute')".to_owned(),
        "auth.take_rate_limits('{export}', '{ada}', '{10}', '{1 minute}')".to_owned(),
    ] {
        let refused = refusal(there.batch_execute(&format!("select {call}")).await);
        assert_eq!(refused.code, "25006", "{call}: {}", refused.message);
        assert!(refused.hint.ends_with("to the primary."), "{call}: {refused:?}");
    }
    for call in [
        &format!("auth.revoke_session_family('{session}')"),
        &format!("auth.handle_token_replay('{jti}', '{session}')"),
        "auth.cleanup_expired_sessions()",
        "auth.open_recovery_window('1 hour', 1)",
        "auth.close_recovery_window()",
        "auth.unlock_account('ada@example.org')",
    ] {
        let refused = refusal(operator.batch_execute(&format!("select {call}")).await);
        assert_eq!(refused.code, "25006", "{call}: {}", refused.message);
        assert!(refused.hint.ends_with("to the primary."), "{call}: {refused:?}");
    }
    // Nothing fails because it stumbled on what a standby does not have (the unlogged counters).
    for (client, role) in [(&there, "auth_api"), (&operator, "auth_admin"), (&watcher, "auth_monitor")] {
        for call in calls(&admin, role).await {
            if let Err(error) = client.batch_execute(&format!("select {call}")).await {
                let refused = refusal::<()>(Err(error));
                let expected = ["25006", "28000", "42501", "22023", "22004", "23502"].contains(&refused.code.as_str());
                assert!(expected, "{call}: {refused:?}");
            }
        }
    }

    // What a standby has not heard of is missing in an export: it says until when it is whole.
    primary.stop();
    let heard = "select to_char((pg_last_xact_replay_timestamp() - interval '1 minute') at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                        clock_timestamp() > pg_last_xact_replay_timestamp() + interval '1 second'";
    let mut until = String::new();
    eventually("the primary has been silent for a second", async || {
        let row = watcher.query_one(heard, &[]).await.unwrap();
        until = row.get(0);
        row.get(1)
    })
    .await;
    let url = standby.url("auth_watcher", "auth");
    let settings = [("ADMIN_DATABASE_URL", url.as_str())];
    let day = async |days: i32| -> String { value(&watcher, "select (now()::date + $1::int)::text", &[&days]).await };
    let (yesterday, tomorrow) = (day(-1).await, day(1).await);
    let refused = auth_api(&["export", "--from", &yesterday, "--to", &tomorrow], &settings).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains(&format!("that this standby has heard of, {until}.")), "{said}");
    let taken = auth_api(&["export", "--from", "2020-01-01", "--to", &yesterday], &settings).await;
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
}

/// Every function that the role may call, called with something for each argument.
async fn calls(admin: &Client, role: &str) -> Vec<String> {
    let calls = "
      select format('%s(%s)', p.oid::regproc, coalesce((
               select string_agg(case t::regtype::text
                 when 'integer' then '1' when 'uuid' then 'gen_random_uuid()' when 'text' then $a$'ada@example.org'$a$
                 when 'bytea' then $a$sha256('x')$a$ when 'interval' then $a$interval '1 hour'$a$
                 else 'null::' || t::regtype end, ', ' order by n)
                 from unnest(p.proargtypes) with ordinality a (t, n)), ''))
        from pg_proc p
       where p.pronamespace = 'auth'::regnamespace and has_function_privilege($1, p.oid, 'execute') order by 1";
    let calls: Vec<String> = values(admin, calls, &[&role]).await;
    assert!(calls.len() > 5, "{role}: {calls:?}");
    calls
}

#[tokio::test]
async fn a_service_at_a_standby_refuses_and_recovers_when_that_is_promoted() {
    let primary = OwnCluster::create();
    let at_primary = Server::start_at(&primary.url("auth_service", "auth"), &[]).await;
    let session = at_primary.api().signup("ada@example.org").await;
    let standby = OwnCluster::standby_of(&primary);
    let admin = standby.connect("postgres", "auth").await;
    // Something to replay.
    at_primary.api().login("ada@example.org", PASSWORD).await.expect(200);
    catch_up(&primary.connect("postgres", "auth").await, &admin).await;
    let server = Server::start_at(&standby.url("auth_service", "auth"), &[]).await;
    let api = server.api();
    // Who has an access token is recognised; tokens are not exchanged here.
    api.get("/api/auth/me", &session.access_token).await.expect(200);
    api.refresh(&session.refresh_token).await.expect_problem(503, "database_unavailable");
    api.login("ada@example.org", PASSWORD).await.expect_problem(503, "database_unavailable");
    let body = json!({"refreshToken": session.refresh_token});
    api.post("/api/auth/logout", &body, "").await.expect_problem(503, "database_unavailable");

    primary.stop();
    run(&admin, "select pg_promote()", &[]).await;
    eventually("the standby is a primary", async || !value::<bool>(&admin, "select pg_is_in_recovery()", &[]).await)
        .await;
    // When nobody answered any more is found out.
    run(&admin, "select auth.open_recovery_window('1 hour', 1)", &[]).await;
    let stopped = "select stopped_at = pg_last_xact_replay_timestamp() from auth.recovery_windows";
    assert!(value::<bool>(&admin, stopped, &[]).await);
    let next = api.refresh(&session.refresh_token).await.expect(200).session();
    api.refresh(&next.refresh_token).await.expect(200);
    api.login("ada@example.org", PASSWORD).await.expect(200);
}
