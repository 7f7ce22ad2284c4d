//! An attacker with any SQL, thousands of statements of it: as nobody, in the name of a session, or of a personal access
//! token. Looked for, whatever PostgreSQL answers (rows, errors with their details and hints, notices, notifications,
//! COPY data):
//!
//! - a value of somebody else's that the attacker was not told ([`World::secrets`]): every text, id, digest and time;
//! - an answer to a query that hangs on others' rows: the same query is asked in a copy of the database in which the
//!   others are gone, and must be answered the same. So counts, orders, errors and whatever else could tell are covered;
//! - a row of somebody else's that is gone or different afterwards, or a new one about them; throttles apart;
//! - an identity that is not Bob's, or a role that is not the service's;
//! - an internal error (XX…), or a lost connection.
//!
//! Everything follows from the seed but for what the database makes up (ids, secrets, times).

mod calls;
pub mod grammar;
mod world;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_postgres::{AsyncMessage, Client, Error, NoTls, SimpleQueryMessage};

use crate::TestDb;
use crate::sql::{run, value};
use grammar::Grammar;
pub use world::World;

/// What the attacker makes for their own use in each connection: functions and operators that tell what they see.
const TOOLS: &str = "
  create function pg_temp.tell(text) returns boolean language plpgsql cost 0.0000001
    as $$ begin raise notice 'told %', $1; return true; end $$;
  create function pg_temp.tell_of(text, text) returns boolean language plpgsql cost 0.0000001
    as $$ begin raise notice 'told %', $1; return true; end $$;
  create operator pg_temp.~~~ (leftarg = text, rightarg = text, function = pg_temp.tell_of);
  create function pg_temp.trap() returns trigger language plpgsql as $$ begin raise notice 'trapped %', new; return new; end $$";

/// A connection of the attacker's, and all that came back on it.
struct Attacker {
    client: Client,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Attacker {
    async fn connect(url: &str) -> Self {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.expect("connecting");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = heard.clone();
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                let said = match message {
                    AsyncMessage::Notice(notice) => format!("{notice:?}"),
                    AsyncMessage::Notification(notification) => notification.payload().to_owned(),
                    _ => continue,
                };
                ears.lock().expect("nobody panics with it").push(said);
            }
        });
        client.batch_execute(TOOLS).await.expect("one's own tools");
        Self { client, heard }
    }

    /// Everything that a statement is answered with, and its SQLSTATE.
    async fn ask(&self, statement: &str) -> (Vec<String>, String) {
        let answered = if statement.starts_with("copy ") {
            self.copy(statement).await
        } else {
            let messages = self.client.simple_query(statement).await;
            messages.map(|messages| messages.iter().flat_map(said_by).collect())
        };
        let (mut said, code) = match answered {
            Ok(said) => (said, "00000".to_owned()),
            Err(error) => {
                let code = error.code().map_or("lost", |code| code.code()).to_owned();
                // With detail, hint and context.
                (vec![format!("{error:?}")], code)
            }
        };
        said.append(&mut self.heard.lock().expect("nobody panics with it"));
        (said, code)
    }

    async fn copy(&self, statement: &str) -> Result<Vec<String>, Error> {
        let chunks: Vec<_> = self.client.copy_out(statement).await?.try_collect().await?;
        Ok(chunks.iter().map(|chunk| String::from_utf8_lossy(chunk).into_owned()).collect())
    }
}

fn said_by(message: &SimpleQueryMessage) -> Vec<String> {
    match message {
        SimpleQueryMessage::Row(row) => (0..row.len()).filter_map(|n| row.get(n)).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// What was said, without the names of the database and of the connection's own schema.
fn anywhere(said: &str, database: &str) -> String {
    let mut parts = said.split("pg_temp_");
    let mut without = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        without += "pg_temp_";
        without += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    without.replace(database, "database")
}

/// How it went.
#[derive(Debug, Default)]
pub struct Report {
    /// Statements.
    pub statements: usize,
    /// Of these, queries that were compared with a world without the others.
    pub compared: usize,
    /// How often each SQLSTATE came back.
    pub codes: BTreeMap<String, usize>,
}

/// As whom a statement is run; mostly as who may do most.
const IDENTITIES: [&str; 5] =
    ["nobody", "Bob's session", "Bob's session", "Bob's session", "Bob's personal access token"];

impl World {
    /// Makes up so many statements and runs them in a copy of this world: first so many that only read, and are compared,
    /// then others. What is wrong, with the statements that led there; `every` checks the rows after each statement, to say which one it was. `broken` is what a superuser does to
    /// the copy first, for proving that it would be found.
    pub async fn attack(
        &self,
        seed: u64,
        (reads, others): (usize, usize),
        every: bool,
        broken: &str,
    ) -> Result<Report, String> {
        let copy = self.db.copy().await;
        let without = self.db.copy().await;
        let (admin, nobody_else) = (copy.superuser().await, without.superuser().await);
        self.remove_the_others(&nobody_else).await;
        for database in [&admin, &nobody_else] {
            database.batch_execute(broken).await.expect("what is broken on purpose");
        }
        let mut attacker = Attacker::connect(&copy.url("auth_service")).await;
        let mut elsewhere = Attacker::connect(&without.url("auth_service")).await;
        let before = self.rows(&admin).await;
        let mut grammar = Grammar::new(&self.know, seed);
        let mut report = Report::default();
        let mut done: Vec<String> = Vec::new();
        for number in 0..reads + others {
            let identity = IDENTITIES[grammar.number(IDENTITIES.len())];
            // First what only reads, while both databases are the same for Bob.
            let compares = number < reads;
            let statement = if compares { grammar.read() } else { grammar.statement() };
            done.push(format!("-- {identity}\n{statement}"));
            if self.enter(&attacker, identity).await.is_err() {
                // A setting of before (row_security = off) is refused by the functions, too: whoever comes anew has none.
                attacker = Attacker::connect(&copy.url("auth_service")).await;
                self.enter(&attacker, identity).await?;
            }
            let (said, code) = attacker.ask(&statement).await;
            report.statements += 1;
            let context = |what: &str| {
                let said: String = format!("{said:?}").chars().take(2000).collect();
                format!("as {identity} (seed {seed}):\n{statement}\n{said}\n{what}")
            };

            if let Some(secret) = self.told(&said) {
                return Err(context(&format!("told {secret}")));
            }
            if code.starts_with("XX") || (code == "lost" && attacker.client.is_closed()) {
                return Err(context(&format!("an internal error, {code}")));
            }
            if compares {
                self.enter(&elsewhere, identity).await?;
                let (mut theirs, their_code) = elsewhere.ask(&statement).await;
                elsewhere.client.batch_execute("rollback").await.map_err(|error| context(&error.to_string()))?;
                let mut ours: Vec<String> = said.iter().map(|said| anywhere(said, copy.name())).collect();
                theirs.iter_mut().for_each(|said| *said = anywhere(said, without.name()));
                ours.sort();
                theirs.sort();
                let same = code == their_code && (code != "00000" || ours == theirs);
                // What ran out of time says nothing.
                if !same && code != "57014" && their_code != "57014" {
                    return Err(context(&format!("answered otherwise without the others, {their_code}: {theirs:?}")));
                }
                report.compared += 1;
            }
            self.still_bob(&attacker).await.map_err(|what| context(&what))?;
            let end = if compares || grammar.number(4) == 0 { "rollback" } else { "commit" };
            attacker.client.batch_execute(end).await.map_err(|error| context(&error.to_string()))?;
            *report.codes.entry(code).or_default() += 1;
            if every && !compares {
                let changes = self.changes(&before, &self.rows(&admin).await);
                if !changes.is_empty() {
                    return Err(context(&changes.join("\n")));
                }
            }
            // Settings, prepared statements and locks of before: gone now and then.
            if grammar.number(40) == 0 {
                attacker = Attacker::connect(&copy.url("auth_service")).await;
                elsewhere = Attacker::connect(&without.url("auth_service")).await;
            }
        }
        drop(attacker);
        let changes = self.changes(&before, &self.rows(&admin).await);
        if !changes.is_empty() {
            let last = done.join(";\n");
            return Err(format!("(seed {seed}) {}\nby one of\n{last}", changes.join("\n")));
        }
        let rank = "select count(*) from auth.organization_members m
                     where m.user_id = $1 and m.organization_id = $2 and m.role <> 'ORGANIZATION_MEMBER'";
        let raised: i64 = value(&admin, rank, &[&self.bob.user_id, &self.bob.organization_id]).await;
        if raised > 0 { Err(format!("(seed {seed}) Bob has a higher rank")) } else { Ok(report) }
    }

    /// Begins a transaction as somebody. Bob's session may have been ended by Bob: then it is nobody's.
    async fn enter(&self, attacker: &Attacker, identity: &str) -> Result<(), String> {
        let client = &attacker.client;
        client.batch_execute("begin").await.map_err(|error| format!("begin: {error:?}"))?;
        let entered = match identity {
            "nobody" => Ok(0),
            "Bob's session" => {
                let assume = "select from auth.assume_session($1, $2)";
                client.execute(assume, &[&self.bob.session_id, &self.bob.jti]).await
            }
            _ => {
                let assume = "select from auth.assume_personal_access_token($1, $2)";
                client.execute(assume, &[&self.bobs_token.0, &self.bobs_token.1]).await
            }
        };
        entered.map(|_| ()).map_err(|error| format!("{identity}: {error:?}"))
    }

    /// The transaction's identity is Bob's or nobody's, or that of an account of the attacker's own making.
    async fn still_bob(&self, attacker: &Attacker) -> Result<(), String> {
        // In a failed transaction there is none to ask about.
        let who = "select coalesce(auth.current_user_id()::pg_catalog.text, ''), session_user::pg_catalog.text";
        let (said, code) = attacker.ask(who).await;
        if code == "25P02" {
            return Ok(());
        }
        match said.as_slice() {
            [id, role] if role == "auth_service" && !self.victims.contains(id) => Ok(()),
            said => Err(format!("the attacker is now {said:?} ({code})")),
        }
    }

    fn told(&self, said: &[String]) -> Option<&String> {
        self.secrets.iter().find(|secret| said.iter().any(|said| said.contains(secret.as_str())))
    }

    /// The same database for Bob, without what belongs to anybody else.
    async fn remove_the_others(&self, admin: &Client) {
        let visible = "(select user_id from auth.organization_members where organization_id = $2)";
        for table in ["sessions", "personal_access_tokens", "identities", "one_time_tokens"] {
            let delete = format!("delete from auth.{table} where user_id <> $1 and $2::uuid is not null");
            run(admin, &delete, &[&self.bob.user_id, &self.bob.organization_id]).await;
        }
        let users = format!("delete from auth.users where id <> $1 and id not in {visible}");
        run(admin, &users, &[&self.bob.user_id, &self.bob.organization_id]).await;
        run(admin, "delete from auth.organizations where id <> $1", &[&self.bob.organization_id]).await;
        for table in ["organization_invitations", "mail_outbox", "alert_events", "clients", "accepted_id_tokens"] {
            run(admin, &format!("delete from auth.{table}"), &[]).await;
        }
    }
}

impl TestDb {
    /// A copy of this database, which nobody is connected to.
    pub async fn copy(&self) -> Self {
        Self::from_template(self.name()).await
    }
}
