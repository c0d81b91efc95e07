//! The history: what is done with and kept for a while. Replays add to it and pruning takes from it,
//! in turns.

use std::time::Duration;

use outhook_core::identity::{EventId, Millis};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult};

use super::{
    Lock, Store, StoreError,
    gates::delete_of_removed_services,
    pool::Transaction,
    sql::{among, ids, statement},
};
use crate::fail_points::Step;

/// One transaction at a time works on what is done with, so that nothing is deleted while it is being
/// replayed, and no two replays get the same number. Any number will do, as long as it is only outhook's
/// ("outhook" in ASCII, then a number).
pub(super) const HISTORY_LOCK: Lock =
    Lock { number: 0x6f75_7468_6f6f_6b02, patience: Duration::from_secs(5) };

/// Up to where the history was looked through, in the order in which events were done with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HistoryPlace {
    finished_at: Millis,
    event: EventId,
}

/// What came of a look at a part of the history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pruned {
    /// How many events were deleted.
    pub(crate) events: usize,
    /// Where to go on; `None` if nothing is left to delete.
    pub(crate) next: Option<HistoryPlace>,
}

#[derive(FromQueryResult)]
struct OldEvent {
    id: EventId,
    finished_at: Millis,
    is_needed: bool,
}

impl Store {
    /// Looks at the next events that were done with before a moment, at most `rows_max`, and deletes those
    /// that nobody needs any more with everything that belongs to them. Behind the last one, it deletes as
    /// many gates of services that are there no more.
    pub(crate) async fn prune_history(
        &self,
        before: Millis,
        after: HistoryPlace,
        rows_max: usize,
    ) -> Result<Pruned, StoreError> {
        self.write_behind(HISTORY_LOCK, Step::Prune, move |transaction| async move {
            let page = old_events(&transaction, before, after, rows_max).await?;
            let unneeded: Vec<EventId> =
                page.iter().filter(|event| !event.is_needed).map(|event| event.id).collect();
            delete_events(&transaction, &unneeded).await?;
            let is_done =
                page.len() < rows_max && delete_of_removed_services(&transaction, rows_max).await? < rows_max;
            let place = page
                .last()
                .map_or(after, |last| HistoryPlace { finished_at: last.finished_at, event: last.id });
            Ok(Pruned { events: unneeded.len(), next: (!is_done).then_some(place) })
        })
        .await
    }
}

/// The next old events. Needed are those with a reply to post or with a dead letter that awaits an
/// operator, and what repeats an event that is still there: its number must not be given a second time.
///
/// The page is cut before the lookups, or PostgreSQL would prepare them for the whole history.
async fn old_events(
    transaction: &Transaction,
    before: Millis,
    after: HistoryPlace,
    rows_max: usize,
) -> Result<Vec<OldEvent>, DbErr> {
    let sql = format!(
        "SELECT e.id, e.finished_at,
            EXISTS (SELECT 1 FROM outhook_reply r WHERE r.event_id = e.id AND r.state = 0)
            OR EXISTS (SELECT 1 FROM outhook_dead_letter d WHERE d.event_id = e.id AND d.replayed_by IS NULL)
            OR EXISTS (SELECT 1 FROM outhook_event o WHERE o.id = e.replay_of) AS is_needed
         FROM (
            SELECT id, finished_at, replay_of FROM outhook_event
            WHERE finished_at < $1 AND (finished_at, id) > ($2, $3)
            ORDER BY finished_at, id LIMIT {rows_max}
         ) e ORDER BY e.finished_at, e.id"
    );
    let values = [before.into(), after.finished_at.into(), after.event.into()];
    let rows = transaction.query_all_raw(statement(transaction.get_database_backend(), sql, values)).await?;
    rows.iter().map(|row| OldEvent::from_query_result(row, "")).collect()
}

/// Deletes events that are done with, their calls, replies and dead letters, and the dead letters without
/// an event of their own that were replayed as these.
async fn delete_events(transaction: &Transaction, events: &[EventId]) -> Result<(), DbErr> {
    if events.is_empty() {
        return Ok(());
    }
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
