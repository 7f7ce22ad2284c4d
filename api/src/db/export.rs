//! The audit log, line by line, for `auth-api export`: on one connection of a login that may read it. As in `adoption`, an
//! error is a sentence for an operator.

use chrono::{DateTime, Utc};
use deadpool_postgres::{
    Object,
    tokio_postgres::{RowStream, types::ToSql},
};
use futures_util::TryStreamExt;
use uuid::Uuid;

use super::{Db, adoption::told};

/// A window takes as long as it takes; a server whose client was killed notices it.
const SET_UP: &str = "set statement_timeout = 0; set default_transaction_read_only = on; \
                      set client_connection_check_interval = '1s'; set work_mem = '64MB'";

/// The connection.
pub struct Export(Object);

/// What is asked for at once: a stretch of time, and the line to begin after.
pub struct Window {
    /// From then on.
    pub from: DateTime<Utc>,
    /// Until then, which is not in it.
    pub to: DateTime<Utc>,
    /// Of one organization only.
    pub organization_id: Option<Uuid>,
    /// Members at and id of the last line that is there already.
    pub after: Option<(DateTime<Utc>, i64)>,
}

/// A month that retention has taken away.
pub struct DroppedMonth {
    /// What it was called.
    pub partition: String,
    /// How many events it had.
    pub rows: i64,
}

/// The lines of a window.
pub struct Lines(std::pin::Pin<Box<RowStream>>);

impl Lines {
    /// The next one; none at the end.
    pub async fn next(&mut self) -> Result<Option<String>, String> {
        self.0.try_next().await.map_err(told)?.map(|row| row.try_get(0).map_err(told)).transpose()
    }
}

impl Db {
    /// Opens it.
    pub async fn export(&self) -> Result<Export, String> {
        let connection = self
            .connection()
            .await
            .map_err(|_| "the database cannot be reached: the line above says why.".to_owned())?;
        connection.batch_execute(SET_UP).await.map_err(told)?;
        Ok(Export(connection))
    }
}

impl Export {
    /// Whether this login may.
    pub async fn is_allowed(&self) -> Result<bool, String> {
        let sql = "select pg_has_role('auth_monitor', 'usage') or pg_has_role('auth_admin', 'usage')";
        self.0.query_one(sql, &[]).await.map_err(told)?.try_get(0).map_err(told)
    }

    /// Until when it knows what was committed: now, or, at a standby, until the last commit that it has heard of. And whether
    /// it is a standby.
    pub async fn knows_until(&self) -> Result<(DateTime<Utc>, bool), String> {
        let sql = "select case when pg_is_in_recovery() then coalesce(pg_last_xact_replay_timestamp(), 'epoch')
                          else clock_timestamp() end, pg_is_in_recovery()";
        let row = self.0.query_one(sql, &[]).await.map_err(told)?;
        Ok((row.try_get(0).map_err(told)?, row.try_get(1).map_err(told)?))
    }

    /// Which organization is meant by its slug.
    pub async fn organization(&self, slug: &str) -> Result<Option<Uuid>, String> {
        let row =
            self.0.query_opt("select id from auth.organizations where slug = $1", &[&slug]).await.map_err(told)?;
        row.map(|row| row.try_get(0).map_err(told)).transpose()
    }

    /// What is missing of that time, because it is older than auth_sessions.audit_retention.
    pub async fn dropped_months(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Vec<DroppedMonth>, String> {
        let sql = "select partition, row_count from auth.audit_seals
                    where dropped_at is not null and row_count > 0 and from_time < $2 and to_time > $1 order by number";
        let rows = self.0.query(sql, &[&from, &to]).await.map_err(told)?;
        Ok(rows.iter().map(|row| DroppedMonth { partition: row.get(0), rows: row.get(1) }).collect())
    }

    /// The lines of a window, as they come.
    pub async fn lines(&self, window: &Window) -> Result<Lines, String> {
        let sql = "select auth.export_audit_log($1, $2, organization_id => $3, after_time => $4, after_id => $5)";
        let (after_time, after_id) = window.after.unzip();
        let params: [&(dyn ToSql + Sync); 5] =
            [&window.from, &window.to, &window.organization_id, &after_time, &after_id];
        Ok(Lines(Box::pin(self.0.query_raw(sql, params).await.map_err(told)?)))
    }
}
