//! Confidential clients: who makes them, what the database keeps of them, and what the command prints where.

use auth_sessions_tests::server::auth_api;
use auth_sessions_tests::sql::{connections, race, refusal, run, sqlstate, value, values};
use auth_sessions_tests::tokens::{Secret, sha256};
use auth_sessions_tests::{Client, Server, TestDb};
use tokio_postgres::Client as Sql;

const LIST: &str = "select client_id from auth.list_clients()";
const INTROSPECT: &str = "select outcome from auth.introspect_token(client_id => $1, client_proof => $2)";

async fn outcome(service: &Sql, id: &str, secret: &str) -> String {
    value(service, INTROSPECT, &[&id, &sha256(secret.as_bytes())]).await
}

async fn actions(admin: &Sql) -> Vec<String> {
    values(admin, "select action from auth.audit_log where action like 'client%' order by created_at, id", &[]).await
}

/// Standard output, standard error, and whether it worked.
async fn command(db: &TestDb, login: &str, arguments: &[&str]) -> (String, String, bool) {
    let url = db.url(login);
    let output = auth_api(&[&["clients"], arguments].concat(), &[("ADMIN_DATABASE_URL", &url)]).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr), output.status.success())
}

#[tokio::test]
async fn a_client_is_made_used_given_a_new_secret_and_ended() {
    let db = TestDb::create().await;
    let (admin, operator, service) =
        (db.superuser().await, db.connect_as("auth_operator").await, db.connect_as("auth_service").await);
    let client = Client::register(&operator, "Billing").await;
    assert_eq!(values::<String>(&operator, LIST, &[]).await, [client.id.as_str()]);
    assert_eq!(outcome(&service, &client.id, &client.secret).await, "inactive", "of no token at all");
    assert_eq!(outcome(&service, &client.id, "another").await, "invalid_client");
    assert_eq!(outcome(&service, "client_unknown", &client.secret).await, "invalid_client");
    let kept: Vec<u8> = value(&admin, "select secret_verifier from auth.clients", &[]).await;
    assert_eq!(kept, sha256(&sha256(client.secret.as_bytes())));
    let as_proof: String = value(&service, INTROSPECT, &[&client.id, &kept]).await;
    assert_eq!(as_proof, "invalid_client", "what a dump shows proves nothing");

    let new = Secret::random();
    let rotated: bool =
        value(&operator, "select auth.rotate_client_secret($1, $2)", &[&client.id, &new.verifier()]).await;
    assert!(rotated);
    assert_eq!(outcome(&service, &client.id, &client.secret).await, "invalid_client", "the old secret ends at once");
    let answer: String = value(&service, INTROSPECT, &[&client.id, &new.proof()]).await;
    assert_eq!(answer, "inactive");

    let disable = "select auth.disable_client($1)";
    assert!(value::<bool>(&operator, disable, &[&client.id]).await);
    assert!(!value::<bool>(&operator, disable, &[&client.id]).await, "it is over already");
    let answer: String = value(&service, INTROSPECT, &[&client.id, &new.proof()]).await;
    assert_eq!(answer, "invalid_client");
    let again: bool =
        value(&operator, "select auth.rotate_client_secret($1, $2)", &[&client.id, &new.verifier()]).await;
    assert!(!again, "a disabled client gets no new secret");
    assert_eq!(
        actions(&admin).await,
        [
            "client_registered",
            // The 1st and 2nd wrong one of the client; the 1st of the network, for the unknown one.
            "client_authentication_failed",
            "client_authentication_failed",
            "client_authentication_failed",
            "client_secret_rotated",
            "client_disabled",
            // The 4th; the 3rd, the old secret, is not worth a row.
            "client_authentication_failed",
        ]
    );
    let by: String = value(&admin, "select actor from auth.audit_log where action = 'client_disabled'", &[]).await;
    assert_eq!(by, "auth_operator");
}

#[tokio::test]
async fn the_service_makes_and_reads_no_clients() {
    let db = TestDb::create().await;
    let operator = db.connect_as("auth_operator").await;
    Client::register(&operator, "Billing").await;
    for login in ["auth_service", "auth_watcher"] {
        let client = db.connect_as(login).await;
        for statement in [
            "select auth.register_client('Mine', sha256('x'))",
            "select * from auth.list_clients()",
            "select auth.rotate_client_secret('x', sha256('x'))",
            "select auth.disable_client('x')",
            "select auth.authenticate_client('x', sha256('x'), null, null, null)",
            "select * from auth.clients",
            "select client_id from auth.clients",
            "update auth.clients set disabled_at = null",
        ] {
            assert_eq!(sqlstate(&client, statement).await, "42501", "{login}: {statement}");
        }
    }
    assert_eq!(sqlstate(&operator, "select secret_verifier from auth.clients").await, "42501");
    assert_eq!(sqlstate(&operator, "select auth.introspect_token('x', sha256('x'))").await, "42501");
}

#[tokio::test]
async fn wrong_arguments_are_named() {
    let db = TestDb::create().await;
    let (operator, service) = (db.connect_as("auth_operator").await, db.connect_as("auth_service").await);
    for (statement, code) in [
        ("select auth.register_client(null, sha256('x'))", "22004"),
        ("select auth.register_client('x', null)", "22004"),
        ("select auth.register_client('x', '\\x00')", "22023"),
        ("select auth.register_client('', sha256('x'))", "22023"),
        ("select auth.register_client(E'a\\nb', sha256('x'))", "22023"),
        ("select auth.register_client(repeat('x', 201), sha256('x'))", "22023"),
        ("select auth.rotate_client_secret(null, sha256('x'))", "22004"),
        ("select auth.rotate_client_secret('x', '\\x00')", "22023"),
        ("select auth.disable_client(null)", "22004"),
    ] {
        let said = refusal(operator.execute(statement, &[]).await);
        assert_eq!(said.code, code, "{statement}: {said:?}");
        assert_ne!(said.hint, "", "{statement}");
    }
    let client = Client::register(&operator, "Billing").await;
    let proof = sha256(client.secret.as_bytes());
    for function in ["introspect_token", "revoke_token"] {
        for (arguments, code) in [
            ("client_id => null, client_proof => $2, user_agent => $1", "22004"),
            ("client_id => $1, client_proof => null, ticket => $2", "22004"),
            ("client_id => $1, client_proof => $2::bytea || '\\x00'", "22023"),
            ("client_id => $1, client_proof => $2, session_id => gen_random_uuid()", "22023"),
            ("client_id => $1, client_proof => $2, jti => gen_random_uuid()", "22023"),
            ("client_id => $1, client_proof => $2, session_id => gen_random_uuid(), generation => 0", "22023"),
            (
                "client_id => $1, client_proof => $2, session_id => gen_random_uuid(), generation => -1, \
                 ticket => substr($2::bytea, 1, 16), token_proof => $2",
                "22023",
            ),
            (
                "client_id => $1, client_proof => $2, session_id => gen_random_uuid(), generation => 0, \
                 ticket => $2, token_proof => $2",
                "22023",
            ),
            ("client_id => $1, client_proof => $2, lookup_id => $2, token_proof => $2", "22023"),
            ("client_id => $1, client_proof => $2, lookup_id => substr($2::bytea, 1, 16)", "22023"),
            (
                "client_id => $1, client_proof => $2, lookup_id => substr($2::bytea, 1, 16), token_proof => $2, \
                 jti => gen_random_uuid()",
                "22023",
            ),
            (
                "client_id => $1, client_proof => $2, session_id => gen_random_uuid(), jti => gen_random_uuid(), \
                 generation => 0",
                "22023",
            ),
        ] {
            let statement = format!("select from auth.{function}({arguments})");
            let said = refusal(service.execute(&statement, &[&client.id, &proof]).await);
            assert_eq!(said.code, code, "{statement}: {said:?}");
            assert_ne!(said.hint, "", "{statement}");
        }
    }
}

#[tokio::test]
async fn guessing_secrets_fills_no_disk_and_locks_nobody_out() {
    let db = TestDb::create().await;
    let (admin, operator, service) =
        (db.superuser().await, db.connect_as("auth_operator").await, db.connect_as("auth_service").await);
    let client = Client::register(&operator, "Billing").await;
    let failures = "select coalesce(sum((details ->> 'times')::int), 0)::bigint, count(*) from auth.audit_log
                     where action = 'client_authentication_failed'";
    for guess in 0..20 {
        assert_eq!(outcome(&service, &client.id, &guess.to_string()).await, "invalid_client");
    }
    let row = admin.query_one(failures, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1 + 2 + 4 + 8 + 16, 5));
    assert_eq!(outcome(&service, &client.id, &client.secret).await, "inactive", "the right one works all the same");
    // An unknown id is the guesser's own text: one counter for them all, and no row repeats it.
    for guess in 0..20 {
        outcome(&service, &format!("secret-{guess}"), "x").await;
    }
    let row = admin.query_one(failures, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(1), 10);
    let repeated: i64 =
        value(&admin, "select count(*) from auth.audit_log a where a::text like '%secret-%'", &[]).await;
    assert_eq!(repeated, 0);
    // More than sixty from one network have to wait; the right secret has not.
    for guess in 0..25 {
        outcome(&service, &client.id, &guess.to_string()).await;
    }
    assert_eq!(outcome(&service, &client.id, "another").await, "rate_limited");
    assert_eq!(outcome(&service, &client.id, &client.secret).await, "inactive");
    let server = Server::start(&db, &[]).await;
    let wrong = Client { secret: "wrong".into(), ..client.clone() };
    let mut last = 401;
    for guess in 0..62 {
        let path = if guess % 2 == 0 { "/api/auth/introspect" } else { "/api/auth/revoke" };
        let answer = server.api().form(path, &[("token", "x")], Some(&wrong)).await;
        last = answer.status;
        if last == 429 {
            let answer = answer.expect_problem(429, "rate_limited");
            assert!(answer.header("retry-after").is_some() && answer.json()["error"] == "temporarily_unavailable");
        } else {
            answer.expect_problem(401, "invalid_client");
        }
    }
    assert_eq!(last, 429);
    server.api().form("/api/auth/introspect", &[("token", "x")], Some(&client)).await.expect(200);
}

#[tokio::test]
async fn the_last_use_is_kept_to_the_minute_by_whoever_is_not_in_the_way() {
    let db = TestDb::create().await;
    let (admin, operator) = (db.superuser().await, db.connect_as("auth_operator").await);
    let client = Client::register(&operator, "Billing").await;
    let last_used = "select last_used_at::text from auth.list_clients()";
    assert_eq!(value::<Option<String>>(&operator, last_used, &[]).await, None);
    // Somebody holds the client's row: nobody waits for that.
    let mut holder = db.superuser().await;
    let held = holder.transaction().await.unwrap();
    held.execute("select from auth.clients for update", &[]).await.unwrap();
    let services = connections(&db, "auth_service", 8).await;
    for service in &services {
        service.batch_execute("set lock_timeout = '2s'").await.unwrap();
    }
    let all = |client: Client| {
        race(&services, move |_, service| {
            let client = client.clone();
            async move { outcome(&service, &client.id, &client.secret).await }
        })
    };
    assert_eq!(all(client.clone()).await, ["inactive"; 8]);
    assert_eq!(value::<Option<String>>(&operator, last_used, &[]).await, None);
    held.rollback().await.unwrap();
    assert_eq!(all(client.clone()).await, ["inactive"; 8]);
    let first: String = value(&operator, last_used, &[]).await;
    assert_eq!(all(client.clone()).await, ["inactive"; 8]);
    assert_eq!(value::<String>(&operator, last_used, &[]).await, first, "not a write for each question");
    run(&admin, "update auth.clients set last_used_at = last_used_at - interval '2 minutes'", &[]).await;
    all(client.clone()).await;
    assert!(value::<String>(&operator, last_used, &[]).await > first);
}

#[tokio::test]
async fn the_command_prints_the_secret_and_nothing_else_on_standard_output() {
    let db = TestDb::create().await;
    let (admin, service) = (db.superuser().await, db.connect_as("auth_service").await);
    let (secret, said, ok) = command(&db, "auth_operator", &["create", "Billing API"]).await;
    assert!(ok, "{said}");
    let secret = secret.strip_suffix('\n').expect("one line");
    assert!(secret.starts_with("asc_") && secret.len() == 47, "{secret}");
    let id = said.lines().find_map(|line| line.strip_prefix("client_id: ")).expect("client_id");
    assert!(!said.contains(secret));
    assert_eq!(outcome(&service, id, secret).await, "inactive");

    let (new, said, ok) = command(&db, "auth_operator", &["rotate", id]).await;
    assert!(ok, "{said}");
    assert_eq!(outcome(&service, id, secret).await, "invalid_client");
    assert_eq!(outcome(&service, id, new.trim()).await, "inactive");

    let (list, _, ok) = command(&db, "auth_operator", &["list"]).await;
    assert!(ok);
    let columns: Vec<&str> = list.trim_end().split('\t').collect();
    assert_eq!((columns[0], columns[1], columns[3], columns[5]), (id, "active", "auth_operator", "Billing API"));
    assert_eq!(columns.len(), 6, "{list}");

    assert!(command(&db, "auth_operator", &["disable", id]).await.2);
    assert!(command(&db, "auth_operator", &["list"]).await.0.contains("\tdisabled\t"));
    for again in [["disable", id], ["rotate", id], ["disable", "client_unknown"], ["rotate", "client_unknown"]] {
        let (out, said, ok) = command(&db, "auth_operator", &again).await;
        assert!(!ok && out.is_empty() && said.contains("Nothing was changed"), "{again:?}: {out} {said}");
    }
    let stored: i64 =
        value(&admin, "select count(*) from auth.audit_log a where strpos(a::text, $1) > 0", &[&secret]).await;
    assert_eq!(stored, 0);
    assert!(!db.log().contains(secret));
}

#[tokio::test]
async fn the_command_wants_a_login_of_the_operators() {
    let db = TestDb::create().await;
    for login in ["auth_service", "auth_watcher"] {
        for arguments in [&["create", "Mine"][..], &["list"], &["rotate", "x"], &["disable", "x"]] {
            let (out, said, ok) = command(&db, login, arguments).await;
            assert!(!ok && out.is_empty(), "{login} {arguments:?}");
            assert!(said.contains("is not in role auth_admin") && said.contains("ADMIN_DATABASE_URL"), "{said}");
        }
    }
    // DATABASE_URL will do when it is the operator's; a password in it is not repeated.
    let output = auth_api(&["clients", "list"], &[("DATABASE_URL", &db.url("auth_operator"))]).await;
    assert!(output.status.success());
    let nowhere = "postgresql://auth_operator:hunter2@127.0.0.1:1/auth";
    let output = auth_api(&["clients", "list"], &[("ADMIN_DATABASE_URL", nowhere)]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("cannot be reached") && !said.contains("hunter2"), "{said}");
    let output = auth_api(&["clients", "list"], &[]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("ADMIN_DATABASE_URL is not set"), "{said}");
    for (arguments, told) in [
        (&["clients", "--help"][..], "create"),
        (&["clients", "--help"], "ADMIN_DATABASE_URL"),
        (&["clients", "create", "--help"], "standard output"),
        (&["clients", "rotate", "--help"], "refused from then on"),
        (&["--help"], "ADMIN_DATABASE_URL"),
    ] {
        let output = auth_api(arguments, &[]).await;
        assert!(String::from_utf8_lossy(&output.stdout).contains(told), "{arguments:?} does not tell {told}");
    }
    let bad = command(&db, "auth_operator", &["create", "a\nb"]).await;
    assert!(!bad.2 && bad.1.contains("1 to 200 characters"), "{}", bad.1);
}

#[tokio::test]
async fn a_disabled_client_and_an_old_secret_are_refused_by_a_running_service() {
    let db = TestDb::create().await;
    let operator = db.connect_as("auth_operator").await;
    let client = Client::register(&operator, "Billing").await;
    let server = Server::start(&db, &[]).await;
    let api = server.api();
    let ask = async |client: &Client| api.form("/api/auth/introspect", &[("token", "x")], Some(client)).await;
    ask(&client).await.expect(200);
    let secret = Secret::random();
    let text = auth_sessions_tests::server::key(&secret.0);
    let verifier = Secret(text.clone().into_bytes()).verifier();
    run(&operator, "select auth.rotate_client_secret($1, $2)", &[&client.id, &verifier]).await;
    ask(&client).await.expect_problem(401, "invalid_client");
    let client = Client { secret: text, ..client };
    ask(&client).await.expect(200);
    run(&operator, "select auth.disable_client($1)", &[&client.id]).await;
    for path in ["/api/auth/introspect", "/api/auth/revoke"] {
        let gone = api.form(path, &[("token", "x")], Some(&client)).await.expect_problem(401, "invalid_client");
        let unknown = Client { id: "client_unknown".into(), ..client.clone() };
        let unknown = api.form(path, &[("token", "x")], Some(&unknown)).await.expect_problem(401, "invalid_client");
        let same = |answer: &auth_sessions_tests::Answer| {
            answer.text().replace(answer.header("x-request-id").expect("an id"), "")
        };
        assert_eq!(same(&gone), same(&unknown));
    }
    assert!(!server.log().contains(&client.secret));
}
