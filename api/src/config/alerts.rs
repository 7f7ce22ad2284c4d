//! The settings of alerts.

use std::time::Duration;

use super::{ConfigError, Reader, mail::mailer_database};
use crate::alerts::{AlertsConfig, Receivers, Secrets};

/// Name, default and meaning, as in [`super::SETTINGS`].
pub(super) const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "ALERT_WEBHOOK_URLS",
        "",
        "Who is told of replays and other alarms, by signed webhook (api/README.md): URLs, comma-separated; https, unless on \
         this machine. Needs MAILER_DATABASE_URL. Without it this process tells nobody",
    ),
    (
        "ALERT_WEBHOOK_SECRETS",
        "",
        "Required with ALERT_WEBHOOK_URLS. What webhooks are signed with, comma-separated: all sign, so that a new one can be \
         given to the receivers before the old one goes. Each: echo whsec_$(openssl rand -base64 32)",
    ),
    (
        "ALERT_WEBHOOK_SECRETS_FILE",
        "",
        "A file with these secrets, one a line, instead of ALERT_WEBHOOK_SECRETS: of this user or root, and for nobody else \
         (0600); read at the start",
    ),
    ("ALERT_WEBHOOK_TIMEOUT_SECONDS", "15", "How long a receiver may take, 1 to 60; then it is tried later"),
];

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// The settings of alerts; none: this process tells nobody.
    pub(super) fn alerts(&self) -> Result<Option<AlertsConfig>, ConfigError> {
        let Some(receivers) = self.alert_receivers()? else { return Ok(None) };
        let hint = "ALERT_WEBHOOK_URLS needs it: a login in role auth_mailer.";
        let database = mailer_database(&self.required("MAILER_DATABASE_URL", hint)?)?;
        Ok(Some(AlertsConfig {
            database,
            receivers,
            direct: self.parsed("MAIL_DIRECT")?,
            poll: Duration::from_secs(self.number("MAIL_POLL_SECONDS", 1, 3_600)?),
        }))
    }

    /// The same, for who cannot go on without.
    pub(super) fn required_alert_receivers(&self) -> Result<Receivers, ConfigError> {
        let none = || ConfigError("ALERT_WEBHOOK_URLS is not set. For example: https://hooks.example.org/auth".into());
        self.alert_receivers()?.ok_or_else(none)
    }

    fn alert_receivers(&self) -> Result<Option<Receivers>, ConfigError> {
        let timeout = Duration::from_secs(self.number("ALERT_WEBHOOK_TIMEOUT_SECONDS", 1, 60)?);
        let (urls, secrets) = match (self.optional("ALERT_WEBHOOK_URLS"), self.secret("ALERT_WEBHOOK_SECRETS")?) {
            (None, None) => return Ok(None),
            (Some(urls), Some(secrets)) => (urls, secrets),
            _ => {
                return Err(ConfigError(
                    "ALERT_WEBHOOK_URLS and ALERT_WEBHOOK_SECRETS (or ALERT_WEBHOOK_SECRETS_FILE) go together: set both, or \
                     neither. Make a secret with: echo whsec_$(openssl rand -base64 32)"
                        .into(),
                ));
            }
        };
        let secrets = Secrets::parse(&secrets).map_err(|why| {
            ConfigError(format!(
                "ALERT_WEBHOOK_SECRETS cannot be used: {why}. Make one with: echo whsec_$(openssl rand -base64 32)"
            ))
        })?;
        let receivers = Receivers::new(&urls, secrets, timeout);
        receivers.map(Some).map_err(|why| ConfigError(format!("ALERT_WEBHOOK_URLS cannot be used: {why}.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::file::tests::Directory;

    fn with(settings: &[(&str, &str)]) -> Result<Option<AlertsConfig>, String> {
        let reader = Reader(|name: &str| {
            settings.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        });
        reader.alerts().map_err(|error| error.to_string())
    }

    #[test]
    fn the_secrets_may_be_in_a_file_that_is_nobody_elses() {
        let directory = Directory::new();
        let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let reading = |text: &str, mode, more: &[(&str, &str)]| {
            let file = directory.file("secrets", text, mode);
            let path = file.path().to_str().unwrap().to_owned();
            let settings = [
                ("ALERT_WEBHOOK_URLS", "https://hooks.example.org"),
                ("ALERT_WEBHOOK_SECRETS_FILE", &path),
                ("MAILER_DATABASE_URL", "postgres://m@127.0.0.1/auth"),
            ];
            with(&[&settings, more].concat()).map(|alerts| alerts.is_some())
        };
        assert_eq!(reading(&format!("{secret}\n{secret}\n"), 0o600, &[]), Ok(true));
        for (text, mode, more, why) in [
            (secret, 0o644, &[][..], "chmod 0600"),
            ("", 0o600, &[], "it is empty"),
            (&format!("{secret}\nwhsec_hunter2"), 0o600, &[], "secret 2 is not base64"),
            (secret, 0o600, &[("ALERT_WEBHOOK_SECRETS", secret)], "both set"),
        ] {
            let sentence = reading(text, mode, more).unwrap_err();
            assert!(sentence.contains(why) && sentence.contains("ALERT_WEBHOOK_SECRETS"), "{why}: {sentence}");
            assert!(!sentence.contains("C2FV") && !sentence.contains("hunter2"), "{sentence}");
        }
    }

    #[test]
    fn alerts_are_off_or_complete_and_no_secret_is_repeated() {
        let complete = [
            ("ALERT_WEBHOOK_URLS", "https://hooks.example.org/hunter2"),
            ("ALERT_WEBHOOK_SECRETS", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
            ("MAILER_DATABASE_URL", "postgres://m:hunter2hunter2@127.0.0.1/auth"),
        ];
        assert!(with(&[]).unwrap().is_none());
        assert!(with(&complete[2..]).unwrap().is_none());
        assert!(with(&complete).unwrap().is_some());
        for (name, value) in [
            ("ALERT_WEBHOOK_URLS", ""),
            ("ALERT_WEBHOOK_URLS", "http://hooks.example.org/hunter2"),
            ("ALERT_WEBHOOK_SECRETS", ""),
            ("ALERT_WEBHOOK_SECRETS", "whsec_hunter2"),
            ("ALERT_WEBHOOK_TIMEOUT_SECONDS", "0"),
            ("MAILER_DATABASE_URL", ""),
            ("MAILER_DATABASE_URL", "postgres://u:hunter2hunter2@h/d?nonsense=1"),
        ] {
            let sentence = with(&[&[(name, value)], &complete[..]].concat()).err().unwrap();
            assert!(sentence.contains(name) && !sentence.contains("hunter2"), "{name}={value}: {sentence}");
        }
    }
}
