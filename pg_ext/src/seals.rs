//! The digest of a stretch of the audit log, read row by row: a month may be larger than one value can be.

use crate::arguments::required;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use pgrx::spi::{SpiError, SpiResult};
use sha2::{Digest, Sha256};

/// The lines in their order. Two rows of the same time and id, which only a forger makes, are ordered by what they say.
const LINES: &str = "
    select pg_catalog.convert_to(l.line, 'UTF8')
      from (select a.created_at, a.id, auth.audit_line(a) as line
              from auth.audit_log a where a.created_at >= $1 and a.created_at < $2) l
     order by l.created_at, l.id, l.line collate \"C\"";

/// How many rows are in memory at once.
const BATCH: i64 = 10_000;

/// SHA-256 of the header and of all lines, each with a line feed after it: what `sha256sum` says of the same text.
#[pg_extern(sql = false)]
fn digest_audit_log(
    header: Option<&[u8]>,
    from_time: Option<TimestampWithTimeZone>,
    to_time: Option<TimestampWithTimeZone>,
) -> Result<TableIterator<'static, (name!(row_count, i64), name!(digest, Vec<u8>))>, SpiError> {
    let (from_time, to_time) = (required(from_time, "from_time"), required(to_time, "to_time"));
    let mut hasher = Sha256::new();
    hasher.update(required(header, "header"));
    hasher.update(b"\n");
    // On a standby there is nothing to write, and so a plain connection must do.
    let row_count = Spi::connect(|client| {
        let mut cursor = client.try_open_cursor(LINES, &[from_time.into(), to_time.into()])?;
        let mut row_count = 0;
        loop {
            let rows = cursor.fetch(BATCH)?;
            if rows.is_empty() {
                return SpiResult::Ok(row_count);
            }
            for row in rows {
                hasher.update(required(row.get::<&[u8]>(1)?, "line"));
                hasher.update(b"\n");
                row_count += 1;
            }
        }
    })?;
    Ok(TableIterator::once((row_count, hasher.finalize().to_vec())))
}
