//! What the service does beside answering: look after the database it depends on.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::{
    app::App,
    db::{Db, Health, MaintenanceTask, OLDEST, Version},
    error::Problem,
    keys::Peppers,
    metrics::metrics,
};

/// How often a database that is not right is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often the audit log's partitions are looked after by a process that is not asked to do more.
const PARTITIONS: Duration = Duration::from_secs(24 * 60 * 60);

/// What was found out of the database, so that it is not asked again.
#[derive(Default)]
pub struct Readiness {
    /// Whether the start-up checks were passed; they need the database, which may come later than the service.
    checked: OnceLock<()>,
    /// What came of the newest comparison with another version.
    compared: Mutex<Option<Compared>>,
}

struct Compared {
    versions: [String; 2],
    at: Instant,
    lacks: Option<String>,
}

impl Readiness {
    /// Passed.
    pub fn is_checked(&self) -> bool {
        self.checked.get().is_some()
    }

    /// What a database of other versions lacks: tried once when it lacks nothing, every two seconds while it does.
    async fn lacks(&self, db: &Db, versions: [String; 2]) -> Result<Option<String>, Problem> {
        let mut compared = self.compared.lock().await;
        if let Some(known) = compared.as_ref()
            && known.versions == versions
            && (known.lacks.is_none() || known.at.elapsed() < RETRY)
        {
            return Ok(known.lacks.clone());
        }
        let lacks = db.lacks().await?;
        if lacks.is_none() {
            let [library, extension] = &versions;
            tracing::info!(
                library,
                extension,
                "the database has another version than this service, and understands all that it asks"
            );
        }
        *compared = Some(Compared { versions, at: Instant::now(), lacks: lacks.clone() });
        Ok(lacks)
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
    let result = examine(app).await;
    metrics().ready.set(i64::from(result.is_ok()));
    result
}

async fn examine(app: &App) -> Result<(), NotRight> {
    check_version(&app.db, &app.readiness).await?;
    if app.readiness.is_checked() {
        return Ok(());
    }
    check_peppers(&app.db, &app.keys.peppers()).await?;
    let _ = app.readiness.checked.set(());
    Ok(())
}

/// Whether this service and the extension there understand each other, whatever their versions are, and commits are as
/// rotation relies on.
pub async fn check_version(db: &Db, readiness: &Readiness) -> Result<(), NotRight> {
    let Health { library_version, extension_version, isolation } = db.health().await.map_err(NotRight::Unavailable)?;
    let own = env!("CARGO_PKG_VERSION");
    let version = |text: &str| {
        let why =
            || NotRight::Wrong(format!("the extension auth_sessions says that it has version {text}, which is none"));
        Version::parse(text).ok_or_else(why)
    };
    let (library, extension) = (version(&library_version)?, version(&extension_version)?);
    if library < extension {
        return Err(NotRight::Wrong(format!(
            "the server has loaded the library of auth_sessions {library_version}, the extension in this database has \
             version {extension_version}. Install that version on the database server, and restart it when the library is \
             preloaded"
        )));
    }
    if extension_version != own {
        let lacks = if extension < OLDEST {
            Some("it is too old".to_owned())
        } else {
            let versions = [library_version, extension_version.clone()];
            readiness.lacks(db, versions).await.map_err(NotRight::Unavailable)?
        };
        if let Some(lacks) = lacks {
            let own_version = version(own)?;
            let update = format!("alter extension auth_sessions update to '{own}'");
            let advice = if own_version > library {
                format!(
                    "Install {own} on the database server (restart it when the library is preloaded), then run: {update}"
                )
            } else if own_version > extension {
                format!("Run: {update}")
            } else {
                format!("Start version {extension_version} of the service")
            };
            return Err(NotRight::Wrong(format!(
                "the extension auth_sessions has version {extension_version} in this database, this service is {own}, and \
                 what it asks is not there: {lacks}. {advice}"
            )));
        }
    }
    if isolation != "read committed" {
        return Err(NotRight::Wrong(format!(
            "the transaction isolation is '{isolation}', it must be 'read committed': rotation relies on it"
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
            // In vain when it is away; then the next failure is told.
            let _ = app.db.report_failed_maintenance().await;
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
