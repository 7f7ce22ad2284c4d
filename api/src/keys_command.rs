//! `auth-api keys …`: makes, lists, rotates and retires the keys of the service, for an operator.
//!
//! A ring is rotated in two steps, so that nobody meets a key that it does not know: the new key is put last, where it
//! verifies (and is in the JWKS) and issues nothing; when every node has it, it is promoted to the first place. Nothing
//! prints a key but `generate`.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::{Subcommand, ValueEnum};
use zeroize::Zeroizing;

use crate::{
    config::KeysConfig,
    db::Db,
    keys::{
        self, GENERATE, Peppers, SigningKeys, TokenKeys,
        source::{KeySource, Place, Ring, Stored},
    },
    routes::jwks,
};

/// What to do with keys.
#[derive(Subcommand)]
pub enum KeysCommand {
    /// Prints a fresh key on standard output, for any of the rings; its names on standard error. Needs no settings.
    Generate,
    /// Lists all keys on standard output: ring, name, what it does (issues, or only verifies), where it is kept, separated
    /// by tabs. The keys themselves are never printed.
    List,
    /// Puts a fresh key into a ring, last: it verifies, and issues nothing yet. Prints its name on standard output.
    ///
    /// When every node has it (they read files and Vault anew on SIGHUP and every KEY_REFRESH_SECONDS), run it again with
    /// --promote NAME: from then on that key issues, and the ones before it go on verifying until they are retired.
    Rotate {
        /// Which ring.
        ring: RingName,
        /// Makes this key, which is in the ring already, the one that issues.
        #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
        promote: Option<String>,
        /// Promotes it although some node, or who keeps the JWKS for a while, may not know it yet.
        #[arg(long, requires = "promote")]
        now: bool,
    },
    /// Takes a key out of a ring. Refused while it issues, and while what it made still lives.
    Retire {
        /// Which ring.
        ring: RingName,
        /// The key's name, as list says.
        #[arg(allow_hyphen_values = true)]
        name: String,
        /// Takes it out although what it made still lives: whoever holds a token of it is refused. Not for a pepper that
        /// passwords need.
        #[arg(long)]
        now: bool,
    },
}

/// A ring on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub enum RingName {
    /// Of refresh tokens (HMAC_SECRETS).
    Hmac,
    /// Of password proofs (PASSWORD_PEPPERS).
    Peppers,
    /// Of access tokens (JWT_SIGNING_KEYS).
    Jwt,
}

impl From<RingName> for Ring {
    fn from(name: RingName) -> Self {
        match name {
            RingName::Hmac => Self::Hmac,
            RingName::Peppers => Self::Peppers,
            RingName::Jwt => Self::Jwt,
        }
    }
}

impl Ring {
    fn on_the_command_line(self) -> &'static str {
        match self {
            Self::Hmac => "hmac",
            Self::Peppers => "peppers",
            Self::Jwt => "jwt",
        }
    }
}

/// Does it; the settings are read for these rings when they are needed. An error is a sentence for the operator.
pub async fn run(command: KeysCommand, config: impl Fn(&[Ring]) -> Result<KeysConfig, String>) -> Result<(), String> {
    match command {
        KeysCommand::Generate => generate(),
        KeysCommand::List => list(&config(&Ring::ALL)?.source).await,
        KeysCommand::Rotate { ring, promote: None, .. } => add(&config(&[ring.into()])?, ring.into()).await,
        KeysCommand::Rotate { ring, promote: Some(name), now } => {
            promote(&config(&[ring.into()])?, ring.into(), &name, now).await
        }
        KeysCommand::Retire { ring, name, now } => retire(&config(&[ring.into()])?, ring.into(), &name, now).await,
    }
}

/// 32 random bytes, which any ring takes.
fn fresh() -> Zeroizing<String> {
    let bytes = Zeroizing::new(keys::random::<32>());
    Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn generate() -> Result<(), String> {
    let key = fresh();
    let name = |ring| Ok::<_, String>(names(ring, "the key", &key)?.concat());
    eprintln!(
        "Its name is {} in HMAC_SECRETS, {} in PASSWORD_PEPPERS, {} in JWT_SIGNING_KEYS. Put it into one of them, not two.",
        name(Ring::Hmac)?,
        name(Ring::Peppers)?,
        name(Ring::Jwt)?
    );
    println!("{}", *key);
    Ok(())
}

async fn list(source: &KeySource) -> Result<(), String> {
    for stored in source.read(&Ring::ALL).await? {
        for (index, name) in names(stored.ring, &stored.origin, &stored.text)?.iter().enumerate() {
            let role = if index == 0 { "issues" } else { "verifies" };
            println!("{}\t{name}\t{role}\t{}", stored.ring.on_the_command_line(), stored.origin);
        }
    }
    Ok(())
}

/// The names of the keys, in their order; and whether they are all good.
fn names(ring: Ring, origin: &str, text: &str) -> Result<Vec<String>, String> {
    Ok(match ring {
        Ring::Hmac => TokenKeys::parse(origin, text)?.names(),
        Ring::Peppers => Peppers::parse(origin, text)?.names(),
        Ring::Jwt => SigningKeys::parse(origin, text)?.names(),
    })
}

/// A ring as it is kept, to be changed.
struct Opened {
    stored: Stored,
    keys: Vec<Zeroizing<String>>,
    names: Vec<String>,
}

impl Opened {
    async fn of(config: &KeysConfig, ring: Ring) -> Result<Self, String> {
        let stored = config.source.read(&[ring]).await?.pop().ok_or("this ring is kept nowhere.")?;
        let keys = stored.text.split(',').map(|key| Zeroizing::new(key.trim().to_owned())).collect();
        let names = names(ring, &stored.origin, &stored.text)?;
        Ok(Self { stored, keys, names })
    }

    fn position(&self, name: &str) -> Result<usize, String> {
        self.names.iter().position(|other| other == name).ok_or_else(|| {
            format!("{} has no key {name}. It has: {}. Nothing was changed.", self.stored.origin, self.names.join(", "))
        })
    }

    /// Writes the keys back, when they are good.
    async fn write(self, source: &KeySource) -> Result<(), String> {
        let text = Zeroizing::new(self.keys.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(","));
        names(self.stored.ring, &self.stored.origin, &text)?;
        source.replace(&self.stored, text).await
    }

    /// How long ago its place was changed for the last time: since then, at the latest, its first key issues.
    fn unchanged_for(&self) -> Duration {
        let changed_at = self.stored.changed_at.unwrap_or(DateTime::UNIX_EPOCH);
        (Utc::now() - changed_at).to_std().unwrap_or_default()
    }
}

/// A setting cannot be changed from here. What to do instead is the whole answer.
fn changeable(config: &KeysConfig, ring: Ring, what_to_do: &str) -> Result<(), String> {
    let KeySource::Local(places) = &config.source else { return Ok(()) };
    match places.iter().find(|(other, _)| *other == ring) {
        Some((_, Place::Environment(setting, _))) => Err(format!(
            "{setting} is in the environment, which cannot be changed from here. {what_to_do} Keys in files ({}) or in Vault \
             (KMS_PROVIDER=vault) need no restart.",
            ring.file_setting()
        )),
        _ => Ok(()),
    }
}

async fn add(config: &KeysConfig, ring: Ring) -> Result<(), String> {
    let by_hand = format!(
        "Make a key with `{GENERATE}`, put it behind the others, after a comma, on every node, and restart them; then move \
         it to the front on every node, and restart them again."
    );
    changeable(config, ring, &by_hand)?;
    let mut ring_now = Opened::of(config, ring).await?;
    let key = fresh();
    let name = names(ring, "the new key", &key)?.concat();
    let origin = ring_now.stored.origin.clone();
    ring_now.keys.push(key);
    ring_now.write(&config.source).await?;
    eprintln!(
        "{name} was put last in {origin}: it verifies{}, and issues nothing yet. {} Then: auth-api keys rotate {} --promote \
         {name}",
        if ring == Ring::Jwt { " and is in the JWKS" } else { "" },
        until_known(config, ring),
        ring.on_the_command_line(),
    );
    println!("{name}");
    Ok(())
}

/// How long it may take until everybody knows a key that was added.
fn spreading(config: &KeysConfig, ring: Ring) -> Duration {
    let cached = if ring == Ring::Jwt { jwks::MAX_AGE } else { Duration::ZERO };
    config.refresh.unwrap_or_default() + cached
}

fn until_known(config: &KeysConfig, ring: Ring) -> String {
    let nodes = match config.refresh {
        Some(interval) => format!("Nodes take it in on SIGHUP, or within {} s by themselves", interval.as_secs()),
        None => "Nodes take it in on SIGHUP (KEY_REFRESH_SECONDS is 0): send it to all".to_owned(),
    };
    match ring {
        Ring::Jwt => format!("{nodes}; who verifies signatures keeps the JWKS for {} s.", jwks::MAX_AGE.as_secs()),
        _ => format!("{nodes}."),
    }
}

async fn promote(config: &KeysConfig, ring: Ring, name: &str, now: bool) -> Result<(), String> {
    let by_hand = format!("Move the key {name} to the front on every node, and restart them.");
    changeable(config, ring, &by_hand)?;
    let mut ring_now = Opened::of(config, ring).await?;
    let position = ring_now.position(name)?;
    if position == 0 {
        return Err(format!("{name} issues already. Nothing was changed."));
    }
    let (wait, passed) = (spreading(config, ring), ring_now.unchanged_for());
    if passed < wait && !now {
        return Err(format!(
            "{} was changed {} s ago, and not everybody may know {name} yet. {} Try again in {} s, or, if all nodes have it, \
             with --now. Nothing was changed.",
            ring_now.stored.origin,
            passed.as_secs(),
            until_known(config, ring),
            (wait - passed).as_secs() + 1
        ));
    }
    let key = ring_now.keys.remove(position);
    ring_now.keys.insert(0, key);
    let before = ring_now.names[0].clone();
    ring_now.write(&config.source).await?;
    eprintln!(
        "{name} issues from now on, {before} only verifies. {} When nothing of it lives any more: auth-api keys retire {} \
         {before}",
        until_known(config, ring),
        ring.on_the_command_line()
    );
    Ok(())
}

async fn retire(config: &KeysConfig, ring: Ring, name: &str, now: bool) -> Result<(), String> {
    let mut ring_now = Opened::of(config, ring).await?;
    let position = ring_now.position(name)?;
    if position == 0 {
        return Err(format!(
            "{name} issues: promote another one first (auth-api keys rotate {}). Nothing was changed.",
            ring.on_the_command_line()
        ));
    }
    let alive = match ring {
        Ring::Peppers => {
            unused(config, name).await?;
            None
        }
        Ring::Jwt => access_tokens(config, &ring_now),
        Ring::Hmac => refresh_tokens(config, &ring_now).await,
    };
    if let Some(alive) = &alive
        && !now
    {
        return Err(format!(
            "{alive} Wait, or take {name} out with --now: whoever holds a token of it is refused then. Nothing was changed."
        ));
    }
    let by_hand = format!(
        "Take the key {name} out on every node, and restart them, when nothing of it lives any more: access tokens live {} s, \
         refresh tokens {} s.",
        config.access_token_ttl.as_secs(),
        config.refresh_token_ttl.as_secs()
    );
    changeable(config, ring, &by_hand)?;
    ring_now.keys.remove(position);
    let origin = ring_now.stored.origin.clone();
    ring_now.write(&config.source).await?;
    eprintln!("{name} is no longer in {origin}. {}", {
        match config.refresh {
            Some(interval) => {
                format!("Nodes let go of it on SIGHUP, or within {} s by themselves.", interval.as_secs())
            }
            None => "Nodes let go of it on SIGHUP.".to_owned(),
        }
    });
    Ok(())
}

/// Whether no password needs the pepper. Never taken for granted: without it those passwords are lost.
async fn unused(config: &KeysConfig, name: &str) -> Result<(), String> {
    let asked = "whether passwords need it is asked of the database";
    let database = config.service_database.clone().map_err(|why| format!("{asked}: {why}"))?;
    let used = Db::new(database)?.peppers_in_use().await.map_err(|_| {
        format!(
            "{asked}, and it does not answer, or this login may not ask: the line above says more. Nothing was changed."
        )
    })?;
    if used.iter().any(|id| id.to_string() == name) {
        return Err(format!(
            "passwords in the database still need the pepper {name}: each is renewed with the current one when its owner logs \
             in. sql/dba/key-compromise.md says how to end those that stay. Nothing was changed."
        ));
    }
    Ok(())
}

/// Until when access tokens of another key than the first may live.
fn access_tokens(config: &KeysConfig, ring: &Opened) -> Option<String> {
    let life = config.access_token_ttl + config.refresh.unwrap_or_default();
    let end = end_of(ring, life)?;
    Some(format!("Access tokens that it signed may live until {end}."))
}

/// Until when refresh tokens of another key than the first may live, and of how many sessions, where the database tells.
async fn refresh_tokens(config: &KeysConfig, ring: &Opened) -> Option<String> {
    // A session that has been refreshed since holds a token of the first key.
    let since =
        ring.stored.changed_at? + config.refresh.and_then(|it| TimeDelta::from_std(it).ok()).unwrap_or_default();
    let mut idle = config.refresh_token_ttl;
    if let Ok(database) = config.admin_database.clone()
        && let Ok(db) = Db::new(database)
    {
        match db.sessions_not_used_since(since).await {
            Ok(Some((0, _))) => return None,
            Ok(Some((sessions, Some(end)))) => {
                return Some(format!(
                    "{sessions} sessions may hold a token of it, until {}: those that were not refreshed since {}, when the last \
                     node had read the ring at the latest.",
                    time(end),
                    time(since)
                ));
            }
            _ => tracing::warn!("the database was not asked which sessions that concerns: set ADMIN_DATABASE_URL"),
        }
        if let Ok(limits) = db.limits().await {
            idle = limits.refresh_idle_ttl;
        }
    }
    let end = end_of(ring, idle + config.refresh.unwrap_or_default())?;
    Some(format!("Refresh tokens of it may live until {end}."))
}

/// When what was issued before the last change has ended; none when it has.
fn end_of(ring: &Opened, life: Duration) -> Option<String> {
    let end = ring.stored.changed_at? + TimeDelta::from_std(life).ok()?;
    (end > Utc::now()).then(|| time(end))
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
