//! What a transaction under REPEATABLE READ or SERIALIZABLE cannot see: what others have committed since its snapshot.
//! A foreign key looks at the newest state of the other table whatever the isolation; so must what ends sessions.

use crate::arguments::required;
use pgrx::datum::Uuid;
use pgrx::prelude::*;

/// Whether the user has a session or token that is not among those.
const OTHERS: &std::ffi::CStr = c"
    select exists (select from auth.sessions s where s.user_id = $1 and s.revoked_at is null and s.id <> all ($2))
        or exists (select from auth.personal_access_tokens t where t.user_id = $1 and t.revoked_at is null and t.id <> all ($2))";

#[pg_extern(sql = false)]
fn has_newer_sessions(of_user: Option<Uuid>, seen: Option<Vec<Uuid>>) -> bool {
    let mut types = [pg_sys::UUIDOID, pg_sys::UUIDARRAYOID];
    let mut values = [required(of_user, "of_user").into_datum(), required(seen, "seen").into_datum()]
        .map(|value| value.expect("neither is null"));
    // SAFETY: a query that reads only runs under the snapshot that is active, which is the newest for as long as it takes.
    // The arguments are as many as the types, none is null, and there is one row of one boolean.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let found = Spi::connect(|_| {
            let status = pg_sys::SPI_execute_with_args(
                OTHERS.as_ptr(),
                types.len() as i32,
                types.as_mut_ptr(),
                values.as_mut_ptr(),
                std::ptr::null(),
                true,
                1,
            );
            assert_eq!(status, pg_sys::SPI_OK_SELECT as i32, "SPI");
            let mut is_null = false;
            let rows = pg_sys::SPI_tuptable;
            let found = pg_sys::SPI_getbinval(*(*rows).vals, (*rows).tupdesc, 1, &mut is_null);
            bool::from_datum(found, is_null)
        });
        pg_sys::PopActiveSnapshot();
        found.expect("exists is true or false")
    }
}
