//! Password hashes that another system kept, in the forms that most of them keep: an argon2 PHC string, or bcrypt's
//! modular crypt form. They become verifiers without anybody typing a password: the hash *is* the output that the
//! password proof is made of.

use argon2::Algorithm;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    NewVerifier,
    scheme::{BCRYPT_OUTPUT, Params, Scheme},
};
use crate::keys::Peppers;

const PHC_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// 16 and 23 bytes leave bits over, which some libraries did not set to zero.
const BCRYPT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::BCRYPT,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// A hash, taken apart. No Debug: the output is what a cracker starts from.
pub struct ForeignHash {
    /// Raw.
    pub salt: Vec<u8>,
    /// How the output was made.
    pub scheme: Scheme,
    /// What was made.
    pub output: Zeroizing<Vec<u8>>,
}

impl ForeignHash {
    /// Reads `$argon2id$v=19$m=65536,t=3,p=4$salt$output` (also argon2i, argon2d, and without the version, which is then
    /// 16) or `$2b$12$…` (also 2a and 2y).
    ///
    /// An error is a sentence for the operator, which never repeats the hash. What cannot be taken over: other schemes,
    /// costs that this service would not spend, a salt of less than 16 bytes, argon2 with a secret key or associated data.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut fields = text.trim().strip_prefix('$').ok_or("is neither argon2 (PHC) nor bcrypt")?.split('$');
        let name = fields.next().unwrap_or_default();
        let rest: Vec<&str> = fields.collect();
        let parsed = match (Algorithm::new(name), &rest[..]) {
            (Ok(algorithm), [version, params, salt, output]) => {
                let version = version.strip_prefix("v=").and_then(|version| version.parse().ok());
                Self::argon2(algorithm, version.ok_or("has no version of argon2")?, params, salt, output)?
            }
            (Ok(algorithm), [params, salt, output]) => Self::argon2(algorithm, 16, params, salt, output)?,
            (Ok(_), _) => return Err("is not a whole argon2 hash".into()),
            (Err(_), [cost, salt_and_output]) if ["2a", "2b", "2y"].contains(&name) => {
                Self::bcrypt(cost, salt_and_output)?
            }
            (Err(_), _) => return Err("is neither argon2 (PHC) nor bcrypt 2a, 2b or 2y".into()),
        };
        if (16..=64).contains(&parsed.salt.len()) {
            Ok(parsed)
        } else {
            Err(format!("has a salt of {} bytes, which must be 16 to 64", parsed.salt.len()))
        }
    }

    fn argon2(algorithm: Algorithm, version: u32, params: &str, salt: &str, output: &str) -> Result<Self, String> {
        if params.contains("keyid=") || params.contains("data=") {
            return Err("was made with a secret key or associated data".into());
        }
        let decode = |text| PHC_BASE64.decode(text).map_err(|_| "is not base64".to_owned());
        let (salt, output) = (decode(salt)?, Zeroizing::new(decode(output)?));
        let scheme = Scheme::argon2(algorithm, version, output.len(), params.parse::<Params>()?)?;
        Ok(Self { salt, scheme, output })
    }

    fn bcrypt(cost: &str, salt_and_output: &str) -> Result<Self, String> {
        let scheme = Scheme::bcrypt(cost.parse().map_err(|_| "has no cost of bcrypt")?)?;
        let (salt, output) = salt_and_output.split_at_checked(22).ok_or("is not a whole bcrypt hash")?;
        let decode = |text| BCRYPT_BASE64.decode(text).map_err(|_| "is not bcrypt's base64".to_owned());
        let (salt, output) = (decode(salt)?, Zeroizing::new(decode(output)?));
        if output.len() != BCRYPT_OUTPUT {
            return Err("is not a whole bcrypt hash".into());
        }
        Ok(Self { salt, scheme, output })
    }

    /// What the database is given to keep: verifier = SHA-256(HMAC-SHA-256(pepper, output)), by the current pepper.
    pub fn verifier(&self, peppers: &Peppers) -> NewVerifier {
        let pepper_id = peppers.current_id();
        let proof = Zeroizing::new(peppers.proof(pepper_id, &self.output).expect("the current pepper is in the ring"));
        NewVerifier {
            salt: self.salt.clone(),
            params: self.scheme.to_string(),
            pepper_id,
            verifier: Sha256::digest(*proof).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{keys::CurrentKeys, password::Passwords};

    const PEPPER: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    const PHRASE: &str = "correct horse battery staple";

    /// Made by other programs: Python's bcrypt 5.0.0 and argon2-cffi 25.1.0; the second is of jBCrypt's own tests.
    const FOREIGN: &[(&str, &str, &str)] = &[
        ("$2b$05$BEvYILrob/R4kRvuwH4vY.bK6dcwY3.ViLNrsekxllZ2kqKvq.NaK", PHRASE, "bcrypt,2b,5"),
        ("$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe", "a", "bcrypt,2b,6"),
        ("$2y$05$BEvYILrob/R4kRvuwH4vY.bK6dcwY3.ViLNrsekxllZ2kqKvq.NaK", PHRASE, "bcrypt,2b,5"),
        ("$2b$04$JvSnw5coBclvmeAs408CB.AktpJMQTL.1O20eLoLT9cGQ4sB3dOWG", "πάσσωορδ", "bcrypt,2b,4"),
        (
            "$argon2id$v=19$m=256,t=2,p=2$qq8JVKW6ncOD637kB7ACzw$ac3YFnLF4dYbobn69nF57yfOi6ak+uIuyIYWhqdLfKE",
            PHRASE,
            "m=256,t=2,p=2",
        ),
        (
            "$argon2i$v=19$m=128,t=2,p=1$c2l4dGVlbiBsZXR0ZXJzIQ$Fsth26e+KGxAdfoucdglbCI/zeKwMql0DufjlZoWdNU",
            PHRASE,
            "argon2i,v=19,l=32,m=128,t=2,p=1",
        ),
        (
            "$argon2d$v=19$m=128,t=2,p=1$c2l4dGVlbiBsZXR0ZXJzIQ$\
             DLWKMNkq3nyGQ2Prfzypc4teUgu4XnMd+AZv14uA1xhvrzdIXhgcWsfX2wRtfWqhIkGADX0rkGc1Dx6XMUxVAQ",
            PHRASE,
            "argon2d,v=19,l=64,m=128,t=2,p=1",
        ),
        (
            "$argon2id$m=128,t=2,p=1$c2l4dGVlbiBsZXR0ZXJzIQ$ZIJoiE6rPnwXAfqPvMMCVjqXhA/05mOV",
            PHRASE,
            "argon2id,v=16,l=24,m=128,t=2,p=1",
        ),
    ];

    fn refused(text: &str) -> String {
        ForeignHash::parse(text).err().unwrap_or_else(|| panic!("{text} was taken"))
    }

    #[tokio::test]
    async fn who_had_a_password_there_has_it_here() {
        let keys = Arc::new(CurrentKeys::of_tests(PEPPER));
        let today = Params { memory_kib: 64, iterations: 1, parallelism: 1 };
        let passwords = Passwords::new(today, keys.clone(), 1, 1);
        for (hash, password, params) in FOREIGN {
            let kept = ForeignHash::parse(hash).unwrap_or_else(|why| panic!("{hash} {why}")).verifier(&keys.peppers());
            assert_eq!(kept.params, *params);
            let proof = |typed: &'static str| passwords.proof(typed, kept.salt.clone(), &kept.params, kept.pepper_id);
            let verifier = |proof: [u8; 32]| <[u8; 32]>::from(Sha256::digest(proof));
            assert_eq!(verifier(proof(password).await.unwrap()), kept.verifier, "{hash}");
            assert_ne!(verifier(proof("another").await.unwrap()), kept.verifier, "{hash}");
            let renewed = passwords.proof_and_renewal(password, kept.salt.clone(), &kept.params, kept.pepper_id).await;
            assert!(renewed.unwrap().1.is_some(), "renewed at the next login: {hash}");
        }
    }

    #[test]
    fn what_cannot_be_taken_over_is_refused_and_never_repeated() {
        let salt = "c2FsdHNhbHRzYWx0c2FsdA";
        let output = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI";
        let good = format!("$argon2id$v=19$m=65536,t=3,p=1${salt}${output}");
        assert!(ForeignHash::parse(&good).is_ok());
        assert!(ForeignHash::parse(&format!(" {good}\n")).is_ok());
        for text in [
            "",
            "plain text",
            "$",
            "$1$abc$def",
            "$5$rounds=5000$abc$def",
            "$2x$12$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyzabcde",
            "$2b$12$abcdefghijklmnopqrstuu",
            "$2b$12$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyzabcdef",
            "$2b$12$abcdefghijklmnopqrstu\u{e9}abcdefghijklmnopqrstuvwxyzabcd",
            "$2b$17$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyzabcde",
            "$2b$xx$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyzabcde",
            &format!("$argon2id$v=19$m=65536,t=3,p=1${salt}"),
            &format!("$argon2id$v=19$m=65536,t=3,p=1${salt}$"),
            &format!("$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHQ${output}"),
            &format!("$argon2id$v=20$m=65536,t=3,p=1${salt}${output}"),
            &format!("$argon2id$v=19$m=1048577,t=3,p=1${salt}${output}"),
            &format!("$argon2id$v=19$m=65536,t=3,p=1,keyid=Zm9v${salt}${output}"),
            &format!("$argon2id$v=19$m=65536,t=3,p=1${salt}$***"),
            &format!("{good}$more"),
        ] {
            let why = refused(text);
            assert!(text.len() < 20 || !why.contains(&text[text.len() - 20..]), "{why}");
        }
    }
}
