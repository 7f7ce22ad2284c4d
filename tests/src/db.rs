//! A fresh database for each test.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::Client;

use crate::Cluster;

/// A database made from the template, with the extension; dropped with this value.
pub struct TestDb {
    cluster: Cluster,
    name: String,
}

impl TestDb {
    /// Makes one in the shared cluster.
    pub async fn create() -> Self {
        Self::from_template("auth_template").await
    }

    /// Makes one without the extension.
    pub async fn empty() -> Self {
        Self::from_template("template1").await
    }

    pub(crate) async fn from_template(template: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let cluster = Cluster::shared();
        let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let admin = cluster.connect("postgres", "postgres").await;
        admin.batch_execute(&format!("create database {name} template {template}")).await.expect("create database");
        Self { cluster, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster it is in.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The connection URL of a login.
    pub fn url(&self, login: &str) -> String {
        self.cluster.url(login, &self.name)
    }

    /// Connects as `auth_service`, `auth_operator`, `auth_watcher`, `auth_mail_service` or `auth_federation_service`.
    pub async fn connect_as(&self, login: &str) -> Client {
        self.cluster.connect(login, &self.name).await
    }

    /// Connects as the superuser: for arranging and for looking, not for what is tested.
    pub async fn superuser(&self) -> Client {
        self.connect_as("postgres").await
    }

    /// Sets a configuration parameter for this database, for connections opened from now on.
    pub async fn set(&self, parameter: &str, value: &str) {
        let statement = format!("alter database {} set {parameter} = '{value}'", self.name);
        self.superuser().await.batch_execute(&statement).await.expect("alter database");
    }

    /// What the server logged so far about this database.
    pub fn log(&self) -> String {
        // A record starts with `2026-11-20 12:57:46.582 UTC [18506] login@database `; its further lines with a tab.
        let ours = format!("@{} ", self.name);
        let mut in_ours = false;
        let mut log = String::new();
        for line in self.cluster.log().lines() {
            in_ours = if line.starts_with('\t') { in_ours } else { line.contains(&ours) };
            if in_ours {
                log.push_str(line);
                log.push('\n');
            }
        }
        log
    }

    /// How many rows each table has: what must be the same before and after a refused request. But for the throttles, which
    /// may count it.
    pub async fn row_counts(&self) -> BTreeMap<String, i64> {
        let admin = self.superuser().await;
        let listed = "select relname::text from pg_class
                      where relnamespace = 'auth'::regnamespace and relkind in ('r', 'p') and not relispartition
                        and relname <> 'attempts'";
        let tables = admin.query(listed, &[]).await.expect("tables");
        let mut counts = BTreeMap::new();
        for table in tables.iter().map(|row| row.get::<_, String>(0)) {
            let count = admin.query_one(&format!("select count(*) from auth.{table}"), &[]).await.expect("count");
            counts.insert(table, count.get(0));
        }
        counts
    }

    /// How often each statement was sent to this database by its service. (The statistics are the whole cluster's, so
    /// they are read from the database `postgres`.)
    pub async fn statements(&self) -> BTreeMap<String, i64> {
        let admin = self.cluster.connect("postgres", "postgres").await;
        let rows = admin
            .query(
                "select s.query, s.calls from pg_stat_statements s join pg_database d on d.oid = s.dbid
                 where d.datname = $1 and s.toplevel and s.userid = 'auth_service'::regrole",
                &[&self.name],
            )
            .await
            .expect("pg_stat_statements, which .make/test creates in the database postgres");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        // The test's runtime may be on its way out: the statement gets one of its own.
        let url = self.cluster.url("postgres", "postgres");
        let statement = format!("drop database {} with (force)", self.name);
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let admin = crate::cluster::connect(&url).await.map_err(std::io::Error::other)?;
                admin.batch_execute(&statement).await.map_err(std::io::Error::other)
            })
        });
        match dropping.join() {
            Ok(Ok(())) => {}
            // Not a panic: it would hide the failure of the test itself.
            problem => eprintln!("{} was not dropped: {problem:?}", self.name),
        }
    }
}
