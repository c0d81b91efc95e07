//! Hearing of rows that others inserted: `outhook send`, and daemons beside this one. PostgreSQL tells, in a
//! daemon's session; an SQLite file is asked.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, DbErr};

use super::{Store, StoreError, pool::Transaction, sql::statement};

/// Where those who put events into the inbox tell of it.
pub(super) const INBOX_CHANNEL: &str = "outhook_inbox";

/// How often an SQLite file is asked whether another process has written to it. This costs one
/// counter's reading.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Sees whether other processes write to an SQLite file.
pub(crate) struct FileWatch {
    store: Store,
    seen: i64,
}

impl Store {
    /// Begins to watch an SQLite file; `None` for PostgreSQL. What was inserted before is not reported: look
    /// once after this.
    pub(crate) async fn watch_file(&self) -> Result<Option<FileWatch>, StoreError> {
        if self.has_peers() {
            return Ok(None);
        }
        Ok(Some(FileWatch { store: self.clone(), seen: self.data_version().await? }))
    }

    async fn data_version(&self) -> Result<i64, StoreError> {
        let row = self.db().query_one_raw(statement(self.backend(), "PRAGMA data_version", [])).await?;
        Ok(row.map_or(Ok(0), |row| row.try_get("", "data_version"))?)
    }
}

impl FileWatch {
    /// Waits until another process has written.
    pub(crate) async fn changed(&mut self) -> Result<(), StoreError> {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let version = self.store.data_version().await?;
            if std::mem::replace(&mut self.seen, version) != version {
                return Ok(());
            }
        }
    }
}

/// Tells everyone who listens, when the transaction commits.
pub(super) async fn announce(transaction: &Transaction) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared(&format!("NOTIFY {INBOX_CHANNEL}")).await?;
    }
    Ok(())
}
