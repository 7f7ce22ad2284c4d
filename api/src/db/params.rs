//! Parameters that know their type, so that a statement can be sent in one message, without asking first.
//!
//! Usually each statement is prepared once per connection. A pooler in transaction mode gives every transaction another
//! connection to the server, where nothing was prepared: there (`DB_PREPARED_STATEMENTS=off`) a statement goes out whole,
//! with the types of its parameters, and is parsed and planned each time.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use deadpool_postgres::{
    ClientWrapper,
    tokio_postgres::{
        Error, Row,
        error::SqlState,
        types::{ToSql, Type},
    },
};
use uuid::Uuid;

use crate::telemetry;

/// Parameters of one statement.
pub type Params<'a> = &'a [&'a (dyn Param + Sync)];

/// A parameter.
pub trait Param: ToSql {
    /// PostgreSQL's type of it: exactly what the functions of the extension take.
    fn sql_type(&self) -> Type;
}

impl<T: Typed + ToSql> Param for T {
    fn sql_type(&self) -> Type {
        T::TYPE
    }
}

/// A type whose values can be parameters.
pub trait Typed {
    /// PostgreSQL's name of it.
    const TYPE: Type;
}

macro_rules! typed {
    ($($rust:ty => $sql:ident),+ $(,)?) => {$(
        impl Typed for $rust {
            const TYPE: Type = Type::$sql;
        }
    )+};
}
typed! {
    bool => BOOL, i32 => INT4, i64 => INT8, f64 => FLOAT8, str => TEXT, String => TEXT, [u8] => BYTEA, Uuid => UUID,
    IpAddr => INET, DateTime<Utc> => TIMESTAMPTZ, [String] => TEXT_ARRAY, Vec<&str> => TEXT_ARRAY, Vec<i32> => INT4_ARRAY,
    Vec<f64> => FLOAT8_ARRAY,
}

impl<T: Typed + ?Sized> Typed for &T {
    const TYPE: Type = T::TYPE;
}

impl<T: Typed> Typed for Option<T> {
    const TYPE: Type = T::TYPE;
}

/// All rows of one statement, prepared or not.
pub async fn query(
    client: &ClientWrapper,
    prepared: bool,
    sql: &'static str,
    params: Params<'_>,
) -> Result<Vec<Row>, Error> {
    let mut part = telemetry::statement(sql);
    let rows = run(client, prepared, sql, params).await;
    if let Err(error) = &rows {
        part.failed(error.code().map_or("", SqlState::code).to_owned());
    }
    rows
}

async fn run(client: &ClientWrapper, prepared: bool, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Error> {
    if prepared {
        let statement = client.prepare_cached(sql).await?;
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| *param as _).collect();
        client.query(&statement, &params).await
    } else {
        let params: Vec<(&(dyn ToSql + Sync), Type)> =
            params.iter().map(|param| (*param as _, param.sql_type())).collect();
        client.query_typed(sql, &params).await
    }
}
