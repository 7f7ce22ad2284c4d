//! Statements that a backend plans once: planning one costs several times what running it does.
//!
//! Each is read where the caller's names may come first, unless the SQL function pins its search_path: so it names
//! functions and operators with their schema.

use pgrx::datum::DatumWithOid;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiResult, SpiTupleTable};
use std::cell::OnceCell;
use std::thread::LocalKey;

/// Runs a kept plan, which the first call of a backend makes. Reads what this statement has written before.
pub fn run<'conn>(
    client: &mut SpiClient<'conn>,
    plan: &'static LocalKey<OnceCell<OwnedPreparedStatement>>,
    query: &str,
    arguments: &[DatumWithOid<'_>],
) -> SpiResult<SpiTupleTable<'conn>> {
    plan.with(|plan| {
        if plan.get().is_none() {
            let types: Vec<_> = arguments.iter().map(|argument| argument.oid().into()).collect();
            let prepared = client.prepare_mut(query, &types)?.keep();
            plan.get_or_init(|| prepared);
        }
        client.update(plan.get().expect("made above"), None, arguments)
    })
}
