//! Who works on this database, and for which bots.
//!
//! A daemon is a row. It counts as alive while it keeps moving `alive_until`, and it holds an advisory lock in a
//! session of its own, by which the others see at once that its process is gone. To declare it dead, they delete
//! its row; it can write nothing after that ([`Store::write`] looks).

mod owners;
mod session;

use std::time::{Duration, Instant};

use outhook_core::{
    identity::{DaemonId, Millis},
    partition::Partitions,
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult};

pub(crate) use self::session::{News, Session};
use self::{
    owners::{disown, orphan, own, partitions_of},
    session::{HAS_SESSION, announce_change},
};
use super::{
    Length, Lock, Store, StoreError,
    outbox::free_replies,
    pool::Transaction,
    rows::{Suspicion, free_events},
    sql::{POSTGRES_CLOCK, bigints, statement},
};
use crate::{
    clock::{self, millis},
    fail_points::Step,
    tenure::Tenure,
};

/// Behind which whoever changes daemons and partitions stands: each such transaction locks many rows. This lock
/// comes before that of the daemon's row, for which whoever expires it waits. The patience is short, because
/// whoever renews the lease must not be held up.
const CHANGE_LOCK: Lock =
    Lock { number: 0x6f75_7468_6f6f_6b03, patience: Duration::from_millis(500), length: Length::Long };

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
    /// When its lease runs out, as it was renewed last: it lives if this moves.
    pub(crate) alive_until: Millis,
    /// Its process holds a session open.
    pub(crate) has_session: bool,
}

impl Store {
    /// Enters this process as a daemon whose lease runs from now.
    ///
    /// On SQLite, where the file's lock says that there is no other, it takes over from whatever
    /// daemon ended without leaving, and owns all partitions.
    pub(crate) async fn join(&self, name: String, lease: Duration) -> Result<Tenure, StoreError> {
        let store = self.clone();
        self.write_behind(CHANGE_LOCK, Step::Join, move |transaction| async move {
            let began = Instant::now();
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
                clock::follow(clock);
            } else {
                own(&transaction, Partitions::ALL, daemon).await?;
                free_events(&transaction, Partitions::ALL, Suspicion::None).await?;
                free_replies(&transaction, Partitions::ALL).await?;
            }
            Ok(if store.has_peers() { Tenure::leased(daemon, began + lease) } else { Tenure::sole(daemon) })
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
        self.write(Step::RenewLease, move |transaction| async move {
            let sql = format!(
                "UPDATE outhook_daemon SET alive_until = {POSTGRES_CLOCK} + $2 WHERE id = $1
                 RETURNING {POSTGRES_CLOCK} AS clock"
            );
            let values = [daemon.into(), millis(lease).into()];
            let renewed = transaction.query_one_raw(statement(DbBackend::Postgres, sql, values)).await?;
            let Some(renewed) = renewed else { return Err(StoreError::Fenced) };
            clock::follow(renewed.try_get("", "clock")?);
            let daemons = see_daemons(&transaction).await?;
            Ok(Sighting {
                taker: daemons.iter().find(|daemon| daemon.takes_deliveries).map(|daemon| daemon.id),
                daemons,
                free: partitions_of(&transaction, None).await?,
                owned: partitions_of(&transaction, Some(daemon)).await?,
            })
        })
        .await
    }

    /// Goes by the clock of the database from now on.
    pub(crate) async fn keep_its_time(&self) -> Result<(), StoreError> {
        if self.has_peers() {
            let sql = format!("SELECT {POSTGRES_CLOCK} AS clock");
            let row = self.db().query_one_raw(statement(DbBackend::Postgres, sql, [])).await?;
            if let Some(row) = row {
                clock::follow(row.try_get("", "clock")?);
            }
        }
        Ok(())
    }

    /// Declares daemons dead, if they still are as they were seen: what they owned is free, what they held is due.
    pub(crate) async fn bury_daemons(&self, dead: Vec<SeenDaemon>) -> Result<(), StoreError> {
        self.write_behind(CHANGE_LOCK, Step::Bury, move |transaction| async move {
            bury(&transaction, Some(&dead)).await?;
            announce_change(&transaction).await?;
            Ok(())
        })
        .await
    }

    /// Makes this daemon the one that takes the broker's deliveries, if none is. Says whether it is.
    pub(crate) async fn claim_intake(&self, daemon: DaemonId) -> Result<bool, StoreError> {
        let store = self.clone();
        self.write_behind(CHANGE_LOCK, Step::ClaimIntake, move |transaction| async move {
            let sql = "UPDATE outhook_daemon SET takes_deliveries = TRUE
                WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM outhook_daemon o WHERE o.takes_deliveries)";
            let claimed = transaction.execute_raw(statement(store.backend(), sql, [daemon.into()])).await?;
            Ok(claimed.rows_affected() > 0)
        })
        .await
    }

    /// Lets another daemon take the broker's deliveries; this one's consumer has ended.
    pub(crate) async fn release_intake(&self, daemon: DaemonId) -> Result<(), StoreError> {
        let store = self.clone();
        self.write_behind(CHANGE_LOCK, Step::ReleaseIntake, move |transaction| async move {
            let sql = "UPDATE outhook_daemon SET takes_deliveries = FALSE WHERE id = $1";
            transaction.execute_raw(statement(store.backend(), sql, [daemon.into()])).await?;
            announce_change(&transaction).await?;
            Ok(())
        })
        .await
    }

    /// Tells the others that this daemon drains, so that they claim what it gives back.
    pub(crate) async fn announce_leaving(&self, daemon: DaemonId) -> Result<(), StoreError> {
        let store = self.clone();
        self.write_behind(CHANGE_LOCK, Step::AnnounceLeaving, move |transaction| async move {
            let sql = "UPDATE outhook_daemon SET is_leaving = TRUE, takes_deliveries = FALSE WHERE id = $1";
            transaction.execute_raw(statement(store.backend(), sql, [daemon.into()])).await?;
            announce_change(&transaction).await?;
            Ok(())
        })
        .await
    }

    /// Ends a daemon in good order: whatever it owned or held is free.
    pub(crate) async fn leave(&self, daemon: DaemonId) -> Result<(), StoreError> {
        let store = self.clone();
        self.write_behind(CHANGE_LOCK, Step::Leave, move |transaction| async move {
            // First, because this waits for what this daemon still writes, which may be rows that are freed
            // next.
            let sql = "DELETE FROM outhook_daemon WHERE id = $1";
            transaction.execute_raw(statement(store.backend(), sql, [daemon.into()])).await?;
            disown(&transaction, daemon, Partitions::ALL).await?;
            announce_change(&transaction).await?;
            Ok(())
        })
        .await
    }
}

async fn see_daemons(transaction: &Transaction) -> Result<Vec<SeenDaemon>, DbErr> {
    let sql = format!(
        "SELECT d.id, d.is_leaving, d.takes_deliveries, d.alive_until, {HAS_SESSION} AS has_session
         FROM outhook_daemon d ORDER BY d.id"
    );
    let rows = transaction.query_all_raw(statement(DbBackend::Postgres, sql, [])).await?;
    rows.iter().map(seen_daemon).collect()
}

fn seen_daemon(row: &QueryResult) -> Result<SeenDaemon, DbErr> {
    Ok(SeenDaemon {
        id: row.try_get("", "id")?,
        is_leaving: row.try_get("", "is_leaving")?,
        takes_deliveries: row.try_get("", "takes_deliveries")?,
        alive_until: row.try_get("", "alive_until")?,
        has_session: row.try_get("", "has_session")?,
    })
}

async fn insert_daemon(
    transaction: &Transaction,
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

/// Deletes the rows of daemons, or of all, and frees what they owned and held. Anything that they held may
/// have been what ended them. Returns how many there were.
async fn bury(transaction: &Transaction, dead: Option<&[SeenDaemon]>) -> Result<usize, DbErr> {
    let backend = transaction.get_database_backend();
    let rows = match dead {
        Some(dead) => {
            let sql = "DELETE FROM outhook_daemon d USING unnest($1, $2) AS seen (id, alive_until)
                WHERE d.id = seen.id AND d.alive_until = seen.alive_until RETURNING d.id";
            let seen = [
                bigints(dead.iter().map(|daemon| daemon.id)),
                bigints(dead.iter().map(|daemon| daemon.alive_until)),
            ];
            transaction.query_all_raw(statement(backend, sql, seen)).await?
        }
        None => {
            let sql = "DELETE FROM outhook_daemon RETURNING id";
            transaction.query_all_raw(statement(backend, sql, [])).await?
        }
    };
    let buried = rows.iter().map(|row| row.try_get("", "id")).collect::<Result<Vec<DaemonId>, _>>()?;
    let owned = orphan(transaction, &buried).await?;
    free_events(transaction, owned, Suspicion::AnyOfThem).await?;
    free_replies(transaction, owned).await?;
    Ok(buried.len())
}
