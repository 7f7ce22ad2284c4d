//! What the database tells of itself, for metrics: figures only, asked for seldom, and left out when it does not answer.

use std::{
    fmt::{self, Debug},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, gauge::ConstGauge},
};

use crate::db::{Db, Figure};

/// How long they are kept, and how long the database is left alone when it did not answer.
const KEPT: Duration = Duration::from_secs(15);
/// How long they are waited for. A scrape must come back in time, above all when the database does not.
const PATIENCE: Duration = Duration::from_secs(3);

/// Figure of `auth.service_figures()`, the name of its label, whether it counts, and what it is. The metric's name is
/// `auth_api_database_` and the figure's. A figure that is not here is left out: the database may be newer.
const FIGURES: &[(&str, Option<&str>, MetricType, &str)] = &[
    ("extension_info", Some("version"), MetricType::Gauge, "The version of the extension's objects"),
    ("library_info", Some("version"), MetricType::Gauge, "The version of the library that the server has loaded"),
    ("standby", None, MetricType::Gauge, "1 on a standby"),
    ("recovery_windows_open", None, MetricType::Gauge, "Recovery windows that are open"),
    ("outbox_mails", Some("state"), MetricType::Gauge, "Mails that are not sent, by state; counted up to 100,000"),
    ("outbox_oldest_seconds", Some("state"), MetricType::Gauge, "Age of the oldest of them"),
    ("outbox_webhooks", Some("state"), MetricType::Gauge, "Webhooks of alerts that are not sent, by state"),
    ("outbox_webhooks_oldest_seconds", Some("state"), MetricType::Gauge, "How long ago the oldest of them happened"),
    ("cleanup_lag_seconds", None, MetricType::Gauge, "For how long the next session to be cleaned away has been due"),
    ("audit_months_ahead", None, MetricType::Gauge, "Coming months of the audit log that have a partition"),
    ("audit_partitions", None, MetricType::Gauge, "Months of the audit log that there are"),
    ("audit_default_rows", None, MetricType::Gauge, "Rows of the audit log in no month (estimate)"),
    ("audit_unsealed_seconds", None, MetricType::Gauge, "How far back the newest seal of the audit log ends"),
    ("table_rows", Some("table"), MetricType::Gauge, "Live rows (estimate)"),
    ("table_bytes", Some("table"), MetricType::Gauge, "Size on disk, indexes included"),
    (
        "statistics_counted",
        None,
        MetricType::Gauge,
        "0 without auth_sessions in shared_preload_libraries: then the counters below are missing",
    ),
    ("refreshes", Some("outcome"), MetricType::Counter, "Answers of auth.rotate_session_token, to all who call it"),
    ("rotation_seconds", None, MetricType::Counter, "Time spent in it"),
    ("sessions_cleaned", None, MetricType::Counter, "Sessions that cleaning deleted"),
    ("maintenance_runs", None, MetricType::Counter, "Calls of auth.run_maintenance"),
    ("maintenance_failures", None, MetricType::Counter, "Tasks of it that failed"),
    ("maintenance_last_run_timestamp_seconds", None, MetricType::Gauge, "When it last ran (Unix time)"),
];

#[derive(Default)]
struct Answer {
    asked_at: Option<Instant>,
    /// None: it did not answer.
    figures: Option<Vec<Figure>>,
}

/// The newest figures.
#[derive(Clone, Default)]
pub struct DatabaseFigures {
    newest: Arc<Mutex<Answer>>,
    /// Held by who asks: others wait for the same answer.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl DatabaseFigures {
    /// Asks the database, unless it was asked a moment ago.
    pub async fn refresh(&self, db: &Db) {
        let _turn = self.asking.lock().await;
        if self.read(|newest| newest.asked_at.is_some_and(|at| at.elapsed() < KEPT)) {
            return;
        }
        let asked_at = Some(Instant::now());
        let figures = tokio::time::timeout(PATIENCE, db.service_figures()).await.ok().and_then(Result::ok);
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Answer { asked_at, figures };
    }

    fn read<T>(&self, read: impl FnOnce(&Answer) -> T) -> T {
        read(&self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Debug for DatabaseFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseFigures")
    }
}

impl Collector for DatabaseFigures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.read(|Answer { figures, .. }| {
            let up = ConstGauge::new(i64::from(figures.is_some()));
            let help = "Whether the database answered when it was last asked for these";
            up.encode(encoder.encode_descriptor("database_up", help, None, MetricType::Gauge)?)?;
            for &(name, label, kind, help) in FIGURES {
                let mut found = figures.iter().flatten().filter(|figure| figure.name == name).peekable();
                if found.peek().is_none() {
                    continue;
                }
                let metric = format!("database_{name}");
                let mut family = encoder.encode_descriptor(&metric, help, None, kind)?;
                for figure in found {
                    let labels = label.map(|label| [(label, figure.label.as_deref().unwrap_or_default())]);
                    match (labels, kind) {
                        (Some(labels), MetricType::Counter) => {
                            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&figure.value, None)?;
                        }
                        (Some(labels), _) => family.encode_family(&labels)?.encode_gauge(&figure.value)?,
                        (None, MetricType::Counter) => {
                            family.encode_counter::<NoLabelSet, _, f64>(&figure.value, None)?;
                        }
                        (None, _) => family.encode_gauge(&figure.value)?,
                    }
                }
            }
            Ok(())
        })
    }
}
