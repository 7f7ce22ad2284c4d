//! Whether an ID token says what it must (OpenID Connect Core 1.0, §3.1.3.7): a pure decision over the token, the
//! provider's keys, what is expected, and the clock.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use openidconnect::{
    AdditionalClaims, ClaimsVerificationError, ClientId, IdToken, IdTokenVerifier, IssuerUrl, Nonce,
    SignatureVerificationError,
    core::{
        CoreGenderClaim, CoreJsonWebKey, CoreJsonWebKeySet, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm,
    },
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::field::{Email, Name, Rule};

/// Clocks differ.
const LEEWAY: TimeDelta = TimeDelta::seconds(60);
/// The database remembers accepted tokens until they expire, and not for ever.
const LONGEST_LIFE: TimeDelta = TimeDelta::days(1);
/// Signatures that only the provider can make. Never a MAC (its key would be the client's secret), never none.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// Who a provider says somebody is.
#[derive(Debug, PartialEq)]
pub struct Person {
    /// The issuer.
    pub provider: String,
    /// Its name for the person.
    pub subject: String,
    /// Their address, which the provider has verified.
    pub email: String,
    /// Their name, or what stands before the @.
    pub name: String,
    /// SHA-256 of what was signed, header and payload: by it the database knows the token again. Not of the whole token,
    /// because a signature has several spellings (an ECDSA `s` and its negative are both right).
    pub digest: [u8; 32],
    /// When the token ends.
    pub expires_at: DateTime<Utc>,
    /// When the token was issued.
    pub issued_at: DateTime<Utc>,
    /// When the person proved to the provider who they are, where it says so.
    pub authenticated_at: Option<DateTime<Utc>>,
}

/// Why a token is not taken.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    /// It names a key that is not in the set: perhaps a newer one.
    UnknownKey,
    /// For the log: a word of ours, nothing of the token's.
    Invalid(&'static str),
}

/// What a token has to be made for.
pub struct Expected<'a> {
    /// Its `iss`, exactly.
    pub issuer: &'a IssuerUrl,
    /// Its `aud` is of these, all of it; and so is its `azp`, where it has one. The apps of one project show each other's
    /// tokens: `aud` is the service's own, `azp` the app that asked for it.
    pub client_ids: &'a [ClientId],
    /// Its `nonce`, when the caller says which it must be.
    pub nonce: Option<&'a Nonce>,
}

#[derive(Debug, Deserialize, Serialize)]
struct NotBefore {
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<f64>,
}

impl AdditionalClaims for NotBefore {}

type Token = IdToken<NotBefore, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>;

/// Who the token says this is, when all of it is as expected.
pub fn verify(
    token: &str,
    keys: &CoreJsonWebKeySet,
    expected: &Expected<'_>,
    now: DateTime<Utc>,
) -> Result<Person, Refusal> {
    let (signed, _) = token.rsplit_once('.').ok_or(Refusal::Invalid("form"))?;
    let parsed = Token::from_str(token).map_err(|_| Refusal::Invalid("form"))?;
    let verifier = verifier(keys, expected, now);
    let nonce = |found: Option<&Nonce>| match expected.nonce {
        None => Ok(()),
        Some(nonce) => openidconnect::NonceVerifier::verify(nonce, found),
    };
    let claims = parsed.claims(&verifier, nonce).map_err(|error| refusal(&error))?;

    let known = |id: &str| expected.client_ids.iter().any(|known| known.as_str() == id);
    if claims.audiences().is_empty() || !claims.audiences().iter().all(|audience| known(audience)) {
        return Err(Refusal::Invalid("audience"));
    }
    if claims.authorized_party().is_some_and(|party| !known(party)) {
        return Err(Refusal::Invalid("authorized party"));
    }
    let future = now + LEEWAY;
    if claims.additional_claims().nbf.is_some_and(|nbf| nbf > future.timestamp() as f64) {
        return Err(Refusal::Invalid("not yet valid"));
    }
    if claims.expiration() > future + LONGEST_LIFE {
        return Err(Refusal::Invalid("lives too long"));
    }
    let subject = claims.subject().as_str();
    if !(1..=255).contains(&subject.len()) || subject.chars().any(char::is_control) {
        return Err(Refusal::Invalid("subject"));
    }
    let email = claims.email().map(|email| email.as_str()).unwrap_or_default();
    if claims.email_verified() != Some(true) {
        return Err(Refusal::Invalid("e-mail not verified"));
    }
    if !Email::fits(email) {
        return Err(Refusal::Invalid("e-mail"));
    }
    let name = claims.name().and_then(|names| names.get(None)).map(|name| name.as_str());
    Ok(Person {
        provider: expected.issuer.as_str().to_owned(),
        subject: subject.to_owned(),
        email: email.to_owned(),
        name: name_of(name, email),
        digest: Sha256::digest(signed).into(),
        expires_at: claims.expiration(),
        issued_at: claims.issue_time(),
        authenticated_at: claims.auth_time(),
    })
}

fn verifier<'a>(
    keys: &CoreJsonWebKeySet,
    expected: &Expected<'_>,
    now: DateTime<Utc>,
) -> IdTokenVerifier<'a, CoreJsonWebKey> {
    // The audience is compared in `verify`: the library knows of one client only.
    IdTokenVerifier::new_public_client(ClientId::new(String::new()), expected.issuer.clone(), keys.clone())
        .require_audience_match(false)
        .set_allowed_algs(ALGORITHMS)
        .set_time_fn(move || now - LEEWAY)
        .set_issue_time_verifier_fn(move |issued_at| {
            if issued_at <= now + LEEWAY { Ok(()) } else { Err("issued in the future".to_owned()) }
        })
}

fn refusal(error: &ClaimsVerificationError) -> Refusal {
    match error {
        ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey) => {
            Refusal::UnknownKey
        }
        ClaimsVerificationError::SignatureVerification(
            SignatureVerificationError::DisallowedAlg(_) | SignatureVerificationError::NoSignature,
        ) => Refusal::Invalid("algorithm"),
        ClaimsVerificationError::SignatureVerification(_) => Refusal::Invalid("signature"),
        ClaimsVerificationError::InvalidIssuer(_) => Refusal::Invalid("issuer"),
        ClaimsVerificationError::InvalidNonce(_) => Refusal::Invalid("nonce"),
        ClaimsVerificationError::Expired(_) => Refusal::Invalid("time"),
        _ => Refusal::Invalid("form"),
    }
}

/// A name that the database takes: the provider's, cleaned, or what stands before the @.
fn name_of(name: Option<&str>, email: &str) -> String {
    let clean = |text: &str| {
        let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
        let words = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        words.chars().take(200).collect::<String>().trim().to_owned()
    };
    let before_at = || clean(email.split('@').next().unwrap_or_default());
    name.map(clean).filter(|name| Name::fits(name)).unwrap_or_else(before_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cleaned_or_made_of_the_address() {
        for (name, expected) in [
            (Some("Ada Lovelace"), "Ada Lovelace"),
            (Some("  Ada\t\nLovelace\u{85} "), "Ada Lovelace"),
            (Some("Zoë 雪"), "Zoë 雪"),
            (Some(" \n "), "ada"),
            (Some(""), "ada"),
            (None, "ada"),
        ] {
            assert_eq!(name_of(name, "ada@example.org"), expected);
        }
        assert_eq!(name_of(Some(&"é".repeat(500)), "ada@example.org"), "é".repeat(200));
        assert_eq!(name_of(Some("a\u{2028}b"), "ada@example.org"), "a b");
    }

    // That each claim and signature is checked, tests/e2e/federation_http.rs tries with real and forged tokens.
    #[test]
    fn what_is_no_token_is_refused_without_a_key() {
        let issuer = IssuerUrl::new("https://issuer.example".to_owned()).unwrap();
        let expected = Expected { issuer: &issuer, client_ids: &[ClientId::new("me".to_owned())], nonce: None };
        for token in ["", ".", "..", "a.b.c", "e30.e30.", "e30.e30", "eyJhbGciOiJub25lIn0.e30.", "ä.ö.ü"] {
            let refused = verify(token, &CoreJsonWebKeySet::new(vec![]), &expected, Utc::now());
            assert_eq!(refused, Err(Refusal::Invalid("form")), "{token}");
        }
    }
}
