//! Tells somebody on call what the database has queued for it (`sql/alerts.sql`), by signed webhooks.
//!
//! At least once, under one webhook-id: see [`crate::courier`].

mod webhook;

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{SecondsFormat, Utc};
use deadpool_postgres::tokio_postgres;
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use self::webhook::{Receivers, Secrets};
use crate::{
    courier::{AtWork, Courier},
    db::{Alert, Outbox, OutboxError},
    metrics::metrics,
};

/// How an error of the database begins that has no such outbox: the extension is older than this service.
const UNDEFINED_FUNCTION: &str = "42883 ";
/// How often that is tried to be told when the receivers do not take it.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// How often it is told while it lasts.
const REMIND: Duration = Duration::from_secs(24 * 60 * 60);

/// What telling needs.
pub struct AlertsConfig {
    /// A login in role auth_mailer.
    pub database: tokio_postgres::Config,
    /// Who is told.
    pub receivers: Receivers,
    /// Whether the database tells when there is something.
    pub direct: bool,
    /// How often the outbox is looked into anyway.
    pub poll: Duration,
}

/// Sends alerts from now on.
pub fn start(config: AlertsConfig) -> AtWork {
    tracing::info!(receivers = config.receivers.names(), "alerts are sent by this process");
    AtWork::start(Herald {
        outbox: Outbox::of_alerts(config.database.clone(), config.direct),
        config,
        tell_mismatch_at: Mutex::default(),
    })
}

struct Herald {
    config: AlertsConfig,
    outbox: Outbox,
    /// Not before; none: at once.
    tell_mismatch_at: Mutex<Option<Instant>>,
}

/// What came of one delivery to all receivers that did not have it.
struct Told {
    delivered_to: Vec<String>,
    failures: Vec<String>,
    /// Whether trying again is in vain, with every one of those that failed.
    permanent: bool,
}

impl Courier for Herald {
    const WHAT: &'static str = "alerts";
    type Item = Alert;
    type Outcome = Told;

    fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    fn poll(&self) -> Duration {
        self.config.poll
    }

    fn timeout(&self) -> Duration {
        self.config.receivers.timeout()
    }

    async fn claim(&self, room: usize, lease: Duration) -> Result<Vec<Alert>, OutboxError> {
        let claimed = self.outbox.claim_alerts(room, lease).await;
        if let Err(why) = &claimed
            && why.starts_with(UNDEFINED_FUNCTION)
        {
            self.tell_mismatch().await;
        }
        claimed
    }

    async fn deliver(&self, alert: &Alert) -> Told {
        self.tell(&alert.id, &alert.payload, &alert.delivered_to).await
    }

    async fn report(&self, alert: &Alert, told: &Told) -> Result<(), OutboxError> {
        let (id, kind, attempt) = (alert.id, alert.kind.as_str(), alert.attempt);
        if told.failures.is_empty() {
            self.outbox.finish_alert(alert).await?;
            metrics().alert_deliveries.count("sent");
            tracing::info!(%id, kind, attempt, "an alert was sent");
            return Ok(());
        }
        let why = told.failures.join("; ");
        let became = self.outbox.fail_alert(alert, &why, told.permanent, &told.delivered_to).await?;
        metrics().alert_deliveries.count(&became);
        match became.as_str() {
            "given_up" => tracing::error!(%id, kind, attempt, why, "an alert was given up"),
            became => tracing::warn!(%id, kind, attempt, why, became, "an alert did not reach everybody"),
        }
        Ok(())
    }
}

impl Herald {
    async fn tell(&self, id: &Uuid, payload: &str, has_it: &[String]) -> Told {
        let mut told = Told { delivered_to: vec![], failures: vec![], permanent: true };
        for (receiver, sent) in self.config.receivers.send(id, payload, has_it).await {
            match sent {
                Ok(()) => told.delivered_to.push(receiver.digest().to_owned()),
                Err(failure) => {
                    told.permanent &= failure.permanent;
                    told.failures.push(format!("{}: {}", receiver.name(), failure.why));
                }
            }
        }
        told
    }

    /// The one alert that cannot go through the outbox, because there is none: the extension in the database is older than
    /// what this service was built for. Its id is the same for every process and attempt of a day.
    async fn tell_mismatch(&self) {
        let due =
            self.tell_mismatch_at.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now() + TELL_AGAIN);
        if due.is_some_and(|due| due > Instant::now()) {
            *self.tell_mismatch_at.lock().unwrap_or_else(PoisonError::into_inner) = due;
            return;
        }
        let now = Utc::now();
        let version = env!("CARGO_PKG_VERSION");
        let id = mismatch_id(version, &now.format("%F").to_string());
        let at = now.to_rfc3339_opts(SecondsFormat::Millis, true);
        let payload = serde_json::json!({
            "type": "auth.version_mismatch", "version": 1, "timestamp": at,
            "data": {"times": 1, "firstAt": at, "lastAt": at, "events": [{"at": at, "serviceVersion": version}]},
        });
        let told = self.tell(&id, &payload.to_string(), &[]).await;
        if told.failures.is_empty() {
            *self.tell_mismatch_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REMIND);
            tracing::info!(%id, kind = "version_mismatch", "an alert was sent");
        } else {
            tracing::warn!(%id, kind = "version_mismatch", why = told.failures.join("; "), "an alert did not reach everybody");
        }
    }
}

fn mismatch_id(version: &str, day: &str) -> Uuid {
    let digest = Sha256::digest(format!("version_mismatch {version} {day}"));
    uuid::Builder::from_custom_bytes(digest[..16].try_into().expect("16 of 32 bytes")).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_mismatch_has_the_same_id_for_a_day() {
        let id = mismatch_id("0.2.0", "2026-11-21");
        assert_eq!(id, mismatch_id("0.2.0", "2026-11-21"));
        assert_ne!(id, mismatch_id("0.2.0", "2026-11-22"));
        assert_ne!(id, mismatch_id("0.3.0", "2026-11-21"));
    }
}
