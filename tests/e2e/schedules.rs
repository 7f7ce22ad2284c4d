//! Races, model checked: every order of the lock points of a few transactions (see `tests/src/schedules`), and the
//! invariants of the design after each. `AUTH_SCHEDULES=all` lifts the bound on preemptions (`make fuzz` does).

use std::cell::Cell;
use std::collections::BTreeSet;
use std::env;

use auth_sessions_tests::TestDb;
use auth_sessions_tests::schedules::stops::{Break, with_stops};
use auth_sessions_tests::schedules::{Explorer, History, Report, Violation, Work, work};
use auth_sessions_tests::sql::{run, value};
use auth_sessions_tests::tokens::{
    Outcome, PASSWORD, Token, password_proof, random_bytes, rotate, rotate_times, sha256, sign_up, try_rotate,
};
use tokio_postgres::Client;
use uuid::Uuid;

/// A user with one session, which was refreshed twice.
struct Scene {
    email: String,
    session_id: Uuid,
    user_id: Uuid,
    /// Its tokens, the oldest first: the last one is the current.
    tokens: Vec<Token>,
    /// How many actors had committed when the session was first seen to be over.
    over_after: Cell<Option<usize>>,
}

/// What races, and what may come of it.
struct Race {
    /// Name and login.
    actors: &'static [(&'static str, &'static str)],
    /// What they do, in the same order.
    works: fn(&Scene) -> Vec<Work>,
    /// The tables that they contend for.
    tables: &'static [&'static str],
    /// Settings of the database.
    settings: &'static [(&'static str, &'static str)],
    /// What is done to the scene first.
    arrange: &'static str,
    /// The outcomes that are allowed; each must come about, too.
    outcomes: &'static [&'static [&'static str]],
    /// The most preemptions in a run of `make test`.
    bound: Option<usize>,
}

/// Two refreshes, to be filled in.
const RACE: Race = Race {
    actors: &[],
    works: |_| vec![],
    tables: &["sessions", "users"],
    settings: &[],
    arrange: "",
    outcomes: &[],
    bound: Some(1),
};

const SERVICE: &str = "auth_service";
const OPERATOR: &str = "auth_operator";
const DBA: &str = "postgres";

/// Presents one of the session's tokens: 2 is the current one, 1 the one before, 0 is a replay.
fn present(scene: &Scene, generation: usize) -> Work {
    let token = scene.tokens[generation].clone();
    work(async move |client| try_rotate(&client, &token).await)
}

/// Runs a statement about the session ($1) and its user ($2); its one value is the outcome.
fn statement(scene: &Scene, sql: &'static str) -> Work {
    let (session_id, user_id) = (scene.session_id, scene.user_id);
    work(async move |client| {
        let sql = format!("with parameters as (select $1::uuid, $2::uuid) {sql}");
        let outcome = client.query_one(&sql, &[&session_id, &user_id]).await?.get(0);
        Ok(Outcome { outcome, ..Outcome::default() })
    })
}

/// Ends the session by one of its tokens.
fn log_out(scene: &Scene, generation: usize) -> Work {
    let token = scene.tokens[generation].clone();
    work(async move |client| {
        let sql = "select auth.end_session($1, $2, $3, $4)::text";
        let proof = token.secret.proof();
        let row = client.query_one(sql, &[&token.session_id, &token.generation, &token.ticket, &proof]).await?;
        Ok(Outcome { outcome: row.get(0), ..Outcome::default() })
    })
}

/// Logs in with a password, having begun before anything else happened.
fn login(scene: &Scene, password: &'static str) -> Work {
    let email = scene.email.clone();
    work(async move |client| {
        let sql = "select outcome, session_id from auth.complete_login($1, 1, $2, $3)";
        let row = client.query_one(sql, &[&email, &password_proof(password), &sha256(&random_bytes(32))]).await?;
        Ok(Outcome { outcome: row.get(0), session_id: row.get(1), ..Outcome::default() })
    })
}

const REVOKE: &str = "select auth.revoke_session_family($1)::text";
const DISABLE: &str = ", disabled as (update auth.users set disabled_at = now() where id = $2 returning id)
                       select count(*)::text from disabled";
const CHANGE_PASSWORD: &str =
    ", changed as (update auth.users set password_verifier = sha256('new') where id = $2 returning id)
     select count(*)::text from changed";
const PROLONG: &str =
    ", prolonged as (update auth.sessions set expires_at = now() + interval '1 day' where id = $1 returning id)
     select count(*)::text from prolonged";
const CLEAN: &str = "select auth.cleanup_expired_sessions(100, '1 day')::text";

impl Race {
    /// Panics with the order that breaks an invariant.
    async fn holds(&self) {
        let report = self.explore(&[]).await.unwrap_or_else(|violation| panic!("{violation}"));
        let reached: BTreeSet<Vec<&str>> =
            report.outcomes.keys().map(|outcomes| outcomes.iter().map(String::as_str).collect()).collect();
        let allowed: BTreeSet<Vec<&str>> = self.outcomes.iter().map(|outcomes| outcomes.to_vec()).collect();
        assert_eq!(reached, allowed, "{report:?}");
        println!("{report:?}");
    }

    /// The same race finds what is broken on purpose.
    async fn finds(&self, breaks: &[Break]) {
        match self.explore(breaks).await {
            Err(violation) => println!("found: {violation}"),
            Ok(report) => {
                let allowed = |outcomes: &[String]| self.outcomes.iter().any(|allowed| outcomes == *allowed);
                let found = report.outcomes.keys().any(|outcomes| !allowed(outcomes));
                assert!(found, "{breaks:?} was not found: {report:?}");
            }
        }
    }

    async fn explore(&self, breaks: &[Break]) -> Result<Report, Violation> {
        let db = TestDb::create().await;
        for (setting, value) in self.settings {
            db.set(setting, value).await;
        }
        let (service, admin) = (db.connect_as("auth_service").await, db.superuser().await);
        let bound = if env::var("AUTH_SCHEDULES").is_ok_and(|all| all == "all") { None } else { self.bound };
        let mut explorer = Explorer::new(&db, self.actors, self.tables, breaks, bound).await;
        let mut number = 0;
        let prepare = async || {
            number += 1;
            let email = format!("ada-{number}@example.org");
            let tokens = rotate_times(&service, sign_up(&service, &email).await, 2).await;
            let session_id = tokens[0].session_id;
            let user_id = value(&admin, "select user_id from auth.sessions where id = $1", &[&session_id]).await;
            let scene = Scene { email, session_id, user_id, tokens, over_after: Cell::new(None) };
            if !self.arrange.is_empty() {
                let arrange = format!("with parameters as (select $1::uuid, $2::uuid, $3::text) {}", self.arrange);
                run(&admin, &arrange, &[&scene.session_id, &scene.user_id, &scene.email]).await;
            }
            let works = (self.works)(&scene);
            (scene, works)
        };
        let watch = async |scene: &Scene, history: &History| watch(&admin, scene, history).await;
        let check = async |scene: Scene, history: &History| check(&service, &admin, scene, history).await;
        explorer.explore(prepare, watch, check).await
    }
}

/// Once the session is over, nothing that is granted afterwards.
async fn watch(admin: &Client, scene: &Scene, history: &History) -> Result<(), String> {
    if scene.over_after.get().is_none() {
        let over = "select not exists (select from auth.sessions where id = $1 and revoked_at is null)";
        if value(admin, over, &[&scene.session_id]).await {
            scene.over_after.set(Some(history.commits.len()));
        }
    }
    let disabled = "select count(*) from auth.sessions s join auth.users u on u.id = s.user_id
                     where u.id = $1 and u.disabled_at is not null and s.revoked_at is null";
    let live: i64 = value(admin, disabled, &[&scene.user_id]).await;
    require(live == 0, || format!("{live} live sessions of a disabled user"))?;
    let live = "select count(*) > 1 and auth.setting('max_sessions_per_user') = '1' from auth.sessions
                 where user_id = $1 and revoked_at is null";
    require(!value(admin, live, &[&scene.user_id]).await, || "more sessions than are allowed".to_owned())
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// DESIGN §9, after everything has committed.
async fn check(service: &Client, admin: &Client, scene: Scene, history: &History) -> Result<(), String> {
    let outcomes = history.outcomes();
    let of_session = |actor: &usize| history.answers[*actor].as_ref().and_then(|answer| answer.token.clone());
    let grants: Vec<Token> = (0..outcomes.len()).filter_map(|actor| of_session(&actor)).collect();

    // 1. Of each generation one `rotated`, and one successor.
    let rotated = outcomes.iter().filter(|outcome| **outcome == "rotated").count();
    let generations: BTreeSet<i32> = grants.iter().map(|token| token.generation).collect();
    for generation in &generations {
        let of_generation: Vec<&Token> = grants.iter().filter(|token| token.generation == *generation).collect();
        let same = of_generation.iter().all(|token| *token == of_generation[0]);
        require(same, || format!("two successors of one token: {outcomes:?}"))?;
    }
    let new_generations = generations.iter().filter(|generation| **generation > 2).count();
    require(new_generations == rotated, || format!("a generation was rotated twice: {outcomes:?}"))?;

    // 3. A replay that is shown after the rotation was committed is one; only what was under way before may be spared.
    for (actor, outcome) in outcomes.iter().enumerate().filter(|(_, outcome)| **outcome == "overtaken") {
        let under_way = (0..outcomes.len())
            .any(|other| outcomes[other] == "rotated" && !history.seen_at_start[actor].contains(&other));
        require(under_way, || format!("{outcome}, but by nobody: {outcomes:?}"))?;
    }

    // 2. What was granted was granted before the end.
    let row = "select s.generation, s.revoked_at is not null from auth.sessions s where s.id = $1";
    let row = admin.query_opt(row, &[&scene.session_id]).await.expect("the session");
    let is_over = row.as_ref().is_none_or(|row| row.get(1));
    if let Some(over_after) = scene.over_after.get() {
        for actor in &history.commits[over_after..] {
            require(of_session(actor).is_none(), || format!("granted after the session's end: {outcomes:?}"))?;
        }
    }
    // The row is where the outcomes say.
    if let Some(row) = &row {
        let generation: i32 = row.get(0);
        require(generation == 2 + rotated as i32, || format!("generation {generation} after {outcomes:?}"))?;
    }

    // 8. Audit rows, once each.
    let audited = "select count(*) from auth.audit_log where action = any ($2) and (session_id = $1 or details -> 'sessions' ? $1::text)";
    let ends = vec!["session_revoked", "session_family_revoked", "user_logged_out"];
    let ends: i64 = value(admin, audited, &[&scene.session_id, &ends]).await;
    let was_revoked = i64::from(row.as_ref().is_some_and(|row| row.get(1)));
    require(row.is_none() || ends == was_revoked, || format!("{ends} audit rows of {was_revoked} ends"))?;
    let replays: i64 = value(admin, audited, &[&scene.session_id, &vec!["token_replay_detected"]]).await;
    let replayed = outcomes.iter().filter(|outcome| **outcome == "replayed").count() as i64;
    require(replays == replayed, || format!("{replays} audit rows of {replayed} replays"))?;

    // 2 and 3. No token of what is over works; what lives goes on, and an old token is found, and burns it.
    let presented = async |token: &Token| rotate(service, token).await.outcome;
    if is_over {
        for token in grants.iter().chain(&scene.tokens) {
            let outcome = presented(token).await;
            let refused = if row.is_some() { outcome == "revoked" } else { outcome == "unknown" };
            require(refused, || format!("a token of a session that is over was {outcome}"))?;
        }
        return Ok(());
    }
    let newest = grants.iter().chain(&scene.tokens).max_by_key(|token| token.generation).expect("a token");
    let outcome = presented(newest).await;
    require(["rotated", "expired"].contains(&outcome.as_str()), || format!("the current token was {outcome}"))?;
    if outcome == "rotated" {
        let outcome = presented(&scene.tokens[0]).await;
        require(outcome == "replayed", || format!("an old token was {outcome}"))?;
        let outcome = presented(newest).await;
        require(outcome == "revoked", || format!("after a replay the current token was {outcome}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn rotate_and_rotate() {
    let two = Race {
        actors: &[("laptop", SERVICE), ("other tab", SERVICE)],
        works: |scene| vec![present(scene, 2), present(scene, 2)],
        outcomes: &[&["rotated", "retried"], &["retried", "rotated"]],
        bound: None,
        ..RACE
    };
    two.holds().await;
    let three = Race {
        actors: &[("laptop", SERVICE), ("other tab", SERVICE), ("third tab", SERVICE)],
        works: |scene| vec![present(scene, 2), present(scene, 2), present(scene, 2)],
        outcomes: &[
            &["rotated", "retried", "retried"],
            &["retried", "rotated", "retried"],
            &["retried", "retried", "rotated"],
        ],
        ..RACE
    };
    three.holds().await;
}

#[tokio::test]
async fn rotate_and_the_token_before() {
    // Two tabs, of which one is behind: it is answered until the other one's successor exists, and is a replay after.
    let race = Race {
        actors: &[("laptop", SERVICE), ("slow tab", SERVICE)],
        works: |scene| vec![present(scene, 2), present(scene, 1)],
        outcomes: &[&["rotated", "retried"], &["rotated", "overtaken"], &["rotated", "replayed"]],
        ..RACE
    };
    race.holds().await;
}

#[tokio::test]
async fn rotate_and_replay() {
    let race = Race {
        actors: &[("laptop", SERVICE), ("thief", SERVICE)],
        works: |scene| vec![present(scene, 2), present(scene, 0)],
        outcomes: &[&["rotated", "replayed"], &["rotated", "overtaken"], &["revoked", "replayed"]],
        ..RACE
    };
    race.holds().await;
    Race { settings: &[("auth_sessions.replay_scope", "user")], ..race }.holds().await;
}

#[tokio::test]
async fn rotate_and_revoke() {
    let race = Race {
        actors: &[("laptop", SERVICE), ("operator", OPERATOR)],
        works: |scene| vec![present(scene, 2), statement(scene, REVOKE)],
        outcomes: &[&["rotated", "1"], &["revoked", "1"]],
        ..RACE
    };
    race.holds().await;
    let three = Race {
        actors: &[("laptop", SERVICE), ("other tab", SERVICE), ("operator", OPERATOR)],
        works: |scene| vec![present(scene, 2), present(scene, 2), statement(scene, REVOKE)],
        outcomes: &[
            &["rotated", "retried", "1"],
            &["retried", "rotated", "1"],
            &["rotated", "revoked", "1"],
            &["revoked", "rotated", "1"],
            &["revoked", "revoked", "1"],
        ],
        ..race
    };
    three.holds().await;
}

#[tokio::test]
async fn rotate_and_log_out() {
    // Two tabs: the one logs out with the token that the other one is about to exchange.
    let race = Race {
        actors: &[("laptop", SERVICE), ("other tab", SERVICE)],
        works: |scene| vec![present(scene, 2), log_out(scene, 2)],
        outcomes: &[&["rotated", "true"], &["revoked", "true"]],
        ..RACE
    };
    race.holds().await;
}

#[tokio::test]
async fn replay_and_revoke() {
    let race = Race {
        actors: &[("thief", SERVICE), ("operator", OPERATOR)],
        works: |scene| vec![present(scene, 0), statement(scene, REVOKE)],
        outcomes: &[&["replayed", "0"], &["revoked", "1"]],
        ..RACE
    };
    race.holds().await;
    // What the locks are for.
    let decides_without_lock: Break = (
        "settle_rotation",
        "where x.id = settle_rotation.session_id for no key update",
        "where x.id = settle_rotation.session_id",
    );
    race.finds(&[decides_without_lock]).await;
    let revokes_without_lock: Break = ("revoke_live_sessions", "order by s.id for no key update", "order by s.id");
    race.finds(&[revokes_without_lock]).await;
}

#[tokio::test]
async fn rotate_and_clean() {
    // Over for longer than it is kept.
    let race = Race {
        actors: &[("laptop", SERVICE), ("cleaner", OPERATOR)],
        works: |scene| vec![present(scene, 2), statement(scene, CLEAN)],
        arrange: ", left_by_others as (delete from auth.sessions where id <> $1 and expires_at < now())
                  update auth.sessions set expires_at = now() - interval '2 days' where id = $1",
        // A row in use is skipped, and cleaned the next time.
        outcomes: &[&["expired", "0"], &["expired", "1"], &["unknown", "1"]],
        ..RACE
    };
    race.holds().await;
    Race { arrange: "", outcomes: &[&["rotated", "0"]], ..race }.holds().await;
    // A session that comes back to life, as one does that is refreshed in its last moment: a cleaner that goes by what
    // it saw before would take it. No clock can be told to strike between two steps, so a DBA prolongs it.
    let prolonged = Race {
        actors: &[("DBA", DBA), ("cleaner", OPERATOR)],
        works: |scene| vec![statement(scene, PROLONG), statement(scene, CLEAN)],
        outcomes: &[&["1", "0"], &["0", "1"]],
        ..race
    };
    prolonged.holds().await;
    prolonged
        .finds(&[(
            "delete_expired_sessions",
            "order by x.cleanup_week limit batch_size - removed for update skip locked",
            "",
        )])
        .await;
}

#[tokio::test]
async fn rotate_and_disable() {
    let race = Race {
        actors: &[("laptop", SERVICE), ("DBA", DBA)],
        works: |scene| vec![present(scene, 2), statement(scene, DISABLE)],
        outcomes: &[&["rotated", "1"], &["revoked", "1"]],
        ..RACE
    };
    race.holds().await;
    // With the wider scope every refresh takes the user's lock first.
    Race { settings: &[("auth_sessions.replay_scope", "user")], ..race }.holds().await;
}

#[tokio::test]
async fn replay_and_disable() {
    let race = Race {
        actors: &[("thief", SERVICE), ("DBA", DBA)],
        works: |scene| vec![present(scene, 0), statement(scene, DISABLE)],
        outcomes: &[&["replayed", "1"], &["revoked", "1"]],
        ..RACE
    };
    race.holds().await;
    Race { settings: &[("auth_sessions.replay_scope", "user")], ..race }.holds().await;
}

#[tokio::test]
async fn login_and_disable() {
    let race = Race {
        actors: &[("phone", SERVICE), ("DBA", DBA)],
        works: |scene| vec![login(scene, PASSWORD), statement(scene, DISABLE)],
        outcomes: &[&["logged_in", "1"], &["refused", "1"]],
        ..RACE
    };
    race.holds().await;
    let unlocked: Break = ("complete_login", "where x.id = u.id for no key update", "where x.id = u.id");
    race.finds(&[unlocked]).await;
}

#[tokio::test]
async fn login_and_change_of_password() {
    let race = Race {
        actors: &[("phone", SERVICE), ("DBA", DBA)],
        works: |scene| vec![login(scene, PASSWORD), statement(scene, CHANGE_PASSWORD)],
        outcomes: &[&["logged_in", "1"], &["stale", "1"]],
        ..RACE
    };
    race.holds().await;
}

#[tokio::test]
async fn login_and_login() {
    // Where one session is allowed, the login that comes last has it.
    let race = Race {
        actors: &[("phone", SERVICE), ("laptop", SERVICE)],
        works: |scene| vec![login(scene, PASSWORD), login(scene, PASSWORD)],
        settings: &[("auth_sessions.max_sessions_per_user", "1")],
        // A session that is there already is locked by both, and so would hide it if nothing else was.
        arrange: "delete from auth.sessions where id = $1",
        outcomes: &[&["logged_in", "logged_in"]],
        ..RACE
    };
    race.holds().await;
    let unlocked: Break = ("complete_login", "where x.id = u.id for no key update", "where x.id = u.id");
    let unlocked_again: Break =
        ("revoke_live_sessions", "where u.id = of_user for no key update", "where u.id = of_user");
    race.finds(&[unlocked, unlocked_again]).await;
}

#[tokio::test]
async fn login_and_lock() {
    // Nine failures have been counted; the tenth locks.
    let race = Race {
        actors: &[("owner", SERVICE), ("guesser", SERVICE)],
        works: |scene| vec![login(scene, PASSWORD), login(scene, "wrong")],
        tables: &["users", "attempts"],
        arrange: "insert into auth.attempts (key, count, updated_at)
                  select auth.attempt_key(auth.login_subject($3)), 9, clock_timestamp()",
        outcomes: &[&["logged_in", "refused"], &["locked", "refused"]],
        ..RACE
    };
    race.holds().await;
    let guessers = Race {
        actors: &[("guesser", SERVICE), ("other guesser", SERVICE)],
        works: |scene| vec![login(scene, "wrong"), login(scene, "false")],
        outcomes: &[&["refused", "refused"], &["refused", "locked"], &["locked", "refused"]],
        ..race
    };
    guessers.holds().await;
}

#[test]
fn stops_stand_before_statements_and_nowhere_else() {
    let body = "
#variable_conflict use_column
declare
  -- don't: select from auth.users;
  x int := (select count(*) from auth.users);
begin
  -- It isn't one: update auth.users;
  select case when a then b else c end into x from auth.users u, auth.users_of(1) where u.name = 'it''s; then';
  if exists (select from auth.users) then
    x := auth.users(1);
    perform from auth.users for update;
  elsif exists (select from auth.users) then
    x := 1;
  else
    delete from auth.users;
  end if;
  case x
    when 1 then
      with gone as (delete from auth.users returning 1) select count(*) into x from gone;
  end case;
  for u in select * from auth.users loop
    continue when u.id is null;
    return next;
  end loop;
exception when others then
  update auth.users set name = '';
end";
    let (stopped, count) = with_stops("f", body, &["users"]);
    let before: Vec<&str> = stopped
        .split("perform model.stop('f ")
        .skip(1)
        .map(|rest| rest.split_once("'); ").unwrap().1.split_once(' ').unwrap().0)
        .collect();
    assert_eq!(before, ["select", "if", "perform", "delete", "with", "for", "update"], "{stopped}");
    assert_eq!(count, 7);
    let mut without = stopped;
    for number in 1..=count {
        without = without.replace(&format!("perform model.stop('f {number}'); "), "");
    }
    assert_eq!(without, body);
}
