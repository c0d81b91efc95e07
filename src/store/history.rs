//! The history: what is done with and kept for a while. Replays add to it and pruning takes from it,
//! in turns.

use std::time::Duration;

use outhook_core::identity::{EventId, Millis};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult};

use super::{
    Length, Lock, Store, StoreError,
    gates::delete_of_removed_services,
    pool::Transaction,
    sql::{among, ids, statement},
};
use crate::fail_points::Step;

/// One transaction at a time works on what is done with, so that nothing is deleted while it is being
/// replayed, and no two replays get the same number. Any number will do, as long as it is only outhook's
/// ("outhook" in ASCII, then a number).
pub(super) const HISTORY_LOCK: Lock =
    Lock { number: 0x6f75_7468_6f6f_6b02, patience: Duration::from_secs(5), length: Length::Usual };

/// What is kept for a time only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiring {
    /// Events that are done, with everything that belongs to them.
    Events,
    /// The bodies of finished events without a failed call.
    Bodies,
    /// What posted replies say.
    Texts,
    /// Dead letters that were not replayed.
    Letters,
}

/// Up to where old rows were looked through, in the order in which they became old.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HistoryPlace {
    since: Millis,
    id: i64,
}

/// What came of a look at some of the old rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pruned {
    /// How many were removed.
    pub(crate) rows: usize,
    /// Where to go on; `None` if nothing is left to remove.
    pub(crate) next: Option<HistoryPlace>,
}

#[derive(FromQueryResult)]
struct OldRow {
    id: i64,
    since: Millis,
    is_needed: bool,
}

impl Store {
    /// Looks at the next rows that are older than a time, at most `rows_max`, and removes those that nobody
    /// needs any more. Behind the last event, it deletes as many gates of services that are there no more.
    pub(crate) async fn prune(
        &self,
        expiring: Expiring,
        before: Millis,
        after: HistoryPlace,
        rows_max: usize,
    ) -> Result<Pruned, StoreError> {
        self.write_behind(HISTORY_LOCK, Step::Prune, move |transaction| async move {
            let page = old_rows(&transaction, expiring, before, after, rows_max).await?;
            let unneeded: Vec<i64> = page.iter().filter(|row| !row.is_needed).map(|row| row.id).collect();
            remove(&transaction, expiring, &unneeded).await?;
            let mut is_done = page.len() < rows_max;
            if is_done && expiring == Expiring::Events {
                is_done = delete_of_removed_services(&transaction, rows_max).await? < rows_max;
            }
            let place = page.last().map_or(after, |last| HistoryPlace { since: last.since, id: last.id });
            Ok(Pruned { rows: unneeded.len(), next: (!is_done).then_some(place) })
        })
        .await
    }
}

/// Events that are needed: those with a reply to post or with a dead letter that awaits an operator, and what
/// repeats an event that is still there: its number must not be given a second time.
const EVENT_IS_NEEDED: &str = "EXISTS (SELECT 1 FROM outhook_reply r WHERE r.event_id = e.id AND r.state = 0)
    OR EXISTS (SELECT 1 FROM outhook_dead_letter d WHERE d.event_id = e.id AND d.replayed_by IS NULL)
    OR EXISTS (SELECT 1 FROM outhook_event o WHERE o.id = (
        SELECT replay_of FROM outhook_event s WHERE s.id = e.id))";

/// A replay needs the body.
const BODY_IS_NEEDED: &str = "EXISTS (SELECT 1 FROM outhook_call c WHERE c.event_id = e.id AND c.state = 2)";

impl Expiring {
    /// The rows, by conditions that are those of indexes.
    const fn rows(self) -> &'static str {
        match self {
            Self::Events => "outhook_event WHERE finished_at IS NOT NULL",
            Self::Bodies => "outhook_event WHERE state = 1 AND payload IS NOT NULL",
            Self::Texts => "outhook_reply WHERE state = 1 AND length(content) > 0",
            Self::Letters => "outhook_dead_letter WHERE replayed_by IS NULL",
        }
    }

    /// The column that says since when a row is old.
    const fn since(self) -> &'static str {
        match self {
            Self::Events | Self::Bodies => "finished_at",
            Self::Texts => "settled_at",
            Self::Letters => "created_at",
        }
    }

    const fn is_needed(self) -> &'static str {
        match self {
            Self::Events => EVENT_IS_NEEDED,
            Self::Bodies => BODY_IS_NEEDED,
            Self::Texts | Self::Letters => "FALSE",
        }
    }
}

/// The page is cut before the lookups, or PostgreSQL would prepare them for the whole history.
async fn old_rows(
    transaction: &Transaction,
    expiring: Expiring,
    before: Millis,
    after: HistoryPlace,
    rows_max: usize,
) -> Result<Vec<OldRow>, DbErr> {
    let (rows, since, is_needed) = (expiring.rows(), expiring.since(), expiring.is_needed());
    let sql = format!(
        "SELECT e.id, e.since, {is_needed} AS is_needed
         FROM (SELECT id, {since} AS since FROM {rows} AND {since} < $1 AND ({since}, id) > ($2, $3)
               ORDER BY {since}, id LIMIT {rows_max}) e ORDER BY e.since, e.id"
    );
    let values = [before.into(), after.since.into(), after.id.into()];
    let rows = transaction.query_all_raw(statement(transaction.get_database_backend(), sql, values)).await?;
    rows.iter().map(|row| OldRow::from_query_result(row, "")).collect()
}

async fn remove(transaction: &Transaction, expiring: Expiring, rows: &[i64]) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let backend = transaction.get_database_backend();
    let (among, empty) =
        (among(backend, 1), if backend == DbBackend::Postgres { "''::bytea" } else { "x''" });
    let sql = match expiring {
        Expiring::Events => return delete_events(transaction, rows).await,
        Expiring::Bodies => format!("UPDATE outhook_event SET payload = NULL WHERE id {among}"),
        Expiring::Texts => {
            format!("UPDATE outhook_reply SET content = {empty}, widget = NULL WHERE id {among}")
        }
        Expiring::Letters => format!("DELETE FROM outhook_dead_letter WHERE id {among}"),
    };
    transaction.execute_raw(statement(backend, sql, [ids(backend, rows)])).await?;
    Ok(())
}

/// Deletes events that are done with, their calls, replies and dead letters, and the dead letters without
/// an event of their own that were replayed as these.
async fn delete_events(transaction: &Transaction, events: &[EventId]) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    let among = among(backend, 1);
    for sql in [
        format!("DELETE FROM outhook_call WHERE event_id {among}"),
        format!("DELETE FROM outhook_reply WHERE event_id {among}"),
        format!(
            "DELETE FROM outhook_dead_letter
             WHERE event_id {among} OR (event_id IS NULL AND replayed_by {among})"
        ),
        format!("DELETE FROM outhook_event WHERE id {among}"),
    ] {
        transaction.execute_raw(statement(backend, sql, [ids(backend, events)])).await?;
    }
    Ok(())
}
