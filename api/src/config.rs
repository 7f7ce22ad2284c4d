//! Every setting: its name, its default, what it means, and its check. Nothing else reads the environment.

mod adoption;
mod alerts;
mod clients;
mod federation;
mod help;
mod issuer;
mod keys;
mod limits;
mod mail;
mod metrics;
mod telemetry;

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use cookie::SameSite;
use zeroize::Zeroizing;

use self::help::settings;
pub use self::help::{admin_help, adoption_help, alerts_help, help, keys_help};
pub use self::metrics::MetricsListen;
use crate::{
    adopted_token::AdoptedTokens,
    alerts::{AlertsConfig, Receivers},
    client_address::Proxies,
    cookies::CookiePolicy,
    keys::{
        file::KeyFile,
        source::{KeySource, Ring},
    },
    limits::LimitsConfig,
    mailer::MailerConfig,
    oidc::FederationConfig,
    origin::Origins,
    password::Params,
    routes::metadata::Metadata,
    server::ClientBounds,
    telemetry::TelemetryConfig,
};

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err("is neither pretty nor json".into()),
        }
    }
}

/// The log's settings: read before all others, so that what is wrong with those can be said.
#[derive(Debug)]
pub struct LogConfig {
    /// Pretty or JSON.
    pub format: LogFormat,
    /// EnvFilter directives.
    pub filter: String,
}

/// How to reach the database.
#[derive(Clone)]
pub struct DatabaseConfig {
    /// As tokio-postgres reads it.
    pub postgres: tokio_postgres::Config,
    /// Connections at most.
    pub pool_size: usize,
    /// Whether statements are prepared on their connection, which is then ours until we close it.
    pub prepared: bool,
}

/// How passwords are hashed.
#[derive(Debug)]
pub struct PasswordConfig {
    /// Of new verifiers.
    pub params: Params,
    /// Hashes at once.
    pub concurrency: usize,
    /// Hashes waiting.
    pub queue: usize,
}

/// What `auth-api keys` needs to know.
pub struct KeysConfig {
    /// Where the keys are.
    pub source: KeySource,
    /// How often the service reads them anew; none: only on SIGHUP.
    pub refresh: Option<Duration>,
    /// Life of an access token.
    pub access_token_ttl: Duration,
    /// Life of a refresh token.
    pub refresh_token_ttl: Duration,
    /// The service's own login, which knows the peppers in use; or why there is none.
    pub service_database: Result<DatabaseConfig, String>,
    /// A login that sees all sessions; or why there is none.
    pub admin_database: Result<DatabaseConfig, String>,
}

/// All settings, checked.
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What clients may take.
    pub clients: ClientBounds,
    /// Where metrics are served.
    pub metrics_listen: MetricsListen,
    /// The database.
    pub database: DatabaseConfig,
    /// Where the keys are.
    pub keys: KeySource,
    /// How often they are read anew; none: only on SIGHUP.
    pub key_refresh: Option<Duration>,
    /// Refresh tokens of a system that was taken over.
    pub adopted_tokens: Option<AdoptedTokens>,
    /// The claim iss of access tokens.
    pub issuer: String,
    /// The claim aud of access tokens.
    pub audience: String,
    /// What OAuth clients read first.
    pub metadata: Option<Metadata>,
    /// Life of an access token.
    pub access_token_ttl: Duration,
    /// What a login asks the database for.
    pub refresh_token_ttl: Duration,
    /// How long it is remembered whether a slug is free.
    pub slug_cache: Duration,
    /// The same, and at most, for who does not want to be remembered.
    pub unremembered_ttl: Duration,
    /// How often this process looks after the database; none: others do.
    pub maintenance_interval: Option<Duration>,
    /// How browsers are to treat cookies.
    pub cookies: CookiePolicy,
    /// Whose pages may call.
    pub origins: Origins,
    /// Password hashing.
    pub passwords: PasswordConfig,
    /// How often clients may ask.
    pub limits: LimitsConfig,
    /// Whose word is taken for an address.
    pub proxies: Proxies,
    /// Sending mail; none: this process sends none.
    pub mailer: Option<MailerConfig>,
    /// Telling somebody on call; none: this process tells nobody.
    pub alerts: Option<AlertsConfig>,
    /// Logins through an OpenID provider.
    pub federation: Option<FederationConfig>,
    /// Traces and error reports.
    pub telemetry: TelemetryConfig,
}

/// Why the service cannot start: a sentence that says what to do.
#[derive(Debug, PartialEq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for ConfigError {
    fn from(sentence: String) -> Self {
        Self(sentence)
    }
}

/// Looks settings up and checks them.
struct Reader<F>(F);

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// The value, or none when it is not set, or set to nothing.
    fn optional(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> String {
        let default = || settings().find(|(other, ..)| *other == name).map_or("", |(_, default, _)| default);
        self.optional(name).unwrap_or_else(|| default().to_owned())
    }

    fn required(&self, name: &str, hint: &str) -> Result<String, ConfigError> {
        self.optional(name).ok_or_else(|| ConfigError(format!("{name} is not set. {hint}")))
    }

    /// A secret, from the setting of that name or from the file that `NAME_FILE` names: as keys are (`keys::file`), but read
    /// at the start only. One of them, or none.
    fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, ConfigError> {
        let file = format!("{name}_FILE");
        match (self.optional(name), self.optional(&file)) {
            (Some(_), Some(_)) => Err(ConfigError(format!("{name} and {file} are both set. Take one away."))),
            (Some(secret), None) => Ok(Some(Zeroizing::new(secret))),
            (None, Some(path)) => match KeyFile::new(path.clone().into()).read() {
                Ok((secret, _)) => Ok(Some(secret)),
                Err(why) => Err(ConfigError(format!("{file}={path} cannot be used: {why}"))),
            },
            (None, None) => Ok(None),
        }
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<T, ConfigError> {
        let value = self.text(name);
        value.parse().map_err(|why| ConfigError(format!("{name}={value} cannot be used: {why}.")))
    }

    fn number(&self, name: &str, min: u64, max: u64) -> Result<u64, ConfigError> {
        let value = self.parsed(name)?;
        if (min..=max).contains(&value) {
            Ok(value)
        } else {
            Err(ConfigError(format!("{name}={value} cannot be used: it must be between {min} and {max}.")))
        }
    }

    fn database(&self) -> Result<DatabaseConfig, ConfigError> {
        let url = self.required("DATABASE_URL", "For example postgres://auth_service:password@127.0.0.1:5432/auth.")?;
        self.database_at("DATABASE_URL", &url, self.number("DB_POOL_SIZE", 1, 1000)? as usize)
    }

    fn admin_database(&self) -> Result<DatabaseConfig, ConfigError> {
        let name = ["ADMIN_DATABASE_URL", "DATABASE_URL"].into_iter().find(|name| self.optional(name).is_some());
        let name = name.unwrap_or("ADMIN_DATABASE_URL");
        let url = self.required(name, "For example postgres://auth_operator:password@127.0.0.1:5432/auth.")?;
        self.database_at(name, &url, 1)
    }

    fn database_at(&self, setting: &str, url: &str, pool_size: usize) -> Result<DatabaseConfig, ConfigError> {
        // The parser's message may quote the URL, and with it the password: only its kind is told.
        let mut postgres = tokio_postgres::Config::from_str(url).map_err(|_| {
            ConfigError(format!(
                "{setting} cannot be read. It must look like postgres://user:password@host:5432/database."
            ))
        })?;
        if postgres.get_application_name().is_none() {
            postgres.application_name("auth-api");
        }
        let prepared = match self.text("DB_PREPARED_STATEMENTS").as_str() {
            "on" => true,
            "off" => false,
            other => {
                return Err(ConfigError(format!("DB_PREPARED_STATEMENTS={other} cannot be used: it is on or off.")));
            }
        };
        Ok(DatabaseConfig { postgres, pool_size, prepared })
    }

    fn passwords(&self) -> Result<PasswordConfig, ConfigError> {
        let params = Params {
            memory_kib: self.number("ARGON2_MEMORY_KIB", 8, u64::from(u32::MAX))? as u32,
            iterations: self.number("ARGON2_ITERATIONS", 1, u64::from(u32::MAX))? as u32,
            parallelism: self.number("ARGON2_PARALLELISM", 1, 16)? as u32,
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let concurrency = match self.optional("ARGON2_CONCURRENCY") {
            None => processors,
            Some(_) => self.number("ARGON2_CONCURRENCY", 1, 256)? as usize,
        };
        let queue = self.number("ARGON2_QUEUE", 0, 100_000)? as usize;
        Ok(PasswordConfig { params: params.checked()?, concurrency, queue })
    }

    fn same_site(&self) -> Result<SameSite, ConfigError> {
        match self.text("COOKIE_SAME_SITE").as_str() {
            "lax" => Ok(SameSite::Lax),
            "strict" => Ok(SameSite::Strict),
            "none" => Ok(SameSite::None),
            other => Err(ConfigError(format!("COOKIE_SAME_SITE={other} cannot be used: it is lax, strict or none."))),
        }
    }

    fn access_token_ttl(&self) -> Result<Duration, ConfigError> {
        Ok(Duration::from_secs(self.number("ACCESS_TOKEN_TTL_SECONDS", 10, 86_400)?))
    }

    fn refresh_token_ttl(&self) -> Result<Duration, ConfigError> {
        Ok(Duration::from_secs(self.number("REFRESH_TOKEN_TTL_SECONDS", 60, 31_536_000)?))
    }

    fn config(&self) -> Result<Config, ConfigError> {
        let (issuer, metadata) = self.issuer()?;
        Ok(Config {
            listen: self.parsed("AUTH_LISTEN")?,
            clients: self.client_bounds()?,
            metrics_listen: self.metrics_listen()?,
            database: self.database()?,
            federation: self.federation()?,
            keys: self.key_source(&Ring::ALL)?,
            key_refresh: self.key_refresh()?,
            adopted_tokens: self.adopted_tokens()?,
            issuer,
            audience: self.text("JWT_AUDIENCE"),
            metadata,
            access_token_ttl: self.access_token_ttl()?,
            refresh_token_ttl: self.refresh_token_ttl()?,
            slug_cache: Duration::from_secs(self.number("SLUG_CACHE_SECONDS", 0, 60)?),
            unremembered_ttl: Duration::from_secs(self.number("UNREMEMBERED_TTL_SECONDS", 60, 31_536_000)?),
            maintenance_interval: match self.number("MAINTENANCE_INTERVAL_SECONDS", 0, 86_400)? {
                0 => None,
                seconds => Some(Duration::from_secs(seconds)),
            },
            cookies: CookiePolicy { same_site: self.same_site()? },
            origins: self.parsed("CORS_ORIGINS")?,
            passwords: self.passwords()?,
            limits: self.limits()?,
            proxies: self.proxies()?,
            mailer: self.mailer()?,
            alerts: self.alerts()?,
            telemetry: self.telemetry()?,
        })
    }
}

/// Reads the settings of a command for operators; `lookup` is the environment.
pub fn admin_database(lookup: impl Fn(&str) -> Option<String>) -> Result<DatabaseConfig, ConfigError> {
    Reader(lookup).admin_database()
}

/// Reads where these keys are, and nothing else; `lookup` is the environment.
pub fn key_source(lookup: impl Fn(&str) -> Option<String>, rings: &[Ring]) -> Result<KeySource, ConfigError> {
    Reader(lookup).key_source(rings)
}

/// Reads the settings of `auth-api keys`, for these rings; `lookup` is the environment.
pub fn keys_config(lookup: impl Fn(&str) -> Option<String>, rings: &[Ring]) -> Result<KeysConfig, ConfigError> {
    Reader(lookup).keys_config(rings)
}

/// Reads who is told of alarms; `lookup` is the environment.
pub fn alert_receivers(lookup: impl Fn(&str) -> Option<String>) -> Result<Receivers, ConfigError> {
    Reader(lookup).required_alert_receivers()
}

/// Reads the log's settings; `lookup` is the environment.
pub fn log_config(lookup: impl Fn(&str) -> Option<String>) -> Result<LogConfig, ConfigError> {
    let reader = Reader(lookup);
    Ok(LogConfig { format: reader.parsed("LOG_FORMAT")?, filter: reader.text("RUST_LOG") })
}

/// Reads all other settings; `lookup` is the environment.
pub fn config(lookup: impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    Reader(lookup).config()
}

#[cfg(test)]
mod tests {
    use super::help::ADMIN_SETTINGS;
    use super::*;
    use crate::keys::GENERATE;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const COMPLETE: &[(&str, &str)] = &[
        ("DATABASE_URL", "postgres://auth_service:hunter2hunter2@127.0.0.1:5432/auth"),
        ("HMAC_SECRETS", KEY),
        ("PASSWORD_PEPPERS", KEY),
        ("JWT_SIGNING_KEYS", KEY),
    ];

    /// The complete settings with some changed; an empty value stands for one that is not set.
    pub(super) fn with(changes: &[(&str, &str)]) -> Result<Config, String> {
        let all = [changes, COMPLETE].concat();
        config(|name| all.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_required_settings_are_enough_and_the_rest_has_defaults() {
        let config = with(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.access_token_ttl.as_secs(), 900);
        assert_eq!(config.passwords.params.to_string(), "m=65536,t=3,p=1");
        assert_eq!(config.database.postgres.get_application_name(), Some("auth-api"));
    }

    #[test]
    fn a_missing_or_weak_key_says_how_to_make_one() {
        for name in ["HMAC_SECRETS", "PASSWORD_PEPPERS", "JWT_SIGNING_KEYS"] {
            for value in ["", "secret", "0000000000000000000000000000000000000000000000000000000000000000"] {
                let sentence = with(&[(name, value)]).err().unwrap();
                assert!(sentence.contains(name) && sentence.contains(GENERATE), "{sentence}");
            }
        }
        assert!(with(&[("DATABASE_URL", "")]).err().unwrap().contains("DATABASE_URL is not set"));
    }

    #[test]
    fn what_cannot_be_used_is_named_and_secrets_are_not_repeated() {
        for (name, value) in [
            ("AUTH_LISTEN", "8080"),
            ("DB_POOL_SIZE", "0"),
            ("DB_PREPARED_STATEMENTS", "maybe"),
            ("ACCESS_TOKEN_TTL_SECONDS", "9"),
            ("ARGON2_MEMORY_KIB", "7"),
            ("MAINTENANCE_INTERVAL_SECONDS", "86401"),
            ("ARGON2_CONCURRENCY", "many"),
            ("RATE_LIMIT_LOGIN", "30"),
            ("MAX_CONNECTIONS", "0"),
            ("MAX_CONNECTIONS_PER_NETWORK", "0"),
            ("CLIENT_TIMEOUT_SECONDS", "0"),
            ("METRICS_LISTEN", "9090"),
            ("TRUSTED_PROXIES", "10.0.0.0/33"),
            ("FORWARDED_HEADER", "x-real-ip"),
        ] {
            assert!(with(&[(name, value)]).err().unwrap().contains(name), "{name}");
        }
        let sentence = with(&[("DATABASE_URL", "postgres://u:hunter2@h/d?nonsense=1")]).err().unwrap();
        assert!(!sentence.contains("hunter2"), "{sentence}");
        assert!(log_config(|_| Some("yaml".into())).is_err());
    }

    #[test]
    fn every_setting_that_is_read_is_in_the_help() {
        let read = std::cell::RefCell::new(Vec::new());
        let lookup = |name: &str| {
            read.borrow_mut().push(name.to_owned());
            COMPLETE.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        };
        assert!(log_config(lookup).is_ok() && config(lookup).is_ok() && admin_database(lookup).is_ok());
        // With Vault, other settings are read.
        let in_vault = |name: &str| match (name, lookup(name)) {
            ("KMS_PROVIDER", _) => Some("vault".to_owned()),
            ("VAULT_ADDR", _) => Some("http://127.0.0.1:8200".to_owned()),
            ("VAULT_TOKEN" | "VAULT_KV_PATH", _) => Some("a/b".to_owned()),
            (name, value) => value.filter(|_| name == "DATABASE_URL"),
        };
        assert!(config(in_vault).is_ok());
        let (help, admin_help) = (help(), admin_help());
        assert!(ADMIN_SETTINGS.iter().all(|name| admin_help.contains(name)));
        for (name, ..) in settings() {
            assert!(help.contains(name) && read.borrow().iter().any(|other| other == name), "{name}");
        }
        for name in read.take() {
            assert!(settings().any(|(other, ..)| *other == name), "{name}");
        }
    }
}
