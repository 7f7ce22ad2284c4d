//! Two or three transactions that race for one session or user: what each does, what may come of it, and the invariants
//! of the design (§9) after every step and at the end.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::env;

use tokio_postgres::Client;
use uuid::Uuid;

use super::stops::Break;
use super::{Explorer, History, Report, Violation, Work, work};
use crate::TestDb;
use crate::sql::{run, value};
use crate::tokens::{Outcome, Token, password_proof, random_bytes, rotate, rotate_times, sha256, sign_up, try_rotate};

/// A user with one session, which was refreshed twice.
pub struct Scene {
    email: String,
    session_id: Uuid,
    user_id: Uuid,
    /// Its tokens, the oldest first: the last one is the current.
    tokens: Vec<Token>,
    /// How many actors had committed when the session was first seen to be over.
    over_after: Cell<Option<usize>>,
}

/// What races, and what may come of it.
pub struct Race {
    /// Name and login.
    pub actors: &'static [(&'static str, &'static str)],
    /// What they do, in the same order.
    pub works: fn(&Scene) -> Vec<Work>,
    /// The tables that they contend for.
    pub tables: &'static [&'static str],
    /// Settings of the database.
    pub settings: &'static [(&'static str, &'static str)],
    /// What is done to the scene first.
    pub arrange: &'static str,
    /// The outcomes that are allowed; each must come about, too.
    pub outcomes: &'static [&'static [&'static str]],
    /// The most preemptions in a run of `make test`.
    pub bound: Option<usize>,
}

/// Two refreshes, to be filled in.
pub const RACE: Race = Race {
    actors: &[],
    works: |_| vec![],
    tables: &["sessions", "users"],
    settings: &[],
    arrange: "",
    outcomes: &[],
    bound: Some(1),
};

/// The login of the service.
pub const SERVICE: &str = "auth_service";
/// The login of an operator.
pub const OPERATOR: &str = "auth_operator";
/// The login of a superuser, who may change rows by hand.
pub const DBA: &str = "postgres";

/// Presents one of the session's tokens: 2 is the current one, 1 the one before, 0 is a replay.
pub fn present(scene: &Scene, generation: usize) -> Work {
    let token = scene.tokens[generation].clone();
    work(async move |client| try_rotate(&client, &token).await)
}

/// Runs a statement about the session ($1) and its user ($2); its one value is the outcome.
pub fn statement(scene: &Scene, sql: &'static str) -> Work {
    let (session_id, user_id) = (scene.session_id, scene.user_id);
    work(async move |client| {
        let sql = format!("with parameters as (select $1::uuid, $2::uuid) {sql}");
        let outcome = client.query_one(&sql, &[&session_id, &user_id]).await?.get(0);
        Ok(Outcome { outcome, ..Outcome::default() })
    })
}

/// Ends the session by one of its tokens.
pub fn log_out(scene: &Scene, generation: usize) -> Work {
    let token = scene.tokens[generation].clone();
    work(async move |client| {
        let sql = "select auth.end_session($1, $2, $3, $4)::text";
        let proof = token.secret.proof();
        let row = client.query_one(sql, &[&token.session_id, &token.generation, &token.ticket, &proof]).await?;
        Ok(Outcome { outcome: row.get(0), ..Outcome::default() })
    })
}

/// Logs in with a password, having begun before anything else happened.
pub fn login(scene: &Scene, password: &'static str) -> Work {
    let email = scene.email.clone();
    work(async move |client| {
        let sql = "select outcome, session_id from auth.complete_login($1, 1, $2, $3)";
        let row = client.query_one(sql, &[&email, &password_proof(password), &sha256(&random_bytes(32))]).await?;
        Ok(Outcome { outcome: row.get(0), session_id: row.get(1), ..Outcome::default() })
    })
}

/// Ends the family, as an operator does.
pub const REVOKE: &str = "select auth.revoke_session_family($1)::text";
/// Disables the user.
pub const DISABLE: &str = ", disabled as (update auth.users set disabled_at = now() where id = $2 returning id)
                       select count(*)::text from disabled";
/// Gives the user another password.
pub const CHANGE_PASSWORD: &str =
    ", changed as (update auth.users set password_verifier = sha256('new') where id = $2 returning id)
     select count(*)::text from changed";
/// Gives an expired session another day.
pub const PROLONG: &str =
    ", prolonged as (update auth.sessions set expires_at = now() + interval '1 day' where id = $1 returning id)
     select count(*)::text from prolonged";
/// Removes what has expired.
pub const CLEAN: &str = "select auth.cleanup_expired_sessions(100, '1 day')::text";

impl Race {
    /// Panics with the order that breaks an invariant.
    pub async fn holds(&self) {
        let report = self.explore(&[]).await.unwrap_or_else(|violation| panic!("{violation}"));
        let reached: BTreeSet<Vec<&str>> =
            report.outcomes.keys().map(|outcomes| outcomes.iter().map(String::as_str).collect()).collect();
        let allowed: BTreeSet<Vec<&str>> = self.outcomes.iter().map(|outcomes| outcomes.to_vec()).collect();
        assert_eq!(reached, allowed, "{report:?}");
        println!("{report:?}");
    }

    /// The same race finds what is broken on purpose.
    pub async fn finds(&self, breaks: &[Break]) {
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
