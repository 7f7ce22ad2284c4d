//! The mailer's door to Postgres: another login (`auth_mailer`), which may work the outboxes and nothing else, and one
//! connection of its own for each. The service's login cannot read a mail, and this one cannot do anything but send it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use deadpool_postgres::tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Error, NoTls, Row,
    config::SslMode,
    types::{FromSql, ToSql},
};
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Mutex, Notify},
};
use tokio_postgres_rustls::MakeRustlsConnect;
use uuid::Uuid;

use super::{CONNECT_TIMEOUT, SET_UP, tls};

/// The server ends a statement before that; a network that swallows the answer does not.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A mail to be sent.
pub struct Mail {
    /// Also its Message-ID: the same at every attempt.
    pub id: Uuid,
    /// Which letter it is.
    pub kind: String,
    /// Where to.
    pub recipient: String,
    /// What the letter needs, as JSON. It holds the link's token.
    pub variables: String,
    /// The how manieth attempt this is.
    pub attempt: i32,
    /// When it was queued.
    pub created_at: DateTime<Utc>,
}

/// The outbox, as the mailer may see it.
pub struct Outbox {
    config: Config,
    /// How to be told of news, instead of only looking every now and then.
    listen: Option<&'static str>,
    news: Arc<Notify>,
    client: Mutex<Option<Arc<Client>>>,
}

/// Why the outbox could not be worked; the log may have it.
pub type OutboxError = String;

impl Outbox {
    /// That of mail. Connects to nothing yet.
    pub fn of_mail(config: Config, listens: bool) -> Self {
        Self::new(config, "auth-api mailer", listens.then_some("listen auth_mail"))
    }

    pub(super) fn new(mut config: Config, name: &str, listen: Option<&'static str>) -> Self {
        config.connect_timeout(CONNECT_TIMEOUT);
        if config.get_application_name().is_none() {
            config.application_name(name);
        }
        Self { config, listen, news: Arc::default(), client: Mutex::default() }
    }

    /// Returns when there may be something new.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Takes up to so many mails that are due; nobody else is given them for the length of the lease.
    pub async fn claim(&self, batch: usize, lease: Duration) -> Result<Vec<Mail>, OutboxError> {
        let sql = "select id, kind, recipient, variables::text, attempt, created_at \
            from auth.claim_mail(batch => $1, lease => make_interval(secs => $2))";
        let batch = i32::try_from(batch).unwrap_or(i32::MAX);
        let rows = self.query(sql, &[&batch, &lease.as_secs_f64()]).await?;
        let mail = |row: &Row| {
            Ok(Mail {
                id: column(row, 0)?,
                kind: column(row, 1)?,
                recipient: column(row, 2)?,
                variables: column(row, 3)?,
                attempt: column(row, 4)?,
                created_at: column(row, 5)?,
            })
        };
        rows.iter().map(mail).collect()
    }

    /// It was sent.
    pub async fn finish(&self, mail: &Mail) -> Result<(), OutboxError> {
        self.query("select auth.finish_mail(id => $1)", &[&mail.id]).await.map(|_| ())
    }

    /// It was not; what becomes of it: `retried`, `given_up` or `lost`.
    pub async fn fail(&self, mail: &Mail, why: &str, permanent: bool) -> Result<String, OutboxError> {
        let sql = "select auth.fail_mail(id => $1, attempt => $2, error => $3, permanent => $4)";
        let rows = self.query(sql, &[&mail.id, &mail.attempt, &why, &permanent]).await?;
        rows.first().map_or(Ok(String::new()), |row| column(row, 0))
    }

    pub(super) async fn query(
        &self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, OutboxError> {
        let answer = async {
            let client = self.client().await?;
            client.query(sql, params).await.map_err(|error| describe(&error))
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(rows)) => Ok(rows),
            failed => {
                // Whatever it was: the next statement gets a new connection.
                self.client.lock().await.take();
                failed.unwrap_or_else(|_| Err("the database does not answer".into()))
            }
        }
    }

    async fn client(&self) -> Result<Arc<Client>, OutboxError> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let mut config = self.config.clone();
        let client = if config.get_ssl_mode() == SslMode::Require {
            let (client, connection) =
                config.connect(MakeRustlsConnect::new(tls()?)).await.map_err(|error| describe(&error))?;
            tokio::spawn(drive(connection, self.news.clone()));
            client
        } else {
            config.ssl_mode(SslMode::Disable);
            let (client, connection) = config.connect(NoTls).await.map_err(|error| describe(&error))?;
            tokio::spawn(drive(connection, self.news.clone()));
            client
        };
        client.batch_execute(SET_UP).await.map_err(|error| describe(&error))?;
        if let Some(listen) = self.listen {
            client.batch_execute(listen).await.map_err(|error| describe(&error))?;
        }
        Ok(kept.insert(Arc::new(client)).clone())
    }
}

/// Works the connection until it ends. A notification is news, and so is the end: then the outbox is asked again, over
/// a new connection.
async fn drive<S, T>(mut connection: Connection<S, T>, news: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut messages = poll_fn(move |context| connection.poll_message(context));
    while let Some(Ok(message)) = messages.next().await {
        if let AsyncMessage::Notification(_) = message {
            news.notify_one();
        }
    }
    news.notify_one();
}

pub(super) fn column<'r, T: FromSql<'r>>(row: &'r Row, index: usize) -> Result<T, OutboxError> {
    row.try_get(index).map_err(|error| describe(&error))
}

/// Code and message, never the DETAIL, which may quote values.
fn describe(error: &Error) -> OutboxError {
    match error.as_db_error() {
        Some(db) => format!("{} {}", db.code().code(), db.message()),
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}
