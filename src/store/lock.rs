//! One daemon per database.
//!
//! Which rows are held in memory is known to one daemon only, so a second one must not start on the
//! same database. An SQLite file has an OS lock beside it; PostgreSQL has a session's advisory lock.

use std::{
    fs::File,
    io,
    time::{Duration, Instant},
};

use sea_orm::sqlx::{self, Connection, PgConnection};
use thiserror::Error;

use super::{Store, StoreError, connect::lock_path};
use crate::config::database::DatabaseUrl;

/// Any number will do, as long as it is only outhook's ("outhook" in ASCII, and one).
const DAEMON_LOCK: i64 = 0x6f75_7468_6f6f_6b01;

/// How often the session that holds PostgreSQL's lock is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a lock that is taken is asked for again at the start.
const PATIENCE: Duration = Duration::from_secs(3);
/// The wait between two tries.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Why the lock was not taken.
#[derive(Debug, Error)]
pub(crate) enum LockError {
    /// Another daemon works on this database.
    #[error(
        "another outhook daemon is working on this database: stop it first, or give this one a database of its own"
    )]
    Taken,
    /// The lock could not be asked for.
    #[error("the lock of the database can't be taken: {0}")]
    File(#[from] io::Error),
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The right to work on a database, until dropped.
pub(crate) enum DatabaseLock {
    /// Held on a file; released by closing it, also by a crash.
    File {
        /// Kept open.
        _file: File,
    },
    /// Held by a session.
    Session(Box<PgConnection>),
}

impl DatabaseLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`LockError::Taken`] if another process has it.
    pub(crate) async fn take(store: &Store, url: &DatabaseUrl) -> Result<Self, LockError> {
        let file = match url {
            DatabaseUrl::Postgres(_) => return Ok(Self::Session(Box::new(lock_patiently(store).await?))),
            DatabaseUrl::Sqlite(path) => File::create(lock_path(path))?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Self::File { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(LockError::Taken),
            Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Holds the lock for as long as this future is polled: a session that was lost is replaced. Ends
    /// only if another daemon has taken the lock in the meantime.
    pub(crate) async fn hold(self, store: Store) -> LockError {
        let Self::Session(mut session) = self else { return std::future::pending().await };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if matches!(tokio::time::timeout(LOOK_EVERY, session.ping()).await, Ok(Ok(()))) {
                continue;
            }
            match lock_patiently(&store).await {
                Ok(renewed) => *session = renewed,
                Err(LockError::Taken) => return LockError::Taken,
                Err(error) => log::debug!("taking the database's lock again: {error}"),
            }
        }
    }
}

/// The server may notice a little late that a predecessor is gone.
async fn lock_patiently(store: &Store) -> Result<PgConnection, LockError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match lock_session(store).await {
            Err(LockError::Taken) if Instant::now() < give_up => tokio::time::sleep(RETRY_DELAY).await,
            result => return result,
        }
    }
}

async fn lock_session(store: &Store) -> Result<PgConnection, LockError> {
    let options = store.db().get_postgres_connection_pool().connect_options();
    let taken = async {
        let mut session = PgConnection::connect_with(&options).await?;
        let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(DAEMON_LOCK)
            .fetch_one(&mut session)
            .await?;
        Ok((session, taken))
    };
    match taken.await {
        Ok((session, true)) => Ok(session),
        Ok((_, false)) => Err(LockError::Taken),
        Err(error) => Err(LockError::Store(from_sqlx(error))),
    }
}

/// An error of the driver, met outside the ORM while connecting or listening.
pub(super) fn from_sqlx(error: sqlx::Error) -> StoreError {
    sea_orm::DbErr::Conn(sea_orm::RuntimeErr::SqlxError(std::sync::Arc::new(error))).into()
}
