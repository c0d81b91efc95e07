//! All SQL, in functions named as sentences.
//!
//! | file | holds |
//! | --- | --- |
//! | `daemons` | who works on this database, and for which bots |
//! | `inbox` | storing deliveries |
//! | `due_events` | handing out the events whose time has come, bots taking turns |
//! | `rows` | handing out the rows that EventActors ask for |
//! | `settle` | one transaction for the outcomes of many calls |
//! | `outbox` | replies to post |
//! | `due_replies` | handing out the replies whose time has come, bots taking turns |
//! | `directory` | bots and their services, read and (own tables only) written |
//! | `organizations` | the organizations of a Zulip server |
//! | `places` | the channels and people of a Zulip server |
//! | `backup` | whether Zulip's own backup can read outhook's tables |
//! | `gates` | what keeps services from being called, and pausing them |
//! | `ledger` | what commands and pages show |
//! | `replays` | making the calls of finished events again |
//! | `letters` | dead letters, until they are replayed or dropped |
//! | `history` | deleting what is kept no longer |
//! | `turns` | whose turn it is |
//! | `wake` | hearing of rows that others inserted |
//!
//! A store that is [`Store::under`] a tenure writes only while the daemon counts as alive, and reads what is
//! due in its own partitions. Every commit names its [`Step`].
//!
//! Functions run on the runtime that opened the pool, whoever calls them: a connection opened from an
//! EventActor's arbiter would die with it.

mod backup;
mod connect;
mod daemons;
mod directory;
mod due_events;
mod due_replies;
mod error;
mod gates;
mod history;
#[cfg(test)]
mod in_memory;
mod inbox;
mod ledger;
mod letters;
mod lock;
mod organizations;
mod outbox;
mod places;
mod replays;
mod rows;
mod settle;
mod sql;
mod turns;
mod wake;

use std::{future::Future, sync::Arc, time::Duration};

use outhook_core::partition::Partitions;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, RuntimeErr, TransactionTrait,
};
use tokio::{runtime::Handle, sync::OnceCell};

use crate::{
    fail_points::{self, Step},
    tenure::Tenure,
};

pub(crate) use connect::{OpenError, open};
pub(crate) use daemons::{Session, Sighting};
pub(crate) use directory::{Bot, NewBot, NewService, NotCallable, Service, ServiceRow};
pub(crate) use due_events::DueEvents;
pub(crate) use due_replies::{DueReplies, Places};
pub(crate) use error::StoreError;
pub(crate) use gates::{DatedChange, GateChange, Pausing, StoredGate, reason_name};
pub(crate) use history::{HistoryPlace, Pruned};
pub(crate) use inbox::{BotPage, InboxEvent, Intake, LanePage, NewEvent, Stored, Taken};
pub(crate) use ledger::{BotSummary, CallRow, DeliveryFilter};
pub(crate) use letters::{DeadLetter, DeadLetterRow};
pub(crate) use lock::FileLock;
pub(crate) use outbox::{NewReply, Outgoing, PostResult};
pub(crate) use places::{Channel, Person};
pub(crate) use replays::{CallsAgain, FailedFilter, Replayed, ReplayedBefore};
pub(crate) use settle::{CallOutcome, CallRecord, EventEnd, Settled, Settlement};
pub(crate) use sql::now;
use sql::statement;
pub(crate) use wake::Wake;

/// How long a database may take to say good-bye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The database, as the daemon and the commands use it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
    /// Under which it works; commands have none.
    tenure: Option<Tenure>,
}

struct Inner {
    db: DatabaseConnection,
    /// Runtime of the main arbiter.
    runtime: Handle,
    /// See [`Store::reads_deactivated`].
    reads_deactivated: OnceCell<bool>,
}

impl Store {
    /// Wraps a pool; its queries will run on the current runtime.
    pub(crate) fn new(db: DatabaseConnection) -> Self {
        let inner = Inner { db, runtime: Handle::current(), reads_deactivated: OnceCell::new() };
        Self { inner: Arc::new(inner), tenure: None }
    }

    /// The same database, for the actors of a daemon.
    pub(crate) fn under(&self, tenure: Tenure) -> Self {
        Self { inner: Arc::clone(&self.inner), tenure: Some(tenure) }
    }

    /// Closes the pool.
    pub(crate) async fn close(&self) {
        // A database that does not answer is left to notice by itself that nobody is there.
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, self.db().close_by_ref()).await;
        log::debug!("closing the database: {closed:?}");
    }

    fn db(&self) -> &DatabaseConnection {
        &self.inner.db
    }

    fn backend(&self) -> DbBackend {
        self.inner.db.get_database_backend()
    }

    /// A transaction that may write. On SQLite it takes the write lock at once: a transaction that
    /// only becomes a writer later fails with BUSY, whatever the timeout.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if the other daemons have declared this one dead. From here to the end of the
    /// transaction they can't: their `DELETE` waits for the lock on the daemon's row.
    async fn begin(&self) -> Result<DatabaseTransaction, StoreError> {
        let transaction = self.db().begin_with_options(sql::immediate()).await?;
        self.look_at_daemon(transaction).await
    }

    /// The same, once no other transaction is behind this advisory lock; no lock is waited for longer than
    /// `patience`. On SQLite, whoever writes is alone anyway.
    async fn begin_behind(&self, lock: i64, patience: Duration) -> Result<DatabaseTransaction, StoreError> {
        let transaction = self.db().begin_with_options(sql::immediate()).await?;
        if self.has_peers() {
            let patience = patience.as_millis();
            let wait = format!("SET LOCAL lock_timeout = {patience}; SELECT pg_advisory_xact_lock({lock})");
            transaction.execute_unprepared(&wait).await?;
        }
        self.look_at_daemon(transaction).await
    }

    async fn look_at_daemon(
        &self,
        transaction: DatabaseTransaction,
    ) -> Result<DatabaseTransaction, StoreError> {
        let Some(tenure) = self.tenure.as_ref().filter(|_| self.has_peers()) else { return Ok(transaction) };
        let sql = "SELECT id FROM outhook_daemon WHERE id = $1 FOR KEY SHARE";
        let row = statement(DbBackend::Postgres, sql, [tenure.daemon().into()]);
        match transaction.query_one_raw(row).await? {
            Some(_) => Ok(transaction),
            None => Err(StoreError::Fenced),
        }
    }

    /// The only way to commit, so that no durable step is without its fail points.
    async fn commit(transaction: DatabaseTransaction, step: Step) -> Result<(), StoreError> {
        fail_points::before(step);
        transaction.commit().await?;
        fail_points::after(step);
        if fail_points::is_unanswered(step) {
            return Err(StoreError::Away(DbErr::Conn(RuntimeErr::Internal("no answer to a commit".into()))));
        }
        Ok(())
    }

    /// Whether other daemons may work on this database.
    fn has_peers(&self) -> bool {
        self.backend() == DbBackend::Postgres
    }

    /// The partitions whose rows this store hands out.
    fn partitions(&self) -> Partitions {
        self.tenure.as_ref().map_or(Partitions::ALL, Tenure::partitions)
    }

    async fn on_main<T, F, Fut>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(Self) -> Fut,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
        T: Send + 'static,
    {
        let task = self.inner.runtime.spawn(work(self.clone()));
        task.await.unwrap_or_else(|error| Err(StoreError::Ended(error.to_string())))
    }
}
