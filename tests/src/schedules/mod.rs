//! Model checking of races, in the manner of PostgreSQL's isolation tester: a few actors, each with a connection and a
//! transaction of its own, and every order in which they can go on is tried.
//!
//! An actor goes on from one *stop* to the next: the beginning, then each statement of the extension's PL/pgSQL that
//! touches what the actors contend for ([`stops`]), then the commit. Whether an actor has come to a stop, waits for a
//! lock of another, or is still at work is known from `pg_blocking_pids`, never from the time that has passed. What one
//! statement does by itself is PostgreSQL's: the fast path of a refresh is one UPDATE, and is covered from outside: it
//! runs before, after, or waits within, every other statement.
//!
//! The lock points that the races of `tests/e2e/schedules.rs` come to, besides each beginning and commit ([`Report::points`]
//! says those of a run): the statements on `sessions`, `users` and, for guessing, `attempts` in
//!
//! - `settle_rotation` (its three) and `burn_family`: a refresh that is no plain one, and a replay;
//! - `revoke_session_family`, `end_session` and `revoke_live_sessions` (its five, which the triggers of a disabled user and
//!   of a changed password come to, too);
//! - `complete_login`, `open_session`, `locked_for`, `count_attempt`, `record_failed_login`: logins;
//! - `delete_expired_sessions`: the cleaning.
//!
//! Not covered: what adoption, federation, organizations, e-mail and personal access tokens do, and PostgreSQL's own waits
//! that are no heavyweight lock.
//!
//! The orders are enumerated depth first, each in a run of its own from a fresh beginning. With a bound on preemptions (an
//! actor is left although it could go on) only the orders with so few of them are tried: most bugs need one or two.

pub mod races;
pub mod stops;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error};

use crate::TestDb;
use crate::sql::{run, value};
use crate::tokens::Outcome;

/// What an actor does between its `begin` and its `commit`.
pub type Work = Box<dyn FnOnce(Arc<Client>) -> Pin<Box<dyn Future<Output = Result<Outcome, Error>> + Send>> + Send>;

/// Makes [`Work`] of an async function.
pub fn work<F>(task: impl FnOnce(Arc<Client>) -> F + Send + 'static) -> Work
where
    F: Future<Output = Result<Outcome, Error>> + Send + 'static,
{
    Box::new(move |client| Box::pin(task(client)))
}

/// Where an actor is.
#[derive(Clone, Debug, PartialEq)]
enum State {
    /// Before its work, or at a stop, which has a name: may go on.
    Stopped(String),
    /// Between two stops, or waiting for the lock of another.
    AtWork { blocked: bool },
    /// Has its answer, and has not committed yet: may go on.
    Answered,
    /// Has committed.
    Over,
}

/// One run: who went on when, and what it came to.
#[derive(Debug, Default)]
pub struct History {
    /// `name: place`, in the order of the steps.
    pub steps: Vec<String>,
    /// What each actor was answered, by its number; only of those who have committed.
    pub answers: Vec<Option<Outcome>>,
    /// The actors in the order of their commits.
    pub commits: Vec<usize>,
    /// The actors that had committed when an actor began, by its number.
    pub seen_at_start: Vec<Vec<usize>>,
}

impl History {
    /// The outcomes, in the order of the actors.
    pub fn outcomes(&self) -> Vec<&str> {
        self.answers.iter().map(|answer| answer.as_ref().map_or("", |answer| &answer.outcome)).collect()
    }

    /// Whether an actor has committed, so far.
    pub fn is_over(&self, actor: usize) -> bool {
        self.commits.contains(&actor)
    }

    /// Whether an actor committed before another one.
    pub fn before(&self, first: usize, second: usize) -> bool {
        let position = |actor| self.commits.iter().position(|committed| *committed == actor);
        position(first) < position(second)
    }
}

/// How much is tried, and what came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Orders that were tried.
    pub runs: usize,
    /// Steps in all of them.
    pub steps: usize,
    /// Runs that could not be repeated as they began: three actors were woken at once.
    pub diverged: usize,
    /// The lock points that were come to.
    pub points: BTreeSet<String>,
    /// The combinations of outcomes that came about, and how often.
    pub outcomes: BTreeMap<Vec<String>, usize>,
}

/// An order that breaks an invariant.
#[derive(Debug)]
pub struct Violation {
    /// What is wrong.
    pub what: String,
    /// The steps that lead there.
    pub steps: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nafter\n  {}", self.what, self.steps.join("\n  "))
    }
}

struct Actor {
    name: &'static str,
    client: Arc<Client>,
    pid: i32,
    state: State,
    work: Option<Work>,
    /// Its work, and then its commit, which has no outcome.
    task: Option<JoinHandle<Result<Option<Outcome>, Error>>>,
    /// The number of the next stop's lock, which is held here.
    next_stop: i32,
}

/// The actors of one database.
pub struct Explorer {
    /// Holds the locks that the actors stop at.
    gate: Client,
    actors: Vec<Actor>,
    /// The most preemptions of a run; nothing: as many as there can be.
    bound: Option<usize>,
}

impl Explorer {
    /// Connects the actors (name and login; at most three) and puts the stops in.
    pub async fn new(
        db: &TestDb,
        actors: &[(&'static str, &'static str)],
        tables: &[&str],
        breaks: &[stops::Break],
        bound: Option<usize>,
    ) -> Self {
        let gate = db.superuser().await;
        assert!(stops::put_in(&gate, tables, breaks).await > 0);
        let mut connected = Vec::new();
        for (number, (name, login)) in actors.iter().enumerate() {
            let client = db.connect_as(login).await;
            client.batch_execute(&format!("set model.actor = {}", number + 1)).await.expect("set");
            let pid = value(&client, "select pg_backend_pid()", &[]).await;
            let client = Arc::new(client);
            connected.push(Actor { name, client, pid, state: State::Over, work: None, task: None, next_stop: 1 });
        }
        Self { gate, actors: connected, bound }
    }

    /// Tries the orders. `prepare` makes a fresh beginning and says what the actors do; `watch` looks after each step,
    /// `check` at the end, both returning what is wrong.
    pub async fn explore<S>(
        &mut self,
        mut prepare: impl AsyncFnMut() -> (S, Vec<Work>),
        mut watch: impl AsyncFnMut(&S, &History) -> Result<(), String>,
        mut check: impl AsyncFnMut(S, &History) -> Result<(), String>,
    ) -> Result<Report, Violation> {
        let mut report = Report::default();
        // Of each decision of the last run: how many ways there were, and which was taken.
        let mut decisions: Vec<(usize, usize)> = Vec::new();
        loop {
            let (scene, works) = prepare().await;
            self.begin(works).await;
            let mut history = History {
                answers: self.actors.iter().map(|_| None).collect(),
                seen_at_start: vec![Vec::new(); self.actors.len()],
                ..History::default()
            };
            let prefix: Vec<usize> = decisions.iter().map(|(_, taken)| *taken).collect();
            decisions.clear();
            let (mut last, mut preemptions) = (None, 0);
            loop {
                let mut ways = self.ways(last);
                if ways.is_empty() {
                    break;
                }
                let could_go_on = ways.first().copied() == last;
                if could_go_on && self.bound.is_some_and(|bound| preemptions >= bound) {
                    ways.truncate(1);
                }
                let wanted = prefix.get(decisions.len()).copied().unwrap_or(0);
                let taken = if wanted < ways.len() { wanted } else { 0 };
                report.diverged += usize::from(taken != wanted);
                decisions.push((ways.len(), taken));
                preemptions += usize::from(could_go_on && taken > 0);
                last = Some(ways[taken]);
                let gone = self.step(ways[taken], &mut history).await;
                let looked = if gone.is_ok() { watch(&scene, &history).await } else { gone };
                if let Err(what) = looked {
                    return Err(Violation { what, steps: history.steps });
                }
            }
            let stuck: Vec<_> = self.actors.iter().filter(|a| a.state != State::Over).map(|a| a.name).collect();
            if !stuck.is_empty() {
                let what = format!("a deadlock of {}", stuck.join(" and "));
                return Err(Violation { what, steps: history.steps });
            }
            report.runs += 1;
            report.steps += history.steps.len();
            let points = history.steps.iter().filter_map(|step| Some(step.split_once(": ")?.1.to_owned()));
            report.points.extend(points);
            let outcomes = history.outcomes().into_iter().map(str::to_owned).collect();
            *report.outcomes.entry(outcomes).or_default() += 1;
            if let Err(what) = check(scene, &history).await {
                return Err(Violation { what, steps: history.steps });
            }
            while decisions.last().is_some_and(|(ways, taken)| taken + 1 == *ways) {
                decisions.pop();
            }
            match decisions.last_mut() {
                Some((_, taken)) => *taken += 1,
                None => return Ok(report),
            }
        }
    }

    /// A fresh run: everybody has begun a transaction and stands before their work.
    async fn begin(&mut self, works: Vec<Work>) {
        assert_eq!(works.len(), self.actors.len());
        run(&self.gate, "select pg_advisory_unlock_all()", &[]).await;
        for (number, (actor, work)) in self.actors.iter_mut().zip(works).enumerate() {
            let number = number as i32 + 1;
            let restart = format!("select setval('model.stops_of_{number}', 1, false), pg_advisory_lock({number}, 1)");
            run(&self.gate, &restart, &[]).await;
            actor.client.batch_execute("begin").await.expect("begin");
            (actor.work, actor.next_stop, actor.state) = (Some(work), 1, State::Stopped("begins".into()));
        }
    }

    /// Who can go on; first whoever went last.
    fn ways(&self, last: Option<usize>) -> Vec<usize> {
        let can = |actor: &usize| matches!(self.actors[*actor].state, State::Stopped(_) | State::Answered);
        let mut ways: Vec<usize> = (0..self.actors.len()).filter(can).collect();
        ways.sort_by_key(|actor| Some(*actor) != last);
        ways
    }

    /// Lets one actor go on, until nobody is at work any more.
    async fn step(&mut self, number: usize, history: &mut History) -> Result<(), String> {
        let actor = &mut self.actors[number];
        let client = actor.client.clone();
        let came_from = std::mem::replace(&mut actor.state, State::AtWork { blocked: false });
        match (came_from, actor.work.take()) {
            (State::Stopped(place), Some(work)) => {
                history.steps.push(format!("{}: {place}", actor.name));
                history.seen_at_start[number] = history.commits.clone();
                let task = work(client);
                actor.task = Some(tokio::spawn(async move { task.await.map(Some) }));
            }
            (State::Stopped(place), None) => {
                history.steps.push(format!("{}: {place}", actor.name));
                // The next stop is closed before this one is opened.
                let open = "select pg_advisory_lock($1, $2 + 1), pg_advisory_unlock($1, $2)";
                actor.next_stop += 1;
                run(&self.gate, open, &[&(number as i32 + 1), &(actor.next_stop - 1)]).await;
            }
            (State::Answered, _) => {
                history.steps.push(format!("{}: commits", actor.name));
                let commit = async move { client.batch_execute("commit").await.map(|()| None) };
                actor.task = Some(tokio::spawn(commit));
            }
            (state, _) => unreachable!("{} cannot go on: {state:?}", actor.name),
        }
        self.settle(history).await
    }

    /// Waits until everybody has stopped, waits for somebody, or has an answer.
    async fn settle(&mut self, history: &mut History) -> Result<(), String> {
        loop {
            // First the answers: whoever has one has let go of its locks, if it was the commit's, and is waited for by
            // nobody when PostgreSQL is asked afterwards.
            for (number, actor) in self.actors.iter_mut().enumerate() {
                if let Some(task) = actor.task.take_if(|task| task.is_finished()) {
                    match task.await.expect("an actor panicked") {
                        Ok(Some(outcome)) => {
                            history.answers[number] = Some(outcome);
                            actor.state = State::Answered;
                        }
                        Ok(None) => {
                            history.commits.push(number);
                            actor.state = State::Over;
                        }
                        Err(error) => return Err(format!("{} failed: {error:?}", actor.name)),
                    }
                }
            }
            if !self.actors.iter().any(|actor| matches!(actor.state, State::AtWork { .. })) {
                return Ok(());
            }
            // Not at once: who looks all the time takes the processor from those it waits for.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let look = "select pg_blocking_pids(w.pid), pg_backend_pid(), (select a.application_name from pg_stat_get_activity(w.pid) a)
                          from unnest($1::int[]) with ordinality w (pid, n) order by w.n";
            let pids: Vec<i32> = self.actors.iter().map(|actor| actor.pid).collect();
            let rows = self.gate.query(look, &[&pids]).await.expect("pg_blocking_pids");
            let mut somebody_runs = false;
            for (actor, row) in self.actors.iter_mut().zip(rows) {
                if !matches!(actor.state, State::AtWork { .. }) {
                    continue;
                }
                let (waits_for, gate): (Vec<i32>, i32) = (row.get(0), row.get(1));
                if waits_for == [gate] {
                    actor.state = State::Stopped(row.get::<_, Option<String>>(2).unwrap_or_default());
                } else {
                    let blocked = waits_for.iter().any(|pid| pids.contains(pid));
                    actor.state = State::AtWork { blocked };
                    somebody_runs |= !blocked;
                }
            }
            if !somebody_runs {
                return Ok(());
            }
        }
    }
}
