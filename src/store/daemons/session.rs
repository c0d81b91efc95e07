//! The session in which a daemon holds its lock, and in which it hears from the others.

use std::time::Duration;

use outhook_core::identity::DaemonId;
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr,
    sqlx::{
        self,
        postgres::{PgListener, PgPoolOptions},
    },
};

use crate::store::{Store, StoreError, error::from_sqlx};

/// The first half of a daemon's advisory lock; the second is its row id. Any number will do, as long as it is
/// only outhook's ("outh" in ASCII).
const DAEMON_LOCKS: i32 = 0x6f75_7468;

/// A condition: somebody holds the lock of daemon `d`. The number is [`DAEMON_LOCKS`].
pub(super) const HAS_SESSION: &str = "EXISTS (
    SELECT 1 FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
      AND l.classid = CAST(1869968488 AS oid) AND l.objid = CAST(d.id AS oid)
      AND l.database = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database()))";

/// Where daemons tell each other that partitions or daemons have come or gone.
const CHANNEL: &str = "outhook_daemons";

/// How long a session may take to be made.
const SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// The session by which the others see that this process lives, and through which it hears of changes.
pub(crate) struct Session(PgListener);

impl Session {
    /// Waits for news of another daemon.
    ///
    /// # Errors
    /// The session is lost.
    pub(crate) async fn news(&mut self) -> Result<(), StoreError> {
        match self.0.try_recv().await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                Err(StoreError::Ended("the session that proves that this daemon lives was cut".into()))
            }
            Err(error) => Err(from_sqlx(error)),
        }
    }
}

impl Store {
    /// Opens the session that belongs to a daemon's row.
    ///
    /// # Errors
    /// Also if an older session of this daemon has not ended yet.
    pub(crate) async fn open_session(&self, daemon: DaemonId) -> Result<Session, StoreError> {
        self.on_main(move |store| async move {
            let options = store.db().get_postgres_connection_pool().connect_options();
            // Not one of the pool's, which may all be busy.
            let alone = PgPoolOptions::new()
                .max_connections(1)
                .max_lifetime(None)
                .idle_timeout(None)
                .acquire_timeout(SESSION_TIMEOUT)
                .connect_lazy_with((*options).clone());
            let opened = async {
                let mut listener = PgListener::connect_with(&alone).await?;
                listener.eager_reconnect(false);
                listener.listen(CHANNEL).await?;
                let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, CAST($2 AS integer))")
                    .bind(DAEMON_LOCKS)
                    .bind(daemon)
                    .fetch_one(&mut listener)
                    .await?;
                Ok((listener, taken))
            };
            match opened.await {
                Ok((listener, true)) => Ok(Session(listener)),
                Ok((_, false)) => {
                    Err(StoreError::Ended("an older session of this daemon has not ended yet".into()))
                }
                Err(error) => Err(from_sqlx(error)),
            }
        })
        .await
    }
}

/// Tells all daemons, when the transaction commits.
pub(super) async fn announce_change(transaction: &DatabaseTransaction) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared(&format!("NOTIFY {CHANNEL}")).await?;
    }
    Ok(())
}
