//! The keys in use: replaced as a whole when they are read anew. A request that is under way goes on with the rings that
//! it began with.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Peppers, SigningKeys, TokenKeys};

/// All keys of the service, as they were read at one time.
#[derive(Clone)]
pub struct KeyRings {
    /// Of refresh tokens.
    pub token_keys: Arc<TokenKeys>,
    /// Of password proofs.
    pub peppers: Arc<Peppers>,
    /// Of access tokens.
    pub signing_keys: Arc<SigningKeys>,
}

/// The keys in use. What is done in several steps takes a ring once, so that no step finds another one.
pub struct CurrentKeys(ArcSwap<KeyRings>);

impl CurrentKeys {
    /// The first ones.
    pub fn new(rings: KeyRings) -> Self {
        Self(ArcSwap::from_pointee(rings))
    }

    /// All of them.
    pub fn rings(&self) -> Arc<KeyRings> {
        self.0.load_full()
    }

    /// From now on these.
    pub fn replace(&self, rings: KeyRings) {
        self.0.store(Arc::new(rings));
    }

    /// Of refresh tokens.
    pub fn token_keys(&self) -> Arc<TokenKeys> {
        self.0.load().token_keys.clone()
    }

    /// Of password proofs.
    pub fn peppers(&self) -> Arc<Peppers> {
        self.0.load().peppers.clone()
    }

    /// Of access tokens.
    pub fn signing_keys(&self) -> Arc<SigningKeys> {
        self.0.load().signing_keys.clone()
    }
}

#[cfg(any(fuzzing, test))]
impl CurrentKeys {
    /// The same keys for everything.
    pub fn of_tests(ring: &str) -> Self {
        Self::new(KeyRings {
            token_keys: Arc::new(TokenKeys::parse("K", ring).expect("good keys")),
            peppers: Arc::new(Peppers::parse("K", ring).expect("good keys")),
            signing_keys: Arc::new(SigningKeys::parse("K", ring).expect("good keys")),
        })
    }
}
