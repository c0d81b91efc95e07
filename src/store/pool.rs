//! Connections to the database, each of which is closed as soon as it is in doubt.
//!
//! The driver's own pool takes a connection back with a ping that has no deadline: one that has gone silent
//! would keep its place forever. Here a connection is given back only after it has done what it was asked
//! for; in any other case (an error that is not only the statement's, a job that was aborted) it is closed.

mod connection;
mod connector;
mod transaction;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, SqlxError, Statement};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(super) use self::{
    connection::Connection,
    connector::{Connector, PostgresConnector},
    transaction::Transaction,
};
use super::error::{is_out_of_connections, leaves_connection_sound};

/// An idle connection is tried before it is used, if it was idle for so long: after a restart of the server
/// every one is dead.
const IDLE: Duration = Duration::from_secs(1);
/// The share of the deadline that a connection may take to answer when it is tried or closed.
const PATIENCE_SHARE: u32 = 5;
/// How soon after the server refused a connection another one is asked for.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// A pool of connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Connector,
    /// For one statement outside a transaction, whatever it waits for.
    deadline: Duration,
    max: usize,
    /// A permit for each connection that may be open.
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    open: Arc<AtomicUsize>,
    grant: Mutex<Grant>,
}

struct Idle {
    connection: Counted,
    since: Instant,
}

/// How many connections the server lets this process have.
#[derive(Debug)]
struct Grant {
    places: usize,
    refused_at: Option<Instant>,
    /// An operator knows that it is fewer than configured.
    is_told: bool,
}

/// An open connection, counted for as long as it exists.
struct Counted {
    connection: Connection,
    _count: Count,
}

struct Count(Arc<AtomicUsize>);

/// A connection in use, closed when dropped unless it was [given back](Leased::give_back).
pub(super) struct Leased {
    /// There until it is given back.
    connection: Option<Counted>,
    /// Whether it has done all that it was asked for.
    is_sound: bool,
    pool: Pool,
    _place: OwnedSemaphorePermit,
}

impl Pool {
    /// A pool that opens a connection when one is needed.
    pub(super) fn new(connector: Connector, max: usize, deadline: Duration) -> Self {
        let inner = Inner {
            connector,
            deadline,
            max,
            places: Arc::new(Semaphore::new(max)),
            idle: Mutex::default(),
            open: Arc::default(),
            grant: Mutex::new(Grant { places: max, refused_at: None, is_told: false }),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How connections are made.
    pub(super) fn connector(&self) -> &Connector {
        &self.inner.connector
    }

    /// How long one job may take.
    pub(super) fn deadline(&self) -> Duration {
        self.inner.deadline
    }

    /// A connection, once there is a place for it.
    ///
    /// # Errors
    /// None can be opened, and no other one is open that could be waited for.
    pub(super) async fn acquire(&self) -> Result<Leased, DbErr> {
        self.ask_for_more();
        loop {
            let places = Arc::clone(&self.inner.places);
            let place = places.acquire_owned().await.map_err(|_| closed())?;
            if let Some(connection) = self.take_idle().await {
                return Ok(self.lease(connection, place));
            }
            match self.inner.connector.connect().await {
                Ok(connection) => return Ok(self.lease(self.count(connection), place)),
                Err(error) if is_out_of_connections(&error) && self.can_do_with_less() => {
                    self.give_place_up(place, &error);
                }
                Err(error) => return Err(DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error)))),
            }
        }
    }

    /// Closes one connection for good, so that the server can grant another one to somebody else.
    pub(super) async fn yield_place(&self) {
        if self.inner.grant.lock().places < 2 {
            return;
        }
        let place = Arc::clone(&self.inner.places).acquire_owned().await;
        // Others may have been refused a connection meanwhile.
        if let Ok(place) = place
            && self.inner.grant.lock().places > 1
        {
            let idle = self.inner.idle.lock().pop();
            if let Some(idle) = idle {
                idle.connection.close(self.patience()).await;
            }
            self.forget(place);
        }
    }

    /// Closes all connections that are idle. Those in use are closed when they are given back.
    pub(super) async fn close(&self) {
        self.inner.places.close();
        let idle = std::mem::take(&mut *self.inner.idle.lock());
        for Idle { connection, .. } in idle {
            connection.close(self.patience()).await;
        }
    }

    /// Forgets the idle connections: one that was used shows that the way to the server, or the server, has
    /// changed.
    fn drop_idle(&self) {
        self.inner.idle.lock().clear();
    }

    fn patience(&self) -> Duration {
        self.inner.deadline / PATIENCE_SHARE
    }

    async fn take_idle(&self) -> Option<Counted> {
        loop {
            let Idle { mut connection, since } = self.inner.idle.lock().pop()?;
            if since.elapsed() < IDLE || connection.answers(self.patience()).await {
                return Some(connection);
            }
            self.drop_idle();
        }
    }

    fn lease(&self, connection: Counted, place: OwnedSemaphorePermit) -> Leased {
        Leased { connection: Some(connection), is_sound: true, pool: self.clone(), _place: place }
    }

    fn count(&self, connection: Connection) -> Counted {
        self.inner.open.fetch_add(1, SeqCst);
        Counted { connection, _count: Count(Arc::clone(&self.inner.open)) }
    }

    fn can_do_with_less(&self) -> bool {
        self.inner.open.load(SeqCst) > 0
    }

    fn give_place_up(&self, place: OwnedSemaphorePermit, error: &SqlxError) {
        self.forget(place);
        if !std::mem::replace(&mut self.inner.grant.lock().is_told, true) {
            // The session is one more.
            let open = self.inner.open.load(SeqCst) + 1;
            log::warn!(
                "PostgreSQL grants no more than the {open} connections that are open, and outhook works with these: raise \
                 the limit of the role, server or pooler, or lower database.max_connections, which is {} ({error})",
                self.inner.max
            );
        }
    }

    fn forget(&self, place: OwnedSemaphorePermit) {
        place.forget();
        let mut grant = self.inner.grant.lock();
        grant.places -= 1;
        grant.refused_at = Some(Instant::now());
    }

    fn ask_for_more(&self) {
        let mut grant = self.inner.grant.lock();
        let may_ask = grant.refused_at.is_some_and(|at| at.elapsed() >= ASK_AGAIN);
        if may_ask && grant.places < self.inner.max {
            grant.places += 1;
            grant.refused_at = Some(Instant::now());
            self.inner.places.add_permits(1);
        }
    }

    async fn once<T>(
        &self,
        work: impl AsyncFnOnce(&mut Leased) -> Result<T, SqlxError>,
        wrap: fn(RuntimeErr) -> DbErr,
    ) -> Result<T, DbErr> {
        let work = async {
            let mut leased = self.acquire().await?;
            let done = work(&mut leased).await.map_err(|error| wrap(RuntimeErr::SqlxError(Arc::new(error))));
            leased.give_back();
            done
        };
        tokio::time::timeout(self.inner.deadline, work)
            .await
            .unwrap_or_else(|_| Err(late(self.inner.deadline)))
    }
}

/// One statement on a connection of its own.
#[async_trait::async_trait]
impl ConnectionTrait for Pool {
    fn get_database_backend(&self) -> DbBackend {
        self.inner.connector.backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.once(async |leased| leased.execute(&statement).await, DbErr::Exec).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.once(async |leased| leased.execute_unprepared(sql).await, DbErr::Exec).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.once(async |leased| leased.fetch_optional(&statement).await, DbErr::Query).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.once(async |leased| leased.fetch_all(&statement).await, DbErr::Query).await
    }
}

impl Leased {
    async fn execute(&mut self, statement: &Statement) -> Result<ExecResult, SqlxError> {
        self.watched(async |connection| connection.execute(statement).await).await
    }

    async fn execute_unprepared(&mut self, sql: &str) -> Result<ExecResult, SqlxError> {
        self.watched(async |connection| connection.execute_unprepared(sql).await).await
    }

    async fn fetch_optional(&mut self, statement: &Statement) -> Result<Option<QueryResult>, SqlxError> {
        self.watched(async |connection| connection.fetch_optional(statement).await).await
    }

    async fn fetch_all(&mut self, statement: &Statement) -> Result<Vec<QueryResult>, SqlxError> {
        self.watched(async |connection| connection.fetch_all(statement).await).await
    }

    /// A connection is in doubt while it is at work, and stays so if nobody waits for the end.
    async fn watched<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, SqlxError>,
    ) -> Result<T, SqlxError> {
        let Some(Counted { connection, .. }) = &mut self.connection else {
            return Err(SqlxError::PoolClosed);
        };
        let was_sound = std::mem::replace(&mut self.is_sound, false);
        let done = work(connection).await;
        self.is_sound = was_sound && done.as_ref().err().is_none_or(leaves_connection_sound);
        done
    }

    /// Gives the connection back, if it is sound.
    fn give_back(mut self) {
        if let Some(connection) =
            self.connection.take_if(|_| self.is_sound && !self.pool.inner.places.is_closed())
        {
            self.pool.inner.idle.lock().push(Idle { connection, since: Instant::now() });
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if !self.is_sound {
            self.pool.drop_idle();
        }
    }
}

impl Counted {
    async fn answers(&mut self, patience: Duration) -> bool {
        matches!(tokio::time::timeout(patience, self.connection.ping()).await, Ok(Ok(())))
    }

    /// Says goodbye, if the server listens.
    async fn close(self, patience: Duration) {
        let Self { connection, _count } = self;
        let _ = tokio::time::timeout(patience, connection.close()).await;
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// What stands for the answer of a database that gave none in time.
pub(super) fn late(deadline: Duration) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(format!("no answer within database.timeout ({deadline:?})")))
}

fn closed() -> DbErr {
    DbErr::Conn(RuntimeErr::Internal("the process is ending".into()))
}
