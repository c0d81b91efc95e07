//! The product's database, seen from beside it.

use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, QueryResult, Statement, TryGetable,
};
use serde_json::{Map, Value};

use super::{Config, secrets};

/// A connection of the test's own to the database of a configuration.
pub struct Db(DatabaseConnection);

impl Db {
    /// Connects; an SQLite file must exist already, that is `run` or `migrate` must have made it.
    pub async fn of(config: &Config) -> Self {
        let url = config.database();
        let mode = if url.starts_with("sqlite:") { "?mode=rw" } else { "" };
        Self::connect(&format!("{url}{mode}")).await
    }

    /// Connects to any database.
    pub async fn connect(url: &str) -> Self {
        let mut options = ConnectOptions::new(url);
        options.max_connections(2).sqlx_logging(false);
        Self(Database::connect(options).await.unwrap())
    }

    /// The rows of a query, by the names of its columns. Bytes become text. Booleans are 0 and 1 in
    /// SQLite. What is neither number, text, boolean nor bytes must be cast in the query.
    pub async fn rows(&self, sql: &str) -> Vec<Map<String, Value>> {
        self.query(sql).await.iter().map(row).collect()
    }

    /// The one number that a query yields.
    pub async fn count(&self, sql: &str) -> i64 {
        let rows = self.query(&format!("SELECT CAST(({sql}) AS BIGINT)")).await;
        rows[0].try_get_by_index(0).unwrap()
    }

    /// Runs statements, and returns how many rows they touched.
    pub async fn exec(&self, sql: &str) -> u64 {
        let result = self.0.execute_unprepared(sql).await;
        result.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
    }

    async fn query(&self, sql: &str) -> Vec<QueryResult> {
        let statement = Statement::from_string(self.0.get_database_backend(), sql);
        self.0.query_all_raw(statement).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}

fn row(result: &QueryResult) -> Map<String, Value> {
    let columns = result.column_names().into_iter().enumerate();
    let row: Map<String, Value> = columns.map(|(index, name)| (name, cell(result, index))).collect();
    for (name, value) in row.iter().filter(|(name, _)| TOLD.contains(&name.as_str())) {
        secrets::assert_none(name, value.as_str().unwrap_or_default());
    }
    row
}

/// Columns in which the product tells of failures.
const TOLD: [&str; 2] = ["detail", "excerpt"];

fn cell(row: &QueryResult, index: usize) -> Value {
    read::<i64>(row, index)
        .or_else(|| read::<i32>(row, index))
        .or_else(|| read::<i16>(row, index))
        .or_else(|| read::<f64>(row, index))
        .or_else(|| read::<bool>(row, index))
        .or_else(|| read::<String>(row, index))
        .or_else(|| read_bytes(row, index))
        .unwrap_or_else(|| panic!("column {index} is of a type to be cast"))
}

fn read<T: TryGetable + Into<Value>>(row: &QueryResult, index: usize) -> Option<Value> {
    row.try_get_by_index::<Option<T>>(index).ok().map(Value::from)
}

fn read_bytes(row: &QueryResult, index: usize) -> Option<Value> {
    let bytes: Option<Vec<u8>> = row.try_get_by_index(index).ok()?;
    Some(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).into())
}
