//! Small things that tests which speak SQL need again and again: one value, an error's SQLSTATE, the audit trail, and
//! time that passes by moving rows.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{AsyncMessage, Client, Error, NoTls};
use uuid::Uuid;

use crate::TestDb;
use crate::tokens::{OUTCOME_COLUMNS, Outcome, PASSWORD, Secret, password_proof};
use crate::{all_at_once, eventually};

/// Parameters of a statement.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The one value of the one row that a query returns.
pub async fn value<T: for<'a> FromSql<'a>>(client: &Client, query: &str, params: Params<'_>) -> T {
    client.query_one(query, params).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

/// The first column of all rows.
pub async fn values<T: for<'a> FromSql<'a>>(client: &Client, query: &str, params: Params<'_>) -> Vec<T> {
    let rows = client.query(query, params).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// Runs a statement that must work; how many rows it touched.
pub async fn run(client: &Client, statement: &str, params: Params<'_>) -> u64 {
    client.execute(statement, params).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"))
}

/// What PostgreSQL refused with.
#[derive(Debug)]
pub struct Refusal {
    /// The SQLSTATE.
    pub code: String,
    /// The message.
    pub message: String,
    /// The hint, or nothing.
    pub hint: String,
}

/// The refusal in a result; panics when it is none.
pub fn refusal<T>(result: Result<T, Error>) -> Refusal {
    let Err(error) = result else { panic!("it worked, but should have been refused") };
    let error = error.as_db_error().unwrap_or_else(|| panic!("not refused, but failed: {error:?}"));
    Refusal {
        code: error.code().code().to_owned(),
        message: error.message().to_owned(),
        hint: error.hint().unwrap_or_default().to_owned(),
    }
}

/// The SQLSTATE that a statement (or several, separated by semicolons) is refused with; `00000` when it works.
pub async fn sqlstate(client: &Client, statements: &str) -> String {
    match client.batch_execute(statements).await {
        Ok(()) => "00000".to_owned(),
        failed => refusal(failed).code,
    }
}

/// What the audit log says of a session, oldest first.
pub async fn audit_trail(admin: &Client, session_id: Uuid) -> Vec<String> {
    values(
        admin,
        "select action from auth.audit_log
          where session_id = $1 or details -> 'sessions' ? $1::text order by created_at, id",
        &[&session_id],
    )
    .await
}

/// Lets so much time pass for a session: every time in its row moves back.
pub async fn let_time_pass(admin: &Client, session_id: Uuid, interval: &str) {
    let moved = run(
        admin,
        "update auth.sessions
            set created_at = created_at - $2::text::interval, auth_time = auth_time - $2::text::interval,
                expires_at = expires_at - $2::text::interval, revoked_at = revoked_at - $2::text::interval,
                last_used_at = last_used_at - $2::text::interval, rotated_at = rotated_at - $2::text::interval,
                idle_expires_at = idle_expires_at - $2::text::interval,
                refreshes_full_at = refreshes_full_at - $2::text::interval
          where id = $1",
        &[&session_id, &interval],
    )
    .await;
    assert_eq!(moved, 1, "there is no session {session_id}");
}

/// Fills the tables with sessions that are over: `expired` of them by time, `revoked` by a revocation, all longer ago
/// than any retention.
pub async fn fill_with_dead_sessions(admin: &Client, expired: i32, revoked: i32) {
    let user = "insert into auth.users (email, name) values ('dead-' || gen_random_uuid() || '@example.org', 'Dead')
                returning id";
    let user: Uuid = value(admin, user, &[]).await;
    run(
        admin,
        "insert into auth.sessions (family_id, user_id, created_at, auth_time, expires_at, idle_ttl, amr, lineage_key,
                                    last_used_at, idle_expires_at, token_verifier, revoked_at, revoked_reason)
         select gen_random_uuid(), $1, now() - interval '60 days', now() - interval '60 days', now() - interval '30 days',
                '7 days', '{pwd}', sha256('key'), now() - interval '60 days', now() - interval '40 days', sha256('token'),
                case when n > $2::int then now() - interval '40 days' end, case when n > $2::int then 'test' end
           from generate_series(1, $2::int + $3::int) n",
        &[&user, &expired, &revoked],
    )
    .await;
}

/// Moves every session's last authentication into the past: what a sensitive operation looks at.
pub async fn let_authentication_age(admin: &Client, interval: &str) {
    run(admin, "update auth.sessions set auth_time = auth_time - $1::text::interval", &[&interval]).await;
}

/// The whole row of a session as text: equal when nothing of it changed.
pub async fn session_row(admin: &Client, session_id: Uuid) -> String {
    value(admin, "select s::text from auth.sessions s where id = $1", &[&session_id]).await
}

/// Why a session was revoked; nothing while it is not.
pub async fn revoked_reason(admin: &Client, session_id: Uuid) -> Option<String> {
    value(admin, "select revoked_reason from auth.sessions where id = $1", &[&session_id]).await
}

/// What a client asks for at login, as intervals.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // the arguments, under their names
pub struct Wishes<'a> {
    pub idle_ttl: Option<&'a str>,
    pub max_age: Option<&'a str>,
    pub retry_window: Option<&'a str>,
}

/// Logs in with [`PASSWORD`] and wishes.
pub async fn log_in_wishing(service: &Client, email: &str, wishes: Wishes<'_>) -> Outcome {
    let version: i32 = value(service, "select verifier_version from auth.begin_login($1)", &[&email]).await;
    let secret = Secret::random();
    let statement = format!(
        "select {OUTCOME_COLUMNS} from auth.complete_login(
             email => $1, verifier_version => $2, password_proof => $3, token_verifier => $4,
             idle_ttl => $5::text::interval, max_age => $6::text::interval, retry_window => $7::text::interval)"
    );
    let proof = password_proof(PASSWORD);
    let params: Params =
        &[&email, &version, &proof, &secret.verifier(), &wishes.idle_ttl, &wishes.max_age, &wishes.retry_window];
    let row = service.query_one(&statement, params).await.expect("complete_login");
    Outcome::from_row(&row).granting(secret)
}

/// Hears the notifications of a channel.
pub struct Listener {
    client: Client,
    heard: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Listener {
    /// Listens to `auth_events`.
    pub async fn connect(url: &str) -> Self {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.expect("connecting");
        let (say, heard) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(notification) = message {
                    let _ = say.send(notification.payload().to_owned());
                }
            }
        });
        client.batch_execute("listen auth_events").await.expect("listen");
        Self { client, heard }
    }

    /// What came since the last time. Waits for nothing: notifications arrive in the order of the commits, so all that
    /// were committed before this call come before its own.
    pub async fn so_far(&mut self) -> Vec<String> {
        self.client.batch_execute("notify auth_events, 'that is all'").await.expect("notify");
        let mut payloads = Vec::new();
        loop {
            match self.heard.recv().await.expect("the listener's connection") {
                payload if payload == "that is all" => return payloads,
                payload => payloads.push(payload),
            }
        }
    }
}

/// Held by a test that opens connections by the hundred: two such at once would be more than the cluster allows.
pub static CROWD: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Many connections of one login, opened before anything races.
pub async fn connections(db: &TestDb, login: &str, count: usize) -> Vec<Arc<Client>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(Arc::new(db.connect_as(login).await));
    }
    clients
}

/// Releases all at once: calls `task` with each of the clients, and returns what each came to.
pub async fn race<T, F>(clients: &[Arc<Client>], mut task: impl FnMut(usize, Arc<Client>) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    all_at_once(clients.len(), |n, start| {
        let work = task(n, clients[n].clone());
        async move {
            start.wait().await;
            work.await
        }
    })
    .await
}

/// Waits until so many connections to this database wait for a lock.
pub async fn until_waiting_for_locks(observer: &Client, count: i64) {
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    eventually("they wait for a lock", async || value::<i64>(observer, waiting, &[]).await == count).await;
}
