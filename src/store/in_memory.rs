//! A database in memory, for tests of what is done to it.

use std::{str::FromStr, time::Duration};

use migration::Migrator;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend,
    sqlx::sqlite::SqliteConnectOptions,
};

use super::{
    Store,
    pool::{Connector, Pool},
    sql::statement,
};

/// A database of its own with outhook's tables, and Zulip's too if wanted. It lives as long as the connection.
pub(super) async fn in_memory(own_tables: bool) -> (DatabaseConnection, Store) {
    let shared = SqliteConnectOptions::from_str("sqlite::memory:").expect("options");
    let mut options = ConnectOptions::new("sqlite::memory:");
    let same = shared.clone();
    options.max_connections(1).sqlx_logging(false).map_sqlx_sqlite_opts(move |_| same.clone());
    let db = Database::connect(options).await.expect("a database");
    Migrator { own_tables }.migrate(&db).await.expect("tables");
    let pool = Pool::new(Connector::Sqlite(shared), 1, Duration::from_secs(10));
    (db, Store::new(pool))
}

/// How many rows of a table there are, with a condition behind it if wanted.
pub(super) async fn count(db: &DatabaseConnection, rows: &str) -> i64 {
    let query = statement(DbBackend::Sqlite, format!("SELECT count(*) AS n FROM {rows}"), []);
    let row = db.query_one_raw(query).await.expect("a count");
    row.expect("a row").try_get("", "n").expect("a number")
}
