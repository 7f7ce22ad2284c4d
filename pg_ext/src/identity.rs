//! Who this transaction is.
//!
//! The identity lives in the backend's memory, beside the local transaction id under which it was proved, and is
//! compared with the running transaction's at every reading. So COMMIT, ROLLBACK and PREPARE TRANSACTION end it by
//! construction, without callbacks; a transaction pooler cannot leak it; and no SET can forge it.

use crate::arguments::{refuse, required};
use pgrx::PgSqlErrorCode;
use pgrx::Uuid;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::ffi::CStr;

/// Whose proof was checked in a transaction.
#[derive(Clone)]
pub struct Identity {
    /// The user.
    pub user_id: Uuid,
    /// The active organization.
    pub organization_id: Option<Uuid>,
    /// The session; none for a personal access token.
    pub session_id: Option<Uuid>,
    /// What a personal access token may do; none for a session, which is not limited.
    pub scopes: Option<Vec<String>>,
}

impl Identity {
    fn has_scope(&self, scope: &str) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(|granted| granted == scope))
    }
}

thread_local! {
    /// A backend has one thread and runs one transaction at a time, so one slot is enough.
    static ASSUMED: RefCell<Option<(pg_sys::LocalTransactionId, Identity)>> = const { RefCell::new(None) };
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
    ASSUMED.replace(Some((local_transaction_id(), identity)));
}

/// What is read of the identity; nothing when this transaction has none.
fn current<T>(read: impl FnOnce(&Identity) -> T) -> Option<T> {
    ASSUMED.with_borrow(|assumed| {
        let (transaction, identity) = assumed.as_ref()?;
        (*transaction == local_transaction_id()).then(|| read(identity))
    })
}

/// A session's, or a personal access token's with its scopes: neither, or both, would be an identity without limits.
#[pg_extern(sql = false)]
fn set_identity(
    user_id: Option<Uuid>,
    organization_id: Option<Uuid>,
    session_id: Option<Uuid>,
    scopes: Option<Vec<String>>,
) {
    if session_id.is_some() == scopes.is_some() {
        refuse(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "an identity has a session or scopes, and not both",
            "Scopes are those of a personal access token.",
        );
    }
    assume(Identity { user_id: required(user_id, "user_id"), organization_id, session_id, scopes });
}

#[pg_extern(sql = false)]
fn current_user_id() -> Option<Uuid> {
    current(|identity| identity.user_id)
}

#[pg_extern(sql = false)]
fn current_organization_id() -> Option<Uuid> {
    current(|identity| identity.organization_id).flatten()
}

#[pg_extern(sql = false)]
fn current_session_id() -> Option<Uuid> {
    current(|identity| identity.session_id).flatten()
}

#[pg_extern(sql = false)]
fn current_scopes() -> Option<Vec<String>> {
    current(|identity| identity.scopes.clone().unwrap_or_else(|| vec!["*".to_owned()]))
}

#[pg_extern(sql = false)]
fn has_scope(scope: &str) -> bool {
    current(|identity| identity.has_scope(scope)).unwrap_or(false)
}

/// Whose profile may be read, and in which organization: of the identity that has this session, or, with none, of the
/// personal access token.
pub fn readable_profile(session_id: Option<Uuid>) -> Option<(Uuid, Option<Uuid>)> {
    current(|identity| {
        let own = identity.session_id == session_id && identity.has_scope("profile:read");
        own.then_some((identity.user_id, identity.organization_id))
    })
    .flatten()
}

/// The role outside all SECURITY DEFINER functions; `current_user` inside one is its owner.
#[pg_extern(sql = false)]
fn calling_role() -> &'static CStr {
    // SAFETY: the outer user always exists while it runs SQL; the name is allocated in the caller's memory context.
    unsafe { CStr::from_ptr(pg_sys::GetUserNameFromId(pg_sys::GetOuterUserId(), false)) }
}
