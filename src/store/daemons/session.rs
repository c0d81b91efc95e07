//! The session in which a daemon holds its lock, and in which it hears from the others.

use std::time::Duration;

use outhook_core::identity::DaemonId;
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, SqlxError,
    sqlx::{
        self, ConnectOptions, Executor,
        postgres::{PgListener, PgPoolOptions},
    },
};

use crate::store::{
    Store, StoreError,
    error::{from_sqlx, is_out_of_connections},
    pool::{Connector, PostgresConnector, Transaction},
    wake::INBOX_CHANNEL,
};

/// The first half of a daemon's advisory lock; the second is its row id. Any number will do, as long as it is
/// only outhook's ("outh" in ASCII).
const DAEMON_LOCKS: i32 = 0x6f75_7468;

/// A condition: somebody holds the lock of daemon `d`. The number is [`DAEMON_LOCKS`].
pub(super) const HAS_SESSION: &str = "EXISTS (
    SELECT 1 FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
      AND l.classid = CAST(1869968488 AS oid) AND l.objid = CAST(d.id AS oid)
      AND l.database = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database()))";

/// Ends whoever holds the lock of a daemon. The number is [`DAEMON_LOCKS`].
const END_HOLDER: &str = "SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
      AND l.classid = CAST(1869968488 AS oid) AND l.objid = CAST(CAST($1 AS bigint) AS oid)
      AND l.database = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database())";

/// Where daemons tell each other that partitions or daemons have come or gone.
const DAEMONS_CHANNEL: &str = "outhook_daemons";

/// How long a session may take to be made. The driver tries for as long again and again what it takes for
/// passing, such as a server without a free connection.
const SESSION_TIMEOUT: Duration = Duration::from_secs(2);
/// A session in which nothing was heard for so long is tried.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How long a session may take to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The session by which the others see that this process lives, and through which it hears of changes.
pub(crate) struct Session(PgListener);

/// What a daemon hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Partitions or daemons have come or gone.
    Daemons,
    /// Somebody has put events into the inbox.
    Inbox,
}

impl Session {
    /// Waits for news.
    ///
    /// # Errors
    /// The session is lost.
    pub(crate) async fn news(&mut self) -> Result<News, StoreError> {
        loop {
            match tokio::time::timeout(PING_EVERY, self.0.try_recv()).await {
                Ok(Ok(Some(heard))) if heard.channel() == INBOX_CHANNEL => return Ok(News::Inbox),
                Ok(Ok(Some(_))) => return Ok(News::Daemons),
                Ok(Ok(None)) => return Err(StoreError::Ended("the session was cut".into())),
                Ok(Err(error)) => return Err(from_sqlx(error)),
                Err(_) => self.ping().await?,
            }
        }
    }

    /// A server that takes no writes any more is not the one whose lock the others look at.
    async fn ping(&mut self) -> Result<(), StoreError> {
        let ask = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut self.0);
        match tokio::time::timeout(PING_TIMEOUT, ask).await {
            Ok(Ok(false)) => Ok(()),
            Ok(Ok(true)) => Err(StoreError::Ended("the server is a standby now".into())),
            Ok(Err(error)) => Err(from_sqlx(error)),
            Err(_) => Err(StoreError::Ended("the session does not answer".into())),
        }
    }
}

impl Store {
    /// Opens the session that belongs to a daemon's row, outside the pool, whose connections may all be busy.
    ///
    /// # Errors
    /// Also if an older session of this daemon, which is ended then, has not ended yet.
    pub(crate) async fn open_session(&self, daemon: DaemonId) -> Result<Session, StoreError> {
        self.read(move |store| async move {
            let Connector::Postgres(postgres) = store.db().connector() else {
                return Err(StoreError::Ended("an SQLite file has no sessions".into()));
            };
            match open(postgres, daemon).await {
                Ok(Some(session)) => Ok(session),
                Ok(None) => {
                    Err(StoreError::Ended("an older session of this daemon has not ended yet".into()))
                }
                Err(error) => {
                    let cause = cause(postgres, error).await;
                    if is_out_of_connections(&cause) {
                        store.db().yield_place().await;
                    }
                    Err(from_sqlx(cause))
                }
            }
        })
        .await
    }
}

/// `None` if another session has the lock: one that this process has given up, and of which the server does not
/// know yet.
async fn open(postgres: &PostgresConnector, daemon: DaemonId) -> Result<Option<Session>, SqlxError> {
    let alone = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(SESSION_TIMEOUT)
        .connect_lazy_with(postgres.options.clone());
    let mut listener = PgListener::connect_with(&alone).await?;
    listener.eager_reconnect(false);
    listener.execute("SET application_name = 'outhook'").await?;
    listener.listen_all([DAEMONS_CHANNEL, INBOX_CHANNEL]).await?;
    let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, CAST($2 AS integer))")
        .bind(DAEMON_LOCKS)
        .bind(daemon)
        .fetch_one(&mut listener)
        .await?;
    if !taken {
        sqlx::query(END_HOLDER).bind(daemon).execute(&mut listener).await?;
    }
    Ok(taken.then_some(Session(listener)))
}

/// What keeps the driver from connecting, of which it says only that it takes too long.
async fn cause(postgres: &PostgresConnector, error: SqlxError) -> SqlxError {
    if !matches!(error, SqlxError::PoolTimedOut) {
        return error;
    }
    match tokio::time::timeout(SESSION_TIMEOUT, postgres.options.connect()).await {
        Ok(Err(cause)) => cause,
        Ok(Ok(_)) | Err(_) => error,
    }
}

/// Tells all daemons, when the transaction commits.
pub(super) async fn announce_change(transaction: &Transaction) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared(&format!("NOTIFY {DAEMONS_CHANNEL}")).await?;
    }
    Ok(())
}
