//! Sends the mail that the database has queued.
//!
//! Each mail is sent at least once: it is leased, sent, and reported. Who dies in between leaves the lease to run out,
//! and another mailer sends it again, under the same Message-ID, by which whoever gets it twice can tell. Any number of
//! processes may do this side by side; the database gives each mail to one of them.

mod console;
mod letter;
mod smtp;

use std::{sync::Arc, time::Duration};

use deadpool_postgres::tokio_postgres;
use lettre::message::Mailbox;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub use self::{
    letter::LinkBase,
    smtp::{SmtpConfig, SmtpTls},
};
use crate::{
    db::{Mail, Outbox},
    metrics::metrics,
};

/// Mails under way at once. Each has a connection of its own to the mail server, so a slow one holds nobody up.
const AT_ONCE: usize = 8;
/// How much longer than a mail may take its lease is: time to report it.
const REPORT_TIME: Duration = Duration::from_secs(30);
/// How often a report is tried, a second apart. After that the lease runs out, and the mail is sent again.
const REPORTS: u32 = 5;

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

/// A mailer at work.
pub struct Mailer {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Mailer {
    /// Starts one.
    pub fn start(config: MailerConfig) -> Self {
        let (stop, stopped) = watch::channel(false);
        match &config.provider {
            Provider::Smtp(smtp) => tracing::info!(server = smtp.server(), "mail is sent by this process"),
            Provider::Console => {
                tracing::warn!("MAIL_PROVIDER=console: mail is printed, links and all; this is for development");
            }
        }
        let worker = Worker { outbox: Outbox::new(config.database.clone(), config.direct), config };
        Self { stop, task: tokio::spawn(work(Arc::new(worker), stopped)) }
    }

    /// Takes no more mail, and returns when what is under way is sent and reported.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

struct Worker {
    config: MailerConfig,
    outbox: Outbox,
}

async fn work(worker: Arc<Worker>, mut stopped: watch::Receiver<bool>) {
    let lease = worker.config.timeout + REPORT_TIME;
    let mut under_way = JoinSet::new();
    let mut was_reached = true;
    while !*stopped.borrow() {
        while under_way.try_join_next().is_some() {}
        let room = AT_ONCE - under_way.len();
        let claimed = if room == 0 { Ok(vec![]) } else { worker.outbox.claim(room, lease).await };
        let is_reached = claimed.is_ok();
        let mails = claimed.unwrap_or_else(|why| {
            if was_reached {
                tracing::warn!(why, "the outbox cannot be reached: mail waits");
            }
            vec![]
        });
        if is_reached && !was_reached {
            tracing::info!("the outbox can be reached again");
        }
        was_reached = is_reached;
        // As many as there was room for: there may be more, as soon as there is room again.
        let may_be_more = mails.len() == room;
        for mail in mails {
            let worker = worker.clone();
            under_way.spawn(async move { worker.deliver(mail).await });
        }
        tokio::select! {
            _ = stopped.changed() => {}
            Some(_) = under_way.join_next(), if may_be_more => {}
            () = worker.outbox.news(), if is_reached => {}
            () = tokio::time::sleep(worker.config.poll) => {}
        }
    }
    while under_way.join_next().await.is_some() {}
}

impl Worker {
    async fn deliver(&self, mail: Mail) {
        let (id, kind, attempt) = (mail.id, mail.kind.as_str(), mail.attempt);
        let sent = tokio::time::timeout(self.config.timeout, self.send(&mail)).await;
        let sent = sent.unwrap_or_else(|_| Err(Failure::temporary("the mail server took too long")));
        for _ in 0..REPORTS {
            let reported = match &sent {
                Ok(()) => self.outbox.finish(&mail).await.map(|()| "sent".to_owned()),
                Err(failure) => self.outbox.fail(&mail, &failure.why, failure.permanent).await,
            };
            if let Ok(became) = &reported {
                metrics().deliveries.count(became);
            }
            match (reported, &sent) {
                (Ok(_), Ok(())) => return tracing::info!(%id, kind, attempt, "a mail was sent"),
                (Ok(became), Err(Failure { why, .. })) if became == "given_up" => {
                    return tracing::error!(%id, kind, attempt, why, "a mail was given up");
                }
                (Ok(became), Err(Failure { why, .. })) => {
                    return tracing::warn!(%id, kind, attempt, why, became, "a mail was not sent");
                }
                (Err(why), _) => tracing::warn!(%id, kind, attempt, why, "what became of a mail could not be told"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

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
