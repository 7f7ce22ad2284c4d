//! Taking over another system, and giving it back: the functions of `sql/adopt/`, on one connection of a superuser.
//!
//! Unlike the rest of this door it speaks to an operator: an error is a sentence with the database's own message and hint.

use std::{
    error::Error as _,
    time::{Duration, Instant},
};

use deadpool_postgres::{
    Object,
    tokio_postgres::{Error, Row, types::ToSql},
};
use futures_util::TryStreamExt;
use serde_json::Value;

use super::Db;
use crate::password::NewVerifier;

/// An operator's connection is the server's own: each statement is prepared for itself, and told its types.
type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The files, in their order. They are run once, in the transaction that begins an adoption.
const FILES: [&str; 7] = [
    include_str!("../../../sql/adopt/state.sql"),
    include_str!("../../../sql/adopt/mapping.sql"),
    include_str!("../../../sql/adopt/users.sql"),
    include_str!("../../../sql/adopt/takeover.sql"),
    include_str!("../../../sql/adopt/tokens.sql"),
    include_str!("../../../sql/adopt/sessions.sql"),
    include_str!("../../../sql/adopt/verify.sql"),
];
const ROLLBACK: &str = include_str!("../../../sql/adopt/rollback.sql");

/// A batch takes as long as it takes, and memory for sorting all rows once. No name is looked up where others may make
/// objects. A server whose client was killed notices it.
const SET_UP: &str = "set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0;
                      set search_path = pg_catalog, pg_temp; set client_connection_check_interval = '1s';
                      set work_mem = '128MB'; set maintenance_work_mem = '256MB'";

/// How long the lock of another command is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// What is in `auth_adoption.adoption`.
pub struct State {
    /// Whether it was begun with this mapping file.
    pub is_of_this_mapping: bool,
    /// When it was completed, in words.
    pub completed_at: Option<String>,
    /// Whether the old table is gone.
    pub is_kept_dropped: bool,
    /// Whether a rollback has begun.
    pub is_given_back: bool,
}

/// How far a step came.
pub struct Step {
    /// Its name.
    pub name: String,
    /// Rows so far.
    pub done: i64,
    /// Of so many, once that is known.
    pub total: Option<i64>,
    /// Whether it is over.
    pub is_finished: bool,
}

/// One line of the verification.
pub struct Check {
    /// What was counted.
    pub what: String,
    /// How many there should be.
    pub expected: i64,
    /// How many there are.
    pub found: i64,
    /// Whether that is as it should be.
    pub is_right: bool,
}

/// One kind of problem.
pub struct Problems {
    /// users, sessions, or the adoption as a whole.
    pub source: String,
    /// Its name.
    pub problem: String,
    /// refused, mended or note.
    pub outcome: String,
    /// How many rows.
    pub count: i64,
    /// Of a note: what it says.
    pub note: Option<String>,
}

/// An old user whose password hash the service is to turn into a verifier.
pub struct OldUser {
    /// In the old table.
    pub old_id: String,
    /// As it was kept there.
    pub password_hash: Option<String>,
}

/// What came of it.
pub struct ConvertedUser {
    /// In the old table.
    pub old_id: String,
    /// Or none.
    pub verifier: Option<NewVerifier>,
    /// Why there is none although there was a hash.
    pub problem: Option<String>,
}

/// The connection. When it is lost, what was not committed is undone.
pub struct Adoption(Object);

impl Db {
    /// Opens it, for one `adopt` or `rollback` of this database at a time.
    pub async fn adoption(&self) -> Result<Adoption, String> {
        let connection = self
            .connection()
            .await
            .map_err(|_| "the database cannot be reached: the line above says why.".to_owned())?;
        connection.batch_execute(SET_UP).await.map_err(told)?;
        let adoption = Adoption(connection);
        let superuser = "select rolsuper from pg_roles where rolname = current_user";
        if !adoption.one::<bool>(superuser, &[]).await? {
            return Err(
                "this login is not a superuser, which moving tables and reading everybody's sessions needs. Set \
                        ADMIN_DATABASE_URL to one that is."
                    .into(),
            );
        }
        // Held by the connection, until it ends; which, of a command that has just ended, may take a moment.
        let lock = "select pg_try_advisory_lock(hashtextextended('auth_sessions.adoption', 0))";
        let begun = Instant::now();
        while !adoption.one::<bool>(lock, &[]).await? {
            if begun.elapsed() > LOCK_PATIENCE {
                return Err(
                    "another auth-api adopt or rollback is at work in this database. Wait until it has ended.".into()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(adoption)
    }
}

impl Adoption {
    /// None: there is no adoption in this database.
    pub async fn state(&self, mapping: &Value) -> Result<Option<State>, String> {
        if !self.one::<bool>("select to_regnamespace('auth_adoption') is not null", &[]).await? {
            return Ok(None);
        }
        let sql = "select mapping = $1::text::jsonb, completed_at::text, kept_dropped_at is not null, given_back_at is not null
                     from auth_adoption.adoption";
        let row = self.0.query_one(sql, &[&mapping.to_string()]).await.map_err(told)?;
        Ok(Some(State {
            is_of_this_mapping: row.get(0),
            completed_at: row.get(1),
            is_kept_dropped: row.get(2),
            is_given_back: row.get(3),
        }))
    }

    /// Opens a transaction.
    pub async fn begin(&self) -> Result<(), String> {
        self.run("begin").await
    }

    /// Ends it.
    pub async fn commit(&self) -> Result<(), String> {
        self.run("commit").await
    }

    /// Ends it, as if it had never been.
    pub async fn roll_back(&self) -> Result<(), String> {
        self.run("rollback").await
    }

    /// Makes schema auth_adoption and checks the mapping.
    pub async fn start(&self, mapping: &Value) -> Result<(), String> {
        for file in FILES {
            self.run(file).await?;
        }
        self.run(ROLLBACK).await?;
        self.call("select auth_adoption.start($1::text::jsonb)", &[&mapping.to_string()]).await
    }

    /// All steps, in their order.
    pub async fn steps(&self) -> Result<Vec<Step>, String> {
        let sql = "select step, done, total, finished_at is not null as is_finished from auth_adoption.steps order by position";
        Ok(self.0.query(sql, &[]).await.map_err(told)?.iter().map(step).collect())
    }

    /// One batch of a step that needs no help.
    pub async fn batch(&self, name: &str, batch_size: i32) -> Result<Step, String> {
        let sql =
            "select step, done, total, finished_at is not null as is_finished from auth_adoption.run_batch($1, $2)";
        Ok(step(&self.0.query_one(sql, &[&name, &batch_size]).await.map_err(told)?))
    }

    /// Counts the users, for the progress.
    pub async fn count_users(&self) -> Result<(), String> {
        self.call("select auth_adoption.count_users()", &[]).await
    }

    /// The next users.
    pub async fn read_users(&self, batch_size: i32) -> Result<Vec<OldUser>, String> {
        let sql = "select old_id, password_hash from auth_adoption.read_users($1)";
        let rows = self.0.query(sql, &[&batch_size]).await.map_err(told)?;
        Ok(rows.iter().map(|row| OldUser { old_id: row.get(0), password_hash: row.get(1) }).collect())
    }

    /// Writes them.
    pub async fn write_users(&self, users: &[ConvertedUser], is_last: bool) -> Result<Step, String> {
        fn all<'u, T>(users: &'u [ConvertedUser], part: impl Fn(&'u NewVerifier) -> T) -> Vec<Option<T>> {
            users.iter().map(|user| user.verifier.as_ref().map(&part)).collect()
        }
        let ids: Vec<&str> = users.iter().map(|user| user.old_id.as_str()).collect();
        let salts = all(users, |verifier| &verifier.salt[..]);
        let params = all(users, |verifier| verifier.params.as_str());
        let peppers = all(users, |verifier| verifier.pepper_id);
        let verifiers = all(users, |verifier| &verifier.verifier[..]);
        let problems: Vec<Option<&str>> = users.iter().map(|user| user.problem.as_deref()).collect();
        let sql = "select step, done, total, finished_at is not null as is_finished
                     from auth_adoption.write_users($1, $2, $3, $4, $5, $6, $7)";
        let values: Params<'_> = &[&ids, &salts, &params, &peppers, &verifiers, &problems, &is_last];
        Ok(step(&self.0.query_one(sql, values).await.map_err(told)?))
    }

    /// Collects the user agents of current tokens.
    pub async fn list_devices(&self) -> Result<(), String> {
        self.call("select auth_adoption.list_devices()", &[]).await
    }

    /// The next user agents.
    pub async fn read_devices(&self, batch_size: i32) -> Result<Vec<String>, String> {
        let rows = self.0.query("select auth_adoption.read_devices($1)", &[&batch_size]).await.map_err(told)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Names them.
    pub async fn name_devices(
        &self,
        user_agents: &[String],
        hashes: &[Vec<u8>],
        names: &[String],
        is_last: bool,
    ) -> Result<Step, String> {
        let sql = "select step, done, total, finished_at is not null as is_finished from auth_adoption.name_devices($1, $2, $3, $4)";
        let row = self.0.query_one(sql, &[&user_agents, &hashes, &names, &is_last]).await;
        Ok(step(&row.map_err(told)?))
    }

    /// Compares what is there with what should be.
    pub async fn verify(&self, is_strict: bool) -> Result<Vec<Check>, String> {
        let sql = "select what, expected, counted, is_right from auth_adoption.verify($1)";
        let rows = self.0.query(sql, &[&is_strict]).await.map_err(told)?;
        let check =
            |row: &Row| Check { what: row.get(0), expected: row.get(1), found: row.get(2), is_right: row.get(3) };
        Ok(rows.iter().map(check).collect())
    }

    /// Lets the view under the old name show the sessions of here, and notes that all is done.
    pub async fn complete(&self) -> Result<(), String> {
        self.call("select auth_adoption.complete()", &[]).await
    }

    /// Tells the planner of a million new rows; auth.sessions is not analyzed by itself (see its table).
    pub async fn analyze(&self) -> Result<(), String> {
        self.run("analyze auth.users; analyze auth.sessions; analyze auth.adopted_tokens").await
    }

    /// Writes a row of the audit log that sums it up.
    pub async fn record(&self, action: &str) -> Result<(), String> {
        self.call("select auth_adoption.record($1)", &[&action]).await
    }

    /// Drops the old table.
    pub async fn drop_kept(&self) -> Result<(), String> {
        self.call("select auth_adoption.drop_kept()", &[]).await
    }

    /// How many old rows came to what, in words.
    pub async fn outcomes(&self) -> Result<Vec<(String, i64)>, String> {
        let sql = "select o.what, case o.outcome when 'users' then (select count(*) from auth_adoption.users)
                                 else (select count(*) from auth_adoption.old_rows r where r.outcome = o.outcome) end
                     from (values (1, 'users', 'users taken over'), (2, 'current', 'old rows: current'), (3, 'consumed', 'old rows: consumed'),
                                  (4, 'ended', 'old rows: ended'), (5, 'refused', 'old rows: refused')) o (position, outcome, what)
                    order by o.position";
        let rows = self.0.query(sql, &[]).await.map_err(told)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// What was wrong, by kind.
    pub async fn problems(&self) -> Result<Vec<Problems>, String> {
        let sql = "select source, problem, outcome, count(*), case when outcome = 'note' then detail end as note
                     from auth_adoption.problems group by source, problem, outcome, note order by source, outcome desc, problem";
        let rows = self.0.query(sql, &[]).await.map_err(told)?;
        let problem = |row: &Row| Problems {
            source: row.get(0),
            problem: row.get(1),
            outcome: row.get(2),
            count: row.get(3),
            note: row.get(4),
        };
        Ok(rows.iter().map(problem).collect())
    }

    /// What was wrong, row by row, as CSV.
    pub async fn problems_as_csv(&self) -> Result<Vec<u8>, String> {
        let sql = "copy (select source, old_id, outcome, problem, detail from auth_adoption.problems order by source, problem, old_id)
                   to stdout (format csv, header)";
        let chunks = self.0.copy_out(sql).await.map_err(told)?;
        let all = chunks.try_fold(Vec::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        });
        all.await.map_err(told)
    }

    /// What a rollback would lose: what, and how many.
    pub async fn losses(&self) -> Result<Vec<(String, i64)>, String> {
        let rows = self.0.query("select what, many from auth_adoption.losses()", &[]).await.map_err(told)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Copies what a rollback takes out; the name of the schema.
    pub async fn back_up(&self) -> Result<String, String> {
        self.one("select auth_adoption.back_up()", &[]).await
    }

    /// Puts the old table back in its place.
    pub async fn give_back(&self) -> Result<(), String> {
        self.call("select auth_adoption.give_back()", &[]).await
    }

    /// Forgets the adoption.
    pub async fn forget(&self) -> Result<(), String> {
        self.run("set local client_min_messages = warning; drop schema auth_adoption cascade").await
    }

    async fn run(&self, statements: &'static str) -> Result<(), String> {
        self.0.batch_execute(statements).await.map_err(told)
    }

    async fn call(&self, sql: &'static str, params: Params<'_>) -> Result<(), String> {
        self.0.execute(sql, params).await.map(drop).map_err(told)
    }

    async fn one<T: for<'r> tokio_postgres::types::FromSql<'r>>(
        &self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<T, String> {
        self.0.query_one(sql, params).await.map_err(told)?.try_get(0).map_err(told)
    }
}

fn step(row: &Row) -> Step {
    Step { name: row.get("step"), done: row.get("done"), total: row.get("total"), is_finished: row.get("is_finished") }
}

/// For the operator. Never the DETAIL, which may quote a row.
pub(super) fn told(error: Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let hint = db.hint().map(|hint| format!(" {hint}")).unwrap_or_default();
            format!("{} (SQLSTATE {}).{hint}", db.message(), db.code().code())
        }
        None => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("{error}{cause}. What was committed stays; the same command goes on from there.")
        }
    }
}
