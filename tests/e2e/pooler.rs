//! Behind PgBouncer in transaction mode: an identity stays in its transaction, whoever gets the connection after it, and the
//! service works without statements prepared on a connection.

use std::sync::Arc;

use auth_sessions_tests::http::{Client as Confidential, PASSWORD};
use auth_sessions_tests::pooler::Pooler;
use auth_sessions_tests::sql::{CROWD, audit_trail, race, sqlstate};
use auth_sessions_tests::tokens::{OUTCOME_COLUMNS, Outcome, Token, one_successor, random_bytes, rotate, sign_up};
use auth_sessions_tests::wire::RefreshToken;
use auth_sessions_tests::{Server, TestDb};
use serde_json::json;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, SimpleQueryMessage};

/// The one value of a statement without parameters, by the simple protocol: nothing is prepared.
async fn simple(client: &Client, statement: &str) -> Option<String> {
    let messages = client.simple_query(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
        _ => None,
    })?
}

#[tokio::test]
async fn an_identity_ends_with_its_transaction_and_never_reaches_the_next_client() {
    let db = TestDb::create().await;
    let direct = db.connect_as("auth_service").await;
    let token = sign_up(&direct, "ada@example.org").await;
    let jti = rotate(&direct, &token).await.jti.expect("rotated");
    // One connection to the server for everybody.
    let pooler = Pooler::start(&db, 1).await;
    let (ada, bob) = (pooler.connect_as("auth_service").await, pooler.connect_as("auth_service").await);
    let backend = "select pg_backend_pid()";
    assert_eq!(simple(&ada, backend).await, simple(&bob, backend).await, "they do share it");

    let assume = format!("begin; select from auth.assume_session('{}', '{jti}')", token.session_id);
    let who = "select auth.current_user_id()";
    for end in ["commit", "rollback", "select 1/0; commit", "prepare transaction 'of ada'"] {
        ada.batch_execute(&assume).await.unwrap();
        assert!(simple(&ada, who).await.is_some(), "{end}");
        let ended = sqlstate(&ada, end).await;
        if ended != "00000" {
            assert_eq!(ended, "22012", "{end}");
            ada.batch_execute("rollback").await.unwrap();
        }
        for client in [&bob, &ada] {
            assert_eq!(simple(client, who).await, None, "{end}");
            assert_eq!(simple(client, "select auth.session_is_live()").await.as_deref(), Some("f"), "{end}");
            assert_eq!(simple(client, "select count(*) from auth.sessions").await.as_deref(), Some("0"), "{end}");
        }
        if end.starts_with("prepare") {
            bob.batch_execute("commit prepared 'of ada'").await.unwrap();
            assert_eq!(simple(&bob, who).await, None, "{end}");
        }
    }
    // Nor does it outlive its own statement; and DISCARD takes nothing that would be missed.
    let statement = format!("select auth.current_user_id() from auth.assume_session('{}', '{jti}')", token.session_id);
    assert!(simple(&ada, &statement).await.is_some());
    assert_eq!(simple(&bob, who).await, None);
    bob.batch_execute("discard all").await.unwrap();
    assert!(simple(&ada, &statement).await.is_some());
}

/// Presents a token in one message, as the service does it through a pooler.
async fn rotate_unprepared(client: &Client, token: &Token) -> Outcome {
    let nonce = random_bytes(16);
    let verifier = token.successor_secret(&nonce, token.generation + 1).verifier();
    let statement = format!("select {OUTCOME_COLUMNS} from auth.rotate_session_token($1, $2, $3, $4, $5, $6)");
    let params: &[(&(dyn ToSql + Sync), Type)] = &[
        (&token.session_id, Type::UUID),
        (&token.generation, Type::INT4),
        (&token.ticket, Type::BYTEA),
        (&token.secret.proof(), Type::BYTEA),
        (&verifier, Type::BYTEA),
        (&nonce, Type::BYTEA),
    ];
    let outcome = Outcome::from_row(&client.query_typed_one(&statement, params).await.expect("rotate_session_token"));
    let nonce = outcome.rotation_nonce.clone().unwrap_or(nonce);
    outcome.granting(token.successor_secret(&nonce, token.generation + 1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_presenters_over_three_connections_one_rotates_and_all_get_the_same_successor() {
    let _crowd = CROWD.lock().await;
    let db = TestDb::create().await;
    let pooler = Pooler::start(&db, 3).await;
    let mut presenters = Vec::new();
    for _ in 0..100 {
        presenters.push(Arc::new(pooler.connect_as("auth_service").await));
    }
    let mut token = sign_up(&db.connect_as("auth_service").await, "ada@example.org").await;
    for round in 0..8 {
        let outcomes = race(&presenters, |_, presenter| {
            let token = token.clone();
            async move { rotate_unprepared(&presenter, &token).await }
        })
        .await;
        token = one_successor(outcomes, &format!("round {round}"));
    }
}

#[tokio::test]
async fn the_service_does_all_its_work_through_a_pooler() {
    let db = TestDb::create().await;
    let pooler = Pooler::start_forgetful(&db).await;
    let server = Server::start_at(&pooler.url("auth_service"), &[("DB_PREPARED_STATEMENTS", "off")]).await;
    let api = server.api();
    api.get("/health/ready", "").await.expect(200);
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "name": "Ada",
                      "organization": {"name": "Company", "slug": "company"}});
    let ada = api.post("/api/auth/signup", &body, "").await.expect(201).session();
    let bearer = &api.login("ada@example.org", PASSWORD).await.expect(200).session().access_token;
    for path in ["me", "sessions", "token-info", "security-events", "organizations", "personal-access-tokens"] {
        api.get(&format!("/api/auth/{path}"), bearer).await.expect(200);
    }
    let organization = ada.body["organization"]["id"].as_str().unwrap();
    for path in ["members", "sessions", "invitations"] {
        api.get(&format!("/api/auth/organizations/{organization}/{path}"), bearer).await.expect(200);
    }
    api.post("/api/auth/step-up", &json!({"password": PASSWORD}), bearer).await.expect(200);
    api.login("ada@example.org", "wrong").await.expect_problem(401, "invalid_credentials");

    let client = Confidential::register(&db.connect_as("auth_operator").await, "a program").await;
    let form = [("token", ada.refresh_token.as_str())];
    let told = api.form("/api/auth/introspect", &form, Some(&client)).await.expect(200).json();
    assert_eq!(told["active"], true);
    let next = api.refresh(&ada.refresh_token).await.expect(200).session();
    api.refresh(&next.refresh_token).await.expect(200);
    api.refresh(&ada.refresh_token).await.expect_problem(401, "invalid_refresh_token");
    let session = RefreshToken::parse(&ada.refresh_token).session_id;
    let trail = audit_trail(&db.superuser().await, session).await;
    assert!(trail.ends_with(&["token_replay_detected".to_owned(), "session_family_revoked".to_owned()]), "{trail:?}");

    let change = json!({"currentPassword": PASSWORD, "newPassword": "another battery, another staple"});
    api.post("/api/auth/password/change", &change, bearer).await.expect(200);
    let ended = api.post("/api/auth/logout-all", &json!({}), bearer).await.expect(200).json();
    assert_eq!(ended["revokedSessions"], 1);
    api.get("/api/auth/me", bearer).await.expect_problem(401, "invalid_access_token");
    let errors: Vec<String> = server.log().lines().filter(|line| line.contains("ERROR")).map(str::to_owned).collect();
    assert_eq!(errors, Vec::<String>::new());
}

#[tokio::test]
async fn a_service_that_prepares_statements_says_what_to_set() {
    let db = TestDb::create().await;
    let pooler = Pooler::start_forgetful(&db).await;
    let server = Server::start_at(&pooler.url("auth_service"), &[]).await;
    let answer = server.api().get("/api/auth/organizations/slug-available/company", "").await;
    // From 1.21 on, PgBouncer may keep prepared statements itself.
    if answer.status != 200 {
        answer.expect_problem(503, "database_unavailable");
        assert!(server.log().contains("DB_PREPARED_STATEMENTS=off"), "{}", server.log());
    }
}
