//! The hostile role, with statements that nobody wrote (see `tests/src/sql_fuzz`). `SQL_FUZZ_SEED` repeats a run,
//! `SQL_FUZZ_SECONDS` makes it longer (`.make/sql_fuzz`, `make fuzz`).

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

use auth_sessions_tests::sql_fuzz::World;

/// In each copy of the world.
const BATCH: usize = 250;
/// In `make test`.
const STATEMENTS: usize = 2000;

/// How it is said that something was read.
const TOLD: &[&str] = &["told ", "answered otherwise without the others"];

fn from_environment(name: &str) -> Option<u64> {
    env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[tokio::test]
async fn thousands_of_statements_tell_and_change_nothing_of_others() {
    let seed = from_environment("SQL_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    // In `make test` so many statements, otherwise so many seconds.
    let seconds = from_environment("SQL_FUZZ_SECONDS");
    println!("SQL_FUZZ_SEED={seed}");
    let world = World::create().await;
    let began = Instant::now();
    let goes_on = |done: usize| match seconds {
        Some(seconds) => began.elapsed() < Duration::from_secs(seconds),
        None => done < STATEMENTS,
    };
    let (mut done, mut compared) = (0, 0);
    let mut codes = BTreeMap::<String, usize>::new();
    while goes_on(done) {
        let batch = seed + (done / BATCH) as u64;
        let report = match world.attack(batch, BATCH, false, "").await {
            Ok(report) => report,
            // Once more with a look after each statement, which says which one it was.
            Err(what) => match world.attack(batch, BATCH, true, "").await {
                Err(which) => panic!("{which}"),
                Ok(_) => panic!("{what}"),
            },
        };
        done += report.statements;
        compared += report.compared;
        for (code, count) in report.codes {
            *codes.entry(code).or_default() += count;
        }
    }
    println!("{done} statements, {compared} compared with a world without the others: {codes:?}");
    assert!(codes["00000"] * 5 > done, "too few were answered at all: {codes:?}");
}

#[tokio::test]
async fn what_is_broken_on_purpose_is_found() {
    let seed = from_environment("SQL_FUZZ_SEED").unwrap_or(1);
    let world = World::create().await;
    // What is broken, and what says so.
    let breaks: [(&str, &[&str]); 4] = [
        // A policy that lets everybody read; a view that asks for its owner's rights.
        ("alter policy own_rows on auth.sessions using (true)", TOLD),
        (
            "alter view auth.security_events set (security_invoker = off);
             alter view auth.security_events owner to postgres",
            TOLD,
        ),
        // Everybody manages everybody: nothing more is told, but sessions of others can be ended.
        (
            "create or replace function auth.manages_user(organization_id uuid, user_id uuid) returns boolean
               language sql as 'select true'",
            &["sessions lost"],
        ),
        // Any ticket will do: whoever logs a session out is its user for the rest of the transaction.
        (
            "create or replace function auth.equal_digests(a bytea, b bytea) returns boolean language sql as 'select true'",
            &["the attacker is now", "sessions lost"],
        ),
    ];
    for (broken, signs) in breaks {
        let mut found = None;
        for batch in 0..8 {
            found = world.attack(seed + batch, 500, true, broken).await.err();
            if found.is_some() {
                println!("{broken}: in the {}. batch of 500", batch + 1);
                break;
            }
        }
        let found = found.unwrap_or_else(|| panic!("not found: {broken}"));
        let (how, what) = found.split_at(found.floor_char_boundary(found.len().saturating_sub(300)));
        println!("{}\n…{what}", how.chars().take(500).collect::<String>());
        assert!(signs.iter().any(|sign| found.contains(sign)), "{broken}: found by something else: {found}");
    }
}
