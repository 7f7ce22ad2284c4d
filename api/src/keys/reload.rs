//! Reading the keys anew, without a restart: on SIGHUP, and, where they can change by themselves, from time to time. Keys
//! that are not good change nothing: those in use stay, and the log says why.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::signal::unix::Signal;

use super::{
    KeyError, KeyRings,
    source::{KeySource, Ring},
};
use crate::{app::App, metrics::metrics};

/// What is needed to read the keys anew.
pub struct Reload {
    /// Where they are kept.
    pub source: KeySource,
    /// How often they are read anew without being told to; none: never.
    pub interval: Option<Duration>,
    /// Holds the keys in use, and the database that knows which peppers are needed.
    pub app: Arc<App>,
}

impl Reload {
    /// For as long as the process lives.
    pub async fn run(self, mut hangup: Signal) {
        // What cannot have changed is not looked at.
        let interval = self.interval.filter(|_| self.source.can_change());
        loop {
            let asked = match interval {
                None => hangup.recv().await.is_some(),
                Some(interval) => tokio::select! {
                    asked = hangup.recv() => asked.is_some(),
                    () = tokio::time::sleep(interval) => false,
                },
            };
            if asked && !self.source.can_change() {
                tracing::warn!(
                    "SIGHUP: the keys are in the environment of this process, which cannot change while it runs. Restart \
                     it, or keep them in files (HMAC_SECRETS_FILE, …) or in Vault"
                );
                continue;
            }
            self.prolong().await;
            let done = self.once().await;
            metrics().key_reloads.count(match &done {
                Ok(changes) if changes.is_empty() => "unchanged",
                Ok(_) => "changed",
                Err(_) => "refused",
            });
            match done {
                Ok(changes) if changes.is_empty() => {
                    if asked {
                        tracing::info!("the keys were read anew: they are the same");
                    }
                }
                Ok(changes) => tracing::info!(changes = changes.join("; "), "the keys were read anew"),
                Err(why) => tracing::error!("the keys were read anew and cannot be used, those in use stay: {why}"),
            }
        }
    }

    async fn prolong(&self) {
        if let KeySource::Vault(vault) = &self.source {
            vault.renew().await;
        }
    }

    /// What has changed.
    async fn once(&self) -> Result<Vec<String>, KeyError> {
        let (old, new) = (self.app.keys.rings(), self.source.load().await?);
        self.check_peppers(&old, &new).await?;
        let changes = changes(&old, &new);
        if !changes.is_empty() {
            self.app.keys.replace(new);
        }
        Ok(changes)
    }

    /// A password whose pepper is gone can never be right again.
    async fn check_peppers(&self, old: &KeyRings, new: &KeyRings) -> Result<(), KeyError> {
        let gone: Vec<i32> = old.peppers.ids().filter(|id| !new.peppers.contains(*id)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let used = self.app.db.peppers_in_use().await.map_err(|_| {
            "a pepper was removed, and the database cannot be asked whether passwords still need it.".to_owned()
        })?;
        let needed: Vec<String> =
            used.into_iter().filter(|id| !new.peppers.contains(*id)).map(|id| id.to_string()).collect();
        if needed.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} lacks peppers that passwords in the database were made with (ids {}). Put them back, behind the first.",
            Ring::Peppers.setting(),
            needed.join(", ")
        ))
    }
}

/// Ring by ring, by the names of the keys.
fn changes(old: &KeyRings, new: &KeyRings) -> Vec<String> {
    let compared = [
        (Ring::Hmac, old.token_keys.names(), new.token_keys.names()),
        (Ring::Peppers, old.peppers.names(), new.peppers.names()),
        (Ring::Jwt, old.signing_keys.names(), new.signing_keys.names()),
    ];
    compared.into_iter().filter_map(|(ring, old, new)| change(ring, &old, &new)).collect()
}

fn change(ring: Ring, old: &[String], new: &[String]) -> Option<String> {
    if old == new {
        return None;
    }
    let (before, after): (BTreeSet<&String>, BTreeSet<&String>) = (old.iter().collect(), new.iter().collect());
    let list = |names: Vec<&&String>| names.into_iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let (added, removed) = (list(after.difference(&before).collect()), list(before.difference(&after).collect()));
    let mut said = vec![format!("{}: {} issues", ring.setting(), new[0])];
    if !added.is_empty() {
        said.push(format!("new {added}"));
    }
    if !removed.is_empty() {
        said.push(format!("gone {removed}"));
    }
    if !before.contains(&new[0]) {
        tracing::warn!(
            ring = ring.setting(),
            "the first key is one that was not in the ring before: others that verify may not know it yet"
        );
    }
    Some(said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told_by_name() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let told = |old: &[&str], new: &[&str]| change(Ring::Jwt, &names(old), &names(new));
        assert_eq!(told(&["a", "b"], &["a", "b"]), None);
        assert_eq!(told(&["a", "b"], &["b", "a"]).unwrap(), "JWT_SIGNING_KEYS: b issues");
        assert_eq!(told(&["a"], &["a", "b"]).unwrap(), "JWT_SIGNING_KEYS: a issues, new b");
        assert_eq!(told(&["a", "b"], &["b", "c"]).unwrap(), "JWT_SIGNING_KEYS: b issues, new c, gone a");
    }
}
