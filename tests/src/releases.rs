//! The versions that were released: what `create extension` ran then, frozen in `tests/releases`.

use std::fs;
use std::path::PathBuf;

use tokio_postgres::Client;

use crate::TestDb;
use crate::cluster::env_path;

/// The version that is tested.
pub const THIS: &str = env!("CARGO_PKG_VERSION");

/// The script of a released version.
pub fn script(version: &str) -> PathBuf {
    directory().join(format!("auth_sessions--{version}.sql"))
}

/// Every released version.
pub fn versions() -> Vec<String> {
    let mut versions: Vec<String> = fs::read_dir(directory())
        .expect("tests/releases")
        .filter_map(|entry| {
            let name = entry.expect("tests/releases").file_name().into_string().ok()?;
            Some(name.strip_prefix("auth_sessions--")?.strip_suffix(".sql")?.to_owned())
        })
        .collect();
    versions.sort();
    versions
}

/// A database with the extension as a released version made it (and the library of today, which must go on serving it),
/// and a superuser's connection.
pub async fn install(version: &str) -> (TestDb, Client) {
    let db = TestDb::empty().await;
    let offered = db.cluster().extension_directory().join(format!("auth_sessions--{version}.sql"));
    if !offered.exists() {
        // As a whole: another test may be at it.
        let copy = offered.with_extension(db.name());
        fs::copy(script(version), &copy).and_then(|_| fs::rename(&copy, &offered)).expect("the cluster's extensions");
    }
    let admin = db.superuser().await;
    let create = format!("create extension auth_sessions version '{version}'");
    admin.batch_execute(&create).await.unwrap_or_else(|error| panic!("{create}: {error:?}"));
    (db, admin)
}

fn directory() -> PathBuf {
    env_path("AUTH_TEST_ROOT").join("tests/releases")
}
