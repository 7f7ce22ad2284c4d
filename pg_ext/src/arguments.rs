//! Arguments from SQL: a null or a wrong length is one clear error with a hint, and changes nothing.

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;

/// Raises an error of that SQLSTATE.
pub fn refuse(code: PgSqlErrorCode, message: &str, hint: &str) -> ! {
    ErrorReport::new(code, message.to_owned(), "auth_sessions").set_hint(hint.to_owned()).report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// 22023 `invalid_parameter_value`.
pub fn refuse_value(message: &str, hint: &str) -> ! {
    refuse(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message, hint)
}

/// The argument, or 22004 `null_value_not_allowed`.
pub fn required<T>(argument: Option<T>, name: &str) -> T {
    argument.unwrap_or_else(|| {
        refuse(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            &format!("{name} must not be null"),
            "See the function's comment: \\df+",
        )
    })
}

/// The argument of exactly that many bytes, or 22004 or 22023.
pub fn required_bytes<'a, const LENGTH: usize>(argument: Option<&'a [u8]>, name: &str, hint: &str) -> &'a [u8; LENGTH] {
    let bytes = required(argument, name);
    bytes
        .try_into()
        .unwrap_or_else(|_| refuse_value(&format!("{name} must be {LENGTH} bytes, not {}", bytes.len()), hint))
}

/// An argument that was added since a version was released, whose SQL this library serves until the upgrade.
pub fn argument_since<T: FromDatum>(fcinfo: pg_sys::FunctionCallInfo, number: usize) -> Option<T> {
    // SAFETY: it is among those that the caller handed over, and of the type that its SQL declares.
    if is_without(fcinfo, number) { None } else { unsafe { pgrx::fcinfo::pg_getarg(fcinfo, number) } }
}

/// Whether the SQL that calls is of a version without the argument of that number, counted from 0.
pub fn is_without(fcinfo: pg_sys::FunctionCallInfo, number: usize) -> bool {
    // SAFETY: that of the call under way.
    usize::try_from(unsafe { (*fcinfo).nargs }).is_ok_and(|count| count <= number)
}

/// An inet argument as PostgreSQL hands it over. pgrx's own type goes through text, twice a call.
pub struct Inet(pub pg_sys::Datum);

// SAFETY: the datum is passed through untouched.
unsafe impl<'fcx> pgrx::callconv::ArgAbi<'fcx> for Inet {
    unsafe fn unbox_arg_unchecked(arg: pgrx::callconv::Arg<'_, 'fcx>) -> Self {
        unsafe { arg.unbox_arg_using_from_datum() }.map(Inet).expect("a nullable argument is taken as an Option")
    }
}

// SAFETY: it is an inet.
unsafe impl SqlTranslatable for Inet {
    const TYPE_IDENT: &'static str = <pgrx::datum::Inet as SqlTranslatable>::TYPE_IDENT;
    const TYPE_ORIGIN: TypeOrigin = <pgrx::datum::Inet as SqlTranslatable>::TYPE_ORIGIN;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = <pgrx::datum::Inet as SqlTranslatable>::ARGUMENT_SQL;
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = <pgrx::datum::Inet as SqlTranslatable>::RETURN_SQL;
}
