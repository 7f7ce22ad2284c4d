//! Who watches over all organizations: appointed and dismissed by a DBA, and only while their session is proved.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::sql::{refusal, run, sqlstate, value, values};
use auth_sessions_tests::tenants::{act_as, assume};
use auth_sessions_tests::tokens::{Outcome, Secret, random_bytes, try_sign_up};
use tokio_postgres::Client;

const APPOINT: &str = "select auth.appoint_operator($1, 'ticket-4711')";
const DISMISS: &str = "select auth.dismiss_operator($1, 'ticket-4712')";
const IS_ONE: &str = "select auth.current_user_is_operator()";

/// Whether the session's holder is an operator, in a transaction of theirs.
async fn is_operator(service: &Client, who: &Outcome) -> bool {
    act_as(service, who, IS_ONE, &[]).await.expect(IS_ONE)[0].get(0)
}

#[tokio::test]
async fn a_dba_appoints_and_dismisses_and_it_counts_at_once() {
    let db = TestDb::create().await;
    let (admin, service) = (db.superuser().await, db.connect_as("auth_service").await);
    let (dba, watcher) = (db.connect_as("auth_operator").await, db.connect_as("auth_watcher").await);
    let ada = try_sign_up(&service, "ada@example.org", None).await.unwrap();
    let bob = try_sign_up(&service, "bob@example.org", Some(("Bob's", "bobs"))).await.unwrap();
    let id = ada.user_id.unwrap();

    assert!(!is_operator(&service, &ada).await);
    assert!(value::<bool>(&dba, APPOINT, &[&id]).await);
    assert!(!value::<bool>(&dba, APPOINT, &[&id]).await, "already");
    assert!(is_operator(&service, &ada).await, "with the session that was open");
    assert!(!is_operator(&service, &bob).await, "an owner of an organization is none");
    assert!(!value::<bool>(&service, IS_ONE, &[]).await, "nobody is none");
    let listed: Vec<String> =
        values(&watcher, "select appointed_by from auth.operators where user_id = $1", &[&id]).await;
    assert_eq!(listed, ["auth_operator"]);

    // Taken away while a transaction of theirs runs: gone at its next statement.
    service.batch_execute("begin").await.unwrap();
    assume(&service, &ada).await;
    assert!(value::<bool>(&service, IS_ONE, &[]).await);
    assert!(value::<bool>(&dba, DISMISS, &[&id]).await);
    assert!(!value::<bool>(&service, IS_ONE, &[]).await);
    service.batch_execute("rollback").await.unwrap();
    assert!(!value::<bool>(&dba, DISMISS, &[&id]).await, "already");

    // So is it with the session.
    run(&dba, APPOINT, &[&id]).await;
    service.batch_execute("begin").await.unwrap();
    assume(&service, &ada).await;
    run(&dba, "select auth.revoke_session_family($1)", &[&ada.family_id]).await;
    assert!(!value::<bool>(&service, IS_ONE, &[]).await, "who was logged out sees nothing more");
    service.batch_execute("rollback").await.unwrap();

    let trail = "select action || ' ' || user_id || ' ' || actor || ' ' || severity || ' ' || correlation_id
                   from auth.audit_log where action like 'operator%' order by created_at";
    let expected = [("appointed", "4711"), ("dismissed", "4712"), ("appointed", "4711")]
        .map(|(what, ticket)| format!("operator_{what} {id} auth_operator warning ticket-{ticket}"));
    assert_eq!(values::<String>(&admin, trail, &[]).await, expected, "each once");
    run(&admin, "delete from auth.users where id = $1", &[&id]).await;
    assert_eq!(value::<i64>(&admin, "select count(*) from auth.operators", &[]).await, 0);
}

#[tokio::test]
async fn a_personal_access_token_of_an_operator_is_none() {
    let db = TestDb::create().await;
    let (admin, service) = (db.superuser().await, db.connect_as("auth_service").await);
    let ada = try_sign_up(&service, "ada@example.org", None).await.unwrap();
    run(&db.connect_as("auth_operator").await, APPOINT, &[&ada.user_id]).await;
    let (lookup_id, secret) = (random_bytes(16), Secret::random());
    let make = "insert into auth.personal_access_tokens (user_id, name, lookup_id, token_verifier, scopes, expires_at)
                values ($1, 'siem', $2, $3, '{security_events:read,organization:read}', now() + interval '1 day')";
    run(&admin, make, &[&ada.user_id, &lookup_id, &secret.verifier()]).await;
    service.batch_execute("begin").await.unwrap();
    let assume = "select from auth.assume_personal_access_token(lookup_id => $1, token_proof => $2)";
    assert_eq!(run(&service, assume, &[&lookup_id, &secret.proof()]).await, 1);
    assert!(!value::<bool>(&service, IS_ONE, &[]).await);
    service.batch_execute("rollback").await.unwrap();
}

#[tokio::test]
async fn nobody_else_appoints_and_what_makes_no_sense_is_refused() {
    let db = TestDb::create().await;
    let service = db.connect_as("auth_service").await;
    let ada = try_sign_up(&service, "ada@example.org", Some(("Ada's", "adas"))).await.unwrap();
    let before = db.row_counts().await;
    for call in [APPOINT, DISMISS] {
        for login in ["auth_service", "auth_watcher", "auth_mail_service", "auth_federation_service"] {
            let refused = refusal(db.connect_as(login).await.query(call, &[&ada.user_id]).await);
            assert_eq!(refused.code, "42501", "{login}: {call}");
        }
        assert_eq!(refusal(act_as(&service, &ada, call, &[&ada.user_id]).await).code, "42501", "an owner: {call}");
    }
    let by_hand = "insert into auth.operators (user_id, appointed_by) select id, 'me' from auth.users";
    for login in ["auth_service", "auth_operator"] {
        assert_eq!(sqlstate(&db.connect_as(login).await, by_hand).await, "42501", "{login}");
    }
    assert_eq!(sqlstate(&service, "select from auth.operators").await, "42501");
    let dba = db.connect_as("auth_operator").await;
    for (call, code) in [
        ("auth.appoint_operator(null)", "22004"),
        ("auth.dismiss_operator(null)", "22004"),
        ("auth.appoint_operator(gen_random_uuid())", "22023"),
    ] {
        let refused = refusal(dba.query(&format!("select {call}"), &[]).await);
        assert_eq!((refused.code.as_str(), refused.hint.is_empty()), (code, false), "{call}");
    }
    assert_eq!(db.row_counts().await, before);
}
