//! Statements that a backend plans once: planning one costs several times what running it does.
//!
//! Each is read where the caller's names may come first, unless the SQL function pins its search_path: so it names
//! functions and operators with their schema.

use pgrx::PgOid;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{OwnedPreparedStatement, PreparedStatement, SpiClient, SpiResult, SpiTupleTable};
use std::cell::OnceCell;
use std::thread::LocalKey;

type KeptPlan = &'static LocalKey<OnceCell<OwnedPreparedStatement>>;

/// Runs a kept plan, which the first call of a backend makes. Reads what this statement has written before.
pub fn run<'conn>(
    client: &mut SpiClient<'conn>,
    plan: KeptPlan,
    query: &str,
    arguments: &[DatumWithOid<'_>],
) -> SpiResult<SpiTupleTable<'conn>> {
    plan.with(|plan| {
        let plan = kept(plan, || client.prepare_mut(query, &types(arguments)))?;
        client.update(plan, None, arguments)
    })
}

/// The same for what only reads: it takes no transaction id, so that it costs no commit, and works on a standby.
pub fn read<'conn>(
    client: &SpiClient<'conn>,
    plan: KeptPlan,
    query: &str,
    arguments: &[DatumWithOid<'_>],
) -> SpiResult<SpiTupleTable<'conn>> {
    plan.with(|plan| {
        let plan = kept(plan, || client.prepare(query, &types(arguments)))?;
        client.select(plan, None, arguments)
    })
}

fn kept<'plan, 'conn>(
    plan: &'plan OnceCell<OwnedPreparedStatement>,
    prepare: impl FnOnce() -> SpiResult<PreparedStatement<'conn>>,
) -> SpiResult<&'plan OwnedPreparedStatement> {
    match plan.get() {
        Some(plan) => Ok(plan),
        None => prepare().map(|prepared| plan.get_or_init(|| prepared.keep())),
    }
}

fn types(arguments: &[DatumWithOid<'_>]) -> Vec<PgOid> {
    arguments.iter().map(|argument| argument.oid().into()).collect()
}
