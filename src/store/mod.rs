//! All SQL, in functions named as sentences.
//!
//! | file | holds |
//! | --- | --- |
//! | `sqlite`, `lock` | the file of an SQLite database |
//! | `tables` | whether the tables are there, and making them |
//! | `daemons` | who works on this database, and for which bots |
//! | `inbox` | storing deliveries |
//! | `due_events` | handing out the events whose time has come, bots taking turns |
//! | `rows` | handing out the rows that EventActors ask for |
//! | `settle` | one transaction for the outcomes of many calls |
//! | `outbox` | replies to post |
//! | `due_replies` | handing out the replies whose time has come, bots taking turns |
//! | `directory` | bots and their services |
//! | `accounts` | adding and removing them, in outhook's own tables |
//! | `organizations` | the organizations of a Zulip server |
//! | `places` | the channels and people of a Zulip server |
//! | `backup` | whether Zulip's own backup can read outhook's tables |
//! | `gates` | what keeps services from being called, and pausing them |
//! | `ledger` | what commands and pages show |
//! | `replays` | making the calls of finished events again |
//! | `letters` | dead letters, until they are replayed or dropped |
//! | `history` | deleting what is kept no longer |
//! | `too_large` | what a server refuses for its size |
//! | `turns` | whose turn it is |
//! | `wake` | hearing of rows that others inserted |
//!
//! A store that is [`Store::under`] a tenure writes only while the daemon counts as alive, and reads what is
//! due in its own partitions. [`Store::write`] is the only way to commit, and names its [`Step`].
//!
//! Every job has a deadline, `database.timeout`: past it its connection is closed, and what became of it is
//! unknown. Jobs run on the runtime that opened the pool, whoever asks for them: a connection opened from an
//! EventActor's arbiter would die with it.

mod accounts;
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
mod pool;
mod postgres;
mod replays;
mod rights;
mod rows;
mod settle;
mod sql;
mod sqlite;
mod tables;
mod too_large;
mod turns;
mod wake;

use std::{future::Future, sync::Arc, time::Duration};

use outhook_core::partition::Partitions;
use parking_lot::Mutex;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, RuntimeErr};
use tokio::runtime::Handle;

use self::{
    pool::{Pool, Transaction},
    sql::statement,
};
use crate::{
    fail_points::{self, Step},
    tenure::Tenure,
};

pub(crate) use connect::{OpenError, open};
pub(crate) use daemons::{News, SeenDaemon, Session, Sighting};
pub(crate) use directory::{Bot, NewBot, NewService, NotCallable, Service, ServiceRow};
pub(crate) use due_events::DueEvents;
pub(crate) use due_replies::{DueReplies, Places};
pub(crate) use error::StoreError;
pub(crate) use gates::{DatedChange, GateChange, Pausing, StoredGate, reason_name};
pub(crate) use history::{Expiring, HistoryPlace, Pruned};
pub(crate) use inbox::{Admission, BotPage, InboxEvent, Intake, LanePage, NewEvent, Stored, Taken};
pub(crate) use ledger::{BotSummary, CallRow, DeliveryFilter};
pub(crate) use letters::{DeadLetter, DeadLetterRow, LetterSummary};
pub(crate) use lock::FileLock;
pub(crate) use outbox::{NewReply, Outgoing, PostResult};
pub(crate) use places::{Channel, Person};
pub(crate) use replays::{CallsAgain, FailedFilter, Replayed, ReplayedBefore};
pub(crate) use settle::{CallOutcome, CallRecord, EventEnd, Settled, Settlement};
pub(crate) use sql::now;
pub(crate) use sqlite::{FileState, create_file, examine_file, exposure};
pub(crate) use wake::FileWatch;

/// The database, as the daemon and the commands use it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
    /// Under which it works; commands have none.
    tenure: Option<Tenure>,
}

struct Inner {
    pool: Pool,
    /// Runtime of the main arbiter.
    runtime: Handle,
    /// See [`Store::reads_deactivated`].
    reads_deactivated: Mutex<Option<bool>>,
}

/// An advisory lock behind which some transactions stand in line, for as long as their patience.
#[derive(Debug, Clone, Copy)]
struct Lock {
    number: i64,
    /// For this lock and any other.
    patience: Duration,
    length: Length,
}

/// How long a transaction may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// The deadline of a job.
    Usual,
    /// [`LONG`] times that: it may touch every unfinished event.
    Long,
}

/// See [`Length::Long`].
const LONG: u32 = 30;

impl Store {
    /// Wraps a pool; its jobs will run on the current runtime.
    fn new(pool: Pool) -> Self {
        let inner = Inner { pool, runtime: Handle::current(), reads_deactivated: Mutex::new(None) };
        Self { inner: Arc::new(inner), tenure: None }
    }

    /// The same database, for the actors of a daemon.
    pub(crate) fn under(&self, tenure: Tenure) -> Self {
        Self { inner: Arc::clone(&self.inner), tenure: Some(tenure) }
    }

    /// Closes the pool.
    pub(crate) async fn close(&self) {
        self.inner.pool.close().await;
    }

    /// One statement after another, each on any connection.
    fn db(&self) -> &Pool {
        &self.inner.pool
    }

    fn backend(&self) -> DbBackend {
        self.inner.pool.get_database_backend()
    }

    /// Whether other daemons may work on this database.
    fn has_peers(&self) -> bool {
        self.backend() == DbBackend::Postgres
    }

    /// The partitions whose rows this store hands out.
    fn partitions(&self) -> Partitions {
        self.tenure.as_ref().map_or(Partitions::ALL, Tenure::partitions)
    }

    /// Reads, within the deadline of a job.
    async fn read<T, F, Fut>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(Self) -> Fut,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
        T: Send + 'static,
    {
        self.job(self.inner.pool.deadline(), work(self.clone())).await
    }

    /// Does work in a transaction and commits it, within the deadline of a job. The only way to commit, so that
    /// no durable step is without its fail points. If the work fails, nothing is changed.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if the other daemons have declared this one dead. From the beginning of the
    /// transaction to its end they can't: their `DELETE` waits for the lock on the daemon's row.
    async fn write<T, F, Fut>(&self, step: Step, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(Transaction) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
        T: Send + 'static,
    {
        self.transact((None, Length::Usual), step, work).await
    }

    /// The same for a transaction that may touch every unfinished event.
    async fn write_at_length<T, F, Fut>(&self, step: Step, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(Transaction) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
        T: Send + 'static,
    {
        self.transact((None, Length::Long), step, work).await
    }

    /// The same, once no other transaction is behind this lock. On SQLite, whoever writes is alone anyway.
    async fn write_behind<T, F, Fut>(&self, lock: Lock, step: Step, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(Transaction) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
        T: Send + 'static,
    {
        self.transact((Some(lock), lock.length), step, work).await
    }

    async fn transact<T, F, Fut>(
        &self,
        (lock, length): (Option<Lock>, Length),
        step: Step,
        work: F,
    ) -> Result<T, StoreError>
    where
        F: FnOnce(Transaction) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
        T: Send + 'static,
    {
        let store = self.clone();
        let deadline = match length {
            Length::Usual => self.inner.pool.deadline(),
            Length::Long => self.inner.pool.deadline() * LONG,
        };
        self.job(deadline, async move {
            let transaction = store.inner.pool.begin().await?;
            let worked = async {
                store.take_time(length, deadline, &transaction).await?;
                store.stand_behind(lock, &transaction).await?;
                store.look_at_daemon(&transaction).await?;
                work(transaction.clone()).await
            };
            match worked.await {
                Ok(value) => commit(transaction, step).await.map(|()| value),
                Err(error) => {
                    transaction.rollback().await;
                    Err(error)
                }
            }
        })
        .await
    }

    async fn take_time(
        &self,
        length: Length,
        deadline: Duration,
        transaction: &Transaction,
    ) -> Result<(), DbErr> {
        if length == Length::Long && self.has_peers() {
            let limit = format!("SET LOCAL statement_timeout = {}", deadline.as_millis());
            transaction.execute_unprepared(&limit).await?;
        }
        Ok(())
    }

    async fn stand_behind(&self, lock: Option<Lock>, transaction: &Transaction) -> Result<(), DbErr> {
        let Some(Lock { number, patience, .. }) = lock.filter(|_| self.has_peers()) else { return Ok(()) };
        let patience = patience.as_millis();
        let wait = format!("SET LOCAL lock_timeout = {patience}; SELECT pg_advisory_xact_lock({number})");
        transaction.execute_unprepared(&wait).await?;
        Ok(())
    }

    async fn look_at_daemon(&self, transaction: &Transaction) -> Result<(), StoreError> {
        let Some(tenure) = self.tenure.as_ref().filter(|_| self.has_peers()) else { return Ok(()) };
        let sql = "SELECT id FROM outhook_daemon WHERE id = $1 FOR KEY SHARE";
        let row = statement(DbBackend::Postgres, sql, [tenure.daemon().into()]);
        transaction.query_one_raw(row).await?.map(|_| ()).ok_or(StoreError::Fenced)
    }

    /// Past the deadline the work is dropped, and with it its connection is closed.
    async fn job<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let job = async move {
            match tokio::time::timeout(deadline, work).await {
                Ok(Err(error)) if error.is_missing_right() => Err(store.explain_missing_rights(error).await),
                Ok(done) => done,
                Err(_) => Err(pool::late(deadline).into()),
            }
        };
        self.inner.runtime.spawn(job).await.unwrap_or_else(|error| Err(StoreError::Ended(error.to_string())))
    }
}

async fn commit(transaction: Transaction, step: Step) -> Result<(), StoreError> {
    fail_points::before(step);
    transaction.commit().await?;
    fail_points::after(step);
    if fail_points::is_unanswered(step) {
        return Err(StoreError::Away(DbErr::Conn(RuntimeErr::Internal("no answer to a commit".into()))));
    }
    Ok(())
}
