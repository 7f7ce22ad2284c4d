//! Passwords: argon2id and the proof that the database is shown. Plain passwords end here.
//!
//! proof = HMAC-SHA-256(pepper, argon2id(password, salt)), verifier = SHA-256(proof). The database keeps the verifier,
//! the salt, the parameters and the pepper's name; the pepper itself it never sees.
//!
//! Hashing is bounded twice: so many at once (memory, processors), and so many waiting. Who comes when the queue is
//! full is told so at once, instead of piling up.

use std::{fmt, str::FromStr, sync::Arc};

use argon2::{Algorithm, Argon2, Block, Version};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::{
    error::{Code, Problem},
    keys::{self, Peppers},
};

/// Argon2id parameters, in the words of RFC 9106.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl Params {
    /// Checks the bounds: what argon2 allows, and no more than this process can afford. A row of the database must not
    /// be able to ask for a terabyte.
    pub fn checked(self) -> Result<Self, String> {
        let Self { memory_kib: m, iterations: t, parallelism: p } = self;
        let cost = u64::from(m) * u64::from(t);
        if (1..=16).contains(&p) && (8 * p..=1024 * 1024).contains(&m) && t >= 1 && cost <= 8 * 1024 * 1024 {
            Ok(self)
        } else {
            Err(format!(
                "argon2 parameters m={m},t={t},p={p} are out of bounds: p 1 to 16, m 8*p to 1048576 KiB, t at least 1, \
                 m*t at most 8388608"
            ))
        }
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m={},t={},p={}", self.memory_kib, self.iterations, self.parallelism)
    }
}

impl FromStr for Params {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let mut parts = text.split(',');
            let mut next = |name| parts.next()?.strip_prefix(name)?.parse().ok();
            let params = Self { memory_kib: next("m=")?, iterations: next("t=")?, parallelism: next("p=")? };
            parts.next().is_none().then_some(params)
        };
        parse().ok_or_else(|| "argon2 parameters are not of the form m=…,t=…,p=…".to_owned())?.checked()
    }
}

/// What the database is given to keep.
pub struct NewVerifier {
    /// Random.
    pub salt: [u8; 16],
    /// The parameters, in their text form.
    pub params: String,
    /// Which pepper.
    pub pepper_id: i32,
    /// SHA-256 of the proof.
    pub verifier: [u8; 32],
}

/// Argon2 memory, kept between hashes: getting 64 MiB from the kernel and giving them back costs a fifth of a hash.
type Memory = Vec<Block>;

/// Hashes passwords.
pub struct Passwords {
    params: Params,
    peppers: Peppers,
    /// Who may wait or hash.
    admission: Semaphore,
    /// Who may hash.
    workers: Arc<Semaphore>,
    memory: Arc<std::sync::Mutex<Vec<Memory>>>,
}

impl Passwords {
    /// `concurrency` hashes at once, `queue` more waiting.
    pub fn new(params: Params, peppers: Peppers, concurrency: usize, queue: usize) -> Self {
        Self {
            params,
            peppers,
            admission: Semaphore::new(concurrency + queue),
            workers: Arc::new(Semaphore::new(concurrency)),
            memory: Arc::default(),
        }
    }

    /// The parameters of new verifiers.
    pub fn params(&self) -> Params {
        self.params
    }

    /// The peppers, to compare with those that the database uses.
    pub fn peppers(&self) -> &Peppers {
        &self.peppers
    }

    /// Whether a verifier made with these is not what would be made today.
    pub fn outdated(&self, params: &str, pepper_id: i32) -> bool {
        params.parse() != Ok(self.params) || pepper_id != self.peppers.current_id()
    }

    /// The proof to show for a password, made as the stored verifier was.
    ///
    /// A pepper that is not in the ring is an operator's mistake: it is logged, the work is done all the same with the
    /// current one (so that the time tells nothing), and the database will refuse the proof.
    pub async fn proof(
        &self,
        password: &str,
        salt: Vec<u8>,
        params: &str,
        pepper_id: i32,
    ) -> Result<[u8; 32], Problem> {
        let params = params.parse().map_err(|why: String| {
            tracing::error!("the database gave unusable {why}");
            Problem::from(Code::InternalError)
        })?;
        let pepper_id = if self.peppers.contains(pepper_id) {
            pepper_id
        } else {
            tracing::error!(pepper_id, "a verifier was made with a pepper that PASSWORD_PEPPERS does not have");
            self.peppers.current_id()
        };
        let output = self.argon2(password, salt, params).await?;
        self.peppers.proof(pepper_id, &output).ok_or(Code::InternalError.into())
    }

    /// A verifier for a new password, or a renewed one, with a fresh salt.
    pub async fn new_verifier(&self, password: &str) -> Result<NewVerifier, Problem> {
        let salt: [u8; 16] = keys::random();
        let params = self.params.to_string();
        let pepper_id = self.peppers.current_id();
        let proof = self.proof(password, salt.to_vec(), &params, pepper_id).await?;
        Ok(NewVerifier { salt, params, pepper_id, verifier: Sha256::digest(proof).into() })
    }

    async fn argon2(&self, password: &str, salt: Vec<u8>, params: Params) -> Result<Zeroizing<[u8; 32]>, Problem> {
        let _admitted = self.admission.try_acquire().map_err(|_| {
            tracing::warn!("the queue of password hashes is full");
            Problem::from(Code::Overloaded)
        })?;
        let internal = |_| Problem::from(Code::InternalError);
        let worker = self.workers.clone().acquire_owned().await.map_err(|_| Problem::from(Code::InternalError))?;
        let password = Zeroizing::new(password.to_owned());
        let memory = self.memory.clone();
        let usual = self.params.memory_kib as usize;
        let span = tracing::Span::current();
        // The permit goes with the work: a client that hangs up must not make room for another hash while its own still
        // runs.
        let work = move || {
            let _entered = span.enter();
            let _worker = worker;
            let mut blocks = memory.lock().ok().and_then(|mut free| free.pop()).unwrap_or_default();
            let output = hash(&password, &salt, params, &mut blocks);
            // What an older, more expensive verifier needed is not kept for ever.
            if blocks.len() <= usual
                && let Ok(mut free) = memory.lock()
            {
                free.push(blocks);
            }
            output
        };
        tokio::task::spawn_blocking(work).await.map_err(internal)?.map_err(|why| {
            tracing::error!(%why, "argon2 failed");
            Code::InternalError.into()
        })
    }
}

fn hash(
    password: &str,
    salt: &[u8],
    params: Params,
    blocks: &mut Memory,
) -> Result<Zeroizing<[u8; 32]>, argon2::Error> {
    let Params { memory_kib, iterations, parallelism } = params;
    let params = argon2::Params::new(memory_kib, iterations, parallelism, Some(32))?;
    if blocks.len() < params.block_count() {
        blocks.resize(params.block_count(), Block::default());
    }
    let mut output = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
        password.as_bytes(),
        salt,
        &mut *output,
        blocks,
    )?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEPPER: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const CHEAP: Params = Params { memory_kib: 64, iterations: 1, parallelism: 1 };

    fn passwords(concurrency: usize, queue: usize) -> Passwords {
        Passwords::new(CHEAP, Peppers::parse("PASSWORD_PEPPERS", PEPPER).unwrap(), concurrency, queue)
    }

    #[test]
    fn parameters_outside_the_bounds_are_refused() {
        assert_eq!("m=65536,t=3,p=1".parse::<Params>().unwrap().to_string(), "m=65536,t=3,p=1");
        for text in [
            "",
            "m=65536,t=3",
            "m=65536,t=3,p=1,x=1",
            "m=65536,t=0,p=1",
            "m=7,t=1,p=1",
            "m=64,t=1,p=0",
            "m=65536,t=1,p=17",
            "m=1048577,t=1,p=1",
            "m=1048576,t=9,p=1",
            "m=-1,t=1,p=1",
            "t=3,m=65536,p=1",
        ] {
            assert!(text.parse::<Params>().is_err(), "{text}");
        }
    }

    #[test]
    fn argon2id_is_the_reference_one_whatever_the_memory_was_used_for_before() {
        let mut used = Memory::new();
        hash("something else", &[9; 16], Params { memory_kib: 512, ..CHEAP }, &mut used).unwrap();
        // A vector of the reference implementation's own tests (phc-winner-argon2, src/test.c).
        let params = Params { memory_kib: 256, iterations: 2, parallelism: 1 };
        let output = hash("password", b"somesalt", params, &mut used).unwrap();
        let hex: String = output.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe");
    }

    #[tokio::test]
    async fn a_proof_matches_its_verifier_and_no_other() {
        let passwords = passwords(1, 1);
        let made = passwords.new_verifier("correct horse").await.unwrap();
        let proof = |password| passwords.proof(password, made.salt.to_vec(), &made.params, made.pepper_id);
        let verifier = |proof: [u8; 32]| <[u8; 32]>::from(Sha256::digest(proof));
        assert_eq!(verifier(proof("correct horse").await.unwrap()), made.verifier);
        assert_ne!(verifier(proof("correct horsf").await.unwrap()), made.verifier);
        assert!(!passwords.outdated(&made.params, made.pepper_id));
        assert!(passwords.outdated("m=128,t=1,p=1", made.pepper_id));
        assert!(passwords.outdated(&made.params, made.pepper_id + 1));
    }

    #[tokio::test]
    async fn an_unknown_pepper_costs_a_hash_and_proves_nothing() {
        let passwords = passwords(1, 1);
        let made = passwords.new_verifier("correct horse").await.unwrap();
        let proof = passwords.proof("correct horse", made.salt.to_vec(), &made.params, made.pepper_id + 1).await;
        assert!(proof.is_ok());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_queue_refuses_at_once() {
        let passwords = Arc::new(passwords(1, 1));
        let _busy = passwords.workers.clone().acquire_owned().await.unwrap();
        let waiting = tokio::spawn({
            let passwords = passwords.clone();
            async move { passwords.new_verifier("one").await.is_ok() }
        });
        let also_waiting = tokio::spawn({
            let passwords = passwords.clone();
            async move { passwords.new_verifier("two").await.is_ok() }
        });
        for _ in 0..1000 {
            if passwords.admission.available_permits() > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        assert_eq!(passwords.admission.available_permits(), 0, "one hashes, one waits");
        let refused = passwords.new_verifier("three").await.err().unwrap();
        assert_eq!(refused.code(), Code::Overloaded);
        drop(_busy);
        assert!(waiting.await.unwrap() && also_waiting.await.unwrap());
    }
}
