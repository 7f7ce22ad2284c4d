//! The refresh token: what it looks like, how it is checked, and how its successor is derived. Pure.
//!
//! `asr_` + base64url (no padding, canonical) of
//! `key_id 4 | session_id 16 | generation 4 | ticket 16 | secret 32 | tag 16`, big-endian. The tag keeps garbage away
//! from the database and nothing else rests on it; the database knows only proof and verifier:
//! proof = SHA-256(secret), verifier = SHA-256(proof).

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::keys::{self, TokenKey, TokenKeys};

/// What every refresh token starts with.
pub const PREFIX: &str = "asr_";
/// The length of every refresh token, in characters.
pub const LENGTH: usize = PREFIX.len() + 118;

const SIGNED: usize = 4 + 16 + 4 + 16 + 32;
const TAG: usize = 16;

/// The 256 random bits of one generation.
pub struct TokenSecret(Zeroizing<[u8; 32]>);

impl TokenSecret {
    /// A derived one.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// A new one, for the first token of a session.
    pub fn random() -> Self {
        Self::new(keys::random())
    }

    /// What is shown to the database.
    pub fn proof(&self) -> [u8; 32] {
        Sha256::digest(*self.0).into()
    }

    /// What the database keeps.
    pub fn verifier(&self) -> [u8; 32] {
        Sha256::digest(self.proof()).into()
    }
}

/// The random part of a rotation: 12 random bytes behind the name of the key that derives the successor.
///
/// The database stores it and hands it out again to a retry. That it names the key is what lets a retry be answered
/// with the same successor even when the retry comes with the token's other spelling: while a key is being rolled out,
/// two nodes spell one token with two keys.
pub type RotationNonce = [u8; 16];

/// A nonce for a rotation whose successor that key derives.
pub fn new_nonce(key: &TokenKey) -> RotationNonce {
    let mut nonce = keys::random();
    nonce[..4].copy_from_slice(&key.id);
    nonce
}

/// The key that a nonce names; none when it is not in the ring any more.
pub fn key_of(keys: &TokenKeys, nonce: RotationNonce) -> Option<&TokenKey> {
    let [a, b, c, d, ..] = nonce;
    keys.find([a, b, c, d])
}

/// Part of a token that was found authentic by its tag: what the client presented.
pub struct Presented<'k> {
    /// The session that it is for.
    pub session_id: Uuid,
    /// How often that session had been rotated when the token was made.
    pub generation: i32,
    /// The database's own mark on it.
    pub ticket: [u8; 16],
    /// What only the holder has.
    pub secret: TokenSecret,
    key: &'k TokenKey,
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presented({}, generation {}, redacted)", self.session_id, self.generation)
    }
}

impl Presented<'_> {
    /// A nonce for rotating this token.
    pub fn new_nonce(&self) -> RotationNonce {
        new_nonce(self.key)
    }

    /// The secret of the next generation: whoever has this token, the key and the nonce gets the same one.
    ///
    /// None when the key that the nonce names is not in the ring any more.
    pub fn successor(&self, keys: &TokenKeys, nonce: RotationNonce, next_generation: i32) -> Option<TokenSecret> {
        let key = key_of(keys, nonce)?;
        let parts: [&[u8]; 4] = [&*self.secret.0, &nonce, self.session_id.as_bytes(), &next_generation.to_be_bytes()];
        Some(TokenSecret::new(key.derive(&parts)))
    }
}

/// Writes a token, in the name of the first key.
pub fn encode(keys: &TokenKeys, session_id: Uuid, generation: i32, ticket: [u8; 16], secret: &TokenSecret) -> String {
    let key = keys.first();
    let mut bytes = Zeroizing::new(Vec::with_capacity(SIGNED + TAG));
    bytes.extend_from_slice(&key.id);
    bytes.extend_from_slice(session_id.as_bytes());
    bytes.extend_from_slice(&generation.to_be_bytes());
    bytes.extend_from_slice(&ticket);
    bytes.extend_from_slice(&*secret.0);
    let tag = key.tag(&bytes);
    bytes.extend_from_slice(&tag[..TAG]);
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*bytes))
}

/// Reads a token. None when anything about it is not exactly as this service writes it.
pub fn decode<'k>(keys: &'k TokenKeys, token: &str) -> Option<Presented<'k>> {
    if token.len() != LENGTH {
        return None;
    }
    let mut bytes = Zeroizing::new([0; SIGNED + TAG]);
    // The decoder refuses padding and stray bits at the end, so each token has one spelling per key.
    let length = URL_SAFE_NO_PAD.decode_slice(token.strip_prefix(PREFIX)?, &mut *bytes).ok()?;
    if length != SIGNED + TAG {
        return None;
    }
    let (signed, tag) = bytes.split_at(SIGNED);
    let (key_id, rest) = signed.split_first_chunk::<4>()?;
    let (session_id, rest) = rest.split_first_chunk::<16>()?;
    let (generation, rest) = rest.split_first_chunk::<4>()?;
    let (ticket, rest) = rest.split_first_chunk::<16>()?;
    let secret: [u8; 32] = rest.try_into().ok()?;

    let key = keys.find(*key_id)?;
    if !bool::from(key.tag(signed)[..TAG].ct_eq(tag)) {
        return None;
    }
    Some(Presented {
        session_id: Uuid::from_bytes(*session_id),
        // Beyond 2^31-1 there is no generation; no authentic token has it.
        generation: i32::try_from(u32::from_be_bytes(*generation)).ok()?,
        ticket: *ticket,
        secret: TokenSecret::new(secret),
        key,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn ring(keys: &[&str]) -> TokenKeys {
        TokenKeys::parse("HMAC_SECRETS", &keys.join(",")).unwrap()
    }

    fn sample(keys: &TokenKeys) -> String {
        encode(keys, Uuid::from_bytes([7; 16]), 3, [9; 16], &TokenSecret(Zeroizing::new([5; 32])))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            session in any::<[u8; 16]>(),
            generation in 0..=i32::MAX,
            ticket in any::<[u8; 16]>(),
            secret in any::<[u8; 32]>(),
        ) {
            let keys = ring(&[OLD]);
            let secret = TokenSecret(Zeroizing::new(secret));
            let token = encode(&keys, Uuid::from_bytes(session), generation, ticket, &secret);
            prop_assert_eq!(token.len(), LENGTH);
            let read = decode(&keys, &token).unwrap();
            prop_assert_eq!(read.session_id.as_bytes(), &session);
            prop_assert_eq!(read.generation, generation);
            prop_assert_eq!(read.ticket, ticket);
            prop_assert_eq!(read.secret.proof(), secret.proof());
        }

        #[test]
        fn garbage_is_refused(token in "\\PC{0,200}") {
            prop_assert!(decode(&ring(&[OLD]), &token).is_none());
        }
    }

    #[test]
    fn one_bit_changed_anywhere_is_refused() {
        let keys = ring(&[OLD, NEW]);
        let token = sample(&keys).into_bytes();
        assert!(decode(&keys, std::str::from_utf8(&token).unwrap()).is_some());
        for position in 0..token.len() {
            for bit in 0..8 {
                let mut changed = token.clone();
                changed[position] ^= 1 << bit;
                if let Ok(changed) = std::str::from_utf8(&changed) {
                    assert!(decode(&keys, changed).is_none(), "byte {position}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn other_lengths_spellings_and_keys_are_refused() {
        let keys = ring(&[OLD]);
        let token = sample(&keys);
        for changed in [&token[..LENGTH - 1], &format!("{token}="), &format!("{token}A"), &token[4..], ""] {
            assert!(decode(&keys, changed).is_none(), "{changed}");
        }
        // 88 bytes leave four bits of the last character unused: another character must not spell the same token.
        let last = token.chars().last().unwrap();
        for other in ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']).filter(|c| *c != last) {
            assert!(decode(&keys, &format!("{}{other}", &token[..LENGTH - 1])).is_none());
        }
        assert!(decode(&ring(&[NEW]), &token).is_none());
    }

    #[test]
    fn a_generation_beyond_the_last_one_is_refused() {
        let keys = ring(&[OLD]);
        let token = encode(&keys, Uuid::nil(), -1, [0; 16], &TokenSecret(Zeroizing::new([5; 32])));
        assert!(decode(&keys, &token).is_none());
    }

    #[test]
    fn a_retry_gets_the_same_successor_whatever_the_order_of_keys_and_the_spelling() {
        let before = ring(&[OLD]);
        let after = ring(&[NEW, OLD]);
        let token = sample(&before);
        let rotated = decode(&before, &token).unwrap();
        let nonce = rotated.new_nonce();
        let successor = rotated.successor(&before, nonce, 4).unwrap();

        let retried = decode(&after, &token).unwrap();
        assert_eq!(retried.successor(&after, nonce, 4).unwrap().proof(), successor.proof());
        let other_spelling = sample(&after);
        assert_ne!(token, other_spelling);
        let respelled = decode(&after, &other_spelling).unwrap();
        assert_eq!(respelled.successor(&after, nonce, 4).unwrap().proof(), successor.proof());
    }

    #[test]
    fn everything_that_goes_into_a_successor_changes_it() {
        let keys = ring(&[NEW, OLD]);
        let presented = decode(&keys, &sample(&keys)).unwrap();
        let nonce = presented.new_nonce();
        let successor = presented.successor(&keys, nonce, 4).unwrap().proof();
        assert_ne!(presented.successor(&keys, presented.new_nonce(), 4).unwrap().proof(), successor);
        assert_ne!(presented.successor(&keys, nonce, 5).unwrap().proof(), successor);
        let mut other_key = nonce;
        other_key[..4].copy_from_slice(&ring(&[OLD]).first().id);
        assert_ne!(presented.successor(&keys, other_key, 4).unwrap().proof(), successor);
        let mut unknown_key = nonce;
        unknown_key[0] ^= 1;
        assert!(presented.successor(&keys, unknown_key, 4).is_none());
    }
}
