//! Who works on this database, and for which bots.
//!
//! A daemon is a row. It counts as alive while `alive_until`, which it keeps moving, is ahead of the database's clock, and
//! it holds an advisory lock in a session of its own, by which the others see at once that its process is
//! gone. To declare it dead, they delete its row; it can write nothing after that ([`Store::begin`] looks).

use std::time::{Duration, Instant};

use outhook_core::{
    identity::{DaemonId, Millis},
    partition::Partitions,
};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult,
    sqlx::{
        self,
        postgres::{PgListener, PgPoolOptions},
    },
};

use super::{
    Store, StoreError,
    error::from_sqlx,
    outbox::free_replies,
    rows::{Suspicion, free_events},
    sql::{POSTGRES_CLOCK, among, ids, now, set_clock, statement},
};
use crate::{fail_points::Step, tenure::Tenure};

/// The first half of a daemon's advisory lock; the second is its row id. Any number will do, as long as it is only
/// outhook's ("outh" in ASCII).
const DAEMON_LOCKS: i32 = 0x6f75_7468;

/// The advisory lock of whoever changes daemons and partitions.
const CHANGE_LOCK: i64 = 0x6f75_7468_6f6f_6b03;

/// How long such a transaction waits for a lock.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// A condition: somebody holds the lock of daemon `d`. The number is [`DAEMON_LOCKS`].
const HAS_SESSION: &str = "EXISTS (
    SELECT 1 FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
      AND l.classid = CAST(1869968488 AS oid) AND l.objid = CAST(d.id AS oid)
      AND l.database = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database()))";

/// Where daemons tell each other that partitions or daemons have come or gone.
const CHANNEL: &str = "outhook_daemons";

/// How long a session may take to be made.
const SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// What one daemon sees of all.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    /// All daemons, this one among them.
    pub(crate) daemons: Vec<SeenDaemon>,
    /// What nobody owns.
    pub(crate) free: Partitions,
    /// What is written down as this daemon's own.
    pub(crate) owned: Partitions,
    /// Who takes the broker's deliveries.
    pub(crate) taker: Option<DaemonId>,
}

/// A daemon, as another one sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeenDaemon {
    /// Its row.
    pub(crate) id: DaemonId,
    /// It drains.
    pub(crate) is_leaving: bool,
    /// It takes the broker's deliveries.
    pub(crate) takes_deliveries: bool,
    /// Its lease has run out.
    pub(crate) is_silent: bool,
    /// Its process holds a session open.
    pub(crate) has_session: bool,
}

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
    /// Enters this process as a daemon whose lease runs from now.
    ///
    /// On SQLite, where the file's lock says that there is no other, it takes over from whatever
    /// daemon ended without leaving, and owns all partitions.
    pub(crate) async fn join(&self, name: String, lease: Duration) -> Result<Tenure, StoreError> {
        self.on_main(move |store| async move {
            let began = Instant::now();
            let transaction = store.begin_change().await?;
            if !store.has_peers() {
                let left = bury(&transaction, None).await?;
                if left > 0 {
                    log::warn!(
                        "the last daemon ended without leaving: what it held is begun again with care"
                    );
                }
            }
            let (daemon, clock) = insert_daemon(&transaction, &name, lease).await?;
            if store.has_peers() {
                set_clock(clock);
            }
            if !store.has_peers() {
                own(&transaction, Partitions::ALL, daemon).await?;
                free_events(&transaction, Partitions::ALL, Suspicion::None).await?;
                free_replies(&transaction, Partitions::ALL).await?;
            }
            Self::commit(transaction, Step::Join).await?;
            Ok(if store.has_peers() { Tenure::leased(daemon, began + lease) } else { Tenure::sole(daemon) })
        })
        .await
    }

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

    /// Renews the lease of this store's daemon and looks at all the others.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if they have declared it dead.
    pub(crate) async fn renew_lease(
        &self,
        daemon: DaemonId,
        lease: Duration,
    ) -> Result<Sighting, StoreError> {
        self.on_main(move |store| async move {
            let sql = format!(
                "UPDATE outhook_daemon SET alive_until = {POSTGRES_CLOCK} + $2 WHERE id = $1
                 RETURNING {POSTGRES_CLOCK} AS clock"
            );
            let values = [daemon.into(), millis(lease).into()];
            let renewed = store.db().query_one_raw(statement(DbBackend::Postgres, sql, values)).await?;
            let Some(renewed) = renewed else { return Err(StoreError::Fenced) };
            set_clock(renewed.try_get("", "clock")?);
            let daemons = store.see_daemons().await?;
            Ok(Sighting {
                taker: daemons.iter().find(|daemon| daemon.takes_deliveries).map(|daemon| daemon.id),
                daemons,
                free: store.partitions_of(None).await?,
                owned: store.partitions_of(Some(daemon)).await?,
            })
        })
        .await
    }

    /// Goes by the clock of the database from now on.
    pub(crate) async fn keep_its_time(&self) -> Result<(), StoreError> {
        if self.has_peers() {
            let sql = format!("SELECT {POSTGRES_CLOCK} AS clock");
            let row = self.db().query_one_raw(statement(DbBackend::Postgres, sql, [])).await?;
            set_clock(row.map_or_else(|| Ok(now()), |row| row.try_get("", "clock"))?);
        }
        Ok(())
    }

    /// Declares daemons dead, if they still seem so: what they owned is free, what they held is due.
    pub(crate) async fn bury_daemons(&self, dead: Vec<DaemonId>) -> Result<(), StoreError> {
        self.on_main(move |store| async move {
            let transaction = store.begin_change().await?;
            bury(&transaction, Some(&dead)).await?;
            announce_change(&transaction).await?;
            Self::commit(transaction, Step::Bury).await
        })
        .await
    }

    /// Takes partitions that nobody owns, and returns those that it got.
    pub(crate) async fn claim_partitions(
        &self,
        daemon: DaemonId,
        wanted: Partitions,
    ) -> Result<Partitions, StoreError> {
        self.on_main(move |store| async move {
            let transaction = store.begin_change().await?;
            let gained = own(&transaction, wanted, daemon).await?;
            free_events(&transaction, gained, Suspicion::None).await?;
            free_replies(&transaction, gained).await?;
            Self::commit(transaction, Step::ClaimPartitions).await?;
            Ok(gained)
        })
        .await
    }

    /// Gives partitions back, of which nothing is under way any more.
    pub(crate) async fn release_partitions(
        &self,
        daemon: DaemonId,
        partitions: Partitions,
    ) -> Result<(), StoreError> {
        self.on_main(move |store| async move {
            let transaction = store.begin_change().await?;
            disown(&transaction, daemon, partitions).await?;
            announce_change(&transaction).await?;
            Self::commit(transaction, Step::ReleasePartitions).await
        })
        .await
    }

    /// Makes this daemon the one that takes the broker's deliveries, if none is. Says whether it is.
    pub(crate) async fn claim_intake(&self, daemon: DaemonId) -> Result<bool, StoreError> {
        self.on_main(move |store| async move {
            let transaction = store.begin_change().await?;
            let sql = "UPDATE outhook_daemon SET takes_deliveries = TRUE
                WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM outhook_daemon o WHERE o.takes_deliveries)";
            let claimed = transaction.execute_raw(statement(store.backend(), sql, [daemon.into()])).await?;
            Self::commit(transaction, Step::ClaimIntake).await?;
            Ok(claimed.rows_affected() > 0)
        })
        .await
    }

    /// Lets another daemon take the broker's deliveries; this one's consumer has ended.
    pub(crate) async fn release_intake(&self, daemon: DaemonId) -> Result<(), StoreError> {
        self.on_main(move |store| async move {
            let transaction = store.begin_change().await?;
            let sql = "UPDATE outhook_daemon SET takes_deliveries = FALSE WHERE id = $1";
            transaction.execute_raw(statement(store.backend(), sql, [daemon.into()])).await?;
            announce_change(&transaction).await?;
            Self::commit(transaction, Step::ReleaseIntake).await
        })
        .await
    }

    /// Tells the others that this daemon drains, so that they claim what it gives back.
    pub(crate) async fn announce_leaving(&self, daemon: DaemonId) -> Result<(), StoreError> {
        self.on_main(move |store| async move {
            let transaction = store.begin_change().await?;
            let sql = "UPDATE outhook_daemon SET is_leaving = TRUE, takes_deliveries = FALSE WHERE id = $1";
            transaction.execute_raw(statement(store.backend(), sql, [daemon.into()])).await?;
            announce_change(&transaction).await?;
            Self::commit(transaction, Step::AnnounceLeaving).await
        })
        .await
    }

    /// Ends a daemon in good order: whatever it owned or held is free.
    pub(crate) async fn leave(&self, daemon: DaemonId) -> Result<(), StoreError> {
        self.on_main(move |store| async move {
            let transaction = store.begin_change().await?;
            // First, because this waits for what this daemon still writes, which may be rows that are freed next.
            let sql = "DELETE FROM outhook_daemon WHERE id = $1";
            transaction.execute_raw(statement(store.backend(), sql, [daemon.into()])).await?;
            disown(&transaction, daemon, Partitions::ALL).await?;
            announce_change(&transaction).await?;
            Self::commit(transaction, Step::Leave).await
        })
        .await
    }

    /// A transaction that changes who works for whom. One at a time does, of all daemons: each locks many
    /// rows. This lock comes before that of the daemon's row, for which whoever buries it waits.
    ///
    /// # Errors
    /// Also if it waits for any lock for [`LOCK_TIMEOUT`]: whoever renews the lease must not be held up.
    async fn begin_change(&self) -> Result<DatabaseTransaction, StoreError> {
        self.begin_behind(CHANGE_LOCK, LOCK_TIMEOUT).await
    }

    async fn see_daemons(&self) -> Result<Vec<SeenDaemon>, DbErr> {
        let sql = format!(
            "SELECT d.id, d.is_leaving, d.takes_deliveries, d.alive_until < {POSTGRES_CLOCK} AS is_silent, {HAS_SESSION} AS has_session
             FROM outhook_daemon d ORDER BY d.id"
        );
        let rows = self.db().query_all_raw(statement(DbBackend::Postgres, sql, [])).await?;
        rows.iter().map(seen_daemon).collect()
    }

    async fn partitions_of(&self, owner: Option<DaemonId>) -> Result<Partitions, DbErr> {
        let sql = "SELECT id FROM outhook_partition WHERE owner IS NOT DISTINCT FROM $1";
        partitions(&self.db().query_all_raw(statement(DbBackend::Postgres, sql, [owner.into()])).await?)
    }
}

fn seen_daemon(row: &QueryResult) -> Result<SeenDaemon, DbErr> {
    Ok(SeenDaemon {
        id: row.try_get("", "id")?,
        is_leaving: row.try_get("", "is_leaving")?,
        takes_deliveries: row.try_get("", "takes_deliveries")?,
        is_silent: row.try_get("", "is_silent")?,
        has_session: row.try_get("", "has_session")?,
    })
}

async fn insert_daemon(
    transaction: &DatabaseTransaction,
    name: &str,
    lease: Duration,
) -> Result<(DaemonId, Millis), DbErr> {
    let backend = transaction.get_database_backend();
    let clock = if backend == DbBackend::Postgres { POSTGRES_CLOCK } else { "0" };
    let sql = format!(
        "INSERT INTO outhook_daemon (name, alive_until, is_leaving) VALUES ($1, {clock} + $2, FALSE)
         RETURNING id, {clock} AS clock"
    );
    let values = [name.into(), millis(lease).into()];
    let row = transaction.query_one_raw(statement(backend, sql, values)).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotInserted)?;
    Ok((row.try_get("", "id")?, row.try_get("", "clock")?))
}

/// Deletes the rows of daemons, or of all, and frees what they owned and held. Anything that they held may have
/// been what ended them. Returns how many there were.
async fn bury(transaction: &DatabaseTransaction, dead: Option<&[DaemonId]>) -> Result<usize, DbErr> {
    let backend = transaction.get_database_backend();
    let rows = match dead {
        Some(dead) => {
            let sql = format!(
                "DELETE FROM outhook_daemon d
                 WHERE d.id {} AND (d.alive_until < {POSTGRES_CLOCK} OR NOT {HAS_SESSION}) RETURNING d.id",
                among(backend, 1)
            );
            transaction.query_all_raw(statement(backend, sql, [ids(backend, dead)])).await?
        }
        None => {
            let sql = "DELETE FROM outhook_daemon RETURNING id";
            transaction.query_all_raw(statement(backend, sql, [])).await?
        }
    };
    let buried = rows.iter().map(|row| row.try_get("", "id")).collect::<Result<Vec<DaemonId>, _>>()?;
    let sql =
        format!("UPDATE outhook_partition SET owner = NULL WHERE owner {} RETURNING id", among(backend, 1));
    let owned =
        partitions(&transaction.query_all_raw(statement(backend, sql, [ids(backend, &buried)])).await?)?;
    free_events(transaction, owned, Suspicion::AnyOfThem).await?;
    free_replies(transaction, owned).await?;
    Ok(buried.len())
}

async fn own(
    transaction: &DatabaseTransaction,
    wanted: Partitions,
    daemon: DaemonId,
) -> Result<Partitions, DbErr> {
    let backend = transaction.get_database_backend();
    let sql = format!(
        "UPDATE outhook_partition SET owner = $2 WHERE owner IS NULL AND id {} RETURNING id",
        among(backend, 1)
    );
    partitions(
        &transaction
            .query_all_raw(statement(backend, sql, [numbers(backend, wanted), daemon.into()]))
            .await?,
    )
}

async fn disown(transaction: &DatabaseTransaction, daemon: DaemonId, given: Partitions) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    let sql = format!(
        "UPDATE outhook_partition SET owner = NULL WHERE owner = $2 AND id {} RETURNING id",
        among(backend, 1)
    );
    let values = [numbers(backend, given), daemon.into()];
    let released = partitions(&transaction.query_all_raw(statement(backend, sql, values)).await?)?;
    free_events(transaction, released, Suspicion::None).await?;
    free_replies(transaction, released).await
}

/// Tells all daemons, when the transaction commits.
async fn announce_change(transaction: &DatabaseTransaction) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_unprepared(&format!("NOTIFY {CHANNEL}")).await?;
    }
    Ok(())
}

fn numbers(backend: DbBackend, partitions: Partitions) -> sea_orm::Value {
    let numbers: Vec<i64> = partitions.iter().map(i64::from).collect();
    ids(backend, &numbers)
}

fn partitions(rows: &[QueryResult]) -> Result<Partitions, DbErr> {
    let number = |row: &QueryResult| row.try_get::<i32>("", "id").map(i32::unsigned_abs);
    rows.iter().map(number).collect()
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
