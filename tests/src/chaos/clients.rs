//! The clients: each holds one session and refreshes it without pause, as real ones do when answers do not come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::history::{Answer, Attempt};
use crate::Api;
use crate::http::PASSWORD;
use crate::wire::RefreshToken;

/// How a client bears up with what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Waits between attempts, longer each time, as the guides of the big clouds say.
    Patient,
    /// Tries again at once, for ever.
    Hasty,
    /// Gives up on an answer that does not come at once, and tries again on another connection.
    Impatient,
    /// Two tabs that always refresh together.
    Tabs,
    /// A phone on the edge of its network: every second answer is lost on the way.
    Phone,
}

impl Manners {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Patient, Self::Hasty, Self::Impatient, Self::Tabs, Self::Phone];

    /// How long it waits for an answer.
    fn patience(self) -> Duration {
        if self == Self::Impatient { Duration::from_millis(250) } else { Duration::from_secs(20) }
    }
}

/// A client and all that happened to it.
pub struct Client {
    api: Api,
    random: fastrand::Rng,
    /// How it behaves.
    pub manners: Manners,
    /// What its session is called.
    pub session_id: uuid::Uuid,
    /// The digest of the token of its login.
    pub login: u64,
    /// Every token it was given, oldest first; the last one is what it shows next.
    pub tokens: Vec<String>,
    /// What it did, in the order in which it came to an end.
    pub attempts: Vec<Attempt>,
    /// Whether its session was ended for a theft (its own tokens are refused from then on, rightly).
    pub was_robbed: bool,
    /// Whether it was refused otherwise: what must never happen.
    pub was_logged_out: bool,
    answers_seen: u32,
}

/// 64 bits of a token's digest: enough to tell tokens apart, and no token.
pub fn digest(token: &str) -> u64 {
    let digest = Sha256::digest(token);
    u64::from_be_bytes(*digest.first_chunk().expect("32 bytes"))
}

impl Client {
    /// Signs up.
    pub async fn new(url: &str, number: usize, manners: Manners, seed: u64) -> Self {
        let api = Api::new(url);
        let body = json!({"email": format!("client{number}@chaos.test"), "password": PASSWORD, "name": "Chaos"});
        let token = api.post("/api/auth/signup", &body, "").await.expect(201).session().refresh_token;
        let api = Api::with_timeout(url, manners.patience());
        Self {
            random: fastrand::Rng::with_seed(seed),
            manners,
            session_id: RefreshToken::parse(&token).session_id,
            login: digest(&token),
            tokens: vec![token],
            attempts: Vec::new(),
            was_robbed: false,
            was_logged_out: false,
            answers_seen: 0,
            api,
        }
    }

    /// Refreshes until told to stop, or refused. A thief may take one of its old tokens on the way.
    pub async fn live(mut self, stop: Arc<AtomicBool>, theft: Option<Duration>) -> Self {
        let Some(theft) = theft else {
            while !stop.load(Ordering::Relaxed) && !self.was_logged_out {
                self.refresh_once(&stop).await;
            }
            return self;
        };
        // It is robbed however little it got done until then, and if it takes until the weather has cleared.
        let robbed_at = tokio::time::Instant::now() + theft;
        let never = AtomicBool::new(false);
        while (tokio::time::Instant::now() < robbed_at || self.tokens.len() <= 2) && !self.was_logged_out {
            self.refresh_once(&never).await;
        }
        if !self.was_logged_out {
            self.be_robbed(&stop).await;
        }
        self
    }

    /// One more refresh in fair weather: whoever can do it is logged in. False when it cannot be had within a minute.
    pub async fn is_logged_in(&mut self) -> bool {
        let forever = AtomicBool::new(false);
        let before = self.tokens.len();
        let refreshed = tokio::time::timeout(Duration::from_secs(60), self.refresh_once(&forever)).await;
        refreshed.is_ok() && self.tokens.len() > before
    }

    /// From one token to the next, through as many attempts as it takes.
    async fn refresh_once(&mut self, stop: &AtomicBool) {
        let mut pause = Duration::from_millis(20);
        while !stop.load(Ordering::Relaxed) {
            let shown = self.tokens.last().expect("that of the login").clone();
            let answers = match self.manners {
                Manners::Tabs => {
                    let (one, other) = tokio::join!(show(&self.api, &shown), show(&self.api, &shown));
                    vec![one, other]
                }
                _ => vec![show(&self.api, &shown).await],
            };
            let mut successor = None;
            for answer in answers {
                let answer = self.lose_on_the_way(answer);
                self.note(&shown, &answer, false);
                match answer {
                    Shown::Granted(token) => successor = Some(token),
                    Shown::Refused => self.was_logged_out = true,
                    Shown::Nothing => {}
                }
            }
            if let Some(token) = successor {
                self.tokens.push(token);
                return;
            }
            if self.was_logged_out {
                return;
            }
            if self.manners == Manners::Patient {
                tokio::time::sleep(pause.mul_f64(0.5 + self.random.f64())).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            } else {
                // Not a sleep for the race's sake: a client that is refused a connection must leave the others some time.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// A thief shows a token that the session has left behind, until somebody tells him something.
    async fn be_robbed(&mut self, stop: &AtomicBool) {
        let stolen = self.tokens[self.random.usize(..self.tokens.len() - 2)].clone();
        loop {
            let answer = show(&self.api, &stolen).await;
            self.note(&stolen, &answer, true);
            if !matches!(answer, Shown::Nothing) {
                break;
            }
            if stop.load(Ordering::Relaxed) {
                // The weather clears when the run is over: then he is heard.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        self.was_robbed = true;
    }

    fn lose_on_the_way(&mut self, answer: Shown) -> Shown {
        if self.manners == Manners::Phone && matches!(answer, Shown::Granted(_)) {
            self.answers_seen += 1;
            if self.answers_seen % 2 == 1 {
                return Shown::Nothing;
            }
        }
        answer
    }

    fn note(&mut self, shown: &str, answer: &Shown, is_theft: bool) {
        let answer = match answer {
            Shown::Granted(token) => Answer::Granted(RefreshToken::parse(token).generation, digest(token)),
            Shown::Refused => Answer::Refused,
            Shown::Nothing => Answer::Nothing,
        };
        self.attempts.push(Attempt { shown: (RefreshToken::parse(shown).generation, digest(shown)), answer, is_theft });
    }
}

enum Shown {
    Granted(String),
    Refused,
    Nothing,
}

/// One request. Whatever is neither a success nor a 401 says nothing about the token, and is tried again.
async fn show(api: &Api, token: &str) -> Shown {
    let request = api.request(Method::POST, "/api/auth/refresh").json(&json!({"refreshToken": token}));
    match api.try_send(request).await {
        Ok(answer) if answer.status == 200 => Shown::Granted(answer.session().refresh_token),
        Ok(answer) if answer.status == 401 => Shown::Refused,
        Ok(answer) => {
            assert!(matches!(answer.status, 409 | 429 | 502 | 503 | 504), "{}: {}", answer.status, answer.text());
            Shown::Nothing
        }
        Err(_) => Shown::Nothing,
    }
}
