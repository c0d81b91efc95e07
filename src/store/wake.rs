//! Hearing of rows that others inserted: `outhook send`, and daemons beside this one.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, sqlx::postgres::PgListener};

use super::{Store, StoreError, error::from_sqlx, sql::statement};

const CHANNEL: &str = "outhook_inbox";

/// How often an SQLite file is asked whether another process has written to it. This costs one
/// counter's reading.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A wait for rows of others.
pub(crate) enum Wake {
    /// PostgreSQL tells.
    Notified(Box<PgListener>),
    /// SQLite is asked.
    Looked {
        /// The database.
        store: Store,
        /// The file's version when last looked at.
        seen: i64,
    },
}

impl Store {
    /// Begins to listen. What was inserted before is not reported: look once after this.
    pub(crate) async fn listen(&self) -> Result<Wake, StoreError> {
        if self.backend() != DbBackend::Postgres {
            return Ok(Wake::Looked { store: self.clone(), seen: self.data_version().await? });
        }
        let pool = self.db().get_postgres_connection_pool();
        let listening = async {
            let mut listener = PgListener::connect_with(pool).await?;
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        match listening.await {
            Ok(listener) => Ok(Wake::Notified(Box::new(listener))),
            Err(error) => Err(from_sqlx(error)),
        }
    }

    async fn data_version(&self) -> Result<i64, StoreError> {
        let row = self.db().query_one_raw(statement(self.backend(), "PRAGMA data_version", [])).await?;
        Ok(row.map_or(Ok(0), |row| row.try_get("", "data_version"))?)
    }
}

impl Wake {
    /// Waits until somebody else has written.
    pub(crate) async fn heard(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Notified(listener) => match listener.recv().await {
                Ok(_) => Ok(()),
                Err(error) => Err(StoreError::Ended(error.to_string())),
            },
            Self::Looked { store, seen } => loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let version = store.data_version().await?;
                if version != *seen {
                    *seen = version;
                    return Ok(());
                }
            },
        }
    }
}

/// Tells everyone who listens, when the transaction commits.
pub(super) async fn announce(transaction: &DatabaseTransaction) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared(&format!("NOTIFY {CHANNEL}")).await?;
    }
    Ok(())
}
