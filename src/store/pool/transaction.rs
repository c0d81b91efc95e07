//! A transaction on a connection of the pool.

use std::sync::Arc;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, SqlxError, Statement};
use tokio::sync::Mutex;

use super::{Leased, Pool};

/// A transaction. Cheap to clone; nothing of it is left when it was committed or rolled back, and its
/// connection is closed when it is dropped before.
#[derive(Clone)]
pub(in crate::store) struct Transaction {
    leased: Arc<Mutex<Option<Leased>>>,
    backend: DbBackend,
}

impl Pool {
    /// A transaction that may write. On SQLite it takes the write lock at once: a transaction that only
    /// becomes a writer later fails with BUSY, whatever the timeout.
    pub(in crate::store) async fn begin(&self) -> Result<Transaction, DbErr> {
        let mut leased = self.acquire().await?;
        let backend = self.get_database_backend();
        let sql = if backend == DbBackend::Sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        leased.execute_unprepared(sql).await.map_err(failed(DbErr::Exec))?;
        Ok(Transaction { leased: Arc::new(Mutex::new(Some(leased))), backend })
    }
}

impl Transaction {
    /// Commits. After an error it is unknown whether it did, and the connection is closed: SQLite undoes a
    /// transaction by itself when the disk is full, so a `ROLLBACK` would be one too many.
    pub(in crate::store) async fn commit(self) -> Result<(), DbErr> {
        let Some(mut leased) = self.leased.lock().await.take() else { return Err(over()) };
        leased.execute_unprepared("COMMIT").await.map_err(failed(DbErr::Exec))?;
        leased.give_back();
        Ok(())
    }

    /// Rolls back, and gives the connection back if it still is of use.
    pub(in crate::store) async fn rollback(self) {
        let Some(mut leased) = self.leased.lock().await.take() else { return };
        if leased.is_sound && leased.execute_unprepared("ROLLBACK").await.is_ok() {
            leased.give_back();
        }
    }
}

#[async_trait::async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        self.backend
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let mut leased = self.leased.lock().await;
        let leased = leased.as_mut().ok_or_else(over)?;
        leased.execute(&statement).await.map_err(failed(DbErr::Exec))
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let mut leased = self.leased.lock().await;
        let leased = leased.as_mut().ok_or_else(over)?;
        leased.execute_unprepared(sql).await.map_err(failed(DbErr::Exec))
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let mut leased = self.leased.lock().await;
        let leased = leased.as_mut().ok_or_else(over)?;
        leased.fetch_optional(&statement).await.map_err(failed(DbErr::Query))
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let mut leased = self.leased.lock().await;
        let leased = leased.as_mut().ok_or_else(over)?;
        leased.fetch_all(&statement).await.map_err(failed(DbErr::Query))
    }
}

fn failed(wrap: fn(RuntimeErr) -> DbErr) -> impl FnOnce(SqlxError) -> DbErr {
    move |error| wrap(RuntimeErr::SqlxError(Arc::new(error)))
}

fn over() -> DbErr {
    DbErr::Custom("the transaction is over".into())
}
