//! One transaction for the outcomes of many calls: ledger, replies, next tries, dead letters and
//! processed flags, all or nothing.

mod calls;
mod flags;

use std::collections::BTreeMap;

use entity::outhook::event;
use outhook_core::identity::{BotId, EventId, EventKey, Millis, ServiceId};
use sea_orm::{ActiveEnum, ConnectionTrait, DbErr};

pub(crate) use self::calls::{CallOutcome, CallRecord};
use self::{
    calls::{fix_services, record_calls},
    flags::flag_messages,
};
use super::{
    DeadLetter, Store, StoreError,
    gates::{DatedChange, change_gates, merge},
    letters::{drop_old_bodies, set_event_aside},
    outbox::insert_replies,
    pool::Transaction,
    sql::{among, ids, now, statement},
};
use crate::fail_points::Step;

/// Everything that is committed together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settlement {
    /// Calls whose services were fixed now and that have not ended yet.
    pub(crate) begun: Vec<(EventId, ServiceId, String)>,
    /// Calls that ended, for good or until their next try.
    pub(crate) calls: Vec<CallRecord>,
    /// Gates that these calls have opened or closed.
    pub(crate) gates: BTreeMap<ServiceId, DatedChange>,
    /// Payloads set aside although their events end as others do.
    pub(crate) letters: Vec<(EventId, DeadLetter)>,
    /// Events that none is working on any more.
    pub(crate) events: Vec<(EventId, EventKey, EventEnd)>,
}

/// Why nobody works on an event any more.
#[derive(Debug, Clone)]
pub(crate) enum EventEnd {
    /// Each of its calls has finished: the message is marked processed.
    Finished,
    /// It waits for its next try.
    Parked(Millis),
    /// Its calls can't be made.
    Dead {
        /// What is set aside.
        letter: DeadLetter,
    },
}

/// What became of a settlement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Calls whose outcome was committed before; these second ones were dropped with their replies.
    pub(crate) dropped: usize,
    /// Events whose message row is locked by somebody else. If there are any, only the gates were committed.
    pub(crate) locked: Vec<EventId>,
    /// When the first of the parked events is due.
    pub(crate) due: Option<Millis>,
}

impl Settlement {
    /// Adds a call that ended later than those before.
    pub(crate) fn add_call(&mut self, mut call: CallRecord) {
        if let Some(change) = call.gate.take() {
            merge(&mut self.gates, call.service, change);
        }
        self.calls.push(call);
    }

    /// The bots of its dead letters, once for each.
    fn bots_of_letters(&self) -> Vec<Option<BotId>> {
        let dead = self.events.iter().filter_map(|(_, _, end)| match end {
            EventEnd::Dead { letter } => Some(letter.bot),
            EventEnd::Finished | EventEnd::Parked(_) => None,
        });
        self.letters.iter().map(|(_, letter)| letter.bot).chain(dead).collect()
    }

    fn finished(&self) -> Vec<(EventId, EventKey)> {
        let is_finished = |end: &EventEnd| matches!(end, EventEnd::Finished);
        self.events.iter().filter(|(_, _, end)| is_finished(end)).map(|(id, key, _)| (*id, *key)).collect()
    }
}

impl Store {
    /// Commits a settlement. Doing it again after an error of unknown outcome does no harm.
    pub(crate) async fn settle(
        &self,
        settlement: Settlement,
        letters_per_bot: usize,
    ) -> Result<Settled, StoreError> {
        let gates = settlement.gates.clone();
        let work = move |transaction| settle(transaction, settlement, letters_per_bot);
        match self.write(Step::Settle, work).await {
            Err(StoreError::Locked(locked)) => {
                self.settle_gates(gates).await?;
                Ok(Settled { locked, ..Settled::default() })
            }
            settled => settled,
        }
    }

    /// Gates are written down in the order of their changes, whichever of the outcomes have to wait.
    async fn settle_gates(&self, gates: BTreeMap<ServiceId, DatedChange>) -> Result<(), StoreError> {
        if gates.is_empty() {
            return Ok(());
        }
        let change = |transaction| async move { Ok(change_gates(&transaction, gates).await?) };
        self.write(Step::Settle, change).await
    }
}

async fn settle(
    transaction: Transaction,
    settlement: Settlement,
    letters_per_bot: usize,
) -> Result<Settled, StoreError> {
    let locked = flag_messages(&transaction, &settlement.finished()).await?;
    if !locked.is_empty() {
        return Err(StoreError::Locked(locked));
    }
    let bots = settlement.bots_of_letters();
    fix_services(&transaction, settlement.begun).await?;
    let (dropped, replies) = record_calls(&transaction, settlement.calls).await?;
    insert_replies(&transaction, replies).await?;
    change_gates(&transaction, settlement.gates).await?;
    for (event, letter) in settlement.letters {
        set_event_aside(&transaction, event, letter).await?;
    }
    let due = end_events(&transaction, settlement.events).await?;
    drop_old_bodies(&transaction, bots, letters_per_bot).await?;
    Ok(Settled { dropped, locked: Vec::new(), due })
}

/// Returns when the first of those is due that are parked.
async fn end_events(
    transaction: &Transaction,
    events: Vec<(EventId, EventKey, EventEnd)>,
) -> Result<Option<Millis>, DbErr> {
    let mut earliest: Option<Millis> = None;
    let mut finished = Vec::new();
    let mut dead = Vec::new();
    for (event, _, end) in events {
        match end {
            EventEnd::Finished => finished.push(event),
            EventEnd::Parked(due) => {
                let due = park_event(transaction, event, due).await?;
                earliest = earliest.into_iter().chain(due).min();
            }
            EventEnd::Dead { letter } => {
                set_event_aside(transaction, event, letter).await?;
                dead.push(event);
            }
        }
    }
    close_events(transaction, &finished, event::State::Finished).await?;
    close_events(transaction, &dead, event::State::Dead).await?;
    Ok(earliest)
}

/// Returns when it is due: a resume may have called forward one of its calls that had ended.
async fn park_event(transaction: &Transaction, event: EventId, due: Millis) -> Result<Option<Millis>, DbErr> {
    let sql = "UPDATE outhook_event SET due = (SELECT min(moment) FROM (
            SELECT due AS moment FROM outhook_call WHERE event_id = $1 AND state = 0 UNION ALL SELECT $2
        ) AS moments)
        WHERE id = $1 AND state = 0 RETURNING due";
    let park = statement(transaction.get_database_backend(), sql, [event.into(), due.into()]);
    let row = transaction.query_one_raw(park).await?;
    row.map_or(Ok(None), |row| row.try_get("", "due"))
}

/// A finished event keeps its body for a while, see `history`; that of a dead one is its dead letter's.
async fn close_events(
    transaction: &Transaction,
    events: &[EventId],
    state: event::State,
) -> Result<(), DbErr> {
    if events.is_empty() {
        return Ok(());
    }
    let backend = transaction.get_database_backend();
    let among = among(backend, 1);
    let body = if state == event::State::Finished { "payload" } else { "NULL" };
    let sql = format!(
        "UPDATE outhook_event SET state = $2, finished_at = $3, due = NULL, payload = {body}
         WHERE id {among} AND state = 0"
    );
    let values = [ids(backend, events), state.to_value().into(), now().into()];
    transaction.execute_raw(statement(backend, sql, values)).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
