//! Opening a database: the pool.

use std::time::Duration;

use sea_orm::{ConnectOptions, Database, sqlx::postgres::PgConnectOptions};
use thiserror::Error;

use super::{Store, StoreError, error::from_sqlx, sqlite};
use crate::config::database::{self, DatabaseUrl};

/// How long a statement waits for a connection, and an SQLite transaction for the write lock.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that was not used for so long is tried before it is used.
const IDLE: Duration = Duration::from_secs(1);

/// Why a database can't be used as configured.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The configuration does not fit this database.
    #[error("{0}")]
    Unsuitable(String),
    /// This database can't be used as it is, however long we wait.
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
/// An SQLite file that is missing or can't be used.
pub(crate) async fn open(config: &database::Database) -> Result<Store, OpenError> {
    let url = match &config.url {
        DatabaseUrl::Sqlite(path) => return Ok(Store::new(sqlite::open(path).await?)),
        DatabaseUrl::Postgres(url) => url,
    };
    let lease = config.lease;
    let real: PgConnectOptions = url.expose().parse().map_err(from_sqlx)?;
    // The ORM logs the URL that it is given at the level of traces; so it is not given the real one.
    let mut options = ConnectOptions::new("postgres://");
    options
        .max_connections(config.max_connections)
        .map_sqlx_postgres_opts(move |_| session(real.clone(), lease))
        // After a restart of the server every connection that was idle is dead.
        .test_before_acquire_if_idle_for(IDLE)
        .connect_lazy(true)
        .sqlx_logging(false)
        .acquire_timeout(PATIENCE);
    Ok(Store::new(Database::connect(options).await.map_err(StoreError::from)?))
}

/// A transaction of a process that is frozen must not lock its daemon's row against those who take over.
fn session(options: PgConnectOptions, lease: Duration) -> PgConnectOptions {
    let idle = lease.as_millis().to_string();
    options.application_name("outhook").options([("idle_in_transaction_session_timeout", idle)])
}
