//! Refresh tokens of a system that was taken over (`auth-api adopt`): what people still hold, good for one exchange. Pure.
//!
//! The database knows such a token by what the old system kept of it: proof = SHA-256(token), or HMAC-SHA-256(its key,
//! token); verifier = SHA-256(proof). It has no tag, so one that was made up does reach the database, where it is a look-up
//! by key that changes nothing; and none is looked at unless `ADOPTED_TOKEN_FORMAT` says that there are any.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    keys::{TokenKeys, hmac_sha256},
    personal_access_token,
    refresh_token::{self, Presented, RotationNonce, TokenSecret},
};

/// The shortest that is looked at, in bytes: nobody relied on less.
pub const MIN_LENGTH: usize = 16;
/// The longest: a JWT with much in it.
pub const MAX_LENGTH: usize = 4096;

/// How the old system kept its tokens.
pub enum Format {
    /// SHA-256 of the token, or the token itself, which `auth-api adopt` hashed so.
    Sha256,
    /// HMAC-SHA-256 of the token, with this key.
    HmacSha256(Zeroizing<Vec<u8>>),
}

impl Format {
    /// Of the settings: the format's name, and its key where it has one. An error is a sentence's end.
    pub fn new(name: &str, key: Option<&str>) -> Result<Self, &'static str> {
        match (name, key) {
            ("plain" | "sha256-hex", None) => Ok(Self::Sha256),
            ("plain" | "sha256-hex", Some(_)) => Err("it has no key: ADOPTED_TOKEN_KEY is for hmac-sha256"),
            ("hmac-sha256", Some(key)) => Ok(Self::HmacSha256(parse_key(key)?)),
            ("hmac-sha256", None) => Err("it needs ADOPTED_TOKEN_KEY, the key that the old system used"),
            _ => Err("it is plain, sha256-hex or hmac-sha256"),
        }
    }

    fn proof(&self, token: &str) -> [u8; 32] {
        match self {
            Self::Sha256 => Sha256::digest(token).into(),
            Self::HmacSha256(key) => hmac_sha256(key, &[token.as_bytes()]),
        }
    }
}

/// Most programs use the text of their setting as the key, as it is; raw bytes are spelled `hex:…` or `base64:…`.
fn parse_key(text: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    let key = if let Some(hex) = text.strip_prefix("hex:") {
        let pairs = hex.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let is_hex = hex.len().is_multiple_of(2) && hex.bytes().all(|b| b.is_ascii_hexdigit());
        is_hex.then(|| pairs.map(byte).collect()).flatten().ok_or("ADOPTED_TOKEN_KEY is not hex behind hex:")?
    } else if let Some(base64) = text.strip_prefix("base64:") {
        STANDARD.decode(base64).map_err(|_| "ADOPTED_TOKEN_KEY is not base64 behind base64:")?
    } else {
        text.as_bytes().to_vec()
    };
    if key.is_empty() { Err("ADOPTED_TOKEN_KEY is empty") } else { Ok(Zeroizing::new(key)) }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Format(redacted)")
    }
}

/// The settings: there are such tokens.
#[derive(Debug)]
pub struct AdoptedTokens {
    /// How they were kept.
    pub format: Format,
    /// The cookie that the old system kept them in, where it did.
    pub cookie: Option<String>,
}

impl AdoptedTokens {
    /// Whether it can be such a token. What begins like one of ours is none.
    pub fn may_have(&self, token: &str) -> bool {
        let is_ours = [refresh_token::PREFIX, personal_access_token::PREFIX].iter().any(|p| token.starts_with(p));
        (MIN_LENGTH..=MAX_LENGTH).contains(&token.len()) && !is_ours
    }

    /// What was shown, if it can be such a token.
    fn read(&self, token: &str) -> Option<AdoptedToken> {
        self.may_have(token)
            .then(|| AdoptedToken { proof: self.format.proof(token), text: Zeroizing::new(token.to_owned()) })
    }
}

/// What may be an old token. No Debug: it is a secret.
pub struct AdoptedToken {
    text: Zeroizing<String>,
    proof: [u8; 32],
}

impl AdoptedToken {
    /// What is shown to the database.
    pub fn proof(&self) -> [u8; 32] {
        self.proof
    }

    /// The secret of its successor: whoever has this token, the key and the nonce gets the same one. The session is not
    /// known yet.
    ///
    /// None when the key that the nonce names is not in the ring any more.
    fn successor(&self, keys: &TokenKeys, nonce: RotationNonce) -> Option<TokenSecret> {
        let key = refresh_token::key_of(keys, nonce)?;
        Some(TokenSecret::new(key.derive_adopted(&[&nonce, self.text.as_bytes()])))
    }

    /// What stands for its session in a CSRF token, as long as that is not known.
    fn csrf_subject(&self) -> Uuid {
        let [high, low] = [0, 8].map(|at| self.proof[at..at + 8].try_into().map_or(0, u64::from_be_bytes));
        Uuid::from_u64_pair(high, low)
    }
}

/// What a client shows for a refresh, or to be logged out.
pub enum Shown<'k> {
    /// A token of ours, authentic by its tag.
    Own(Presented<'k>),
    /// What may be one of the system that was taken over.
    Adopted(AdoptedToken),
}

impl<'k> Shown<'k> {
    /// Reads a token. None when it cannot be one.
    pub fn read(keys: &'k TokenKeys, adopted: Option<&AdoptedTokens>, token: &str) -> Option<Self> {
        match adopted.and_then(|adopted| adopted.read(token)) {
            Some(adopted) => Some(Self::Adopted(adopted)),
            None => refresh_token::decode(keys, token).map(Self::Own),
        }
    }

    /// Its session, where it tells.
    pub fn session_id(&self) -> Option<Uuid> {
        match self {
            Self::Own(presented) => Some(presented.session_id),
            Self::Adopted(_) => None,
        }
    }

    /// An adopted session has never been rotated when its old token is exchanged.
    pub fn generation(&self) -> i32 {
        match self {
            Self::Own(presented) => presented.generation,
            Self::Adopted(_) => 0,
        }
    }

    /// The database's own mark on it, where it carries one.
    pub fn ticket(&self) -> Option<&[u8]> {
        match self {
            Self::Own(presented) => Some(&presented.ticket),
            Self::Adopted(_) => None,
        }
    }

    /// What is shown to the database.
    pub fn proof(&self) -> [u8; 32] {
        match self {
            Self::Own(presented) => presented.secret.proof(),
            Self::Adopted(adopted) => adopted.proof(),
        }
    }

    /// A nonce for rotating it.
    pub fn new_nonce(&self, keys: &TokenKeys) -> RotationNonce {
        match self {
            Self::Own(presented) => presented.new_nonce(),
            Self::Adopted(_) => refresh_token::new_nonce(keys.first()),
        }
    }

    /// The secret of its successor; none when the key that the nonce names is not in the ring any more.
    pub fn successor(&self, keys: &TokenKeys, nonce: RotationNonce, next_generation: i32) -> Option<TokenSecret> {
        match self {
            Self::Own(presented) => presented.successor(keys, nonce, next_generation),
            Self::Adopted(adopted) => adopted.successor(keys, nonce),
        }
    }

    /// Its own secret, for a token that stays as it is. One of another system never does.
    pub fn into_secret(self) -> Option<TokenSecret> {
        match self {
            Self::Own(presented) => Some(presented.secret),
            Self::Adopted(_) => None,
        }
    }

    /// Whose CSRF token must come with it in a cookie.
    pub fn csrf_subject(&self) -> Uuid {
        match self {
            Self::Own(presented) => presented.session_id,
            Self::Adopted(adopted) => adopted.csrf_subject(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const OTHER_KEY: &str = "f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const OLD: &str = "an old refresh token";

    fn ring(keys: &[&str]) -> TokenKeys {
        TokenKeys::parse("HMAC_SECRETS", &keys.join(",")).unwrap()
    }

    fn plain() -> AdoptedTokens {
        AdoptedTokens { format: Format::new("plain", None).unwrap(), cookie: None }
    }

    #[test]
    fn the_proof_is_what_the_old_system_kept() {
        let hex = |proof: [u8; 32]| proof.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let proof = |name, key, token| hex(Format::new(name, key).unwrap().proof(token));
        // echo -n 'an old refresh token' | sha256sum
        let expected = "cffee87888180dae212f6f3083aac9aa24711511adad79ec0b777be19df64bb3";
        assert_eq!(proof("sha256-hex", None, OLD), expected);
        assert_eq!(proof("plain", None, OLD), expected);
        // RFC 4231, test case 2, with its key in each spelling.
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        for key in ["Jefe", "hex:4a656665", "base64:SmVmZQ=="] {
            assert_eq!(proof("hmac-sha256", Some(key), "what do ya want for nothing?"), expected, "{key}");
        }
    }

    #[test]
    fn a_format_that_cannot_be_is_refused_without_repeating_the_key() {
        for (name, key) in [
            ("sha256", None),
            ("SHA256-HEX", None),
            ("plain", Some("Jefe")),
            ("hmac-sha256", None),
            ("hmac-sha256", Some("hex:4a65666")),
            ("hmac-sha256", Some("hex:+a65")),
            ("hmac-sha256", Some("hex:")),
            ("hmac-sha256", Some("base64:SmVmZQ")),
        ] {
            let why = Format::new(name, key).unwrap_err();
            assert!(!why.contains("Jefe") && !why.contains("4a65"), "{why}");
        }
    }

    #[test]
    fn only_what_can_be_an_old_token_is_looked_at() {
        let adopted = plain();
        assert!(adopted.read(OLD).is_some());
        assert!(adopted.read(&"x".repeat(4096)).is_some());
        for token in ["", "short", &"x".repeat(4097), "asr_AAAAAAAAAAAAAAAAAAAAAAAA", "asp_AAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(adopted.read(token).is_none(), "{token}");
        }
        assert!(Shown::read(&ring(&[KEY]), None, OLD).is_none(), "not without the setting");
        assert!(matches!(Shown::read(&ring(&[KEY]), Some(&adopted), OLD), Some(Shown::Adopted(_))));
    }

    #[test]
    fn a_retry_gets_the_same_successor_as_long_as_its_key_is_there() {
        let old = plain().read(OLD).unwrap();
        let (before, after, without) = (ring(&[KEY]), ring(&[OTHER_KEY, KEY]), ring(&[OTHER_KEY]));
        let nonce = refresh_token::new_nonce(before.first());
        let successor = old.successor(&before, nonce).unwrap().proof();
        assert_eq!(old.successor(&after, nonce).unwrap().proof(), successor);
        assert!(old.successor(&without, nonce).is_none());
        let other = refresh_token::new_nonce(before.first());
        assert_ne!(old.successor(&before, other).unwrap().proof(), successor);
        let another = plain().read("another refresh token").unwrap();
        assert_ne!(another.successor(&before, nonce).unwrap().proof(), successor);
        assert_ne!(another.csrf_subject(), old.csrf_subject());
    }
}
