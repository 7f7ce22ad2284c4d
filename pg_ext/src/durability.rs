//! `auth_sessions.rotation_synchronous_commit = off`: the transaction of a plain rotation does not wait for the disk.
//!
//! Only a transaction that wrote that rotation and nothing else: it had no transaction id yet when the rotation began (who
//! writes what a commit must keep has one), and at its commit its last WAL record is still the rotation's. So whatever is
//! put beside a rotation (a caller's own rows, a security event, a second rotation, a deferred trigger) makes the whole
//! transaction commit as it always did; and so does, rarely, a page that was tidied up after it.

use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{c_int, c_void};

thread_local! {
    /// Where the WAL of this transaction's rotation ends.
    static ROTATION: Cell<Option<pg_sys::XLogRecPtr>> = const { Cell::new(None) };
    /// What `synchronous_commit` is, while this commit does without.
    static PUT_OFF: Cell<Option<c_int>> = const { Cell::new(None) };
    /// Whether PostgreSQL calls [`at_transaction_end`] in this backend.
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
}

fn last_record_end() -> pg_sys::XLogRecPtr {
    // SAFETY: a plain variable of this backend.
    unsafe { pg_sys::XactLastRecEnd }
}

/// Whether this transaction has written nothing yet that its commit must keep.
pub fn nothing_is_written() -> bool {
    // SAFETY: no arguments, no preconditions.
    unsafe { pg_sys::GetTopTransactionIdIfAny() == pg_sys::InvalidTransactionId }
}

/// The rotation that was just made is the first that this transaction wrote; if it stays the last, its commit need not
/// wait.
pub fn may_commit_asynchronously() {
    if !IS_REGISTERED.replace(true) {
        // SAFETY: the function lives as long as the library, which is never unloaded.
        unsafe { pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut()) };
    }
    ROTATION.set(Some(last_record_end()));
}

/// Nothing in here can fail: it runs where an error would be a PANIC.
unsafe extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    match event {
        // Deferred triggers have run; what comes now is the commit record.
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT if ROTATION.take() == Some(last_record_end()) => {
            // SAFETY: a plain variable of this backend, put back below before anybody else reads it.
            PUT_OFF.set(Some(unsafe { pg_sys::synchronous_commit }));
            unsafe { pg_sys::synchronous_commit = pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as c_int };
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT
        | pg_sys::XactEvent::XACT_EVENT_ABORT
        | pg_sys::XactEvent::XACT_EVENT_PREPARE => {
            ROTATION.take();
            if let Some(usual) = PUT_OFF.take() {
                // SAFETY: as above.
                unsafe { pg_sys::synchronous_commit = usual };
            }
        }
        _ => {}
    }
}
