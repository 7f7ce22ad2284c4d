//! Where the keys are kept: in settings, in files, or in Vault. Each ring has one place, which the settings name; when
//! that place does not give good keys, nothing else is asked.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use zeroize::Zeroizing;

use super::{KeyError, KeyRings, Peppers, SigningKeys, TokenKeys, file::KeyFile, vault::Vault};

/// A ring, by what its keys are for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ring {
    /// Refresh tokens.
    Hmac,
    /// Password proofs.
    Peppers,
    /// Access tokens.
    Jwt,
}

impl Ring {
    /// All rings.
    pub const ALL: [Self; 3] = [Self::Hmac, Self::Peppers, Self::Jwt];

    /// The setting that has its keys, and the field of a secret in Vault that does.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Hmac => "HMAC_SECRETS",
            Self::Peppers => "PASSWORD_PEPPERS",
            Self::Jwt => "JWT_SIGNING_KEYS",
        }
    }

    /// The setting that names the file that has them.
    pub fn file_setting(self) -> &'static str {
        match self {
            Self::Hmac => "HMAC_SECRETS_FILE",
            Self::Peppers => "PASSWORD_PEPPERS_FILE",
            Self::Jwt => "JWT_SIGNING_KEYS_FILE",
        }
    }
}

/// Where one ring is kept on this machine.
pub enum Place {
    /// In the setting of that name.
    Environment(&'static str, Zeroizing<String>),
    /// In a file.
    File(KeyFile),
}

/// Where the rings are kept.
pub enum KeySource {
    /// On this machine.
    Local(Vec<(Ring, Place)>),
    /// All of them as the fields of one secret.
    Vault(Vault),
}

/// A ring as its source has it. No Debug: it has the keys.
pub struct Stored {
    /// Which.
    pub ring: Ring,
    /// Where it was read, for messages.
    pub origin: String,
    /// The keys, comma-separated.
    pub text: Zeroizing<String>,
    /// When its place was last changed, where that is known.
    pub changed_at: Option<DateTime<Utc>>,
    /// What was read beside it, for a change that must not undo somebody else's.
    pub revision: Revision,
}

/// What is compared before a change is written.
pub enum Revision {
    /// Nothing: it cannot be written.
    Fixed,
    /// The file's content.
    File,
    /// The secret's version and all its fields.
    Vault(u32, serde_json::Map<String, serde_json::Value>),
}

impl KeySource {
    /// Reads these rings.
    pub async fn read(&self, rings: &[Ring]) -> Result<Vec<Stored>, KeyError> {
        match self {
            Self::Local(_) => self.read_local(rings),
            Self::Vault(vault) => vault.read(rings).await,
        }
    }

    /// The same, of a source on this machine; nothing of another.
    fn read_local(&self, rings: &[Ring]) -> Result<Vec<Stored>, KeyError> {
        let Self::Local(places) = self else { return Ok(Vec::new()) };
        let wanted = places.iter().filter(|(ring, _)| rings.contains(ring));
        wanted.map(|(ring, place)| place.read(*ring)).collect()
    }

    /// Whether what can be had without asking another machine is good: for the start, which says all at once.
    pub fn check_local(&self) -> Result<(), KeyError> {
        for stored in self.read_local(&Ring::ALL)? {
            match stored.ring {
                Ring::Hmac => TokenKeys::parse(&stored.origin, &stored.text).map(drop),
                Ring::Peppers => Peppers::parse(&stored.origin, &stored.text).map(drop),
                Ring::Jwt => SigningKeys::parse(&stored.origin, &stored.text).map(drop),
            }?;
        }
        Ok(())
    }

    /// All keys.
    pub async fn load(&self) -> Result<KeyRings, KeyError> {
        let stored = self.read(&Ring::ALL).await?;
        let of = |ring| {
            let found = stored.iter().find(|stored| stored.ring == ring);
            found.ok_or_else(|| format!("{} is not set.", ring.setting()))
        };
        let (hmac, peppers, jwt) = (of(Ring::Hmac)?, of(Ring::Peppers)?, of(Ring::Jwt)?);
        Ok(KeyRings {
            token_keys: Arc::new(TokenKeys::parse(&hmac.origin, &hmac.text)?),
            peppers: Arc::new(Peppers::parse(&peppers.origin, &peppers.text)?),
            signing_keys: Arc::new(SigningKeys::parse(&jwt.origin, &jwt.text)?),
        })
    }

    /// The peppers alone.
    pub async fn load_peppers(&self) -> Result<Peppers, KeyError> {
        match self.read(&[Ring::Peppers]).await?.first() {
            Some(stored) => Peppers::parse(&stored.origin, &stored.text),
            None => Err(format!("{} is not set.", Ring::Peppers.setting())),
        }
    }

    /// Whether it can have changed since it was read: settings cannot.
    pub fn can_change(&self) -> bool {
        match self {
            Self::Vault(_) => true,
            Self::Local(places) => places.iter().any(|(_, place)| matches!(place, Place::File(_))),
        }
    }

    /// Puts other keys in the place of those that were read, unless somebody else has done so meanwhile.
    pub async fn replace(&self, stored: &Stored, text: Zeroizing<String>) -> Result<(), KeyError> {
        match self {
            Self::Vault(vault) => vault.replace(stored, text).await,
            Self::Local(places) => match places.iter().find(|(ring, _)| *ring == stored.ring) {
                Some((_, Place::File(file))) => file.replace(&stored.text, &text),
                _ => Err(format!("{} is in the environment, which nothing can change from here.", stored.origin)),
            },
        }
    }
}

impl Place {
    fn read(&self, ring: Ring) -> Result<Stored, KeyError> {
        match self {
            Self::Environment(setting, value) => Ok(Stored {
                ring,
                origin: (*setting).to_owned(),
                text: value.clone(),
                changed_at: None,
                revision: Revision::Fixed,
            }),
            Self::File(file) => {
                let origin = format!("{}={}", ring.file_setting(), file.path().display());
                let (text, changed_at) = file.read().map_err(|why| format!("{origin} cannot be used: {why}"))?;
                Ok(Stored { ring, origin, text, changed_at: Some(changed_at), revision: Revision::File })
            }
        }
    }
}
