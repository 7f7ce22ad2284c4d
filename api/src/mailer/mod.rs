//! Sends the mail that the database has queued.
//!
//! At least once, under one Message-ID: see [`crate::courier`].

mod console;
mod letter;
mod smtp;

use std::time::Duration;

use deadpool_postgres::tokio_postgres;
use lettre::message::Mailbox;

pub use self::{
    letter::LinkBase,
    smtp::{SmtpConfig, SmtpTls},
};
use crate::{
    courier::{AtWork, Courier},
    db::{Mail, Outbox, OutboxError},
    metrics::metrics,
};

/// How mail leaves.
pub enum Provider {
    /// To a mail server.
    Smtp(SmtpConfig),
    /// To standard error, for development.
    Console,
}

/// What the mailer is told.
pub struct MailerConfig {
    /// A login in role auth_mailer.
    pub database: tokio_postgres::Config,
    /// How mail leaves.
    pub provider: Provider,
    /// Who it is from.
    pub from: Mailbox,
    /// Where its links lead.
    pub links: LinkBase,
    /// Whether the database tells when there is mail.
    pub direct: bool,
    /// How often the outbox is looked into anyway.
    pub poll: Duration,
    /// How long one mail may take.
    pub timeout: Duration,
}

/// Why a mail was not sent.
pub struct Failure {
    /// For the log and the outbox. The token of a link is taken out of it.
    pub why: String,
    /// Whether trying again is in vain.
    pub permanent: bool,
}

impl Failure {
    fn temporary(why: impl Into<String>) -> Self {
        Self { why: why.into(), permanent: false }
    }

    fn permanent(why: impl Into<String>) -> Self {
        Self { why: why.into(), permanent: true }
    }
}

/// Sends mail from now on.
pub fn start(config: MailerConfig) -> AtWork {
    match &config.provider {
        Provider::Smtp(smtp) => tracing::info!(server = smtp.server(), "mail is sent by this process"),
        Provider::Console => {
            tracing::warn!("MAIL_PROVIDER=console: mail is printed, links and all; this is for development");
        }
    }
    AtWork::start(Mailer { outbox: Outbox::of_mail(config.database.clone(), config.direct), config })
}

struct Mailer {
    config: MailerConfig,
    outbox: Outbox,
}

impl Courier for Mailer {
    const WHAT: &'static str = "mail";
    type Item = Mail;
    type Outcome = Result<(), Failure>;

    fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn poll(&self) -> Duration {
        self.config.poll
    }

    fn timeout(&self) -> Duration {
        self.config.timeout
    }

    async fn claim(&self, room: usize, lease: Duration) -> Result<Vec<Mail>, OutboxError> {
        self.outbox.claim(room, lease).await
    }

    async fn deliver(&self, mail: &Mail) -> Result<(), Failure> {
        let sent = tokio::time::timeout(self.config.timeout, self.send(mail)).await;
        sent.unwrap_or_else(|_| Err(Failure::temporary("the mail server took too long")))
    }

    async fn report(&self, mail: &Mail, sent: &Result<(), Failure>) -> Result<(), OutboxError> {
        let (id, kind, attempt) = (mail.id, mail.kind.as_str(), mail.attempt);
        match sent {
            Ok(()) => {
                self.outbox.finish(mail).await?;
                metrics().deliveries.count("sent");
                tracing::info!(%id, kind, attempt, "a mail was sent");
            }
            Err(Failure { why, permanent }) => {
                let became = self.outbox.fail(mail, why, *permanent).await?;
                metrics().deliveries.count(&became);
                match became.as_str() {
                    "given_up" => tracing::error!(%id, kind, attempt, why, "a mail was given up"),
                    became => tracing::warn!(%id, kind, attempt, why, became, "a mail was not sent"),
                }
            }
        }
        Ok(())
    }
}

impl Mailer {
    async fn send(&self, mail: &Mail) -> Result<(), Failure> {
        let message = letter::message(mail, &self.config.from, &self.config.links)?;
        let sent = match &self.config.provider {
            Provider::Smtp(smtp) => smtp.send(&message).await,
            Provider::Console => console::print(&message),
        };
        // A mail server may quote what it refuses, and say it in any characters and length.
        sent.map_err(|failure| {
            let why = letter::without_tokens(&failure.why).replace(char::is_control, " ");
            Failure { why: why.chars().take(500).collect(), ..failure }
        })
    }
}
