//! The personal access token: what it looks like. Pure.
//!
//! `asp_` + base64url (no padding, canonical) of `lookup_id 16 | secret 32`. The database finds it by the one and keeps
//! the verifier of the other: proof = SHA-256(secret), verifier = SHA-256(proof).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::keys;

/// What every personal access token starts with: tells it from a JWT by a look, and scanners for leaked secrets know it.
pub const PREFIX: &str = "asp_";
/// The length of every one, in characters.
const LENGTH: usize = PREFIX.len() + 64;

/// The two parts of a token. No Debug: it is a secret.
pub struct PersonalAccessToken(Zeroizing<[u8; 48]>);

impl PersonalAccessToken {
    /// A new one.
    pub fn random() -> Self {
        Self(Zeroizing::new(keys::random()))
    }

    /// The token that is spelled so; nothing when it has another form.
    pub fn decode(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(PREFIX).filter(|_| text.len() == LENGTH)?;
        let mut bytes = Zeroizing::new([0; 48]);
        URL_SAFE_NO_PAD.decode_slice(encoded, &mut *bytes).ok()?;
        Some(Self(bytes))
    }

    /// As the user is shown it, once.
    pub fn encode(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(*self.0))
    }

    /// Finds it in the database; proves nothing.
    pub fn lookup_id(&self) -> &[u8] {
        &self.0[..16]
    }

    /// What is shown to the database.
    pub fn proof(&self) -> [u8; 32] {
        Sha256::digest(&self.0[16..]).into()
    }

    /// What the database keeps.
    pub fn verifier(&self) -> [u8; 32] {
        Sha256::digest(self.proof()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = PersonalAccessToken::random();
        let text = token.encode();
        assert_eq!(text.len(), LENGTH);
        let read = PersonalAccessToken::decode(&text).unwrap();
        assert_eq!((read.lookup_id(), read.proof()), (token.lookup_id(), token.proof()));
        assert_ne!(token.verifier(), token.proof(), "the database cannot show what it keeps");
    }

    #[test]
    fn anything_of_another_form_is_none() {
        let text = PersonalAccessToken::random().encode();
        let padded = format!("{text}=");
        let longer = format!("{text}AAAA");
        for wrong in ["", "asp_", "asr_AAAA", &text[..67], &text[4..], &padded, &longer, &text.replace("asp_", "ASP_")]
        {
            assert!(PersonalAccessToken::decode(wrong).is_none(), "{wrong}");
        }
    }
}
