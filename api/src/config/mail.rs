//! The settings of mail.

use std::time::Duration;

use deadpool_postgres::tokio_postgres;
use lettre::transport::smtp::authentication::Credentials;

use super::{ConfigError, Reader};
use crate::mailer::{MailerConfig, Provider, SmtpConfig, SmtpTls};

/// Name, default and meaning, as in [`super::SETTINGS`].
pub(super) const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "MAILER_DATABASE_URL",
        "",
        "Like DATABASE_URL, of a login in role auth_mailer. Without it this process queues mail and sends none; another \
         one must",
    ),
    ("MAIL_PROVIDER", "smtp", "smtp, or console: mail is printed to standard error, links and all, for development"),
    ("SMTP_HOST", "", "The mail server; its certificate must have this name"),
    ("SMTP_PORT", "that of SMTP_TLS", "Its port: 587 with starttls, 465 with implicit, 25 with none"),
    (
        "SMTP_TLS",
        "starttls",
        "starttls, which is then required; implicit; or none, for a server on this machine. Certificates are verified \
         against the system's roots (SSL_CERT_FILE names others)",
    ),
    ("SMTP_USER", "", "Who to log in to the mail server as, where it wants that"),
    ("SMTP_PASS", "", "The password for it"),
    (
        "SMTP_PASS_FILE",
        "",
        "A file with it, instead of SMTP_PASS: of this user or root, and for nobody else (0600); read at the start",
    ),
    ("SMTP_FROM", "", "Who mail is from: Example <no-reply@example.org>"),
    (
        "MAIL_LINK_BASE",
        "",
        "Where the front end's pages are that links in mail lead to: https://app.example.org, with the pages \
         /verify-email, /reset-password, /confirm-email-change and /accept-invitation. Each reads #token=… and sends it \
         to the API",
    ),
    (
        "MAIL_DIRECT",
        "true",
        "Whether mail is sent as soon as it is queued (LISTEN), or when MAIL_POLL_SECONDS are over",
    ),
    ("MAIL_POLL_SECONDS", "5", "How often the outbox is looked into for what is due, 1 to 3600"),
    ("MAIL_TIMEOUT_SECONDS", "30", "How long the mail server may take for one mail, 1 to 600; then it is tried later"),
];

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// The mailer's settings; none: this process sends no mail.
    pub(super) fn mailer(&self) -> Result<Option<MailerConfig>, ConfigError> {
        let database = self.optional("MAILER_DATABASE_URL");
        let provider = self.text("MAIL_PROVIDER");
        let tls: SmtpTls = self.parsed("SMTP_TLS")?;
        let port = match self.optional("SMTP_PORT") {
            None => tls.port(),
            Some(_) => self.number("SMTP_PORT", 1, 65_535)? as u16,
        };
        let credentials = match (self.optional("SMTP_USER"), self.secret("SMTP_PASS")?) {
            (None, None) => None,
            (Some(user), Some(password)) => Some(Credentials::new(user, (*password).clone())),
            _ => {
                return Err(ConfigError(
                    "SMTP_USER and SMTP_PASS (or SMTP_PASS_FILE) go together: set both, or neither.".into(),
                ));
            }
        };
        let (host, from, links) =
            (self.optional("SMTP_HOST"), self.optional("SMTP_FROM"), self.optional("MAIL_LINK_BASE"));
        let direct: bool = self.parsed("MAIL_DIRECT")?;
        let poll = Duration::from_secs(self.number("MAIL_POLL_SECONDS", 1, 3_600)?);
        let timeout = Duration::from_secs(self.number("MAIL_TIMEOUT_SECONDS", 1, 600)?);
        let Some(database) = database else { return Ok(None) };

        let missing = |name: &str, example: &str| ConfigError(format!("{name} is not set. For example: {example}"));
        let (provider, from, links) = match provider.as_str() {
            "console" => {
                let from = from.unwrap_or_else(|| "auth_sessions <no-reply@localhost>".into());
                (Provider::Console, from, links.unwrap_or_else(|| "http://localhost:3000".into()))
            }
            "smtp" => {
                let host =
                    host.ok_or_else(|| missing("SMTP_HOST", "smtp.example.org, or set MAIL_PROVIDER=console"))?;
                if tls == SmtpTls::None && credentials.is_some() && !is_here(&host) {
                    return Err(ConfigError(
                        "SMTP_TLS=none would send SMTP_PASS in the clear. Use starttls or implicit.".into(),
                    ));
                }
                let from = from.ok_or_else(|| missing("SMTP_FROM", "Example <no-reply@example.org>"))?;
                let links = links.ok_or_else(|| missing("MAIL_LINK_BASE", "https://app.example.org"))?;
                (Provider::Smtp(SmtpConfig { host, port, tls, credentials }), from, links)
            }
            _ => return Err(ConfigError(format!("MAIL_PROVIDER={provider} is neither smtp nor console."))),
        };
        Ok(Some(MailerConfig {
            database: mailer_database(&database)?,
            provider,
            from: from.parse().map_err(|_| {
                ConfigError(format!(
                    "SMTP_FROM={from} cannot be used. It must look like Example <no-reply@example.org>."
                ))
            })?,
            links: links
                .parse()
                .map_err(|why| ConfigError(format!("MAIL_LINK_BASE={links} cannot be used: it {why}.")))?,
            direct,
            poll,
            timeout,
        }))
    }
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(super) fn mailer_database(url: &str) -> Result<tokio_postgres::Config, ConfigError> {
    // The parser's message may quote the URL, and with it the password.
    url.parse().map_err(|_| {
        ConfigError(
            "MAILER_DATABASE_URL cannot be read. It must look like postgres://user:password@host:5432/database.".into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: &[(&str, &str)]) -> Result<Option<MailerConfig>, String> {
        let reader = Reader(|name: &str| {
            settings.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        });
        reader.mailer().map_err(|error| error.to_string())
    }

    const DATABASE: (&str, &str) = ("MAILER_DATABASE_URL", "postgres://m:hunter2hunter2@127.0.0.1/auth");
    const HOST: (&str, &str) = ("SMTP_HOST", "smtp.example.org");
    const FROM: (&str, &str) = ("SMTP_FROM", "Example <no-reply@example.org>");
    const LINKS: (&str, &str) = ("MAIL_LINK_BASE", "https://app.example.org");

    #[test]
    fn without_a_login_of_its_own_there_is_no_mailer() {
        assert!(with(&[HOST, FROM, LINKS]).unwrap().is_none());
        assert!(with(&[DATABASE, HOST, FROM, LINKS]).unwrap().is_some());
        assert!(with(&[DATABASE, ("MAIL_PROVIDER", "console")]).unwrap().is_some());
    }

    #[test]
    fn the_port_goes_with_the_encryption() {
        for (tls, expected) in [("starttls", 587), ("implicit", 465), ("none", 25)] {
            let Provider::Smtp(smtp) =
                with(&[DATABASE, HOST, FROM, LINKS, ("SMTP_TLS", tls)]).unwrap().unwrap().provider
            else {
                panic!("smtp is the default")
            };
            assert_eq!(smtp.port, expected, "{tls}");
        }
    }

    #[test]
    fn what_is_missing_or_cannot_be_used_is_named_and_no_password_repeated() {
        for (settings, name) in [
            (&[DATABASE][..], "SMTP_HOST"),
            (&[DATABASE, HOST, LINKS], "SMTP_FROM"),
            (&[DATABASE, HOST, FROM], "MAIL_LINK_BASE"),
            (&[DATABASE, HOST, LINKS, ("SMTP_FROM", "nobody")], "SMTP_FROM"),
            (&[DATABASE, HOST, FROM, ("MAIL_LINK_BASE", "https://a.example/?token=")], "MAIL_LINK_BASE"),
            (&[DATABASE, HOST, FROM, LINKS, ("SMTP_TLS", "maybe")], "SMTP_TLS"),
            (&[DATABASE, HOST, FROM, LINKS, ("SMTP_USER", "ada")], "SMTP_PASS"),
            (
                &[DATABASE, HOST, FROM, LINKS, ("SMTP_USER", "ada"), ("SMTP_PASS_FILE", "/nowhere")],
                "SMTP_PASS_FILE=/nowhere",
            ),
            (
                &[
                    DATABASE,
                    HOST,
                    FROM,
                    LINKS,
                    ("SMTP_TLS", "none"),
                    ("SMTP_USER", "a"),
                    ("SMTP_PASS", "hunter2hunter2"),
                ],
                "SMTP_TLS",
            ),
            (&[DATABASE, HOST, FROM, LINKS, ("MAIL_POLL_SECONDS", "0")], "MAIL_POLL_SECONDS"),
            (&[DATABASE, HOST, FROM, LINKS, ("MAIL_DIRECT", "perhaps")], "MAIL_DIRECT"),
            (&[DATABASE, ("MAIL_PROVIDER", "pigeon")], "MAIL_PROVIDER"),
            (
                &[("MAILER_DATABASE_URL", "postgres://u:hunter2hunter2@h/d?nonsense=1"), HOST, FROM, LINKS],
                "MAILER_DATABASE_URL",
            ),
        ] {
            let sentence = with(settings).err().unwrap();
            assert!(sentence.contains(name) && !sentence.contains("hunter2"), "{name}: {sentence}");
        }
    }
}
