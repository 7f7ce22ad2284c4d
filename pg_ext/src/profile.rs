//! Whose session it is: what the service asks for in the statement that opens, rotates or recognises one.

use crate::identity;
use crate::kept_plan::read;
use pgrx::datum::{TimestampWithTimeZone, Uuid};
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiError};
use std::cell::OnceCell;

/// Named throughout: the SQL function has no `set search_path`, as `rotate_session_token` has none.
const IN_ORGANIZATION: &str =
    "select u.id, u.email, u.name, u.user_type, u.email_verified_at is not null, u.created_at,
           o.id, o.slug, o.name, m.role
      from auth.users u
      left join auth.organization_members m
             on m.organization_id operator(pg_catalog.=) $2 and m.user_id operator(pg_catalog.=) u.id
      left join auth.organizations o on o.id operator(pg_catalog.=) m.organization_id
     where u.id operator(pg_catalog.=) $1";

/// A statement of its own: for the one above, a plan that knows that there is no organization would always be cheaper
/// than the general one, so that PostgreSQL would plan it anew each time, which takes longer than all the rest.
const ALONE: &str = "select u.id, u.email, u.name, u.user_type, u.email_verified_at is not null, u.created_at,
           null::pg_catalog.uuid, null::pg_catalog.text, null::pg_catalog.text, null::pg_catalog.text
      from auth.users u where u.id operator(pg_catalog.=) $1";

thread_local! {
    static IN_ORGANIZATION_PLAN: OnceCell<OwnedPreparedStatement> = const { OnceCell::new() };
    static ALONE_PLAN: OnceCell<OwnedPreparedStatement> = const { OnceCell::new() };
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity, reason = "the SQL function has as wide a row")]
fn session_profile(
    session_id: Option<Uuid>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(user_id, Option<Uuid>),
            name!(email, Option<String>),
            name!(name, Option<String>),
            name!(user_type, Option<String>),
            name!(email_verified, Option<bool>),
            name!(user_created_at, Option<TimestampWithTimeZone>),
            name!(organization_id, Option<Uuid>),
            name!(organization_slug, Option<String>),
            name!(organization_name, Option<String>),
            name!(organization_role, Option<String>),
            name!(roles, Option<Vec<String>>),
        ),
    >,
    SpiError,
> {
    let Some((user_id, organization_id)) = identity::readable_profile(session_id) else {
        return Ok(TableIterator::empty());
    };
    Spi::connect(|client| {
        let rows = match organization_id {
            Some(id) => read(client, &IN_ORGANIZATION_PLAN, IN_ORGANIZATION, &[user_id.into(), id.into()]),
            None => read(client, &ALONE_PLAN, ALONE, &[user_id.into()]),
        }?;
        if rows.is_empty() {
            return Ok(TableIterator::empty());
        }
        let row = rows.first();
        let role: Option<String> = row.get(10)?;
        let roles = role.iter().cloned().collect();
        Ok(TableIterator::once((
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
            row.get(5)?,
            row.get(6)?,
            row.get(7)?,
            row.get(8)?,
            row.get(9)?,
            role,
            Some(roles),
        )))
    })
}
