//! One connection to either database, which carries out the ORM's statements.

use sea_orm::{
    ExecResult, QueryResult, SqlxError, Statement, Values,
    sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection, query_with, raw_sql},
};
use sea_query_sqlx::SqlxValues;

/// An open connection.
pub(in crate::store) enum Connection {
    /// To a PostgreSQL server.
    Postgres(Box<PgConnection>),
    /// To an SQLite file.
    Sqlite(Box<SqliteConnection>),
}

/// The same for both: the driver's functions have one name and two types.
macro_rules! either {
    ($self:ident, $connection:ident => $work:expr) => {
        match $self {
            Connection::Postgres($connection) => $work,
            Connection::Sqlite($connection) => $work,
        }
    };
}

impl Connection {
    pub(super) async fn execute(&mut self, statement: &Statement) -> Result<ExecResult, SqlxError> {
        let (sql, values) = parts(statement);
        either!(self, connection => Ok(query_with(sql, values).execute(&mut **connection).await?.into()))
    }

    pub(super) async fn execute_unprepared(&mut self, sql: &str) -> Result<ExecResult, SqlxError> {
        let sql = AssertSqlSafe(sql);
        either!(self, connection => Ok(raw_sql(sql).execute(&mut **connection).await?.into()))
    }

    pub(super) async fn fetch_optional(
        &mut self,
        statement: &Statement,
    ) -> Result<Option<QueryResult>, SqlxError> {
        let (sql, values) = parts(statement);
        either!(self, connection => {
            let row = query_with(sql, values).fetch_optional(&mut **connection).await?;
            Ok(row.map(Into::into))
        })
    }

    pub(super) async fn fetch_all(&mut self, statement: &Statement) -> Result<Vec<QueryResult>, SqlxError> {
        let (sql, values) = parts(statement);
        either!(self, connection => {
            let rows = query_with(sql, values).fetch_all(&mut **connection).await?;
            Ok(rows.into_iter().map(Into::into).collect())
        })
    }

    pub(super) async fn ping(&mut self) -> Result<(), SqlxError> {
        either!(self, connection => connection.ping().await)
    }

    pub(super) async fn close(self) -> Result<(), SqlxError> {
        either!(self, connection => connection.close().await)
    }
}

fn parts(statement: &Statement) -> (AssertSqlSafe<&str>, SqlxValues) {
    let values = statement.values.clone().unwrap_or_else(|| Values(Vec::new()));
    (AssertSqlSafe(&statement.sql), SqlxValues(values))
}
