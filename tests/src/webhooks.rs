//! A real receiver of webhooks on loopback (`tests/webhooks`), and what it was shown.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::{Server, TestDb, eventually};

/// What the tests' services sign with, and so what a receiver of theirs verifies with.
pub const SECRETS: [&str; 2] =
    ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwPEhxZr9BxVA="];
/// A secret that they do not sign with.
pub const OTHER_SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A running receiver. Ends when dropped.
pub struct WebhookReceiver {
    child: Child,
    port: u16,
    shown: Arc<Mutex<Vec<Webhook>>>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Webhook(pub Value);

impl WebhookReceiver {
    /// Starts one on a free port; the first of a clone installs it.
    pub async fn start() -> Self {
        Self::start_at(0).await
    }

    /// The same on a port that is known to be free.
    pub async fn start_at(port: u16) -> Self {
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/webhooks/run"))
            .arg(port.to_string())
            .args(SECRETS)
            .arg(OTHER_SECRET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("tests/webhooks/run");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = lines.next_line().await.expect("its output").expect("its port");
        let said: Value = serde_json::from_str(&first).expect("JSON");
        let port = said["port"].as_u64().expect("a port") as u16;
        let shown = Arc::new(Mutex::new(Vec::new()));
        let into = shown.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                into.lock().expect("not poisoned").push(Webhook(serde_json::from_str(&line).expect("JSON")));
            }
        });
        Self { child, port, shown }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL of it; what is done there, the path says: see the script.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What it was shown at a path so far.
    pub fn at(&self, path: &str) -> Vec<Webhook> {
        let mut all = self.shown.lock().expect("not poisoned").clone();
        all.retain(|webhook| webhook.0["path"] == path);
        all
    }

    /// Waits until it was shown so many.
    pub async fn wait_for(&self, path: &str, count: usize) -> Vec<Webhook> {
        eventually(&format!("{count} webhooks came to {path}"), async || self.at(path).len() >= count).await;
        self.at(path)
    }

    /// Ends it: connections are refused from now on.
    pub async fn stop(mut self) {
        self.child.kill().await.expect("kill");
    }
}

impl Webhook {
    /// Its webhook-id.
    #[track_caller]
    pub fn id(&self) -> &str {
        self.0["id"].as_str().expect("a webhook-id")
    }

    /// A header.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.0["headers"][name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.0))
    }

    /// Its body as it came.
    pub fn text(&self) -> &str {
        self.0["body"].as_str().expect("a body")
    }

    /// The same, read.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.text()).expect("JSON")
    }

    /// What it is about.
    pub fn kind(&self) -> String {
        self.json()["type"].as_str().expect("a type").to_owned()
    }

    /// Whether the standard's library verifies it with each of [`SECRETS`], and not with another one.
    pub fn is_signed(&self) -> bool {
        self.0["verified"] == serde_json::json!([true, true, false])
    }
}

/// Starts a service that tells these URLs; the settings given win. It sends no mail to anybody.
pub async fn alerting_server(db: &TestDb, urls: &[String], more: &[(&str, &str)]) -> Server {
    let (database, urls, secrets) = (db.url("auth_mail_service"), urls.join(","), SECRETS.join(","));
    let mut all = vec![
        ("MAILER_DATABASE_URL", database.as_str()),
        ("MAIL_PROVIDER", "console"),
        ("MAIL_POLL_SECONDS", "1"),
        ("ALERT_WEBHOOK_URLS", &urls),
        ("ALERT_WEBHOOK_SECRETS", &secrets),
    ];
    all.extend(more);
    Server::start(db, &all).await
}
