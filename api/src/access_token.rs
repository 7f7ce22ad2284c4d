//! The access token: a JWT by RFC 9068, signed with Ed25519. Pure.
//!
//! It is never enough alone: whoever acts on one also asks the database (`assume_session`), which knows at once when
//! the session has ended.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Validation, decode_header};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::keys::{CurrentKeys, JWT_TYPE as TYPE};

/// Longer than any token of ours; nothing longer is parsed.
const MAX_LENGTH: usize = 4096;

/// The claims (RFC 9068 §2.2); times in seconds since 1970.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(Clone, Debug, PartialEq))] // never printed elsewhere: the jti is for its owner only
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// For whom it is.
    pub aud: String,
    /// The user.
    pub sub: Uuid,
    /// The session.
    pub sid: Uuid,
    /// The database's own mark: what `assume_session` recognises.
    pub jti: Uuid,
    /// When the database minted the jti.
    pub iat: i64,
    /// When it ends.
    pub exp: i64,
    /// When the user last proved who they are.
    pub auth_time: i64,
    /// How (RFC 8176).
    pub amr: Vec<String>,
    /// The organization that the session acts for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<Uuid>,
    /// The user's roles there.
    pub roles: Vec<String>,
}

/// Signs and verifies access tokens.
pub struct AccessTokens {
    keys: Arc<CurrentKeys>,
    issuer: String,
    audience: String,
    validation: Validation,
}

impl AccessTokens {
    /// For one issuer and one audience.
    pub fn new(keys: Arc<CurrentKeys>, issuer: String, audience: String) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&issuer]);
        validation.set_audience(&[&audience]);
        validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
        // The database judges the age by its own clock; a second of grace here would be refused there.
        validation.leeway = 0;
        Self { keys, issuer, audience, validation }
    }

    /// The issuer, for the claims.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The audience, for the claims.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Signs with the first key (RFC 7515 §7.1).
    pub fn sign(&self, claims: &Claims) -> Result<String, serde_json::Error> {
        let keys = self.keys.signing_keys();
        let key = keys.first();
        let mut token = String::with_capacity(1024);
        token.push_str(&key.header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(claims)?, &mut token);
        let signature = key.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The claims of a token that one of our keys signed, for us, and that has not expired. None otherwise: why is
    /// nobody's business.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_LENGTH {
            return None;
        }
        let header = decode_header(token).ok()?;
        // RFC 9068 §4 and RFC 8725 §3.11: an ID token, or any other JWT of ours, is not an access token.
        let typ = header.typ?;
        if !typ.eq_ignore_ascii_case(TYPE) && !typ.eq_ignore_ascii_case("application/at+jwt") {
            return None;
        }
        let keys = self.keys.signing_keys();
        let key = keys.find(&header.kid?)?;
        Some(jsonwebtoken::decode::<Claims>(token, &key.decoding, &self.validation).ok()?.claims)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, get_current_timestamp};

    use super::*;

    const SEED: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const OTHER: &str = "f00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn tokens(seeds: &str) -> AccessTokens {
        AccessTokens::new(Arc::new(CurrentKeys::of_tests(seeds)), "issuer".into(), "audience".into())
    }

    fn claims() -> Claims {
        let now = get_current_timestamp() as i64;
        Claims {
            iss: "issuer".into(),
            aud: "audience".into(),
            sub: Uuid::nil(),
            sid: Uuid::from_bytes([1; 16]),
            jti: Uuid::from_bytes([2; 16]),
            iat: now,
            exp: now + 900,
            auth_time: now,
            amr: vec!["pwd".into()],
            org: None,
            roles: vec![],
        }
    }

    /// Signs what our own code never would.
    fn sign(header: &Header, claims: &Claims) -> String {
        let seed = std::array::from_fn(|n| n as u8);
        jsonwebtoken::encode(header, claims, &crate::keys::encoding_key(&seed)).unwrap()
    }

    fn header() -> Header {
        let kid = tokens(SEED).keys.signing_keys().first().kid.clone();
        Header { typ: Some(TYPE.into()), kid: Some(kid), ..Header::new(Algorithm::EdDSA) }
    }

    #[test]
    fn what_is_signed_is_verified_also_after_a_new_key_came_first() {
        let token = tokens(SEED).sign(&claims()).unwrap();
        assert_eq!(tokens(SEED).verify(&token), Some(claims()));
        assert_eq!(tokens(&format!("{OTHER},{SEED}")).verify(&token), Some(claims()));
        assert_eq!(tokens(OTHER).verify(&token), None);
    }

    #[test]
    fn the_library_would_have_signed_the_same() {
        // Ed25519 is deterministic.
        let claims = claims();
        assert_eq!(tokens(SEED).sign(&claims).unwrap(), sign(&header(), &claims));
    }

    #[test]
    fn another_type_issuer_audience_or_an_expired_token_is_refused() {
        let verify = |token: String| tokens(SEED).verify(&token);
        assert!(verify(sign(&header(), &claims())).is_some());
        for typ in [None, Some("JWT".to_owned()), Some("id+jwt".to_owned())] {
            assert_eq!(verify(sign(&Header { typ, ..header() }, &claims())), None);
        }
        assert_eq!(verify(sign(&Header { kid: None, ..header() }, &claims())), None);
        assert_eq!(verify(sign(&header(), &Claims { iss: "other".into(), ..claims() })), None);
        assert_eq!(verify(sign(&header(), &Claims { aud: "other".into(), ..claims() })), None);
        let past = claims().iat - 1;
        assert_eq!(verify(sign(&header(), &Claims { exp: past, ..claims() })), None);
    }

    #[test]
    fn alg_none_and_the_public_key_as_an_hmac_key_are_refused() {
        let tokens = tokens(SEED);
        let encode = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let kid = tokens.keys.signing_keys().first().kid.clone();
        let body = encode(serde_json::to_value(claims()).unwrap());
        let none = encode(serde_json::json!({"alg": "none", "typ": TYPE, "kid": kid}));
        assert_eq!(tokens.verify(&format!("{none}.{body}.")), None);

        let public = URL_SAFE_NO_PAD.decode(&tokens.keys.signing_keys().first().public).unwrap();
        let header = Header { alg: Algorithm::HS256, ..header() };
        let forged = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&public)).unwrap();
        assert_eq!(tokens.verify(&forged), None);
    }

    #[test]
    fn one_character_changed_anywhere_is_refused() {
        let tokens = tokens(SEED);
        let token = tokens.sign(&claims()).unwrap();
        for position in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[position] ^= 1;
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(tokens.verify(&changed), None, "byte {position}");
        }
    }
}
