//! Small helpers to write statements for both databases.

use outhook_core::partition::Partitions;
use sea_orm::{DbBackend, Statement, Value, sea_query::ArrayType};

pub(crate) use crate::clock::now;

/// The present, by the clock of PostgreSQL.
pub(super) const POSTGRES_CLOCK: &str = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)";

/// A condition: the row's bot is in one of the partitions that the parameter holds, see [`members`].
pub(super) fn in_partitions(bot: &str, parameter: usize) -> String {
    format!("((${parameter} >> CAST({bot} & 63 AS integer)) & 1) = 1")
}

/// The parameter for [`in_partitions`].
pub(super) fn members(partitions: Partitions) -> Value {
    partitions.bits().cast_signed().into()
}

/// A statement with its values (`$1`, `$2`, … in both databases).
pub(super) fn statement<const N: usize>(
    backend: DbBackend,
    sql: impl Into<String>,
    values: [Value; N],
) -> Statement {
    Statement::from_sql_and_values(backend, sql, values)
}

/// A PostgreSQL `bigint[]`.
pub(super) fn bigints(items: impl IntoIterator<Item = i64>) -> Value {
    array(ArrayType::BigInt, items)
}

/// A PostgreSQL `integer[]`.
pub(super) fn integers(items: impl IntoIterator<Item = i32>) -> Value {
    array(ArrayType::Int, items)
}

/// A PostgreSQL `text[]`.
pub(super) fn texts(items: impl IntoIterator<Item = String>) -> Value {
    array(ArrayType::String, items)
}

/// A PostgreSQL `bytea[]`.
pub(super) fn byte_strings(items: impl IntoIterator<Item = Vec<u8>>) -> Value {
    array(ArrayType::Bytes, items)
}

/// What stands for NULL in an array parameter, whose members can't be NULL.
pub(super) const NO_NUMBER: i64 = -1;

/// The members of a set of ids, as a condition's right side: one parameter in both databases.
pub(super) fn among(backend: DbBackend, parameter: usize) -> String {
    match backend {
        DbBackend::Postgres => format!("= ANY(${parameter})"),
        _ => format!("IN (SELECT value FROM json_each(${parameter}))"),
    }
}

/// The parameter for [`among`].
pub(super) fn ids(backend: DbBackend, items: &[i64]) -> Value {
    match backend {
        DbBackend::Postgres => bigints(items.iter().copied()),
        _ => {
            let list: Vec<String> = items.iter().map(i64::to_string).collect();
            format!("[{}]", list.join(",")).into()
        }
    }
}

/// The parameter for a number of rows.
pub(super) fn as_i64(number: usize) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

/// Text as both databases take it: PostgreSQL's text has no NUL.
pub(super) fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn array<T: Into<Value>>(kind: ArrayType, items: impl IntoIterator<Item = T>) -> Value {
    Value::Array(kind, Some(Box::new(items.into_iter().map(Into::into).collect())))
}
