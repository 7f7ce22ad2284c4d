//! The hostile role, with statements that nobody wrote (see `tests/src/sql_fuzz`). `SQL_FUZZ_SEED` repeats a run,
//! `SQL_FUZZ_SECONDS` makes it longer (`.make/sql_fuzz`, `make fuzz`).

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

use auth_sessions_tests::sql_fuzz::World;

/// In each copy of the world: so many that are compared, and so many others.
const BATCH: (usize, usize) = (125, 125);
/// In `make test`.
const STATEMENTS: usize = 2000;

/// How it is said that something was read.
const TOLD: &[&str] = &["told ", "answered otherwise without the others"];

/// And that something was changed.
const CHANGED: &[&str] = &["sessions lost"];

fn from_environment(name: &str) -> Option<u64> {
    env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[tokio::test]
async fn thousands_of_statements_tell_and_change_nothing_of_others() {
    let seed = from_environment("SQL_FUZZ_SEED").unwrap_or(1);
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
        let batch = seed + (done / (BATCH.0 + BATCH.1)) as u64;
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
    let breaks: [(&str, &[&str]); 5] = [
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
            CHANGED,
        ),
        // A plain member invites: a new row that names no victim.
        (
            "do $do$ begin
               execute replace(pg_get_functiondef('auth.invite_member'::regproc), 'not auth.role_manages(my_role, role)', 'false');
             end $do$",
            &["organization_invitations has"],
        ),
        // Any ticket will do: whoever logs a session out is its user for the rest of the transaction.
        (
            "create or replace function auth.equal_digests(a bytea, b bytea) returns boolean language sql as 'select true'",
            &["the attacker is now", "sessions lost"],
        ),
    ];
    for (broken, signs) in breaks {
        let size = if signs == TOLD { (250, 0) } else { (0, 400) };
        let mut found = None;
        for batch in seed..seed + 16 {
            found = world.attack(batch, size, false, broken).await.err().map(|found| (batch, found));
            if found.is_some() {
                break;
            }
        }
        let (batch, mut found) = found.unwrap_or_else(|| panic!("not found: {broken}"));
        // What changed is seen at the end; with a look after each statement it is known which one it was.
        if signs == CHANGED {
            found = world.attack(batch, size, true, broken).await.expect_err("the same statements change the same");
            assert!(!found.contains("by one of"), "{found}");
        }
        println!("{broken}, with seed {batch}:\n{}…", found.chars().take(1000).collect::<String>());
        assert!(signs.iter().any(|sign| found.contains(sign)), "{broken}: found by something else: {found}");
    }
}
