//! Refresh tokens and JWTs taken apart and forged. Written from the design, not from the service's code, so that the
//! two check each other.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::Value;
use sha2::Sha256;
use uuid::Uuid;

use crate::tokens::{Token, sha256};

/// `asr_` + base64url of `key_id 4 | session_id 16 | generation 4 | ticket 16 | secret 32 | tag 16`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the design names them
pub struct RefreshToken {
    pub key_id: Vec<u8>,
    pub session_id: Uuid,
    pub generation: i32,
    pub ticket: Vec<u8>,
    pub secret: Vec<u8>,
    pub tag: Vec<u8>,
}

impl RefreshToken {
    /// A token that SQL granted, still without key id and tag.
    pub fn of(token: &Token) -> Self {
        let Token { session_id, generation, ticket, secret } = token.clone();
        Self { key_id: Vec::new(), session_id, generation, ticket, secret: secret.0, tag: Vec::new() }
    }

    /// Takes a token apart; panics when it has not the right form.
    pub fn parse(token: &str) -> Self {
        let bytes = refresh_token_bytes(token);
        assert_eq!(bytes.len(), 88);
        Self {
            key_id: bytes[..4].to_vec(),
            session_id: Uuid::from_slice(&bytes[4..20]).expect("16 bytes"),
            generation: i32::from_be_bytes(bytes[20..24].try_into().expect("4 bytes")),
            ticket: bytes[24..40].to_vec(),
            secret: bytes[40..72].to_vec(),
            tag: bytes[72..].to_vec(),
        }
    }

    /// The token with the key id and the tag that whoever has this key of `HMAC_SECRETS` would write.
    pub fn signed_with(mut self, key: &[u8]) -> String {
        self.key_id = key_id(key);
        let mut mac_key = [0; 32];
        let info = b"auth_sessions refresh token mac v1";
        Hkdf::<Sha256>::new(None, key).expand(info, &mut mac_key).expect("32 bytes");
        let mut mac = Hmac::<Sha256>::new_from_slice(&mac_key).expect("any length will do");
        mac.update(&self.untagged());
        self.tag = mac.finalize().into_bytes()[..16].to_vec();
        encode_refresh_token(&[self.untagged(), self.tag].concat())
    }

    fn untagged(&self) -> Vec<u8> {
        let generation = self.generation.to_be_bytes();
        [&self.key_id[..], self.session_id.as_bytes(), &generation, &self.ticket, &self.secret].concat()
    }
}

/// What the tokens of a key of `HMAC_SECRETS` start with.
pub fn key_id(key: &[u8]) -> Vec<u8> {
    sha256(key)[..4].to_vec()
}

/// The bytes of a refresh token.
pub fn refresh_token_bytes(token: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(token.strip_prefix("asr_").expect("asr_")).expect("base64url")
}

/// A refresh token of any bytes.
pub fn encode_refresh_token(bytes: &[u8]) -> String {
    format!("asr_{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Header and claims of a JWT, unverified.
pub fn parse_jwt(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).expect("base64url"));
    let mut json = || serde_json::from_slice(&parts.next().expect("a part")).expect("JSON");
    (json(), json())
}

/// A JWT with an Ed25519 signature by this seed.
pub fn sign_jwt(header: &Header, claims: &Value, seed: &[u8; 32]) -> String {
    // PKCS #8 of a seed (RFC 8410, section 7) is this prefix and the seed.
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let key = EncodingKey::from_ed_der(&[&prefix[..], seed].concat());
    jsonwebtoken::encode(header, claims, &key).expect("a JWT")
}

/// A JWT with any header and claims and no signature.
pub fn unsigned_jwt(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(header), part(claims))
}

/// The header that the service gives its access tokens.
pub fn access_token_header(kid: &str) -> Header {
    Header { typ: Some("at+jwt".to_owned()), kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) }
}
