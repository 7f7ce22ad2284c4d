//! Whether slugs are free, as asked for by forms: anybody may, at every keystroke, so the answers are kept for some
//! seconds. They are hints. Whatever takes a slug asks the database, never this; and when this process has taken one, or
//! has been told that it is taken, it forgets what it knew. (Who was just asking the database at that moment may put its
//! answer back: it, too, is some seconds old at most.)

use std::{sync::Arc, time::Duration};

use moka::future::Cache;

use crate::{db::Db, error::Problem};

/// Slugs are at most 50 bytes, and so are their three suggestions: a few megabytes when full.
const MOST: u64 = 10_000;

type Answer = (bool, Vec<String>);

/// Answers of the last seconds.
pub struct Slugs(Option<Cache<String, Arc<Answer>>>);

impl Slugs {
    /// Keeps answers for so long; not at all for zero.
    pub fn new(keep: Duration) -> Self {
        Self((!keep.is_zero()).then(|| Cache::builder().max_capacity(MOST).time_to_live(keep).build()))
    }

    /// Whether an organization could have this slug, and others that it could have. Of many who ask for the same slug at
    /// once, one asks the database; a failure is told to all of them and not kept.
    pub async fn check(&self, db: &Db, slug: &str) -> Result<Answer, Problem> {
        let Some(cache) = &self.0 else { return db.check_slug(slug).await };
        let asked = async { db.check_slug(slug).await.map(Arc::new) };
        match cache.try_get_with_by_ref(slug, asked).await {
            Ok(answer) => Ok((*answer).clone()),
            Err(problem) => Err((*problem).clone()),
        }
    }

    /// The slug has been taken, or was found to be.
    pub async fn forget(&self, slug: &str) {
        if let Some(cache) = &self.0 {
            cache.invalidate(slug).await;
        }
    }
}
