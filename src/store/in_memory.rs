//! A database in memory, for tests of what is done to it.

use migration::Migrator;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend};

use super::{Store, sql::statement};

/// A database of its own with outhook's tables, and Zulip's too if wanted.
pub(super) async fn in_memory(own_tables: bool) -> (DatabaseConnection, Store) {
    let mut options = ConnectOptions::new("sqlite::memory:");
    options.max_connections(1).sqlx_logging(false);
    let db = Database::connect(options).await.expect("a database");
    Migrator { own_tables }.migrate(&db).await.expect("tables");
    (db.clone(), Store::new(db))
}

/// How many rows of a table there are, with a condition behind it if wanted.
pub(super) async fn count(db: &DatabaseConnection, rows: &str) -> i64 {
    let query = statement(DbBackend::Sqlite, format!("SELECT count(*) AS n FROM {rows}"), []);
    let row = db.query_one_raw(query).await.expect("a count");
    row.expect("a row").try_get("", "n").expect("a number")
}
