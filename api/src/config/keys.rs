//! The settings of the keys: where each ring is. Exactly one place, or none is used.

use std::time::Duration;

use url::Url;
use zeroize::Zeroizing;

use super::{ConfigError, KeysConfig, Reader};
use crate::{
    keys::{
        GENERATE,
        file::KeyFile,
        source::{KeySource, Place, Ring},
        vault::{Vault, VaultConfig, VaultToken},
    },
    oidc,
};

/// Name, default and meaning, as in [`super::SETTINGS`].
pub(super) const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "HMAC_SECRETS",
        "",
        "Required. Keys of refresh tokens, comma-separated: the first issues, all verify. Each at least 32 random \
         bytes, hex or base64",
    ),
    ("HMAC_SECRET", "", "One such key, instead of HMAC_SECRETS"),
    (
        "PASSWORD_PEPPERS",
        "",
        "Required. Keys of password proofs, comma-separated: the first is for new ones. One that verifiers still use \
         must stay in the list",
    ),
    (
        "JWT_SIGNING_KEYS",
        "",
        "Required. Ed25519 seeds of 32 bytes, comma-separated: the first signs access tokens, all verify and are in the \
         JWKS",
    ),
    (
        "HMAC_SECRETS_FILE",
        "",
        "A file with these keys, one a line, instead of HMAC_SECRETS: of this user or root, and for nobody else (0600)",
    ),
    ("PASSWORD_PEPPERS_FILE", "", "The same, instead of PASSWORD_PEPPERS"),
    ("JWT_SIGNING_KEYS_FILE", "", "The same, instead of JWT_SIGNING_KEYS"),
    (
        "KMS_PROVIDER",
        "",
        "vault: all three rings are the fields HMAC_SECRETS, PASSWORD_PEPPERS and JWT_SIGNING_KEYS of one secret in Vault or \
         OpenBao, and in no setting. Nothing: they are in the settings above",
    ),
    ("VAULT_ADDR", "", "With KMS_PROVIDER=vault: its URL; https, unless it is on this machine"),
    (
        "VAULT_TOKEN",
        "",
        "With KMS_PROVIDER=vault: its token, which may read the secret; it is prolonged as far as it can be",
    ),
    ("VAULT_TOKEN_FILE", "", "A file with the token, instead of VAULT_TOKEN, read each time"),
    (
        "VAULT_KV_PATH",
        "",
        "With KMS_PROVIDER=vault: the mount of a KV store of version 2 and the secret's path in it, as vault kv get takes \
         them together: secret/auth-api",
    ),
    ("VAULT_NAMESPACE", "", "With KMS_PROVIDER=vault: the namespace, where there are any"),
    (
        "KEY_REFRESH_SECONDS",
        "300",
        "How often keys in files or in Vault are read anew, 0 to 86400; 0: only on SIGHUP, which always does it. Keys that \
         cannot be used change nothing",
    ),
];

/// Those that say where the peppers are.
pub(super) const PEPPERS: [&str; 8] = [
    "PASSWORD_PEPPERS",
    "PASSWORD_PEPPERS_FILE",
    "KMS_PROVIDER",
    "VAULT_ADDR",
    "VAULT_TOKEN",
    "VAULT_TOKEN_FILE",
    "VAULT_KV_PATH",
    "VAULT_NAMESPACE",
];

/// Those that the commands read beside [`SETTINGS`].
pub(super) const OF_COMMANDS: [&str; 6] = [
    "DATABASE_URL",
    "ADMIN_DATABASE_URL",
    "ACCESS_TOKEN_TTL_SECONDS",
    "REFRESH_TOKEN_TTL_SECONDS",
    "LOG_FORMAT",
    "RUST_LOG",
];

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// Where these rings are. What is on this machine is read, and judged, at once.
    pub(super) fn key_source(&self, rings: &[Ring]) -> Result<KeySource, ConfigError> {
        let source = match self.optional("KMS_PROVIDER").as_deref() {
            None => KeySource::Local(
                rings.iter().map(|ring| Ok((*ring, self.place(*ring)?))).collect::<Result<_, ConfigError>>()?,
            ),
            Some("vault") => self.vault()?,
            Some(other) => {
                return Err(ConfigError(format!("KMS_PROVIDER={other} cannot be used: it is vault, or not set.")));
            }
        };
        source.check_local()?;
        Ok(source)
    }

    pub(super) fn key_refresh(&self) -> Result<Option<Duration>, ConfigError> {
        let seconds = self.number("KEY_REFRESH_SECONDS", 0, 86_400)?;
        Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
    }

    /// What the commands need for these rings. A database is only missed when one is asked.
    pub(super) fn keys_config(&self, rings: &[Ring]) -> Result<KeysConfig, ConfigError> {
        let service = if self.optional("DATABASE_URL").is_some() { self.database() } else { self.admin_database() };
        Ok(KeysConfig {
            source: self.key_source(rings)?,
            refresh: self.key_refresh()?,
            access_token_ttl: self.access_token_ttl()?,
            refresh_token_ttl: self.refresh_token_ttl()?,
            service_database: service.map_err(|error| error.to_string()),
            admin_database: self.admin_database().map_err(|error| error.to_string()),
        })
    }

    fn place(&self, ring: Ring) -> Result<Place, ConfigError> {
        if self.optional("VAULT_KV_PATH").is_some() {
            // Half a configuration would look as if it worked.
            return Err(ConfigError(
                "VAULT_KV_PATH is set and KMS_PROVIDER is not. Set KMS_PROVIDER=vault too.".into(),
            ));
        }
        let settings: &[&'static str] = match ring {
            Ring::Hmac => &["HMAC_SECRETS", "HMAC_SECRET"],
            Ring::Peppers => &["PASSWORD_PEPPERS"],
            Ring::Jwt => &["JWT_SIGNING_KEYS"],
        };
        let values =
            settings.iter().filter_map(|name| Some(Place::Environment(name, Zeroizing::new(self.optional(name)?))));
        let file = self.optional(ring.file_setting()).map(|path| Place::File(KeyFile::new(path.into())));
        let mut places: Vec<Place> = values.chain(file).collect();
        if places.len() > 1 {
            let names: Vec<&str> = settings
                .iter()
                .copied()
                .chain([ring.file_setting()])
                .filter(|name| self.optional(name).is_some())
                .collect();
            return Err(ConfigError(format!(
                "{} are both set. Put all keys into one of them, the issuing one first, and take the other away.",
                names.join(" and ")
            )));
        }
        places.pop().ok_or_else(|| {
            ConfigError(format!(
                "{} is not set. Make a key with `{GENERATE}`, keep it, and give it to every node; or name a file in {}.",
                ring.setting(),
                ring.file_setting()
            ))
        })
    }

    fn vault(&self) -> Result<KeySource, ConfigError> {
        let others = Ring::ALL.iter().flat_map(|ring| [ring.setting(), ring.file_setting()]).chain(["HMAC_SECRET"]);
        for name in others {
            if self.optional(name).is_some() {
                return Err(ConfigError(format!(
                    "{name} and KMS_PROVIDER=vault are both set. Keys come from one place: take {name} away, or KMS_PROVIDER."
                )));
            }
        }
        let address = self.required("VAULT_ADDR", "For example https://vault.example.org:8200.")?;
        let address = Url::parse(&address).ok().filter(oidc::is_safe).ok_or_else(|| {
            ConfigError(format!(
                "VAULT_ADDR={address} cannot be used: it must be an https URL, or one of this machine."
            ))
        })?;
        let token = match (self.optional("VAULT_TOKEN"), self.optional("VAULT_TOKEN_FILE")) {
            (Some(_), Some(_)) => {
                return Err(ConfigError("VAULT_TOKEN and VAULT_TOKEN_FILE are both set. Take one away.".into()));
            }
            (Some(token), None) => VaultToken::Given(Zeroizing::new(token)),
            (None, Some(path)) => VaultToken::File(KeyFile::new(path.into())),
            (None, None) => {
                return Err(ConfigError("VAULT_TOKEN is not set. It may be in a file too: VAULT_TOKEN_FILE.".into()));
            }
        };
        let whole = self.required("VAULT_KV_PATH", "For example secret/auth-api: the mount, then the path in it.")?;
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let good = |segment: &str| !["", ".", ".."].contains(&segment) && segment.bytes().all(letters);
        let (mount, path) = whole.split_once('/').filter(|_| whole.split('/').all(good)).ok_or_else(|| {
            ConfigError(format!(
                "VAULT_KV_PATH={whole} cannot be used: it must be a mount and a path, like secret/auth-api, of letters, \
                 digits, '.', '_' and '-'."
            ))
        })?;
        let config = VaultConfig {
            address,
            token,
            mount: mount.to_owned(),
            path: path.to_owned(),
            namespace: self.optional("VAULT_NAMESPACE"),
        };
        Ok(KeySource::Vault(Vault::new(config)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::with;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const VAULT: [(&str, &str); 7] = [
        ("HMAC_SECRETS", ""),
        ("PASSWORD_PEPPERS", ""),
        ("JWT_SIGNING_KEYS", ""),
        ("KMS_PROVIDER", "vault"),
        ("VAULT_ADDR", "https://vault.example.org:8200"),
        ("VAULT_TOKEN", "hvs.hunter2"),
        ("VAULT_KV_PATH", "secret/team/auth-api"),
    ];

    #[test]
    fn keys_come_from_one_place() {
        for (one, other) in [
            ("HMAC_SECRETS", "HMAC_SECRET"),
            ("HMAC_SECRETS", "HMAC_SECRETS_FILE"),
            ("PASSWORD_PEPPERS", "PASSWORD_PEPPERS_FILE"),
            ("JWT_SIGNING_KEYS", "JWT_SIGNING_KEYS_FILE"),
        ] {
            let sentence = with(&[(other, "/nowhere")]).err().unwrap();
            assert!(sentence.contains(one) && sentence.contains(other) && sentence.contains("both"), "{sentence}");
        }
        assert!(with(&[("HMAC_SECRETS", ""), ("HMAC_SECRET", KEY)]).is_ok());
        for name in ["HMAC_SECRETS", "HMAC_SECRET", "PASSWORD_PEPPERS_FILE"] {
            let sentence = with(&[&[(name, KEY)], &VAULT[..]].concat()).err().unwrap();
            assert!(
                sentence.contains(name) && sentence.contains("KMS_PROVIDER") && !sentence.contains(KEY),
                "{sentence}"
            );
        }
        assert!(with(&[("VAULT_KV_PATH", "secret/a")]).err().unwrap().contains("KMS_PROVIDER"));
        assert!(with(&[("KMS_PROVIDER", "aws")]).err().unwrap().contains("KMS_PROVIDER=aws"));
    }

    #[test]
    fn a_file_that_is_not_there_is_not_made_up_for() {
        let sentence = with(&[("HMAC_SECRETS", ""), ("HMAC_SECRETS_FILE", "/nowhere/hmac")]).err().unwrap();
        assert!(
            sentence.contains("HMAC_SECRETS_FILE=/nowhere/hmac") && sentence.contains("No such file"),
            "{sentence}"
        );
    }

    #[test]
    fn vault_is_named_completely_or_not_at_all() {
        assert!(with(&VAULT).is_ok());
        for (name, value) in [
            ("VAULT_ADDR", ""),
            ("VAULT_ADDR", "http://vault.example.org:8200"),
            ("VAULT_TOKEN", ""),
            ("VAULT_TOKEN_FILE", "/run/token"),
            ("VAULT_KV_PATH", ""),
            ("VAULT_KV_PATH", "secret"),
            ("VAULT_KV_PATH", "secret/../sys"),
            ("VAULT_KV_PATH", "secret//a"),
            ("VAULT_KV_PATH", "secret/a?version=1"),
            ("KEY_REFRESH_SECONDS", "86401"),
        ] {
            let sentence = with(&[&[(name, value)], &VAULT[..]].concat()).err().unwrap();
            assert!(sentence.contains(name) && !sentence.contains("hunter2"), "{name}={value}: {sentence}");
        }
    }
}
