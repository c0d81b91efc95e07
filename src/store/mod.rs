//! All SQL, in functions named as sentences.
//!
//! | file | holds |
//! | --- | --- |
//! | `inbox` | storing deliveries |
//! | `rows` | handing out the rows that may be worked on |
//! | `settle` | one transaction for the outcomes of many calls |
//! | `outbox` | replies to post |
//! | `directory` | bots and their services, read and (own tables only) written |
//! | `ledger` | what commands and pages show |
//! | `replays` | making the calls of finished events again |
//! | `letters` | dead letters, until they are replayed or dropped |
//! | `history` | deleting what is kept no longer |
//! | `wake` | hearing of rows that others inserted |
//!
//! Functions run on the runtime that opened the pool, whoever calls them: a connection opened from an
//! EventActor's arbiter would die with it.

mod connect;
mod directory;
mod error;
mod history;
mod inbox;
mod ledger;
mod letters;
mod lock;
mod outbox;
mod replays;
mod rows;
mod settle;
mod sql;
mod wake;

use std::{future::Future, sync::Arc, time::Duration};

use sea_orm::{DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, TransactionTrait};
use tokio::runtime::Handle;

pub(crate) use connect::{OpenError, open};
pub(crate) use directory::{Bot, NewBot, NewService, NotCallable, Service};
pub(crate) use error::StoreError;
pub(crate) use history::{HistoryPlace, Pruned};
pub(crate) use inbox::{BotPage, DeadLetter, InboxEvent, Intake, LanePage, NewEvent, Taken};
pub(crate) use ledger::{BotSummary, CallRow, DeliveryFilter};
pub(crate) use letters::DeadLetterRow;
pub(crate) use lock::{DatabaseLock, LockError};
pub(crate) use outbox::{Outgoing, PostResult};
pub(crate) use replays::{CallsAgain, FailedFilter, Replayed, ReplayedBefore};
pub(crate) use settle::{CallOutcome, CallRecord, EventEnd, NewReply, Settled, Settlement};
pub(crate) use sql::now;
pub(crate) use wake::Wake;

/// How long a database may take to say good-bye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The database, as the daemon and the commands use it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    db: DatabaseConnection,
    /// Runtime of the main arbiter.
    runtime: Handle,
}

impl Store {
    /// Wraps a pool; its queries will run on the current runtime.
    pub(crate) fn new(db: DatabaseConnection) -> Self {
        Self { inner: Arc::new(Inner { db, runtime: Handle::current() }) }
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
    async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        self.db().begin_with_options(sql::immediate()).await
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
