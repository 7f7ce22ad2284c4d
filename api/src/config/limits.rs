//! The settings of limits and of whose word is taken for an address.

use super::{ConfigError, Reader};
use crate::{client_address::Proxies, limits::LimitsConfig};

/// Name, default and meaning, as in [`super::SETTINGS`].
pub(super) const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "TRUSTED_PROXIES",
        "",
        "Networks of your own proxies, comma-separated (10.0.0.0/8,2001:db8::/32): what they say is taken for the \
         client's address. Without it the connection's address is",
    ),
    ("FORWARDED_HEADER", "x-forwarded-for", "Where they say it: x-forwarded-for, or forwarded (RFC 7239)"),
    (
        "RATE_LIMIT_LOGIN",
        "1000/10m",
        "Logins by password, of one network (/24, /64): so many at once and as many again, evenly, in that time (s, m, \
         h, d). off, here and below: no limit",
    ),
    ("RATE_LIMIT_LOGIN_ACCOUNT", "200/10m", "The same, of one account, or of an e-mail that has none"),
    ("RATE_LIMIT_SIGNUP", "300/10m", "Sign-ups, of one network: their answer tells which e-mails have an account"),
    ("RATE_LIMIT_SIGNUP_ACCOUNT", "20/10m", "The same, of one e-mail"),
    ("RATE_LIMIT_MAIL", "100/10m", "What sends mail to an address that the client names, of one network"),
    ("RATE_LIMIT_MAIL_ACCOUNT", "10/1h", "The same, to one address"),
    ("RATE_LIMIT_MAIL_TOKEN", "300/10m", "Tokens from mail that are shown, of one network"),
    ("RATE_LIMIT_PASSWORD", "300/10m", "Passwords that logged-in users show, of one network"),
    ("RATE_LIMIT_LOOKUP", "1200/10m", "Slugs that are looked up, of one network"),
    (
        "RATE_LIMIT_REFRESH",
        "120000/1m",
        "Refreshes, of one network, counted by each process of its own; the database limits them by session \
         (auth_sessions.refresh_burst)",
    ),
    ("RATE_LIMIT_REQUESTS", "120000/1m", "All other requests, the same way"),
];

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    pub(super) fn limits(&self) -> Result<LimitsConfig, ConfigError> {
        Ok(LimitsConfig {
            log_in: self.parsed("RATE_LIMIT_LOGIN")?,
            log_in_account: self.parsed("RATE_LIMIT_LOGIN_ACCOUNT")?,
            sign_up: self.parsed("RATE_LIMIT_SIGNUP")?,
            sign_up_account: self.parsed("RATE_LIMIT_SIGNUP_ACCOUNT")?,
            mail: self.parsed("RATE_LIMIT_MAIL")?,
            mail_account: self.parsed("RATE_LIMIT_MAIL_ACCOUNT")?,
            mail_token: self.parsed("RATE_LIMIT_MAIL_TOKEN")?,
            password: self.parsed("RATE_LIMIT_PASSWORD")?,
            look_up: self.parsed("RATE_LIMIT_LOOKUP")?,
            refresh: self.parsed("RATE_LIMIT_REFRESH")?,
            requests: self.parsed("RATE_LIMIT_REQUESTS")?,
        })
    }

    pub(super) fn proxies(&self) -> Result<Proxies, ConfigError> {
        let trusted = self.text("TRUSTED_PROXIES");
        let header = self.parsed("FORWARDED_HEADER")?;
        Proxies::parse(&trusted, header)
            .map_err(|why| ConfigError(format!("TRUSTED_PROXIES={trusted} cannot be used: {why}.")))
    }
}
