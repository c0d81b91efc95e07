//! Inserting what the inbox does not know yet.

use std::collections::{HashMap, HashSet};

use outhook_core::{
    identity::{EventId, EventKey, Millis},
    lanes::Neighbours,
    partition::Partitions,
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Value};

use super::{
    NewEvent,
    event::{InboxEvent, Taken},
    neighbour,
};
use crate::store::{
    pool::Transaction,
    sql::{NO_NUMBER, bigints, byte_strings, integers, now, statement},
};

/// What came of storing events.
pub(crate) struct Stored {
    /// How many were not known.
    pub(crate) rows: usize,
    /// Those of them that are held now, in order of their messages.
    pub(crate) held: Vec<Taken>,
}

/// Inserts what is not known yet. Events of bots in `mine` are held, the others are due at once.
pub(super) async fn insert_events(
    transaction: &Transaction,
    mut events: Vec<NewEvent>,
    mine: Partitions,
) -> Result<Stored, DbErr> {
    if events.is_empty() {
        return Ok(Stored { rows: 0, held: Vec::new() });
    }
    events.sort_by_key(|event| (event.header.message, event.replay));
    let taken_at = now();
    let due = |event: &NewEvent| (!mine.hold(event.header.bot)).then_some(taken_at);
    let rows = if transaction.get_database_backend() == DbBackend::Postgres {
        insert_events_at_once(transaction, &events, due, taken_at).await?
    } else {
        insert_events_one_by_one(transaction, &events, due, taken_at).await?
    };
    let mut inserted = HashMap::with_capacity(rows.len());
    for row in &rows {
        let key = EventKey {
            bot: row.try_get("", "bot_id")?,
            message: row.try_get("", "message_id")?,
            replay: row.try_get("", "replay")?,
        };
        let neighbours =
            Neighbours { earlier: row.try_get("", "earlier")?, later: row.try_get("", "later")? };
        if mine.hold(key.bot) {
            inserted.insert(key, (row.try_get("", "id")?, neighbours));
        }
    }
    Ok(Stored { rows: rows.len(), held: hand_out(events, taken_at, inserted) })
}

/// The inserted events, in the given order. A statement that inserts many rows does not see its own, so
/// what is earlier in the same batch is added here.
fn hand_out(
    events: Vec<NewEvent>,
    taken_at: Millis,
    mut inserted: HashMap<EventKey, (EventId, Neighbours)>,
) -> Vec<Taken> {
    let mut lanes = HashSet::new();
    let mut stored = Vec::with_capacity(inserted.len());
    for event in events {
        let key = event.key();
        let Some((id, neighbours)) = inserted.remove(&key) else { continue };
        let conversation = event.header.conversation;
        let is_first = lanes.insert((key.bot, conversation));
        stored.push(Taken {
            event: InboxEvent {
                id,
                key,
                conversation,
                taken_at,
                payload: event.payload,
                is_suspect: false,
                calls: Vec::new(),
            },
            neighbours: Neighbours { earlier: neighbours.earlier || !is_first, ..neighbours },
        });
    }
    stored
}

async fn insert_events_at_once(
    transaction: &Transaction,
    events: &[NewEvent],
    due: impl Fn(&NewEvent) -> Option<Millis>,
    taken_at: Millis,
) -> Result<Vec<QueryResult>, DbErr> {
    let (earlier, later) = (neighbour('<', "outhook_event"), neighbour('>', "outhook_event"));
    let sql = format!(
        "INSERT INTO outhook_event (bot_id, message_id, replay, conversation, payload, state, due, taken_at)
         SELECT bot_id, message_id, replay, conversation, payload, 0, NULLIF(due, {NO_NUMBER}), $7
         FROM unnest($1::bigint[], $2::bigint[], $3::integer[], $4::bigint[], $5::bytea[], $6::bigint[])
           AS n (bot_id, message_id, replay, conversation, payload, due)
         ON CONFLICT (bot_id, message_id, replay) DO NOTHING
         RETURNING id, bot_id, message_id, replay, {earlier} AS earlier, {later} AS later"
    );
    let values: [Value; 7] = [
        bigints(events.iter().map(|event| event.header.bot)),
        bigints(events.iter().map(|event| event.header.message)),
        integers(events.iter().map(|event| event.replay)),
        bigints(events.iter().map(|event| event.header.conversation)),
        byte_strings(events.iter().map(|event| event.payload.clone())),
        bigints(events.iter().map(|event| due(event).unwrap_or(NO_NUMBER))),
        taken_at.into(),
    ];
    transaction.query_all_raw(statement(DbBackend::Postgres, sql, values)).await
}

async fn insert_events_one_by_one(
    transaction: &Transaction,
    events: &[NewEvent],
    due: impl Fn(&NewEvent) -> Option<Millis>,
    taken_at: Millis,
) -> Result<Vec<QueryResult>, DbErr> {
    let backend = transaction.get_database_backend();
    let (earlier, later) = (neighbour('<', "outhook_event"), neighbour('>', "outhook_event"));
    let sql = format!(
        "INSERT INTO outhook_event (bot_id, message_id, replay, conversation, payload, state, due, taken_at)
         VALUES ($1, $2, $3, $4, $5, 0, $6, $7)
         ON CONFLICT (bot_id, message_id, replay) DO NOTHING
         RETURNING id, bot_id, message_id, replay, {earlier} AS earlier, {later} AS later"
    );
    let mut rows = Vec::with_capacity(events.len());
    for event in events {
        let values: [Value; 7] = [
            event.header.bot.into(),
            event.header.message.into(),
            event.replay.into(),
            event.header.conversation.into(),
            event.payload.clone().into(),
            due(event).into(),
            taken_at.into(),
        ];
        rows.extend(transaction.query_one_raw(statement(backend, sql.clone(), values)).await?);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use outhook_core::event::Header;

    use super::*;

    #[test]
    fn what_is_earlier_in_the_same_batch_counts_as_a_predecessor() {
        let event = |bot, message, conversation| NewEvent {
            header: Header { bot, message, conversation },
            replay: 0,
            payload: Vec::new(),
        };
        let batch = vec![event(1, 1, 7), event(1, 2, 7), event(1, 3, 8), event(2, 4, 7), event(1, 2, 7)];
        let alone = Neighbours { earlier: false, later: false };
        let inserted = batch.iter().map(|event| (event.key(), (event.header.message, alone))).collect();
        let handed: Vec<(i64, bool)> = hand_out(batch, 0, inserted)
            .iter()
            .map(|taken| (taken.event.id, taken.neighbours.earlier))
            .collect();
        assert_eq!(handed, [(1, false), (2, true), (3, false), (4, false)]);
    }
}
