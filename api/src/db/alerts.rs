//! The outbox of alerts: worked by the mailer's login, over a connection of its own.

use std::time::Duration;

use deadpool_postgres::tokio_postgres::{Config, Row};
use uuid::Uuid;

use super::outbox::{Outbox, OutboxError, column};

/// A webhook to be sent.
pub struct Alert {
    /// Its webhook-id: the same at every attempt.
    pub id: Uuid,
    /// What it is about.
    pub kind: String,
    /// Its body, the same at every attempt.
    pub payload: String,
    /// The how manieth attempt this is.
    pub attempt: i32,
    /// Receivers that have it.
    pub delivered_to: Vec<String>,
}

impl Outbox {
    /// That of alerts. Connects to nothing yet.
    pub fn of_alerts(config: Config, listens: bool) -> Self {
        Self::new(config, "auth-api alerts", listens.then_some("listen auth_alerts"))
    }

    /// Takes up to so many that are due; nobody else is given them for the length of the lease. The database is told which
    /// version asks.
    pub async fn claim_alerts(&self, batch: usize, lease: Duration) -> Result<Vec<Alert>, OutboxError> {
        let sql = "select id, kind, payload, attempt, delivered_to \
            from auth.claim_alerts(batch => $1, lease => make_interval(secs => $2), service_version => $3)";
        let batch = i32::try_from(batch).unwrap_or(i32::MAX);
        let rows = self.query(sql, &[&batch, &lease.as_secs_f64(), &env!("CARGO_PKG_VERSION")]).await?;
        let alert = |row: &Row| {
            Ok(Alert {
                id: column(row, 0)?,
                kind: column(row, 1)?,
                payload: column(row, 2)?,
                attempt: column(row, 3)?,
                delivered_to: column(row, 4)?,
            })
        };
        rows.iter().map(alert).collect()
    }

    /// All receivers have it.
    pub async fn finish_alert(&self, alert: &Alert) -> Result<(), OutboxError> {
        self.query("select auth.finish_alert(id => $1)", &[&alert.id]).await.map(|_| ())
    }

    /// Only those have it; what becomes of it: `retried`, `given_up` or `lost`.
    pub async fn fail_alert(
        &self,
        alert: &Alert,
        why: &str,
        permanent: bool,
        delivered_to: &[String],
    ) -> Result<String, OutboxError> {
        let sql = "select auth.fail_alert(id => $1, attempt => $2, error => $3, permanent => $4, delivered_to => $5)";
        let rows = self.query(sql, &[&alert.id, &alert.attempt, &why, &permanent, &delivered_to]).await?;
        rows.first().map_or(Ok(String::new()), |row| column(row, 0))
    }
}
