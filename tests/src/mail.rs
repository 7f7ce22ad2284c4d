//! A real SMTP server on loopback (`tests/smtp/server.py`), what it has taken, and what the outbox holds.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_postgres::Client;

use crate::cluster::env_path;
use crate::{Server, TestDb, eventually};

/// The address that the tests' mail is from.
pub const FROM: &str = "Auth <no-reply@auth.example>";

/// A running mail server. Killed when dropped. What it does with a mail, the recipient's name says: see the script.
pub struct MailServer {
    child: Child,
    port: u16,
    taken: Arc<Mutex<Vec<Delivery>>>,
}

/// One message, as the server read it.
#[derive(Clone, Debug)]
pub struct Delivery(pub Value);

impl MailServer {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with arguments of the script.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let mut child = Command::new(env_path("AUTH_TEST_ROOT").join("tests/smtp/server.py"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("tests/smtp/server.py");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = lines.next_line().await.expect("its output").expect("its port");
        let said: Value = serde_json::from_str(&first).expect("JSON");
        let port = said["port"].as_u64().expect("a port") as u16;
        let taken = Arc::new(Mutex::new(Vec::new()));
        let into = taken.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                into.lock().expect("not poisoned").push(Delivery(serde_json::from_str(&line).expect("JSON")));
            }
        });
        Self { child, port, taken }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// All messages that it read so far.
    pub fn all(&self) -> Vec<Delivery> {
        self.taken.lock().expect("not poisoned").clone()
    }

    /// The messages to an address so far.
    pub fn to(&self, recipient: &str) -> Vec<Delivery> {
        let mut all = self.all();
        all.retain(|delivery| delivery.0["recipients"][0] == recipient);
        all
    }

    /// Waits until so many came to an address.
    pub async fn wait_for(&self, recipient: &str, count: usize) -> Vec<Delivery> {
        eventually(&format!("{count} mails came to {recipient}"), async || self.to(recipient).len() >= count).await;
        self.to(recipient)
    }

    /// Ends it: connections are refused from now on.
    pub async fn stop(mut self) {
        self.child.kill().await.expect("kill");
    }
}

impl Delivery {
    /// A header; panics unless there is exactly one.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let headers = self.0["headers"].as_array().expect("headers");
        let found: Vec<_> = headers.iter().filter(|header| header[0] == name).collect();
        assert_eq!(found.len(), 1, "{name}: {headers:?}");
        found[0][1].as_str().expect("a text")
    }

    /// A field that the script reports.
    #[track_caller]
    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_else(|| panic!("no {field} in {}", self.0))
    }

    /// The token of the link in it.
    #[track_caller]
    pub fn token(&self) -> String {
        token_in(self.text("text")).unwrap_or_else(|| panic!("no link in {}", self.0))
    }
}

/// The one-time token in a text.
pub fn token_in(text: &str) -> Option<String> {
    let at = text.find("aso_")?;
    let token = text[at..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').next()?;
    Some(token.to_owned())
}

/// The settings of a service that sends mail to that server.
pub fn settings(db: &TestDb, port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("MAILER_DATABASE_URL", db.url("auth_mail_service")),
        ("SMTP_HOST", "127.0.0.1".to_owned()),
        ("SMTP_PORT", port.to_string()),
        ("SMTP_TLS", "none".to_owned()),
        ("SMTP_FROM", FROM.to_owned()),
        ("MAIL_LINK_BASE", "https://app.example/account".to_owned()),
        ("MAIL_POLL_SECONDS", "1".to_owned()),
    ]
}

/// Starts a service that sends mail to that port; the settings given win.
pub async fn mailing_server(db: &TestDb, port: u16, more: &[(&str, &str)]) -> Server {
    let settings = settings(db, port);
    let mut all: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.extend(more);
    Server::start(db, &all).await
}

/// What waits in the outbox, oldest first: kind, recipient and the link's token. It is the mailer's from now on: call it
/// where no service sends mail.
pub async fn take_mail(mailer: &Client) -> Vec<(String, String, Option<String>)> {
    let claim =
        "select kind, recipient, variables ->> 'token' from auth.claim_mail(1000, '1 hour') order by created_at";
    let rows = mailer.query(claim, &[]).await.expect("claim_mail");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// The token of the newest mail of that kind to an address; panics when there is none.
#[track_caller]
pub fn token_of(mails: &[(String, String, Option<String>)], kind: &str, recipient: &str) -> String {
    let found = mails.iter().rfind(|(k, r, _)| (k.as_str(), r.as_str()) == (kind, recipient));
    found.and_then(|(_, _, token)| token.clone()).unwrap_or_else(|| panic!("no {kind} to {recipient} in {mails:?}"))
}
