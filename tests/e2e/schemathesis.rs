//! The service keeps what `openapi.json` promises, whatever is sent: schemathesis makes requests from the document, good and
//! bad ones, and checks each answer against it. What is asked of it is in `tests/schemathesis`.

use std::process::Stdio;

use auth_sessions_tests::{Client, Server, TestDb};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::process::Command;

/// How it is to be run: briefly, unless `.make/schemathesis` says for how long.
fn options() -> Vec<String> {
    match std::env::var("SCHEMATHESIS_SECONDS") {
        Ok(seconds) => ["--max-time", &seconds, "--max-examples", "100"].map(str::to_owned).to_vec(),
        Err(_) => ["--max-examples", "2"].map(str::to_owned).to_vec(),
    }
}

#[tokio::test]
async fn every_operation_answers_as_openapi_json_says() {
    let db = TestDb::create().await;
    // Whoever signs up has read their mail already: without it most of what a user may do is refused.
    let verified = "create function public.verified() returns trigger language plpgsql as
                        $$ begin new.email_verified_at := now(); return new; end $$;
                    create trigger verified before insert on auth.users for each row
                        when (new.email like 'eve-%') execute function public.verified()";
    db.superuser().await.batch_execute(verified).await.expect("a trigger");
    let client = Client::register(&db.connect_as("auth_operator").await, "schemathesis").await;
    let limits = [
        "LOGIN",
        "LOGIN_ACCOUNT",
        "SIGNUP",
        "SIGNUP_ACCOUNT",
        "MAIL",
        "MAIL_ACCOUNT",
        "MAIL_TOKEN",
        "PASSWORD",
        "LOOKUP",
        "REFRESH",
        "REQUESTS",
    ];
    let limits = limits.map(|limit| (format!("RATE_LIMIT_{limit}"), "1000000/1s"));
    let mut settings: Vec<(&str, &str)> = limits.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    settings.push(("PUBLIC_URL", "https://auth.example.org"));
    let server = Server::start(&db, &settings).await;

    let seed = std::env::var("SCHEMATHESIS_SEED").unwrap_or_else(|_| "1".to_owned());
    eprintln!("schemathesis, seed {seed}");
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/schemathesis/run"))
        .args([server.url(), &seed])
        .args(options())
        .env("SCHEMATHESIS_CLIENT", format!("Basic {}", STANDARD.encode(format!("{}:{}", client.id, client.secret))))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("tests/schemathesis/run");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    eprintln!("{}", said.split("= SUMMARY =").last().expect("one part at least"));
    assert!(output.status.success(), "seed {seed}\n{said}{complaints}");
    // Whoever talks to nobody fails nothing.
    let granted = server.log().lines().filter(|line| line.contains("answered") && line.contains("status=200")).count();
    assert!(granted > 100, "only {granted} requests were granted");
    let log = server.log();
    let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(errors.is_empty(), "seed {seed}: {errors:#?}");
}
