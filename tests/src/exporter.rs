//! Prometheus' PostgreSQL exporter, the real one, and what it serves.

use std::net::TcpListener;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::cluster::env_path;
use crate::metrics::{Samples, samples};
use crate::{TestDb, eventually};

/// A running exporter with `sql/monitoring/prometheus/exporter.yml`. Killed when dropped.
pub struct Exporter {
    child: Child,
    url: String,
}

impl Exporter {
    /// Starts one that reads a database as `auth_watcher`, and waits until it listens.
    pub async fn start(db: &TestDb) -> Self {
        // It does not say which port it was given, so it is given one; somebody else may be faster.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
            let child = Command::new("prometheus-postgres-exporter")
                .arg("--disable-default-metrics")
                .arg("--disable-settings-metrics")
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .arg(format!(
                    "--extend.query-path={}",
                    env_path("AUTH_TEST_ROOT").join("sql/monitoring/prometheus/exporter.yml").display()
                ))
                .env("DATA_SOURCE_NAME", format!("{}?sslmode=disable", db.url("auth_watcher")))
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("prometheus-postgres-exporter, which .make/setup test unpacks");
            let mut exporter = Self { child, url: format!("http://127.0.0.1:{port}/metrics") };
            let (mut listens, mut ended) = (false, false);
            eventually("the exporter listens", async || {
                ended = exporter.child.try_wait().expect("its state").is_some();
                listens = reqwest::get(&exporter.url).await.is_ok();
                listens || ended
            })
            .await;
            if listens && !ended {
                return exporter;
            }
        }
        panic!("the exporter finds no port");
    }

    /// All samples by the names of their metrics.
    pub async fn samples(&self) -> Samples {
        let text = reqwest::get(&self.url).await.expect("metrics").error_for_status().expect("metrics");
        let text = text.text().await.expect("text");
        samples(&text)
    }
}
