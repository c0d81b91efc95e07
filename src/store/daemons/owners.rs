//! Which daemon owns which partitions.

use outhook_core::{identity::DaemonId, partition::Partitions};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Value};

use super::{CHANGE_LOCK, session::announce_change};
use crate::{
    fail_points::Step,
    store::{
        Store, StoreError,
        outbox::free_replies,
        pool::Transaction,
        rows::{Suspicion, free_events},
        sql::{among, ids, statement},
    },
};

impl Store {
    /// Takes partitions that nobody owns, and returns those that it got.
    pub(crate) async fn claim_partitions(
        &self,
        daemon: DaemonId,
        wanted: Partitions,
    ) -> Result<Partitions, StoreError> {
        self.write_behind(CHANGE_LOCK, Step::ClaimPartitions, move |transaction| async move {
            let gained = own(&transaction, wanted, daemon).await?;
            free_events(&transaction, gained, Suspicion::None).await?;
            free_replies(&transaction, gained).await?;
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
        self.write_behind(CHANGE_LOCK, Step::ReleasePartitions, move |transaction| async move {
            disown(&transaction, daemon, partitions).await?;
            announce_change(&transaction).await?;
            Ok(())
        })
        .await
    }
}

/// What a daemon owns, or nobody.
pub(super) async fn partitions_of(
    transaction: &Transaction,
    owner: Option<DaemonId>,
) -> Result<Partitions, DbErr> {
    let sql = "SELECT id FROM outhook_partition WHERE owner IS NOT DISTINCT FROM $1";
    partitions(&transaction.query_all_raw(statement(DbBackend::Postgres, sql, [owner.into()])).await?)
}

/// Makes those of these partitions a daemon's own that nobody owns, and returns them.
pub(super) async fn own(
    transaction: &Transaction,
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

/// Takes from a daemon those of these partitions that it owns; what it held of them is due.
pub(super) async fn disown(
    transaction: &Transaction,
    daemon: DaemonId,
    given: Partitions,
) -> Result<(), DbErr> {
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

/// Takes from daemons whatever they own, and returns it.
pub(super) async fn orphan(transaction: &Transaction, daemons: &[DaemonId]) -> Result<Partitions, DbErr> {
    let backend = transaction.get_database_backend();
    let sql =
        format!("UPDATE outhook_partition SET owner = NULL WHERE owner {} RETURNING id", among(backend, 1));
    partitions(&transaction.query_all_raw(statement(backend, sql, [ids(backend, daemons)])).await?)
}

fn numbers(backend: DbBackend, partitions: Partitions) -> Value {
    let numbers: Vec<i64> = partitions.iter().map(i64::from).collect();
    ids(backend, &numbers)
}

fn partitions(rows: &[QueryResult]) -> Result<Partitions, DbErr> {
    let number = |row: &QueryResult| row.try_get::<i32>("", "id").map(i32::unsigned_abs);
    rows.iter().map(number).collect()
}
