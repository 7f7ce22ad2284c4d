//! The keys of the service: how they are read, checked, named and derived. Nothing here ever prints one.
//!
//! Each setting is a ring: the first key issues, all verify. A key is named by the first four bytes of its SHA-256, so
//! that names stay when the list is put in another order. To roll a key out: add the new one last on every node, then
//! move it first on every node; remove the old one when nothing uses it any more.

mod current;
pub mod file;
pub mod reload;
pub mod source;
pub mod vault;

use std::fmt;

use base64::{Engine, alphabet, engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::Signer;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header,
    jwk::{AlgorithmParameters, Jwk, ThumbprintHash},
};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

pub use self::current::{CurrentKeys, KeyRings};

/// A command that prints a fresh key, for messages.
pub const GENERATE: &str = "auth-api keys generate";

/// The `typ` of what [`SigningKey`] signs: access tokens (RFC 9068 §2.1) and nothing else.
pub const JWT_TYPE: &str = "at+jwt";

/// Why a setting with keys cannot be used. A sentence for the operator; never the key.
pub type KeyError = String;

/// HMAC-SHA-256 in one call. Keys of any length are allowed (RFC 2104 §3), so this cannot fail.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// `N` random bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without random numbers nothing here is safe to go on with.
    getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
    bytes
}

/// A secret as the operator wrote it: at least 32 bytes.
struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    fn id(&self) -> [u8; 4] {
        let digest = Sha256::digest(&*self.0);
        [digest[0], digest[1], digest[2], digest[3]]
    }
}

/// Reads a comma-separated list of secrets, hex or base64 (either alphabet, padding optional).
fn parse_ring(setting: &str, value: &str) -> Result<Vec<Secret>, KeyError> {
    let mut ring: Vec<Secret> = Vec::new();
    for (index, text) in value.split(',').map(str::trim).enumerate() {
        let number = index + 1;
        let secret = parse_secret(text)
            .map(Secret)
            .map_err(|why| format!("{setting}: key {number} {why}. Make one with: {GENERATE}"))?;
        if ring.iter().any(|other| other.id() == secret.id()) {
            return Err(format!("{setting}: key {number} is there twice. Name each key once."));
        }
        ring.push(secret);
    }
    Ok(ring)
}

fn parse_secret(text: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    const BASE64: engine::GeneralPurpose =
        engine::GeneralPurpose::new(&alphabet::URL_SAFE, engine::general_purpose::NO_PAD);
    if text.is_empty() {
        return Err("is empty");
    }
    // Text that is all hex digits is hex: a random base64 key of 43 characters is, by luck, never.
    let bytes = if text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let pairs = text.as_bytes().chunks_exact(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
        Zeroizing::new(pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap_or_default()).collect::<Vec<u8>>())
    } else {
        let text = Zeroizing::new(text.trim_end_matches('=').replace('+', "-").replace('/', "_"));
        Zeroizing::new(BASE64.decode(&*text).map_err(|_| "is neither hex nor base64")?)
    };
    if bytes.len() < 32 {
        return Err("is shorter than 32 bytes");
    }
    // 32 random bytes have fewer than 16 distinct values about once in 10^17: this is a typed or a repeated pattern.
    let distinct = bytes.iter().collect::<std::collections::HashSet<_>>().len();
    if distinct < 16 { Err("is not random") } else { Ok(bytes) }
}

/// One key of `HMAC_SECRETS`, as the sub-keys that are used of it: one for each purpose, so that no value of one is ever
/// taken for that of another.
pub struct TokenKey {
    /// Stands in front of every refresh token.
    pub id: [u8; 4],
    mac: Zeroizing<[u8; 32]>,
    derive: Zeroizing<[u8; 32]>,
    derive_adopted: Zeroizing<[u8; 32]>,
    csrf: Zeroizing<[u8; 32]>,
    login_state: Zeroizing<[u8; 64]>,
}

impl TokenKey {
    fn new(secret: &Secret) -> Self {
        let hkdf = Hkdf::<Sha256>::new(None, &secret.0);
        fn expand<const N: usize>(hkdf: &Hkdf<Sha256>, info: &[u8]) -> Zeroizing<[u8; N]> {
            let mut key = Zeroizing::new([0; N]);
            hkdf.expand(info, &mut *key).expect("within what HKDF gives");
            key
        }
        Self {
            id: secret.id(),
            mac: expand(&hkdf, b"auth_sessions refresh token mac v1"),
            derive: expand(&hkdf, b"auth_sessions refresh token derive v1"),
            derive_adopted: expand(&hkdf, b"auth_sessions adopted token derive v1"),
            csrf: expand(&hkdf, b"auth_sessions csrf token v1"),
            login_state: expand(&hkdf, b"auth_sessions login state v1"),
        }
    }

    /// The tag that keeps garbage away from the database.
    pub fn tag(&self, message: &[u8]) -> [u8; 32] {
        hmac_sha256(&*self.mac, &[message])
    }

    /// What a page has to show beside the cookies of this session.
    pub fn csrf_tag(&self, session_id: Uuid) -> [u8; 32] {
        hmac_sha256(&*self.csrf, &[session_id.as_bytes()])
    }

    /// Encrypts what a browser keeps while it is at the identity provider.
    pub fn login_state(&self) -> &[u8; 64] {
        &self.login_state
    }

    /// A pseudo-random value that only this key can repeat.
    pub fn derive(&self, parts: &[&[u8]]) -> [u8; 32] {
        hmac_sha256(&*self.derive, parts)
    }

    /// The same for what follows upon a token of another system, which can be any text.
    pub fn derive_adopted(&self, parts: &[&[u8]]) -> [u8; 32] {
        hmac_sha256(&*self.derive_adopted, parts)
    }
}

/// `HMAC_SECRETS`: the keys of refresh tokens.
pub struct TokenKeys(Vec<TokenKey>);

impl TokenKeys {
    /// Reads the setting; an error is a sentence for the operator.
    pub fn parse(setting: &str, value: &str) -> Result<Self, KeyError> {
        Ok(Self(parse_ring(setting, value)?.iter().map(TokenKey::new).collect()))
    }

    /// The key that issues.
    pub fn first(&self) -> &TokenKey {
        &self.0[0]
    }

    /// All of them, the one that issues first.
    pub fn all(&self) -> &[TokenKey] {
        &self.0
    }

    /// Their names, the one that issues first.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|key| u32::from_be_bytes(key.id)).map(|id| format!("{id:08x}")).collect()
    }

    /// The key of that name.
    pub fn find(&self, id: [u8; 4]) -> Option<&TokenKey> {
        self.0.iter().find(|key| key.id == id)
    }
}

/// `PASSWORD_PEPPERS`: without them a stolen dump of the database cannot be cracked.
pub struct Peppers(Vec<(i32, Secret)>);

impl Peppers {
    /// Reads the setting; an error is a sentence for the operator.
    pub fn parse(setting: &str, value: &str) -> Result<Self, KeyError> {
        let ring = parse_ring(setting, value)?;
        Ok(Self(ring.into_iter().map(|secret| (i32::from_be_bytes(secret.id()), secret)).collect()))
    }

    /// The pepper of new verifiers.
    pub fn current_id(&self) -> i32 {
        self.0[0].0
    }

    /// Their names, the current one first.
    pub fn ids(&self) -> impl Iterator<Item = i32> {
        self.0.iter().map(|(id, _)| *id)
    }

    /// The same as text.
    pub fn names(&self) -> Vec<String> {
        self.ids().map(|id| id.to_string()).collect()
    }

    /// Whether the pepper of that name is in the ring.
    pub fn contains(&self, id: i32) -> bool {
        self.0.iter().any(|(other, _)| *other == id)
    }

    /// The password proof: HMAC-SHA-256(pepper, output of the password's scheme). None when the pepper is not in the ring.
    pub fn proof(&self, id: i32, output: &[u8]) -> Option<[u8; 32]> {
        let (_, pepper) = self.0.iter().find(|(other, _)| *other == id)?;
        Some(hmac_sha256(&pepper.0, &[output]))
    }
}

/// One key of `JWT_SIGNING_KEYS`, an Ed25519 pair.
pub struct SigningKey {
    /// The RFC 7638 thumbprint of the public key.
    pub kid: String,
    /// The header of every token that it signs, encoded.
    pub header: String,
    /// What signs: kept, because to make it from the seed takes as long as to sign with it.
    signer: ed25519_dalek::SigningKey,
    /// What verifies.
    pub decoding: DecodingKey,
    /// The public key, base64url (the `x` of RFC 8037 §2).
    pub public: String,
}

/// `JWT_SIGNING_KEYS`: the keys of access tokens.
pub struct SigningKeys(Vec<SigningKey>);

impl SigningKey {
    /// The Ed25519 signature (RFC 8032).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signer.sign(message).to_bytes()
    }
}

impl SigningKeys {
    /// Reads the setting: 32-byte Ed25519 seeds. An error is a sentence for the operator.
    pub fn parse(setting: &str, value: &str) -> Result<Self, KeyError> {
        let ring = parse_ring(setting, value)?;
        let key = |(index, seed): (usize, &Secret)| {
            signing_key(seed).map_err(|why| format!("{setting}: key {} {why}. Make one with: {GENERATE}", index + 1))
        };
        Ok(Self(ring.iter().enumerate().map(key).collect::<Result<_, _>>()?))
    }

    /// The key that signs.
    pub fn first(&self) -> &SigningKey {
        &self.0[0]
    }

    /// The key of that name.
    pub fn find(&self, kid: &str) -> Option<&SigningKey> {
        self.0.iter().find(|key| key.kid == kid)
    }

    /// Their names, the one that signs first.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|key| key.kid.clone()).collect()
    }

    /// All of them, the one that signs first.
    pub fn all(&self) -> &[SigningKey] {
        &self.0
    }
}

fn signing_key(seed: &Secret) -> Result<SigningKey, &'static str> {
    let bytes: &[u8; 32] = seed.0.as_slice().try_into().map_err(|_| "is not an Ed25519 seed of exactly 32 bytes")?;
    let unusable = |_| "is not an Ed25519 seed";
    let jwk = Jwk::from_encoding_key(&encoding_key(bytes), Algorithm::EdDSA).map_err(unusable)?;
    let kid = jwk.thumbprint(ThumbprintHash::SHA256).map_err(unusable)?;
    let decoding = DecodingKey::from_jwk(&jwk).map_err(unusable)?;
    let header = Header { typ: Some(JWT_TYPE.into()), kid: Some(kid.clone()), ..Header::new(Algorithm::EdDSA) };
    let header = serde_json::to_vec(&header).map_err(|_| "has no header")?;
    match jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) => Ok(SigningKey {
            kid,
            header: URL_SAFE_NO_PAD.encode(header),
            signer: ed25519_dalek::SigningKey::from_bytes(bytes),
            decoding,
            public: pair.x,
        }),
        _ => Err("is not an Ed25519 seed"),
    }
}

/// A seed in the frame that jsonwebtoken reads.
pub fn encoding_key(seed: &[u8; 32]) -> EncodingKey {
    // RFC 8410 §7: the PKCS#8 frame of an Ed25519 private key, which is all that DER adds to the seed.
    const PKCS8: [u8; 16] =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    EncodingKey::from_ed_der(&Zeroizing::new([&PKCS8[..], seed].concat()))
}

macro_rules! redacted {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    )+};
}
redacted!(Secret, TokenKey, TokenKeys, Peppers, SigningKey, SigningKeys);

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    #[test]
    fn hex_and_both_base64_alphabets_are_the_same_key() {
        fn id(text: &str) -> [u8; 4] {
            parse_ring("K", text).unwrap()[0].id()
        }
        assert_eq!(id(HEX), id(BASE64));
        assert_eq!(id(HEX), id(&format!("{BASE64}=")));
        let with_symbols = "-_".to_owned() + &BASE64[2..];
        assert_eq!(id(&with_symbols), id(&with_symbols.replace('-', "+").replace('_', "/")));
    }

    #[test]
    fn weak_keys_are_refused_with_a_way_out() {
        let refused = |value: &str| TokenKeys::parse("HMAC_SECRETS", value).unwrap_err();
        for value in ["", &HEX[..62], "not a key at all, surely", &"00".repeat(32), &"abcd".repeat(16)] {
            let why = refused(value);
            assert!(why.contains("HMAC_SECRETS") && why.contains(GENERATE), "{why}");
            assert!(value.len() < 8 || !why.contains(value), "the message repeats the key: {why}");
        }
        assert!(refused(&format!("{HEX},{BASE64}")).contains("twice"));
    }

    #[test]
    fn the_ring_keeps_names_when_put_in_another_order() {
        let other = "ff".to_owned() + &HEX[2..];
        let one = TokenKeys::parse("K", &format!("{HEX},{other}")).unwrap();
        let two = TokenKeys::parse("K", &format!("{other},{HEX}")).unwrap();
        assert_eq!(one.first().id, two.find(one.first().id).unwrap().id);
        assert_ne!(one.first().id, two.first().id);
        assert_ne!(one.first().tag(b"m"), one.first().derive(&[b"m"]), "sub-keys differ");
    }

    #[test]
    fn the_key_id_of_a_seed_is_its_rfc_7638_thumbprint() {
        // RFC 8037, appendix A: the key pair and its thumbprint.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let keys = SigningKeys::parse("K", seed).unwrap();
        assert_eq!(keys.first().kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(keys.first().public, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    }

    #[test]
    fn nothing_secret_is_printed() {
        assert_eq!(format!("{:?}", TokenKeys::parse("K", HEX).unwrap()), "TokenKeys(redacted)");
    }
}
