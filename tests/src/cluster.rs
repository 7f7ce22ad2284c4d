//! Private clusters: the one that all tests of a run share, and clusters of a test's own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls};

/// A running private cluster, made by `.make/cluster`.
#[derive(Clone, Debug)]
pub struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    /// The cluster of this run, which `make test` started.
    pub fn shared() -> Self {
        Self { dir: env_path("AUTH_TEST_CLUSTER") }
    }

    /// The connection URL of a login (`postgres`, `auth_service`, `auth_operator`, `auth_watcher`,
    /// `auth_mail_service`, `auth_federation_service`).
    pub fn url(&self, login: &str, database: &str) -> String {
        format!("postgresql://{login}:{}@127.0.0.1:{}/{database}", self.password(login), self.port())
    }

    /// The port on 127.0.0.1. A cluster keeps it over a restart unless somebody took it.
    pub fn port(&self) -> u16 {
        read(&self.dir.join("port")).trim().parse().expect("a port")
    }

    /// The password of a login.
    pub fn password(&self, login: &str) -> String {
        let secrets = read(&self.dir.join("secrets"));
        let found = secrets.lines().find_map(|line| line.strip_prefix(login)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("{} has no login {login}", self.dir.display())).to_owned()
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("log")).expect("the cluster's log")).into_owned()
    }

    /// Runs one of PostgreSQL's client programs against a database as superuser; panics when it fails or complains.
    pub fn client_program(&self, program: &str, database: &str, arguments: &[&str]) {
        let pg_config = env_path("PGRX_PG_CONFIG_PATH");
        let output = Command::new(pg_config.with_file_name(program))
            .args(["-h", "127.0.0.1", "-U", "postgres", "-d", database, "-p", &self.port().to_string()])
            .args(arguments)
            .env("PGPASSWORD", self.password("postgres"))
            .output()
            .expect("a PostgreSQL client");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}");
        assert_eq!(said, "", "{program}: not even a warning");
    }

    /// Where everything of it is: `data`, and the server's own tree `usr`.
    pub fn directory(&self) -> &Path {
        &self.dir
    }

    /// Where this cluster's server looks for extensions.
    pub fn extension_directory(&self) -> PathBuf {
        self.dir.join("usr/share/postgresql").join(self.major()).join("extension")
    }

    /// Where this cluster's server has its programs.
    pub fn program_directory(&self) -> PathBuf {
        self.dir.join("usr/lib/postgresql").join(self.major()).join("bin")
    }

    fn major(&self) -> std::ffi::OsString {
        let majors = fs::read_dir(self.dir.join("usr/lib/postgresql")).expect("the server's tree");
        majors.flatten().next().expect("one major version").file_name()
    }

    /// Connects; panics when that fails.
    pub async fn connect(&self, login: &str, database: &str) -> Client {
        connect(&self.url(login, database)).await.unwrap_or_else(|error| panic!("connecting as {login}: {error:?}"))
    }
}

/// Connects, and drives the connection in a task of its own that ends with the client.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // What goes wrong here the client's next query reports.
        let _ = connection.await;
    });
    Ok(client)
}

/// A cluster for one test alone, crash-safe unlike the shared one: to be killed, restarted, filled or restored into.
/// Removed when dropped. Its database is `auth`.
pub struct OwnCluster {
    cluster: Cluster,
    /// The server, where it is not the one that everything else is tested on.
    server: Vec<(&'static str, String)>,
}

impl OwnCluster {
    /// Makes and starts one, without any database of ours.
    pub fn empty() -> Self {
        Self::unmade().made().started()
    }

    /// The same on another major version of PostgreSQL, with the extension that was built for it in that target directory.
    pub fn empty_of_major(major: &str, target_directory: &str) -> Self {
        let mut own = Self::unmade();
        own.server = vec![("PG_MAJOR", major.to_owned()), ("CARGO_TARGET_DIR", target_directory.to_owned())];
        own.made().started()
    }

    /// A place for one.
    fn unmade() -> Self {
        Self { cluster: Cluster { dir: Self::next_path("own") }, server: Vec::new() }
    }

    /// A path beside the shared cluster that nobody has used.
    pub fn next_path(prefix: &str) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let shared = env_path("AUTH_TEST_CLUSTER");
        let name = format!("{prefix}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        shared.with_file_name(name)
    }

    /// Makes and starts one with the database `auth`, the extension and the logins.
    pub fn create() -> Self {
        Self::empty().with_database()
    }

    /// With the database `auth`, the extension and the logins, too.
    pub fn with_database(self) -> Self {
        self.script("database", &["auth"]);
        self
    }

    /// Brings the database `auth` to the extension's version of today.
    pub fn upgrade(&self) {
        self.script("upgrade", &["auth"]);
    }

    /// The same, with the extension in `shared_preload_libraries`, as `make run` has it. Its background worker looks after
    /// no database until [`Self::set`] says which.
    pub async fn preloaded() -> Self {
        let own = Self::unmade().made();
        own.script("preload", &["auth"]);
        let own = own.started();
        own.set("auth_sessions.cleanup_database", "").await;
        own.script("database", &["auth"]);
        own
    }

    /// The same as [`Self::create`], in this directory.
    pub fn create_in(parent: &Path) -> Self {
        let own = Self { cluster: Cluster { dir: parent.join("pg") }, server: Vec::new() };
        own.made().started().with_database()
    }

    /// Makes and starts a hot standby that follows another cluster.
    pub fn standby_of(primary: &Self) -> Self {
        let own = Self::unmade();
        own.script("standby", &[primary.cluster.dir.to_str().expect("a path")]);
        own
    }

    /// Makes one from a base backup of another cluster, and does not start it.
    pub fn backup_of(primary: &Self) -> Self {
        let own = Self::unmade();
        own.script("backup", &[primary.cluster.dir.to_str().expect("a path")]);
        own
    }

    /// Lets a login in nowhere, from the next start on or from when [`Self::is_shut_out`] says so.
    pub fn shut_out(&self, login: &str) {
        let rules = read(&self.access_rules());
        fs::write(self.access_rules(), format!("{}{rules}", shut_out_rule(login))).expect("pg_hba.conf");
    }

    /// Makes a running server read its access rules, and says whether they keep the login out already.
    pub async fn is_shut_out(&self, login: &str) -> bool {
        self.connect("postgres", "postgres").await.batch_execute("select pg_reload_conf()").await.expect("a reload");
        connect(&self.url(login, "postgres")).await.is_err()
    }

    /// Lets a login in again that was shut out.
    pub async fn let_in(&self, login: &str) {
        let rules = read(&self.access_rules()).replace(&shut_out_rule(login), "");
        fs::write(self.access_rules(), rules).expect("pg_hba.conf");
        crate::eventually("it is let in", async || !self.is_shut_out(login).await).await;
    }

    fn access_rules(&self) -> PathBuf {
        self.cluster.dir.join("data/pg_hba.conf")
    }

    /// Sets a configuration parameter of the whole server, which takes note at once.
    pub async fn set(&self, parameter: &str, value: &str) {
        let admin = self.connect("postgres", "postgres").await;
        admin.batch_execute(&format!("alter system set {parameter} = '{value}'")).await.expect("alter system");
        admin.batch_execute("select pg_reload_conf()").await.expect("pg_reload_conf");
    }

    fn made(self) -> Self {
        // With checksums, as PostgreSQL 18 makes clusters by itself: pg_upgrade wants both to agree.
        self.script("create", &["--checksums"]);
        self
    }

    fn started(self) -> Self {
        self.start();
        self
    }

    /// Starts it again after [`Self::stop`] or [`Self::crash`].
    pub fn start(&self) {
        self.script("start", &[]);
    }

    /// Stops it as an administrator would.
    pub fn stop(&self) {
        self.script("stop", &["fast"]);
    }

    /// Stops it at once, so that it has to recover when it starts.
    pub fn stop_immediately(&self) {
        self.script("stop", &["immediate"]);
    }

    /// Whether its postmaster is there.
    pub fn is_running(&self) -> bool {
        let pid_file = fs::read_to_string(self.cluster.dir.join("data/postmaster.pid")).unwrap_or_default();
        let pid = pid_file.lines().next().unwrap_or_default().trim();
        // `24641 (postgres) S …`; Z: it was killed, and nobody has noticed yet.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.split_once(") ").is_some_and(|(name, rest)| name.ends_with("(postgres") && !rest.starts_with('Z'))
    }

    /// Makes it a standby that follows nobody, from its next start until `pg_promote()`.
    pub fn stand_by(&self) {
        fs::write(self.cluster.dir.join("data/standby.signal"), "").expect("standby.signal");
    }

    /// kill -9 of the postmaster and all its children: what a power failure leaves.
    pub fn crash(&self) {
        let pid_file = read(&self.cluster.dir.join("data/postmaster.pid"));
        let postmaster: i32 = pid_file.lines().next().and_then(|line| line.trim().parse().ok()).expect("a pid");
        let mut processes = children(postmaster);
        processes.insert(0, postmaster);
        for pid in processes {
            let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
            // A child may have ended by itself when its postmaster was gone.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// Stops one of the server's own processes (its `backend_type` in `pg_stat_activity`) where it is, until the returned
    /// value is dropped or the cluster crashes.
    pub async fn hold(&self, backend_type: &str) -> Held {
        let admin = self.connect("postgres", "postgres").await;
        let pid = "select pid from pg_stat_activity where backend_type = $1";
        let pid: i32 = admin.query_one(pid, &[&backend_type]).await.expect(backend_type).get(0);
        let held = Held(rustix::process::Pid::from_raw(pid).expect("a pid"));
        rustix::process::kill_process(held.0, rustix::process::Signal::STOP).expect("SIGSTOP");
        held
    }

    fn script(&self, command: &str, arguments: &[&str]) {
        let mut script = Command::new(env_path("AUTH_TEST_ROOT").join(".make/cluster"));
        script.arg(command).arg(&self.cluster.dir).args(arguments).envs(self.server.iter().cloned());
        let output = script.output().expect(".make/cluster");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), ".make/cluster {command} failed: {said}");
    }
}

impl std::ops::Deref for OwnCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

/// A process that stands still while this lives.
#[must_use]
pub struct Held(rustix::process::Pid);

impl Drop for Held {
    fn drop(&mut self) {
        // It may be gone with its cluster.
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        self.script("destroy", &[]);
    }
}

/// The first line that fits decides.
fn shut_out_rule(login: &str) -> String {
    format!("host all {login} all reject\n")
}

fn children(parent: i32) -> Vec<i32> {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// What `.make/test` tells the tests by the environment.
pub(crate) fn env_path(name: &str) -> PathBuf {
    env::var_os(name).map(PathBuf::from).unwrap_or_else(|| {
        panic!("{name} is not set: run these tests with `make test ONLY=e2e`, which starts their cluster")
    })
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
