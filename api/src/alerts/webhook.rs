//! Standard Webhooks (standardwebhooks.com, 1.0.0): how a body is signed and shown to its receivers.
//!
//! Signed here: it is one HMAC, and the crate `standardwebhooks` has stood still since its first release, with another
//! generation of every library that it needs. The tests' receiver verifies with the standard's own library.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::Utc;
use reqwest::{StatusCode, header::CONTENT_TYPE, redirect::Policy};
use sha2::{Digest, Sha256};
use url::Url;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{keys::hmac_sha256, oidc::is_safe, tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What the standard says that a secret begins with, and how long it is.
const PREFIX: &str = "whsec_";
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// A row of the outbox remembers so many.
const MAX_RECEIVERS: usize = 10;

/// What webhooks are signed with: each of them signs, so that a receiver that knows one verifies.
pub struct Secrets(Vec<Zeroizing<Vec<u8>>>);

impl Secrets {
    /// Comma-separated. The error never repeats one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let secret = |(index, text): (usize, &str)| {
            let number = index + 1;
            let encoded =
                text.trim().strip_prefix(PREFIX).ok_or(format!("secret {number} does not begin with {PREFIX}"))?;
            let bytes = STANDARD.decode(encoded).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| format!("secret {number} is not base64 behind {PREFIX}"))?;
            if !SECRET_BYTES.contains(&bytes.len()) {
                return Err(format!("secret {number} has {} bytes, not 24 to 64", bytes.len()));
            }
            if bytes.iter().all(|byte| *byte == bytes[0]) {
                return Err(format!("secret {number} is not random"));
            }
            Ok(bytes)
        };
        Ok(Self(text.split(',').enumerate().map(secret).collect::<Result<_, _>>()?))
    }

    /// The header `webhook-signature`.
    fn sign(&self, id: &str, timestamp: i64, payload: &str) -> String {
        let timestamp = timestamp.to_string();
        let parts = [id, ".", &timestamp, ".", payload].map(str::as_bytes);
        let signature = |secret: &Zeroizing<Vec<u8>>| format!("v1,{}", STANDARD.encode(hmac_sha256(secret, &parts)));
        self.0.iter().map(signature).collect::<Vec<_>>().join(" ")
    }
}

/// Where webhooks go. A URL may hold a secret: it is in no log, error or table.
pub struct Receiver {
    url: Url,
    name: String,
    digest: String,
}

impl Receiver {
    fn new(number: usize, url: Url) -> Self {
        let host = url.host_str().unwrap_or_default().to_owned();
        let digest = Sha256::digest(url.as_str());
        let digest = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { url, name: format!("receiver {number} ({host})"), digest }
    }

    /// For people: its place in the list, and its host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For the outbox.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// Why a receiver has not taken a webhook.
pub struct Failure {
    /// For the log and the outbox.
    pub why: String,
    /// Whether trying again is in vain.
    pub permanent: bool,
}

/// All receivers, and how they are reached: by TLS with the platform's roots, without redirects, bounded in time.
pub struct Receivers {
    client: reqwest::Client,
    /// For what is on this machine: not by way of a proxy, which would take it elsewhere, in plain text.
    local: reqwest::Client,
    receivers: Vec<Receiver>,
    secrets: Secrets,
    timeout: Duration,
}

impl Receivers {
    /// Comma-separated URLs. Asks nobody yet. The error never repeats a URL.
    pub fn new(urls: &str, secrets: Secrets, timeout: Duration) -> Result<Self, String> {
        let receiver = |(index, text): (usize, &str)| {
            let number = index + 1;
            let url = Url::parse(text.trim()).map_err(|error| format!("URL {number} cannot be read: {error}"))?;
            if !is_safe(&url) {
                return Err(format!("URL {number} is neither https nor on this machine"));
            }
            if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
                return Err(format!("URL {number} has a user, a password or a fragment"));
            }
            Ok(Receiver::new(number, url))
        };
        let receivers = urls.split(',').enumerate().map(receiver).collect::<Result<Vec<_>, String>>()?;
        if receivers.len() > MAX_RECEIVERS {
            return Err(format!("there are more than {MAX_RECEIVERS} of them"));
        }
        let tls = tls::client_config("the receiver")?;
        let client = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .redirect(Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(timeout)
                // They come seldom, and what a receiver answers is not read to its end.
                .pool_max_idle_per_host(0)
                .user_agent(concat!("auth-api/", env!("CARGO_PKG_VERSION")))
        };
        let built = |client: reqwest::ClientBuilder| client.build().map_err(|error| format!("no HTTP client: {error}"));
        Ok(Self { client: built(client())?, local: built(client().no_proxy())?, receivers, secrets, timeout })
    }

    /// How long a receiver may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// For the log.
    pub fn names(&self) -> String {
        self.receivers.iter().map(Receiver::name).collect::<Vec<_>>().join(", ")
    }

    /// Shows a webhook to all receivers that do not have it, side by side.
    pub async fn send(&self, id: &Uuid, payload: &str, has_it: &[String]) -> Vec<(&Receiver, Result<(), Failure>)> {
        let missing = self.receivers.iter().filter(|receiver| !has_it.contains(&receiver.digest));
        let each = missing.map(|receiver| async move { (receiver, self.post(receiver, id, payload).await) });
        futures_util::future::join_all(each).await
    }

    async fn post(&self, receiver: &Receiver, id: &Uuid, payload: &str) -> Result<(), Failure> {
        let (id, timestamp) = (id.to_string(), Utc::now().timestamp());
        let client = if receiver.url.scheme() == "http" { &self.local } else { &self.client };
        let request = client
            .post(receiver.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-signature", self.secrets.sign(&id, timestamp, payload))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .body(payload.to_owned());
        let not_now = |why: String| Failure { why, permanent: false };
        match request.send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            // The standard's way to say: never again.
            Ok(response) if response.status() == StatusCode::GONE => {
                Err(Failure { why: "it answered 410 Gone".into(), permanent: true })
            }
            Ok(response) if response.status().is_redirection() => {
                Err(not_now(format!("it answered {}, and redirects are not followed", response.status())))
            }
            Ok(response) => Err(not_now(format!("it answered {}", response.status()))),
            Err(error) if error.is_timeout() => Err(not_now("it took too long".into())),
            Err(error) => Err(not_now(describe(&error.without_url()))),
        }
    }
}

/// The innermost cause: that is where "connection refused" stands.
fn describe(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// The example of the standard's own libraries.
    #[test]
    fn a_signature_is_the_one_of_the_standard() {
        let sign = |secrets: &str| {
            let payload = r#"{"email":"test@example.com","username":"test_user"}"#;
            Secrets::parse(secrets).unwrap().sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1649367553, payload)
        };
        let expected = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
        assert_eq!(sign(ONE), expected);
        let both = sign(&format!("{OTHER}, {ONE}"));
        let (first, second) = both.split_once(' ').unwrap();
        assert!(first.starts_with("v1,") && first != expected && second == expected, "{both}");
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_repeated() {
        let encode = |bytes: &[u8]| format!("{PREFIX}{}", STANDARD.encode(bytes));
        let random: Vec<u8> = (0..65).collect();
        for (secret, why) in [
            (String::new(), "does not begin"),
            ("C2FVsBQIhrscChlQIMV+b5sSYspob7oD".into(), "does not begin"),
            (format!("{ONE},"), "secret 2 does not begin"),
            ("whsec_?".into(), "not base64"),
            (encode(&random[..23]), "has 23 bytes"),
            (encode(&random), "has 65 bytes"),
            (encode(&[0; 32]), "not random"),
        ] {
            let sentence = Secrets::parse(&secret).err().unwrap();
            assert!(
                sentence.contains(why) && (secret.len() < 8 || !sentence.contains(&secret)),
                "{secret}: {sentence}"
            );
        }
        assert!(Secrets::parse(&encode(&random[..24])).is_ok() && Secrets::parse(&encode(&random[..64])).is_ok());
    }

    #[test]
    fn where_webhooks_go_is_safe_and_secret() {
        let receivers = |urls: &str| Receivers::new(urls, Secrets::parse(ONE).unwrap(), Duration::from_secs(1));
        for urls in [
            "",
            "hooks.example.org",
            "http://hooks.example.org/hunter2",
            "https://hooks.example.org/,http://10.0.0.1/hunter2",
            "https://user:hunter2@hooks.example.org",
            "https://hooks.example.org/#hunter2",
            "ftp://127.0.0.1/hunter2",
            &["https://hooks.example.org/hunter2"; 11].join(","),
        ] {
            let sentence = receivers(urls).err().unwrap_or_else(|| panic!("{urls} was taken"));
            assert!(!sentence.contains("hunter2"), "{urls}: {sentence}");
        }
        let good = receivers("https://hooks.example.org/hunter2, http://127.0.0.1:9/x").unwrap();
        assert_eq!(good.names(), "receiver 1 (hooks.example.org), receiver 2 (127.0.0.1)");
        let digests: Vec<_> = good.receivers.iter().map(|receiver| receiver.digest().len()).collect();
        assert_eq!(digests, [16, 16]);
    }
}
