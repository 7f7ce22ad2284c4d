//! The clients: each holds one session and refreshes it without pause, through the disaster and out of it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use uuid::Uuid;

use crate::wire::RefreshToken;
use crate::{Api, Session};

/// How a client refreshes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// One request at a time, until there is an answer.
    Steady,
    /// Two tabs that refresh at the same moment; the answer that comes last is the one that stays.
    Tabs,
    /// A phone that loses every second answer, and asks again.
    Phone,
    /// A phone whose last answer before the disaster is lost, and that is not used again until it is over.
    Sleeper,
}

impl Manners {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Steady, Self::Tabs, Self::Phone, Self::Sleeper];
    /// Those that do not ask twice: a retry always waits for the disk, and takes along what came before it.
    pub const ASKING_ONCE: [Self; 2] = [Self::Steady, Self::Sleeper];
}

/// How far the disaster has got, for all clients.
#[derive(Debug, Default)]
pub struct Weather {
    /// What is answered from now on comes from the database that is left.
    pub is_over: AtomicBool,
    /// Until this is false, whoever sleeps goes on as if awake.
    pub may_sleep: AtomicBool,
    /// Refreshes that were answered before it was over.
    pub refreshes: AtomicUsize,
    /// Clients that sleep.
    pub asleep: AtomicUsize,
}

/// A client and what it was given.
pub struct Client {
    api: Api,
    weather: Arc<Weather>,
    /// How it refreshes.
    pub manners: Manners,
    /// Its session.
    pub session_id: Uuid,
    /// Everything that it was given, oldest first: it shows the last refresh token.
    pub given: Vec<Session>,
    /// How much of that it had been given when the disaster was over; none as long as it was told nothing after it.
    given_before: Option<usize>,
    /// Whether it was refused.
    pub is_refused: bool,
    answers: usize,
}

/// What came of one request.
enum Answer {
    Granted(Session),
    Refused,
    Nothing,
}

impl Client {
    /// Signs up.
    pub async fn sign_up(url: &str, number: usize, manners: Manners, weather: Arc<Weather>) -> Self {
        let api = Api::new(url);
        let session = api.signup(&format!("resident{number}@example.org")).await;
        Self {
            api,
            weather,
            manners,
            session_id: RefreshToken::parse(&session.refresh_token).session_id,
            given: vec![session],
            given_before: None,
            is_refused: false,
            answers: 0,
        }
    }

    /// What it shows next.
    pub fn token(&self) -> &str {
        &self.given.last().expect("that of the login").refresh_token
    }

    /// What it was given before it was over.
    pub fn before(&self) -> &[Session] {
        &self.given[..self.given_before.expect("it has lived")]
    }

    /// The last of that.
    pub fn last_before(&self) -> &Session {
        self.before().last().expect("that of the login")
    }

    fn is_over(&self) -> bool {
        self.weather.is_over.load(Ordering::Acquire)
    }

    /// Refreshes without pause until it was answered by the database that is left.
    pub async fn live(mut self) -> Self {
        loop {
            let sleeps = self.manners == Manners::Sleeper && self.weather.may_sleep.load(Ordering::Acquire);
            if sleeps && !self.is_over() {
                self.fall_asleep().await;
            }
            self.refresh().await;
            if self.given_before.is_some() {
                return self;
            }
        }
    }

    /// Shows its token once more after all, as somebody who does not believe that he is logged out.
    pub async fn insist(&mut self) -> bool {
        self.is_refused = false;
        self.refresh().await && !self.is_refused
    }

    /// One refresh; whether there was an answer that says something about its token.
    async fn refresh(&mut self) -> bool {
        let tabs = if self.manners == Manners::Tabs { 2 } else { 1 };
        let shown = self.token().to_owned();
        let mut requests: FuturesUnordered<_> = (0..tabs).map(|_| show(self.api.clone(), shown.clone())).collect();
        let mut granted = None;
        while let Some(answer) = requests.next().await {
            match answer {
                Answer::Granted(session) => granted = Some(session),
                Answer::Refused => self.is_refused = true,
                Answer::Nothing => continue,
            }
            // Nothing of the database of before is answered any more when it is over. Asked once for each answer: it may be
            // over at any moment.
            if self.given_before.is_none() && (self.is_refused || self.is_over()) {
                self.given_before = Some(self.given.len());
            }
        }
        let is_answered = granted.is_some() || self.is_refused;
        if granted.is_some() && self.given_before.is_none() {
            self.weather.refreshes.fetch_add(1, Ordering::Relaxed);
            self.answers += 1;
            if self.manners == Manners::Phone && self.answers % 2 == 1 {
                return false;
            }
        }
        self.given.extend(granted);
        if !is_answered {
            // Not for a race's sake: whoever is refused a connection leaves the others some time.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        is_answered
    }

    /// Refreshes, loses the answer, and waits until the disaster is over.
    async fn fall_asleep(&mut self) {
        while !matches!(show(self.api.clone(), self.token().to_owned()).await, Answer::Granted(_)) {}
        self.weather.asleep.fetch_add(1, Ordering::Release);
        while !self.weather.is_over.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One request. Whatever is neither a success nor a 401 says nothing about the token.
async fn show(api: Api, token: String) -> Answer {
    let request = api.request(reqwest::Method::POST, "/api/auth/refresh");
    match api.try_send(request.json(&serde_json::json!({"refreshToken": token}))).await {
        Ok(answer) if answer.status == 200 => Answer::Granted(answer.session()),
        Ok(answer) if answer.status == 401 => Answer::Refused,
        Ok(answer) => {
            assert_eq!(answer.status, 503, "{}", answer.text());
            Answer::Nothing
        }
        Err(_) => Answer::Nothing,
    }
}
