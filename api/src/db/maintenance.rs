//! What must be done regularly, when nobody else does it.

use super::{Db, Row, named, refused};
use crate::error::Problem;

/// A month of the audit log is digested in one statement, however long it takes.
const NO_TIMEOUT: &str = "set local statement_timeout to 0";
const RUN_MAINTENANCE: &str = "select task, outcome, amount, more, detail from auth.run_maintenance()";

/// A row of `auth.run_maintenance()`.
pub struct MaintenanceTask {
    /// Which.
    pub task: String,
    /// done, postponed, failed, busy or standby.
    pub outcome: String,
    /// How many rows, or months.
    pub amount: i64,
    /// Whether to call again.
    pub more: bool,
    /// Why it was not done.
    pub detail: Option<String>,
}

impl Db {
    /// One batch of everything that is due, in a transaction of its own.
    pub async fn run_maintenance(&self) -> Result<Vec<MaintenanceTask>, Problem> {
        let mut connection = self.connection().await?;
        let result = async {
            let transaction = connection.transaction().await?;
            transaction.batch_execute(NO_TIMEOUT).await?;
            let statement = transaction.prepare_cached(RUN_MAINTENANCE).await?;
            let rows = transaction.query(&statement, &[]).await?;
            transaction.commit().await?;
            Ok(rows)
        };
        let task = |row: &Row| {
            Ok(MaintenanceTask {
                task: named(row, "task")?,
                outcome: named(row, "outcome")?,
                amount: named(row, "amount")?,
                more: named(row, "more")?,
                detail: named(row, "detail")?,
            })
        };
        match result.await {
            Ok(rows) => rows.iter().map(task).collect(),
            Err(error) => Err(refused(connection, &error)),
        }
    }
    /// It did not come to its end: somebody is to be told.
    pub async fn report_failed_maintenance(&self) -> Result<(), Problem> {
        self.one("select auth.report_failed_maintenance()", &[]).await.map(|_| ())
    }
}
