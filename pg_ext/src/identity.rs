//! Who this transaction is.
//!
//! The identity lives in the backend's memory, beside the local transaction id under which it was proved, and is
//! compared with the running transaction's at every reading. So COMMIT, ROLLBACK and PREPARE TRANSACTION end it by
//! construction, without callbacks; a transaction pooler cannot leak it; and no SET can forge it.

use crate::arguments::required;
use pgrx::Uuid;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::CStr;

/// Whose proof was checked in a transaction.
#[derive(Clone, Copy)]
pub struct Identity {
    /// The user.
    pub user_id: Uuid,
    /// The session's active organization.
    pub organization_id: Option<Uuid>,
    /// The session.
    pub session_id: Uuid,
}

thread_local! {
    /// A backend has one thread and runs one transaction at a time, so one slot is enough.
    static ASSUMED: Cell<Option<(pg_sys::LocalTransactionId, Identity)>> = const { Cell::new(None) };
}

/// The running transaction's local id: never 0 inside one, and not used again by this backend for 2^32 transactions.
fn local_transaction_id() -> pg_sys::LocalTransactionId {
    // SAFETY: MyProc points to this backend's own entry for as long as SQL runs.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let id = (*pg_sys::MyProc).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let id = (*pg_sys::MyProc).vxid.lxid;
        id
    }
}

/// Makes this the identity until the transaction ends. The caller has checked a proof.
pub fn assume(identity: Identity) {
    ASSUMED.set(Some((local_transaction_id(), identity)));
}

fn current() -> Option<Identity> {
    ASSUMED.get().filter(|(transaction, _)| *transaction == local_transaction_id()).map(|(_, identity)| identity)
}

#[pg_extern(sql = false)]
fn set_identity(user_id: Option<Uuid>, organization_id: Option<Uuid>, session_id: Option<Uuid>) {
    assume(Identity {
        user_id: required(user_id, "user_id"),
        organization_id,
        session_id: required(session_id, "session_id"),
    });
}

#[pg_extern(sql = false)]
fn current_user_id() -> Option<Uuid> {
    current().map(|identity| identity.user_id)
}

#[pg_extern(sql = false)]
fn current_organization_id() -> Option<Uuid> {
    current().and_then(|identity| identity.organization_id)
}

#[pg_extern(sql = false)]
fn current_session_id() -> Option<Uuid> {
    current().map(|identity| identity.session_id)
}

/// The role outside all SECURITY DEFINER functions; `current_user` inside one is its owner.
#[pg_extern(sql = false)]
fn calling_role() -> &'static CStr {
    // SAFETY: the outer user always exists while it runs SQL; the name is allocated in the caller's memory context.
    unsafe { CStr::from_ptr(pg_sys::GetUserNameFromId(pg_sys::GetOuterUserId(), false)) }
}
