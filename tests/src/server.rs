//! The service as a process of its own.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cluster::env_path;
use crate::{Api, TestDb};

/// The `HMAC_SECRETS` of every server that is not told others.
pub const HMAC_KEY: [u8; 32] = test_key(1);
/// The `PASSWORD_PEPPERS` of every server that is not told others.
pub const PEPPER: [u8; 32] = test_key(2);
/// The `JWT_SIGNING_KEYS` of every server that is not told others: an Ed25519 seed.
pub const JWT_SEED: [u8; 32] = test_key(3);

/// Tests log in and sign up all day long from one address: limits are counted, and never reached, unless a test sets its
/// own.
const GENEROUS_LIMITS: [&str; 11] = [
    "RATE_LIMIT_LOGIN",
    "RATE_LIMIT_LOGIN_ACCOUNT",
    "RATE_LIMIT_SIGNUP",
    "RATE_LIMIT_SIGNUP_ACCOUNT",
    "RATE_LIMIT_MAIL",
    "RATE_LIMIT_MAIL_ACCOUNT",
    "RATE_LIMIT_MAIL_TOKEN",
    "RATE_LIMIT_PASSWORD",
    "RATE_LIMIT_LOOKUP",
    "RATE_LIMIT_REFRESH",
    "RATE_LIMIT_REQUESTS",
];

/// A key for tests: another one for each number, and random enough for the service to take it.
pub const fn test_key(number: u8) -> [u8; 32] {
    let mut key = [number; 32];
    let mut i = 0;
    while i < 31 {
        key[i] = i as u8;
        i += 1;
    }
    key
}

/// A key as the service's settings spell it.
pub fn key(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Runs `auth-api` with these arguments and settings and nothing else, to its end.
pub async fn auth_api(arguments: &[&str], settings: &[(&str, &str)]) -> std::process::Output {
    let mut command = Command::new(env_path("AUTH_TEST_API"));
    command.args(arguments).env_clear().envs(settings.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(30), command.output()).await;
    output.expect("auth-api goes on running").expect("auth-api")
}

/// A running service. Killed when dropped.
pub struct Server {
    child: Child,
    url: String,
    log: Arc<Mutex<Vec<u8>>>,
    started_with: StartedWith,
}

#[derive(Clone)]
struct StartedWith {
    database_url: String,
    settings: Vec<(String, String)>,
}

impl Server {
    /// Starts `auth-api serve` on that database and waits until it listens. The settings given win over the tests'
    /// own; password hashing is made cheap.
    pub async fn start(db: &TestDb, settings: &[(&str, &str)]) -> Self {
        Self::start_at(&db.url("auth_service"), settings).await
    }

    /// The same, at a connection URL.
    pub async fn start_at(database_url: &str, settings: &[(&str, &str)]) -> Self {
        let started_with = StartedWith {
            database_url: database_url.to_owned(),
            settings: settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        };
        Self::spawn(started_with).await
    }

    /// Another one like it, after it was killed. At an address of its own: somebody else may have that port by now.
    pub async fn start_again(&self) -> Self {
        Self::spawn(self.started_with.clone()).await
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address().parse::<std::net::SocketAddr>().expect("an address").port()
    }

    async fn spawn(started_with: StartedWith) -> Self {
        let StartedWith { database_url, settings } = &started_with;
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut child = command(database_url, &settings).spawn().expect("auth-api");
        let log = Arc::new(Mutex::new(Vec::new()));
        collect(child.stderr.take().expect("piped"), log.clone());
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let said = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await;
        let Ok(Ok(Some(line))) = said else {
            let _ = child.kill().await;
            panic!("auth-api did not listen ({said:?}); it said:\n{}", text(&log));
        };
        let url = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("unexpected output: {line}")).to_owned();
        Self { child, url, log, started_with }
    }

    /// Starts `auth-api serve` with settings that it must refuse, and returns its exit code and what it said.
    pub async fn refuses_to_start(db: &TestDb, settings: &[(&str, &str)]) -> (i32, String) {
        let child = command(&db.url("auth_service"), settings).spawn().expect("auth-api");
        let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await;
        let output = output.expect("auth-api goes on running").expect("output");
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The id of its process.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it has ended")
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").expect("http")
    }

    /// A new client of it, with connections of its own.
    pub fn api(&self) -> Api {
        Api::new(&self.url)
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        text(&self.log)
    }

    /// Asks it to stop (SIGTERM), without waiting.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Asks it to read its keys anew (SIGHUP), and waits until it says that it has, or why not: what it said.
    pub async fn reload(&self) -> String {
        let before = self.log().len();
        self.signal(rustix::process::Signal::HUP);
        let mut said = None;
        crate::eventually("the keys are read anew", async || {
            let log = self.log();
            // A line that is there as a whole.
            let lines = log[before..].split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let mut answers = lines.filter(|line| line.contains("read anew") || line.contains("SIGHUP"));
            said = answers.next().map(str::to_owned);
            said.is_some()
        })
        .await;
        said.expect("a line")
    }

    /// Waits until it ended; panics after 30 seconds.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        ended.expect("auth-api goes on running").expect("exit status")
    }

    /// kill -9, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("kill");
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)).expect("it has ended");
        rustix::process::kill_process(pid, signal).expect("kill");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Shown with the test that failed: what the service had to complain about.
        if std::thread::panicking() {
            let log = self.log();
            let complaints = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
            eprintln!("auth-api at {}: {:#?}", self.url, complaints.collect::<Vec<_>>());
        }
    }
}

fn command(database_url: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env_path("AUTH_TEST_API"));
    command
        .arg("serve")
        .env_clear()
        .env("DATABASE_URL", database_url)
        .env("AUTH_LISTEN", "127.0.0.1:0")
        .env("HMAC_SECRETS", key(&HMAC_KEY))
        .env("PASSWORD_PEPPERS", key(&PEPPER))
        .env("JWT_SIGNING_KEYS", key(&JWT_SEED))
        .env("ARGON2_MEMORY_KIB", "64")
        .env("ARGON2_ITERATIONS", "1")
        .env("ARGON2_PARALLELISM", "1")
        .env("RUST_LOG", "debug")
        .envs(GENEROUS_LIMITS.map(|limit| (limit, "100000/1m")))
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn collect(mut stream: impl tokio::io::AsyncRead + Unpin + Send + 'static, into: Arc<Mutex<Vec<u8>>>) {
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            into.lock().expect("not poisoned").extend_from_slice(&buffer[..count]);
        }
    });
}

fn text(log: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&log.lock().expect("not poisoned")).into_owned()
}
