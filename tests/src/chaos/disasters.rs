//! What goes wrong, one thing after the other, in an order that the seed decides.

use std::time::{Duration, Instant};

use super::proxy::Proxy;
use crate::{OwnCluster, Server};

/// One of the things that go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disaster {
    /// kill -9 of the service.
    ServiceKilled,
    /// kill -9 of the postmaster and all its children.
    PostgresKilled,
    /// kill -9 of one backend, after which PostgreSQL ends all others and recovers.
    BackendKilled,
    /// `pg_ctl stop -m immediate`.
    ImmediateStop,
    /// Every connection between the two is cut.
    ConnectionsCut,
    /// Answers are lost after the commit.
    AnswersLost,
    /// Connections are cut in the middle of a statement.
    RequestsTorn,
    /// Everything comes late.
    Slow,
    /// Half of the connections stand still, then go on where they were: a lost packet that is sent again, a node that was
    /// cut off.
    Held,
    /// Nobody is there.
    Unreachable,
    /// The database takes no more connections.
    TooManyConnections,
    /// Not a byte can be written, to tables or to WAL.
    DiskFull,
}

impl Disaster {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ServiceKilled,
        Self::PostgresKilled,
        Self::BackendKilled,
        Self::ImmediateStop,
        Self::ConnectionsCut,
        Self::AnswersLost,
        Self::RequestsTorn,
        Self::Slow,
        Self::Held,
        Self::Unreachable,
        Self::TooManyConnections,
        Self::DiskFull,
    ];
}

/// The world that things go wrong in.
pub struct World {
    /// PostgreSQL.
    pub cluster: OwnCluster,
    /// The service.
    pub server: Server,
    /// What the clients connect to: it stays where it is when the service is started again elsewhere.
    pub front: Proxy,
    /// What is between the service and PostgreSQL.
    pub proxy: Proxy,
    /// The disk that PostgreSQL is on, where it can be filled.
    pub disk: Option<SmallDisk>,
    /// Decides lengths.
    pub random: fastrand::Rng,
}

/// A small file system of its own (tmpfs); only root can make one.
pub struct SmallDisk {
    path: std::path::PathBuf,
}

impl SmallDisk {
    /// Mounts one; none when this is not root.
    pub fn mount(path: std::path::PathBuf, megabytes: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        std::fs::create_dir(&path).expect("a directory");
        let size = format!("size={megabytes}m,mode=711");
        mount_tool("mount", &["-t", "tmpfs", "-o", &size, "tmpfs"], &path);
        Some(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.path.join("ballast")
    }

    /// Takes all that is free.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.ballast()).expect("ballast");
        let block = [0; 64 * 1024];
        for step in [block.len(), 512] {
            while std::io::Write::write_all(&mut file, &block[..step]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("ballast");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        mount_tool("umount", &["--lazy"], &self.path);
        let _ = std::fs::remove_dir(&self.path);
    }
}

fn mount_tool(tool: &str, arguments: &[&str], path: &std::path::Path) {
    let output = std::process::Command::new(tool).args(arguments).arg(path).output().expect("util-linux");
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
}

impl World {
    /// Whether this can be made to happen here.
    pub fn has(&self, disaster: Disaster) -> bool {
        disaster != Disaster::DiskFull || self.disk.is_some()
    }

    /// Makes it happen, lets it last for up to `longest`, and mends what does not mend itself.
    pub async fn strike(&mut self, disaster: Disaster, longest: Duration) {
        let lasting = longest.mul_f64(0.2 + 0.8 * self.random.f64());
        match disaster {
            Disaster::ServiceKilled => {
                self.server.kill().await;
                tokio::time::sleep(lasting).await;
                self.server = self.server.start_again().await;
                self.front.set_target(self.server.port());
            }
            Disaster::PostgresKilled => {
                self.cluster.crash();
                tokio::time::sleep(lasting).await;
                self.start_postgres().await;
            }
            Disaster::BackendKilled => {
                if let Some(backend) = self.some_backend().await {
                    kill(backend);
                }
                tokio::time::sleep(lasting).await;
            }
            Disaster::ImmediateStop => {
                self.cluster.stop_immediately();
                tokio::time::sleep(lasting).await;
                self.start_postgres().await;
            }
            Disaster::ConnectionsCut => self.proxy.cut(),
            Disaster::AnswersLost => self.proxy.lose_answers(self.random.u32(1..40)),
            Disaster::RequestsTorn => self.proxy.tear_requests(self.random.u32(1..40)),
            Disaster::Slow => {
                self.proxy.set_delay(Duration::from_millis(self.random.u64(5..400)));
                tokio::time::sleep(lasting).await;
                self.proxy.set_delay(Duration::ZERO);
            }
            Disaster::Held => {
                self.proxy.hold(2);
                tokio::time::sleep(lasting).await;
                self.proxy.release();
            }
            Disaster::Unreachable => {
                self.proxy.set_refuses(true);
                tokio::time::sleep(lasting).await;
                self.proxy.set_refuses(false);
            }
            Disaster::TooManyConnections => {
                self.limit_connections(1).await;
                self.proxy.cut();
                tokio::time::sleep(lasting).await;
                self.limit_connections(-1).await;
            }
            Disaster::DiskFull => {
                let disk = self.disk.as_ref().expect("asked before");
                disk.fill();
                tokio::time::sleep(lasting).await;
                disk.free();
                // PostgreSQL stops itself when WAL cannot be written.
                self.start_postgres().await;
            }
        }
    }

    /// Until it answers: one that is there may be about to stop itself.
    async fn start_postgres(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = crate::cluster::connect(&self.cluster.url("postgres", "auth")).await {
            assert!(Instant::now() < deadline, "PostgreSQL did not come back: {error:?}");
            if !self.cluster.is_running() {
                self.cluster.start();
                self.proxy.set_target(self.cluster.port());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn some_backend(&mut self) -> Option<i32> {
        // The database may be recovering from the disaster before.
        let admin = crate::cluster::connect(&self.cluster.url("postgres", "auth")).await.ok()?;
        let backends = "select pid from pg_stat_activity where usename = 'auth_service'";
        let backends = admin.query(backends, &[]).await.ok()?;
        (!backends.is_empty()).then(|| backends[self.random.usize(..backends.len())].get(0))
    }

    async fn limit_connections(&self, limit: i32) {
        let statement = format!("alter role auth_service connection limit {limit}");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            // As often as it takes: the database may still be recovering.
            let done = match crate::cluster::connect(&self.cluster.url("postgres", "postgres")).await {
                Ok(admin) => admin.batch_execute(&statement).await,
                Err(error) => Err(error),
            };
            let Err(error) = done else { return };
            assert!(Instant::now() < deadline, "PostgreSQL did not come back: {error:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}
