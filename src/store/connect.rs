//! Opening a database: the pool.

use std::time::Duration;

use thiserror::Error;

use super::{
    Store, StoreError,
    pool::{Connector, Pool},
    postgres, sqlite,
};
use crate::config::database::{self, DatabaseUrl};

/// How long an SQLite transaction waits for the write lock.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Why a database can't be used as configured.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The configuration does not fit this database.
    #[error("{0}")]
    Unsuitable(String),
    /// Waiting would not mend it: something at the database has to change, or in its URL.
    #[error("{0}")]
    Unusable(String),
    /// The database does not answer, or not as it should.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error.lasting_fault() {
            Some(fault) => Self::Unusable(fault),
            None => Self::Store(error),
        }
    }
}

/// Makes a pool without connecting yet (PostgreSQL), or opens the file (SQLite).
///
/// # Errors
/// An SQLite file that is missing or can't be used; a URL that can't be used.
pub(crate) async fn open(config: &database::Database) -> Result<Store, OpenError> {
    match &config.url {
        DatabaseUrl::Sqlite(path) => {
            let connector = Connector::Sqlite(sqlite::options(path)?);
            // One connection, which is therefore the one that writes.
            let store = Store::new(Pool::new(connector, 1, config.timeout));
            store.watch_file().await?;
            Ok(store)
        }
        DatabaseUrl::Postgres(url) => {
            let connector = Connector::Postgres(postgres::connector(url, config)?);
            let connections = usize::try_from(config.max_connections).unwrap_or(usize::MAX);
            Ok(Store::new(Pool::new(connector, connections, config.timeout)))
        }
    }
}
