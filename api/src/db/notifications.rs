//! Hearing of what others did: the database's notifications, on a connection of their own.

use deadpool_postgres::tokio_postgres::{AsyncMessage, Client, Connection, Error, NoTls, config::SslMode};
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Db, log_unreachable, tls};

impl Db {
    /// Says, from now on until the connection breaks, that something may have happened. True: nobody can be told, because a
    /// pooler in transaction mode is between.
    pub async fn listen(&self, heard: impl Fn()) -> bool {
        if !self.prepared {
            return true;
        }
        if let Err(error) = self.hear(heard).await {
            log_unreachable(&error);
        }
        false
    }

    async fn hear(&self, heard: impl Fn()) -> Result<(), Error> {
        if self.postgres.get_ssl_mode() == SslMode::Require {
            // It was made once already, for the pool.
            let Ok(tls) = tls() else { return Ok(()) };
            let (client, connection) = self.postgres.connect(MakeRustlsConnect::new(tls)).await?;
            follow(client, connection, heard).await
        } else {
            let (client, connection) = self.postgres.connect(NoTls).await?;
            follow(client, connection, heard).await
        }
    }
}

async fn follow<S, T>(client: Client, mut connection: Connection<S, T>, heard: impl Fn()) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    let listening = async {
        client.batch_execute("listen auth_events").await?;
        // What happened before that was not heard.
        heard();
        std::future::pending().await
    };
    let hearing = async {
        while let Some(message) = messages.next().await {
            // Of ids there is nothing to be taken here: who reads, reads what they may.
            if let AsyncMessage::Notification(_) = message? {
                heard();
            }
        }
        Ok(())
    };
    tokio::select! {
        result = listening => result,
        result = hearing => result,
    }
}
