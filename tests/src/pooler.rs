//! PgBouncer in transaction mode: each transaction gets whichever connection to the server is free.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::Client;

use crate::{Cluster, TestDb, cluster, eventually};

const LOGINS: [&str; 5] = ["postgres", "auth_service", "auth_operator", "auth_watcher", "auth_federation_service"];

/// A running PgBouncer in front of a test's database. Killed when dropped.
pub struct Pooler {
    child: Child,
    dir: PathBuf,
    port: u16,
    cluster: Cluster,
    database: String,
}

impl Pooler {
    /// Starts one that has so many connections to the server for each login, and waits until it answers.
    pub async fn start(db: &TestDb, server_connections: usize) -> Self {
        Self::start_with(db, &format!("default_pool_size = {server_connections}")).await
    }

    /// Starts one that gives every transaction a connection to the server that nobody has had before.
    pub async fn start_forgetful(db: &TestDb) -> Self {
        Self::start_with(db, "server_lifetime = 0").await
    }

    async fn start_with(db: &TestDb, setting: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("auth_sessions-pooler-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).expect("a directory for the pooler");
        let (cluster, database) = (db.cluster().clone(), db.name().to_owned());
        let users = LOGINS.map(|login| format!("\"{login}\" \"{}\"\n", cluster.password(login))).concat();
        let users_file = dir.join("users");
        write_for_everybody(&users_file, &users);
        // PgBouncer takes no port 0. Whoever takes this one meanwhile makes the test fail, not pass.
        let port = free_port();
        let settings = format!(
            "[databases]\n{database} = host=127.0.0.1 port={} dbname={database}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\n\
             max_client_conn = 500\n{setting}\n",
            cluster.port(),
            users_file.display()
        );
        let settings_file = dir.join("pgbouncer.ini");
        write_for_everybody(&settings_file, &settings);
        let mut command = Command::new("/usr/sbin/pgbouncer");
        // Like PostgreSQL it refuses to be root.
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "postgres"]);
        }
        let log = fs::File::create(dir.join("log")).expect("a log");
        command.arg("-q").arg(&settings_file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("pgbouncer, which .make/setup test installs");
        let pooler = Self { child, dir, port, cluster, database };
        eventually("the pooler answers", async || cluster::connect(&pooler.url("auth_service")).await.is_ok()).await;
        pooler
    }

    /// The connection URL of a login.
    pub fn url(&self, login: &str) -> String {
        let password = self.cluster.password(login);
        format!("postgresql://{login}:{password}@127.0.0.1:{}/{}", self.port, self.database)
    }

    /// Connects; panics when that fails.
    pub async fn connect_as(&self, login: &str) -> Client {
        cluster::connect(&self.url(login)).await.unwrap_or_else(|error| panic!("connecting as {login}: {error:?}"))
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("pgbouncer: {}", fs::read_to_string(self.dir.join("log")).unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The passwords of a cluster that lives as long as the tests: the user postgres has to read them.
fn write_for_everybody(file: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(file, text).expect("a file of the pooler");
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("chmod");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
