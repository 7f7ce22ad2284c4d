//! Passwords: argon2id and the proof that the database is shown. Plain passwords end here.
//!
//! proof = HMAC-SHA-256(pepper, argon2id(password, salt)), verifier = SHA-256(proof). The database keeps the verifier,
//! the salt, the parameters and the pepper's name; the pepper itself it never sees. In place of argon2id stands what a
//! system did that was taken over ([`scheme`]), until the next login.
//!
//! Hashing is bounded twice: so many at once (memory, processors), and so many waiting. Who comes when the queue is
//! full is told so at once, instead of piling up.

mod foreign;
pub mod scheme;

use std::{sync::Arc, time::Instant};

use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, oneshot};
use zeroize::Zeroizing;

pub use self::foreign::ForeignHash;
pub use self::scheme::Params;
use self::scheme::{Memory, Scheme};
use crate::{
    error::{Code, Problem},
    keys::{self, CurrentKeys, Peppers},
    metrics::metrics,
    telemetry,
};

/// What the database is given to keep.
pub struct NewVerifier {
    /// Random, 16 to 64 bytes.
    pub salt: Vec<u8>,
    /// How the password becomes the proof's input, in its text form.
    pub params: String,
    /// Which pepper.
    pub pepper_id: i32,
    /// SHA-256 of the proof.
    pub verifier: [u8; 32],
}

/// Hashes passwords.
pub struct Passwords {
    params: Params,
    keys: Arc<CurrentKeys>,
    /// Who may wait or hash.
    admission: Semaphore,
    /// Who may hash.
    workers: Arc<Semaphore>,
    concurrency: usize,
    queue: usize,
    memory: Arc<std::sync::Mutex<Vec<Memory>>>,
}

impl Passwords {
    /// `concurrency` hashes at once, `queue` more waiting.
    pub fn new(params: Params, keys: Arc<CurrentKeys>, concurrency: usize, queue: usize) -> Self {
        Self {
            params,
            keys,
            admission: Semaphore::new(concurrency + queue),
            workers: Arc::new(Semaphore::new(concurrency)),
            concurrency,
            queue,
            memory: Arc::default(),
        }
    }

    /// How many are hashed, how many may be, how many wait, how many may.
    pub fn load(&self) -> [usize; 4] {
        let running = self.concurrency - self.workers.available_permits();
        let admitted = self.concurrency + self.queue - self.admission.available_permits();
        [running, self.concurrency, admitted.saturating_sub(running), self.queue]
    }

    /// The parameters of new verifiers.
    pub fn params(&self) -> Params {
        self.params
    }

    /// The peppers in use.
    pub fn peppers(&self) -> Arc<Peppers> {
        self.keys.peppers()
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
        Ok(self.hashed(&self.peppers(), password, salt, params, pepper_id).await?.1)
    }

    /// The same, and a verifier as it would be made today, where the stored one is not one.
    ///
    /// Another pepper needs no second hash: the time of a login does not tell, while a pepper is being replaced, that an
    /// account exists.
    pub async fn proof_and_renewal(
        &self,
        password: &str,
        salt: Vec<u8>,
        params: &str,
        pepper_id: i32,
    ) -> Result<([u8; 32], Option<NewVerifier>), Problem> {
        let peppers = self.peppers();
        let (output, proof) = self.hashed(&peppers, password, salt.clone(), params, pepper_id).await?;
        let current = peppers.current_id();
        if params.parse() != Ok(self.params) {
            return Ok((proof, Some(self.new_verifier(password).await?)));
        }
        if pepper_id == current {
            return Ok((proof, None));
        }
        let renewed = peppers.proof(current, &output).ok_or(Code::InternalError)?;
        let verifier = Sha256::digest(renewed).into();
        Ok((proof, Some(NewVerifier { salt, params: params.to_owned(), pepper_id: current, verifier })))
    }

    /// The output of the scheme, and the proof.
    async fn hashed(
        &self,
        peppers: &Peppers,
        password: &str,
        salt: Vec<u8>,
        params: &str,
        pepper_id: i32,
    ) -> Result<(Zeroizing<Vec<u8>>, [u8; 32]), Problem> {
        let scheme = params.parse().map_err(|why: String| {
            tracing::error!(%why, "the database gave password parameters that cannot be used");
            Problem::from(Code::InternalError)
        })?;
        let pepper_id = if peppers.contains(pepper_id) {
            pepper_id
        } else {
            tracing::error!(pepper_id, "a verifier was made with a pepper that PASSWORD_PEPPERS does not have");
            peppers.current_id()
        };
        let output = self.output(password, salt, scheme).await?;
        let proof = peppers.proof(pepper_id, &output).ok_or(Code::InternalError)?;
        Ok((output, proof))
    }

    /// A verifier for a new password, or a renewed one, with a fresh salt.
    pub async fn new_verifier(&self, password: &str) -> Result<NewVerifier, Problem> {
        let salt = keys::random::<16>().to_vec();
        let params = self.params.to_string();
        // The same ring for the name and for the proof: a verifier with another pepper's name could never be met again.
        let peppers = self.peppers();
        let pepper_id = peppers.current_id();
        let (_, proof) = self.hashed(&peppers, password, salt.clone(), &params, pepper_id).await?;
        Ok(NewVerifier { salt, params, pepper_id, verifier: Sha256::digest(proof).into() })
    }

    async fn output(&self, password: &str, salt: Vec<u8>, scheme: Scheme) -> Result<Zeroizing<Vec<u8>>, Problem> {
        let _admitted = self.admission.try_acquire().map_err(|_| {
            metrics().hashes_refused.inc();
            tracing::warn!("the queue of password hashes is full");
            Problem::from(Code::Overloaded)
        })?;
        let _part = telemetry::step("hash password");
        let internal = |_| Problem::from(Code::InternalError);
        let admitted_at = Instant::now();
        let worker = self.workers.clone().acquire_owned().await.map_err(|_| Problem::from(Code::InternalError))?;
        metrics().hash_wait.observe(admitted_at.elapsed().as_secs_f64());
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
            let started_at = Instant::now();
            let output = scheme.output(&password, &salt, &mut blocks);
            metrics().hash_duration.observe(started_at.elapsed().as_secs_f64());
            // What an older, more expensive verifier needed is not kept for ever.
            if blocks.len() <= usual
                && let Ok(mut free) = memory.lock()
            {
                free.push(blocks);
            }
            output
        };
        in_the_background(work).await.map_err(internal)?.map_err(|why| {
            tracing::error!(%why, "hashing a password failed");
            Code::InternalError.into()
        })
    }
}

/// How far hashing stands back: it gets a third of a processor that somebody else wants too (see setpriority(2)).
const NICENESS: i32 = 5;

/// Runs it on a thread of its own that stands back for whatever else wants the processor: hashes keep every core busy for
/// a tenth of a second each, and a refresh, which needs one for a fraction of a millisecond, must not queue behind them.
/// Not one of the runtime's threads, because without privileges a priority goes only down.
async fn in_the_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, oneshot::error::RecvError> {
    let (done, answer) = oneshot::channel();
    let work = move || {
        // On Linux this is of the calling thread. Where it cannot be, hashing has the priority of the rest.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        // Nobody waits any more: the work was done, and is forgotten.
        let _ = done.send(work());
    };
    // No thread to be had: the sender is dropped with the work, and the receiver says so.
    let _ = std::thread::Builder::new().name("password".into()).spawn(work);
    answer.await
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEPPER: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const CHEAP: Params = Params { memory_kib: 64, iterations: 1, parallelism: 1 };

    fn passwords(concurrency: usize, queue: usize) -> Passwords {
        Passwords::new(CHEAP, Arc::new(CurrentKeys::of_tests(PEPPER)), concurrency, queue)
    }

    #[tokio::test]
    async fn hashing_stands_back_and_nothing_else_does() {
        let own = || rustix::process::getpriority_process(None).unwrap();
        let before = own();
        assert_eq!(in_the_background(own).await.unwrap(), before.max(NICENESS));
        assert_eq!(own(), before);
    }

    #[tokio::test]
    async fn a_proof_matches_its_verifier_and_no_other() {
        let passwords = passwords(1, 1);
        let made = passwords.new_verifier("correct horse").await.unwrap();
        let proof = |password| passwords.proof(password, made.salt.clone(), &made.params, made.pepper_id);
        let verifier = |proof: [u8; 32]| <[u8; 32]>::from(Sha256::digest(proof));
        assert_eq!(verifier(proof("correct horse").await.unwrap()), made.verifier);
        assert_ne!(verifier(proof("correct horsf").await.unwrap()), made.verifier);
    }

    #[tokio::test]
    async fn a_verifier_is_renewed_when_it_would_be_made_otherwise_today() {
        let today = passwords(1, 1);
        let made = today.new_verifier("correct horse").await.unwrap();
        let renewal = |by: Passwords, params: &'static str, pepper_id: i32| {
            let salt = made.salt.clone();
            async move { by.proof_and_renewal("correct horse", salt, params, pepper_id).await.unwrap().1 }
        };
        assert!(renewal(passwords(1, 1), "m=64,t=1,p=1", made.pepper_id).await.is_none());
        let stronger = renewal(passwords(1, 1), "m=128,t=1,p=1", made.pepper_id).await.unwrap();
        assert!(stronger.params == made.params && stronger.salt != made.salt);

        // Another pepper: the same hash under it, not another hash.
        let ring = format!("f0{},{PEPPER}", &PEPPER[2..]);
        let rotated = Passwords::new(CHEAP, Arc::new(CurrentKeys::of_tests(&ring)), 1, 1);
        let current = rotated.peppers().current_id();
        let renewed = renewal(rotated, "m=64,t=1,p=1", made.pepper_id).await.unwrap();
        assert_eq!((&renewed.salt, renewed.pepper_id), (&made.salt, current));
        let rotated = Passwords::new(CHEAP, Arc::new(CurrentKeys::of_tests(&ring)), 1, 1);
        let proof = rotated.proof("correct horse", renewed.salt, &renewed.params, renewed.pepper_id).await.unwrap();
        assert_eq!(<[u8; 32]>::from(Sha256::digest(proof)), renewed.verifier);
    }

    #[tokio::test]
    async fn an_unknown_pepper_costs_a_hash_and_proves_nothing() {
        let passwords = passwords(1, 1);
        let made = passwords.new_verifier("correct horse").await.unwrap();
        let proof = passwords.proof("correct horse", made.salt.clone(), &made.params, made.pepper_id + 1).await;
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
        assert_eq!(passwords.load(), [1, 1, 1, 1]);
        let refused = passwords.new_verifier("three").await.err().unwrap();
        assert_eq!(refused.code(), Code::Overloaded);
        drop(_busy);
        assert!(waiting.await.unwrap() && also_waiting.await.unwrap());
        assert_eq!(passwords.load(), [0, 1, 0, 1]);
    }
}
