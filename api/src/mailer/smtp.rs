//! To a mail server, step by step, because it matters which step is refused: a recipient's refusal is that mail's end,
//! a refused login or sender is the operator's to mend, and the mail waits.
//!
//! One connection for each mail: they are few, and one that hangs is given up with its mail alone.

use std::time::Duration;

use lettre::{
    address::Envelope,
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, TlsParameters},
        commands::{Data, Mail, Rcpt},
        extension::{ClientId, Extension, MailParameter},
    },
};

use super::{Failure, letter::Message};

/// How long the server may take to take leave; nothing hangs on it.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How the connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    /// After STARTTLS; refused when the server has none (port 587).
    StartTls,
    /// From the first byte (port 465).
    Implicit,
    /// Not at all: for a server on this machine.
    None,
}

impl SmtpTls {
    /// The port that goes with it.
    pub fn port(self) -> u16 {
        match self {
            Self::StartTls => 587,
            Self::Implicit => 465,
            Self::None => 25,
        }
    }
}

impl std::str::FromStr for SmtpTls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "starttls" => Ok(Self::StartTls),
            "implicit" => Ok(Self::Implicit),
            "none" => Ok(Self::None),
            _ => Err("is none of starttls, implicit, none".into()),
        }
    }
}

/// A mail server.
pub struct SmtpConfig {
    /// Its name, which its certificate must have.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Encryption.
    pub tls: SmtpTls,
    /// User and password, where it wants them.
    pub credentials: Option<Credentials>,
}

impl SmtpConfig {
    /// For the log.
    pub fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Hands a message over; returns when the server has said that it has it.
    pub async fn send(&self, message: &Message) -> Result<(), Failure> {
        let envelope = message.lettre.envelope();
        let mut server = self.connect().await.map_err(|error| not_now("the mail server", &error))?;
        server.command(Mail::new(envelope.from().cloned(), options(&server, envelope)?)).await.map_err(|error| {
            // The sender is the same for all mail: it is SMTP_FROM that is wrong.
            not_now("the sender", &error)
        })?;
        for recipient in envelope.to() {
            server
                .command(Rcpt::new(recipient.clone(), vec![]))
                .await
                .map_err(|error| refused("the recipient", &error))?;
        }
        server.command(Data).await.map_err(|error| refused("the mail", &error))?;
        server.message(&message.lettre.formatted()).await.map_err(|error| refused("the mail", &error))?;
        // It has it; how it takes leave changes nothing.
        let _ = tokio::time::timeout(QUIT_TIMEOUT, server.quit()).await;
        Ok(())
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Error> {
        let us = ClientId::default();
        let tls = || TlsParameters::new(self.host.clone());
        let implicit = if self.tls == SmtpTls::Implicit { Some(tls()?) } else { None };
        let address = (self.host.as_str(), self.port);
        let mut server = AsyncSmtpConnection::connect_tokio1(address, None, &us, implicit, None).await?;
        if self.tls == SmtpTls::StartTls {
            server.starttls(tls()?, &us).await?;
        }
        if let Some(credentials) = &self.credentials {
            server.auth(&[Mechanism::Plain, Mechanism::Login], credentials).await?;
        }
        Ok(server)
    }
}

fn options(server: &AsyncSmtpConnection, envelope: &Envelope) -> Result<Vec<MailParameter>, Failure> {
    let ours: &str = envelope.from().map_or("", AsRef::as_ref);
    if ours.is_ascii() && envelope.to().iter().all(|address| AsRef::<str>::as_ref(address).is_ascii()) {
        return Ok(vec![]);
    }
    if server.server_info().supports_feature(Extension::SmtpUtfEight) {
        return Ok(vec![MailParameter::SmtpUtfEight]);
    }
    Err(Failure::permanent("the mail server takes no address with letters beyond ASCII (SMTPUTF8, RFC 6531)"))
}

fn refused(what: &str, error: &Error) -> Failure {
    Failure { permanent: error.is_permanent(), ..not_now(what, error) }
}

fn not_now(what: &str, error: &Error) -> Failure {
    Failure::temporary(format!("{what}: {error}"))
}
