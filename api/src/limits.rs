//! How often a client may ask: one table, looked up around each request.
//!
//! Two kinds. Most operations are counted in this process alone, by network: that costs nothing, and is there for
//! floods. What lets a stranger guess, find out or send mail is counted in the database besides, shared by all processes,
//! by network and, where the request names one, by account, whether or not there is such an account; in one statement.
//! A refresh is of the first kind: it must stay one statement, and the database limits it by session in that.
//!
//! The answer tells the network's limit in `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11);
//! the account's only when it refuses, because how much is left of it would tell others when its owner logs in.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher,
    net::IpAddr,
    num::NonZeroU32,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use ipnet::IpNet;
use poem::{FromRequest, Request, RequestBody, http::HeaderMap, http::HeaderValue};

use crate::{
    app::App,
    db::{Asked, Taken},
    device::Caller,
    error::{Code, Problem},
    metrics::metrics,
};

/// So many at once, and as many again, evenly, in each period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How many at once.
    pub burst: NonZeroU32,
    /// In how long they come back.
    pub period: Duration,
}

/// What the limit of refreshes by network is called in metrics.
const REFRESH_NETWORK: &str = "refresh_network";

/// A rate, or none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit(pub Option<Rate>);

impl FromStr for Limit {
    type Err = String;

    /// `30/1m`, `5/10s`, `100/1h`; `0` or `off`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "it must be like 30/1m (30 at once, and 30 a minute; s, m, h, d), or off".to_owned();
        if ["0", "off"].contains(&text) {
            return Ok(Self(None));
        }
        let (burst, period) = text.split_once('/').ok_or_else(wrong)?;
        let (number, unit) = period.split_at_checked(period.len().saturating_sub(1)).ok_or_else(wrong)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = if number.is_empty() { 1 } else { number.parse().map_err(|_| wrong())? };
        let burst: NonZeroU32 = burst.parse().map_err(|_| wrong())?;
        let seconds = number.saturating_mul(unit);
        if burst.get() > 1_000_000 || !(1..=86_400).contains(&seconds) {
            return Err("it must be at most 1000000, in a second to a day".into());
        }
        Ok(Self(Some(Rate { burst, period: Duration::from_secs(seconds) })))
    }
}

/// What is counted together in the database.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Class {
    /// Passwords can be guessed. By account too.
    LogIn,
    /// A provider is asked for each. Counted with the other logins.
    FederatedLogIn,
    /// Tells whether an e-mail has an account. By account too.
    SignUp,
    /// Sends mail to an address that somebody names. By account too.
    Mail,
    /// Tokens from mail can be guessed.
    MailToken,
    /// A logged-in user's password can be guessed.
    Password,
    /// Tells which slugs are taken.
    LookUp,
}

impl Class {
    /// Which operations are counted as what. All others are counted in this process only; those of confidential clients
    /// too, whose secrets cannot be guessed, and who ask for every request of theirs.
    fn of(operation: &str) -> Option<Self> {
        Some(match operation {
            "logIn" | "getTokens" => Self::LogIn,
            "logInWithIdToken" | "startFederatedLogin" | "finishFederatedLogin" => Self::FederatedLogIn,
            "signUp" => Self::SignUp,
            "forgotPassword" | "resendVerification" | "requestEmailChange" | "inviteMember" => Self::Mail,
            "verifyEmail" | "confirmEmailChange" | "resetPassword" | "acceptInvitation" => Self::MailToken,
            "stepUp" | "changePassword" => Self::Password,
            "checkSlug" => Self::LookUp,
            _ => return None,
        })
    }

    /// The handler reads from the body whose account it is, and takes: [`Ticket::take`].
    fn is_by_account(self) -> bool {
        matches!(self, Self::LogIn | Self::SignUp | Self::Mail)
    }
}

/// Watches operators, not users: always answered.
const UNLIMITED: &[&str] = &["getLiveness", "getReadiness"];

/// A limit by network, and where there is one, by account; their names are the scopes in the database and the policies
/// in the headers.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    network: (&'static str, Limit),
    account: Option<(&'static str, Limit)>,
}

/// The settings.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is a setting, which says what it is
pub struct LimitsConfig {
    pub log_in: Limit,
    pub log_in_account: Limit,
    pub sign_up: Limit,
    pub sign_up_account: Limit,
    pub mail: Limit,
    pub mail_account: Limit,
    pub mail_token: Limit,
    pub password: Limit,
    pub look_up: Limit,
    pub refresh: Limit,
    pub requests: Limit,
}

/// All limits.
pub struct Limits {
    config: LimitsConfig,
    refresh: InProcess,
    requests: InProcess,
}

impl Limits {
    /// From the settings; nothing is counted yet.
    pub fn new(config: LimitsConfig) -> Self {
        Self { refresh: InProcess::new(config.refresh), requests: InProcess::new(config.requests), config }
    }

    fn shared(&self, class: Class) -> Shared {
        let config = &self.config;
        let (network, account) = match class {
            Class::LogIn => (("login_network", config.log_in), Some(("login_account", config.log_in_account))),
            Class::FederatedLogIn => (("login_network", config.log_in), None),
            Class::SignUp => (("signup_network", config.sign_up), Some(("signup_account", config.sign_up_account))),
            Class::Mail => (("mail_network", config.mail), Some(("mail_account", config.mail_account))),
            Class::MailToken => (("mail_token_network", config.mail_token), None),
            Class::Password => (("password_network", config.password), None),
            Class::LookUp => (("lookup_network", config.look_up), None),
        };
        Shared { network, account }
    }

    /// Before anything of the request is read: refuses it, or says what is left to count.
    pub async fn admit(
        &self,
        app: &App,
        operation: Option<&str>,
        request: &Request,
    ) -> Result<Ticket, (Problem, Ticket)> {
        let operation = operation.unwrap_or_default();
        let class = Class::of(operation);
        let ticket =
            Ticket(Arc::new(Counted { shared: class.map(|class| self.shared(class)), taken: Mutex::default() }));
        if UNLIMITED.contains(&operation) {
            return Ok(ticket);
        }
        let Ok(caller) = Caller::from_request_without_body(request).await else { return Ok(ticket) };
        let in_process = if operation == "refresh" { &self.refresh } else { &self.requests };
        if let Err(problem) = in_process.take(&network_of(caller.ip)) {
            metrics().rate_limited.count(if operation == "refresh" { REFRESH_NETWORK } else { "requests_network" });
            return Err((problem, ticket));
        }
        if class.is_some_and(|class| !class.is_by_account())
            && let Err(problem) = ticket.count(app, &caller, None).await
        {
            return Err((problem, ticket));
        }
        Ok(ticket)
    }

    /// One refresh of a client that did not come by the refresh endpoint.
    pub fn take_refresh(&self, caller: &Caller) -> Result<(), Problem> {
        self.refresh.take(&network_of(caller.ip)).inspect_err(|_| metrics().rate_limited.count(REFRESH_NETWORK))
    }
}

/// What a request was counted as, and what came of it: for the handler, and for the headers of the answer.
#[derive(Clone)]
pub struct Ticket(Arc<Counted>);

struct Counted {
    shared: Option<Shared>,
    taken: Mutex<Vec<Taken>>,
}

impl Ticket {
    /// Counts the request by its network and by the account that it names, which need not exist.
    pub async fn take(&self, app: &App, caller: &Caller, email: &str) -> Result<(), Problem> {
        self.count(app, caller, Some(email.to_ascii_lowercase())).await
    }

    async fn count(&self, app: &App, caller: &Caller, account: Option<String>) -> Result<(), Problem> {
        let Some(shared) = self.0.shared else { return Ok(()) };
        let network = network_of(caller.ip);
        let mut asked = Vec::with_capacity(2);
        if let (scope, Limit(Some(rate))) = shared.network {
            asked.push(Asked {
                scope,
                key: &network,
                burst: rate.burst.get() as i32,
                seconds: rate.period.as_secs_f64(),
            });
        }
        if let (Some((scope, Limit(Some(rate)))), Some(account)) = (shared.account, &account) {
            asked.push(Asked {
                scope,
                key: account,
                burst: rate.burst.get() as i32,
                seconds: rate.period.as_secs_f64(),
            });
        }
        if asked.is_empty() {
            return Ok(());
        }
        let taken = app.db.take_rate_limits(&asked, caller).await?;
        let refused = taken.iter().find(|taken| !taken.allowed).map(|refused| refused.more_after);
        if refused.is_some() {
            let by_account = taken.iter().any(|taken| !taken.allowed && taken.scope != shared.network.0);
            let account = shared.account.filter(|_| by_account);
            metrics().rate_limited.count(account.unwrap_or(shared.network).0);
        }
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) = taken;
        match refused {
            Some(seconds) => Err(Problem::with_retry_after(Code::RateLimited, seconds)),
            None => Ok(()),
        }
    }

    /// Tells the client, once something was counted.
    pub fn set_headers(&self, headers: &mut HeaderMap) {
        let taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(shared) = self.0.shared.filter(|_| !taken.is_empty()) else { return };
        let policy = |(name, limit): (&str, Limit)| {
            limit.0.map(|rate| format!(r#""{name}";q={};w={}"#, rate.burst, rate.period.as_secs()))
        };
        let policies: Vec<String> =
            [Some(shared.network), shared.account].into_iter().flatten().filter_map(policy).collect();
        let is_told = |taken: &&Taken| taken.scope == shared.network.0 || !taken.allowed;
        let left = |taken: &Taken| {
            format!(r#""{}";r={};t={}"#, taken.scope, taken.remaining, taken.more_after.ceil().max(1.0))
        };
        let limits: Vec<String> = taken.iter().filter(is_told).map(left).collect();
        for (name, list) in [("ratelimit-policy", policies), ("ratelimit", limits)] {
            if let Ok(value) = HeaderValue::try_from(list.join(", "))
                && !list.is_empty()
            {
                headers.insert(name, value);
            }
        }
    }
}

impl<'a> FromRequest<'a> for Ticket {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        Ok(request.data::<Self>().cloned().ok_or(Problem::from(Code::InternalError))?)
    }
}

/// What is counted by: /24 of IPv4, /64 of IPv6, as the database stores addresses (`auth.network_of`).
pub fn network_of(address: Option<IpAddr>) -> String {
    let Some(address) = address else { return "unknown".into() };
    let length = if address.is_ipv4() { 24 } else { 64 };
    IpNet::new_assert(address, length).trunc().to_string()
}

/// A limit by network in this process. Networks share a fixed number of counters, by a hash that only this process
/// knows: however many there are, the memory is bounded, and nobody can choose whose counter he uses up.
struct InProcess {
    limiter: Option<DefaultKeyedRateLimiter<u16>>,
    hasher: RandomState,
}

impl InProcess {
    fn new(limit: Limit) -> Self {
        let quota = |rate: Rate| {
            let step = (rate.period / rate.burst.get()).max(Duration::from_nanos(1));
            Quota::with_period(step).map(|quota| RateLimiter::keyed(quota.allow_burst(rate.burst)))
        };
        Self { limiter: limit.0.and_then(quota), hasher: RandomState::new() }
    }

    fn take(&self, network: &str) -> Result<(), Problem> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let counter = self.hasher.hash_one(network) as u16;
        limiter.check_key(&counter).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            Problem::with_retry_after(Code::RateLimited, wait.as_secs_f64())
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => write!(f, "{}/{}s", rate.burst, rate.period.as_secs()),
            None => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_and_a_period() {
        for (text, shown) in [
            ("30/1m", "30/60s"),
            ("5/10s", "5/10s"),
            ("100/h", "100/3600s"),
            ("1/1d", "1/86400s"),
            ("0", "off"),
            ("off", "off"),
        ] {
            assert_eq!(text.parse::<Limit>().unwrap().to_string(), shown);
        }
        for wrong in ["", "30", "30/", "/1m", "0/1m", "-1/1m", "30/1y", "30/2d", "30/0s", "1000001/1m", "30/1ü", "a/1m"]
        {
            assert!(wrong.parse::<Limit>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_are_what_the_database_calls_so() {
        let network = |ip: &str| network_of(Some(ip.parse().unwrap()));
        assert_eq!(network("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
    }

    #[test]
    fn a_flood_of_one_network_stops_and_others_go_on() {
        let limit = InProcess::new("3/1h".parse().unwrap());
        let answers = |network: &str| (0..5).filter(|_| limit.take(network).is_ok()).count();
        assert_eq!(answers("192.0.2.0/24"), 3);
        assert_eq!(answers("192.0.2.0/24"), 0);
        // Two of three may share a counter, but not so many.
        let others = (0..100).map(|n| answers(&format!("198.51.{n}.0/24"))).filter(|allowed| *allowed == 3).count();
        assert!(others > 90, "{others}");
        let off = InProcess::new("off".parse().unwrap());
        assert!((0..1000).all(|_| off.take("192.0.2.0/24").is_ok()));
    }

    #[test]
    fn the_memory_of_a_process_is_bounded() {
        let limit = InProcess::new("3/1h".parse().unwrap());
        for n in 0..200_000 {
            let _ = limit.take(&format!("2001:db8:{}:{}::/64", n / 1000, n % 1000));
        }
        assert!(limit.limiter.unwrap().len() <= 65_536);
    }

    #[test]
    fn every_operation_of_the_table_exists() {
        let document: serde_json::Value = serde_json::from_str(&crate::app::document()).unwrap();
        let ids: Vec<&str> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|path| path.as_object().unwrap().values())
            .map(|operation| operation["operationId"].as_str().unwrap())
            .collect();
        // What is not met is misspelt, and counts nothing.
        let table = include_str!("limits.rs")
            .split("Some(match operation {")
            .nth(1)
            .unwrap()
            .split("_ => return")
            .next()
            .unwrap();
        let listed: Vec<&str> = table.split('"').skip(1).step_by(2).collect();
        assert!(listed.len() > 10);
        for id in listed {
            assert!(ids.contains(&id) && Class::of(id).is_some(), "{id}");
        }
        assert!(UNLIMITED.iter().all(|id| ids.contains(id)) && ids.contains(&"refresh"));
    }
}
