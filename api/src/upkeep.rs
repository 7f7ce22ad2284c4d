//! What the service does beside answering: look after the database it depends on.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    app::App,
    db::{Db, MaintenanceTask},
    error::Problem,
    keys::Peppers,
};

/// How often a database that is not right is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often the audit log's partitions are looked after by a process that is not asked to do more.
const PARTITIONS: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether the start-up checks were passed; they need the database, which may come later than the service.
#[derive(Default)]
pub struct Readiness(OnceLock<()>);

impl Readiness {
    /// Passed.
    pub fn is_checked(&self) -> bool {
        self.0.get().is_some()
    }
}

/// Why the database is not right.
pub enum NotRight {
    /// It cannot be asked; the log says why.
    Unavailable(Problem),
    /// It can, and the operator has to do something.
    Wrong(String),
    /// It can, and this process must not go on: waiting mends nothing.
    Hopeless(String),
}

/// Asks the database whether it is what this service was built for.
pub async fn check_database(app: &App) -> Result<(), NotRight> {
    check_version(&app.db).await?;
    if app.readiness.is_checked() {
        return Ok(());
    }
    check_peppers(&app.db, &app.keys.peppers()).await?;
    let _ = app.readiness.0.set(());
    Ok(())
}

/// Whether it has this version of the extension, and commits as rotation relies on.
pub async fn check_version(db: &Db) -> Result<(), NotRight> {
    let health = db.health().await.map_err(NotRight::Unavailable)?;
    let expected = env!("CARGO_PKG_VERSION");
    if health.library_version != expected {
        return Err(NotRight::Wrong(format!(
            "the server has loaded the library of auth_sessions {}, this service was built for {expected}. Install it on \
             the database server (restart it when the library is preloaded), then run: alter extension auth_sessions \
             update to '{expected}'",
            health.library_version
        )));
    }
    if health.extension_version != expected {
        return Err(NotRight::Wrong(format!(
            "the extension auth_sessions has version {} in this database, this service was built for {expected}. Run: \
             alter extension auth_sessions update to '{expected}'",
            health.extension_version
        )));
    }
    if health.isolation != "read committed" {
        return Err(NotRight::Wrong(format!(
            "the transaction isolation is '{}', it must be 'read committed': rotation relies on it",
            health.isolation
        )));
    }
    Ok(())
}

/// Whether every pepper that verifiers were made with is at hand.
pub async fn check_peppers(db: &Db, peppers: &Peppers) -> Result<(), NotRight> {
    let used = db.peppers_in_use().await.map_err(NotRight::Unavailable)?;
    let missing: Vec<String> = used.into_iter().filter(|id| !peppers.contains(*id)).map(|id| id.to_string()).collect();
    if !missing.is_empty() {
        return Err(NotRight::Hopeless(format!(
            "passwords in the database were made with peppers that PASSWORD_PEPPERS does not have (ids {}). Put the \
             old keys back, behind the current one",
            missing.join(", ")
        )));
    }
    Ok(())
}

/// The first check. A database that is away, or not ready, is waited for in the background; wrong keys are an error.
/// From then on this process maintains the database at that interval, when there is one.
pub async fn start(app: Arc<App>, maintenance_interval: Option<Duration>) -> Result<(), String> {
    match check_database(&app).await {
        Err(NotRight::Hopeless(why)) => return Err(why),
        result => report(&result),
    }
    tokio::spawn(look_after(app, maintenance_interval));
    Ok(())
}

async fn look_after(app: Arc<App>, maintenance_interval: Option<Duration>) {
    while !app.readiness.is_checked() {
        tokio::time::sleep(RETRY).await;
        report(&check_database(&app).await);
    }
    loop {
        match maintenance_interval {
            Some(interval) => {
                maintain(&app).await;
                tokio::time::sleep(interval).await;
            }
            None => {
                make_partitions(&app).await;
                tokio::time::sleep(PARTITIONS).await;
            }
        }
    }
}

async fn make_partitions(app: &App) {
    match app.db.maintain_audit_partitions().await {
        Ok(0) => {}
        Ok(made) => tracing::info!(made, "partitions of the audit log were made"),
        // Events go to the default partition meanwhile: nothing is lost.
        Err(_) => tracing::error!("the audit log's partitions could not be looked after"),
    }
}

/// Batch after batch, each in a transaction of its own, until nothing is left. Another process may be at it: then that
/// one does it all.
async fn maintain(app: &App) {
    loop {
        let Ok(tasks) = app.db.run_maintenance().await else {
            tracing::error!("the database could not be maintained: trying again at the next interval");
            return;
        };
        for MaintenanceTask { task, outcome, amount, detail, .. } in &tasks {
            match outcome.as_str() {
                "failed" => tracing::error!(task, detail, "a maintenance task failed"),
                "postponed" => tracing::warn!(task, detail, "a maintenance task was postponed"),
                "done" if *amount > 0 => tracing::info!(task, amount, "maintenance"),
                _ => {}
            }
        }
        if !tasks.iter().any(|task| task.more) {
            return;
        }
    }
}

fn report(result: &Result<(), NotRight>) {
    match result {
        Ok(()) => tracing::info!("the database is ready"),
        Err(NotRight::Unavailable(_)) => tracing::warn!(
            "the database is not ready, trying again every {} s. If the extension is missing: create extension \
             auth_sessions",
            RETRY.as_secs()
        ),
        Err(NotRight::Wrong(why) | NotRight::Hopeless(why)) => tracing::error!("not ready: {why}"),
    }
}
