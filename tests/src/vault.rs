//! A stand-in for Vault on loopback (`tests/vault/server.py` says what it does).

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cluster::env_path;
use crate::server::{HMAC_KEY, JWT_SEED, PEPPER, key};
use crate::{Answer, Api};

/// May do everything.
pub const ROOT_TOKEN: &str = "hvs.root";
/// May read.
pub const READER_TOKEN: &str = "hvs.reader";
/// Where the tests keep keys, as `VAULT_KV_PATH` has it.
pub const KV_PATH: &str = "secret/team/auth-api";

/// A running stand-in. Killed when dropped.
pub struct Vault {
    _child: Child,
    url: String,
    tls_url: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Vault {
    /// Starts one on a free port, with the keys that a server of the tests has otherwise.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with arguments of the script.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let mut child = Command::new(env_path("AUTH_TEST_ROOT").join("tests/vault/server.py"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("tests/vault/server.py");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = lines.next_line().await.expect("its output").expect("its port");
        let said: Value = serde_json::from_str(&first).expect("JSON");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let into = asked.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                into.lock().expect("not poisoned").push(serde_json::from_str(&line).expect("JSON"));
            }
        });
        let [url, tls_url] = [("http", "port"), ("https", "tls_port")]
            .map(|(scheme, port)| format!("{scheme}://127.0.0.1:{}", said[port]));
        let vault = Self { _child: child, url, tls_url, asked };
        vault
            .write(json!({
                "HMAC_SECRETS": key(&HMAC_KEY),
                "PASSWORD_PEPPERS": key(&PEPPER),
                "JWT_SIGNING_KEYS": key(&JWT_SEED),
                "of_somebody_else": "stays",
            }))
            .await;
        vault
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same over TLS, when it was started with a certificate.
    pub fn tls_url(&self) -> &str {
        &self.tls_url
    }

    /// The settings of a service that has its keys there.
    pub fn settings(&self) -> [(&str, &str); 7] {
        [
            ("HMAC_SECRETS", ""),
            ("PASSWORD_PEPPERS", ""),
            ("JWT_SIGNING_KEYS", ""),
            ("KMS_PROVIDER", "vault"),
            ("VAULT_ADDR", &self.url),
            ("VAULT_TOKEN", ROOT_TOKEN),
            ("VAULT_KV_PATH", KV_PATH),
        ]
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Value> {
        self.asked.lock().expect("not poisoned").clone()
    }

    /// Writes the secret.
    pub async fn write(&self, data: Value) {
        self.send(Method::POST, "/v1/secret/data/team/auth-api", &json!({ "data": data })).await.expect(200);
    }

    /// Its fields.
    pub async fn fields(&self) -> Value {
        let answer = self.send(Method::GET, "/v1/secret/data/team/auth-api", &json!({})).await.expect(200);
        answer.json()["data"]["data"].clone()
    }

    /// Deletes the secret.
    pub async fn delete(&self) {
        self.send(Method::DELETE, "/v1/secret/data/team/auth-api", &json!({})).await.expect(204);
    }

    /// Seals it, or unseals it.
    pub async fn seal(&self, sealed: bool) {
        let path = if sealed { "/v1/sys/seal" } else { "/v1/sys/unseal" };
        assert!(self.send(Method::PUT, path, &json!({ "key": "a share" })).await.status < 300);
    }

    /// What Vault has no switch for: see the script.
    pub async fn test(&self, what: &str, body: Value) {
        self.send(Method::POST, &format!("/test/{what}"), &body).await.expect(204);
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Answer {
        let api = Api::new(&self.url);
        api.send(api.request(method, path).header("x-vault-token", ROOT_TOKEN).json(body)).await
    }
}
