//! The inbox: storing deliveries, and handing out the rows that may be worked on.

use std::collections::{HashMap, HashSet};

use outhook_core::{
    event::Header,
    identity::{BotId, EventId, EventKey, Millis, ServiceId},
    lanes::{LaneWant, Neighbours, Ticket},
    partition::Partitions,
    quota::Quota,
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult, Value};

use super::{
    Store, StoreError,
    sql::{NO_NUMBER, among, bigints, byte_strings, clean, ids, integers, now, statement},
};
use crate::fail_points::Step;

/// A delivery that is an event, on its way into the inbox.
#[derive(Debug, Clone)]
pub(crate) struct NewEvent {
    /// What was read of it.
    pub(crate) header: Header,
    /// 0 but for replays.
    pub(crate) replay: i32,
    /// The body as it came.
    pub(crate) payload: Vec<u8>,
}

/// A delivery whose calls can't be made.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetter {
    /// The bot, if it could be read.
    pub(crate) bot: Option<BotId>,
    /// The message, if it could be read.
    pub(crate) message: Option<i64>,
    /// Stable name of the reason.
    pub(crate) reason: &'static str,
    /// The reason in words.
    pub(crate) detail: String,
    /// The whole body; for an event of the inbox it is taken from there.
    pub(crate) payload: Vec<u8>,
}

impl DeadLetter {
    /// A dead letter of an event. Its payload is that of the event's row.
    pub(crate) fn of_event(key: EventKey, reason: &'static str, detail: String) -> Self {
        Self { bot: Some(key.bot), message: Some(key.message), reason, detail, payload: Vec::new() }
    }
}

/// What a batch of deliveries turned out to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Intake {
    /// Events.
    pub(crate) events: Vec<NewEvent>,
    /// Events of bots that have as many unfinished ones as they may: dead letters, unless known.
    pub(crate) overflow: Vec<NewEvent>,
    /// Everything else.
    pub(crate) dead: Vec<DeadLetter>,
}

impl Intake {
    /// Sets those events apart for which their bot has no room.
    pub(crate) fn within(self, quota: &mut Quota) -> Self {
        let (events, overflow) = self.events.into_iter().partition(|event| quota.take(event.header.bot));
        Self { events, overflow, dead: self.dead }
    }
}

/// An event that is handed out to be worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InboxEvent {
    /// Its row.
    pub(crate) id: EventId,
    /// Its identity.
    pub(crate) key: EventKey,
    /// Its place in order.
    pub(crate) conversation: i64,
    /// When outhook stored it.
    pub(crate) taken_at: Millis,
    /// The delivery's body.
    pub(crate) payload: Vec<u8>,
    /// Whether it may have ended a process.
    pub(crate) is_suspect: bool,
    /// Calls that were fixed when it was worked on before; empty for a fresh one.
    pub(crate) calls: Vec<PendingCall>,
}

impl InboxEvent {
    /// Its place in its lane.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket {
            event: self.id,
            bot: self.key.bot,
            conversation: self.conversation,
            message: self.key.message,
            taken_at: self.taken_at,
        }
    }

    /// Whether the call of a service of its bot has not finished, as far as is known of its calls.
    pub(crate) fn has_yet_to_call(&self, service: ServiceId) -> bool {
        self.calls.is_empty() || self.calls.iter().any(|call| call.service == service && !call.finished)
    }
}

/// A call of an event that was worked on before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PendingCall {
    /// The service.
    pub(crate) service: ServiceId,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// When the next attempt is due; `None` if no attempt has ended yet.
    pub(crate) due: Option<Millis>,
    /// Its outcome is committed.
    pub(crate) finished: bool,
}

/// An event that was taken from the inbox because it was due, or has just been stored.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    /// The event.
    pub(crate) event: InboxEvent,
    /// What else its lane holds.
    pub(crate) neighbours: Neighbours,
}

/// Rows of one lane, in order, up to the first that waits for its time.
#[derive(Debug)]
pub(crate) struct LanePage {
    /// What was asked for.
    pub(crate) want: LaneWant,
    /// The events.
    pub(crate) events: Vec<InboxEvent>,
    /// The lane has other unfinished events.
    pub(crate) more: bool,
}

/// Heads of lanes of one bot.
#[derive(Debug)]
pub(crate) struct BotPage {
    /// The bot.
    pub(crate) bot: BotId,
    /// The events.
    pub(crate) events: Vec<InboxEvent>,
    /// There may be others.
    pub(crate) more: bool,
}

/// Another unfinished event of the same lane, `<` an earlier or `>` a later one. Two events of one
/// message, of which one is a replay, are ordered by row.
pub(super) fn neighbour(order: char, of: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM outhook_event n WHERE n.state = 0 AND n.bot_id = {of}.bot_id
            AND n.conversation = {of}.conversation AND (n.message_id, n.id) {order} ({of}.message_id, {of}.id))"
    )
}

impl Store {
    /// Stores a batch of deliveries in one transaction. Events that are known already (same bot,
    /// message and replay) are dropped; those of this daemon's bots come back to be worked on from memory,
    /// lowest message first. Those of other daemons' bots are due, and their owners are woken.
    ///
    /// `again` says that these deliveries may have been stored before without anybody knowing: then those
    /// that are known and unfinished are made due, in case nobody holds them.
    pub(crate) async fn store_deliveries(&self, intake: Intake, again: bool) -> Result<Stored, StoreError> {
        self.on_main(move |store| async move {
            let transaction = store.begin().await?;
            if again {
                free_known_events(&transaction, &intake.events).await?;
            }
            let mine = store.partitions();
            let has_others = intake.events.iter().any(|event| !mine.hold(event.header.bot));
            let stored = insert_events(&transaction, intake.events, mine).await?;
            let overflow = unknown_events(&transaction, intake.overflow).await?;
            insert_dead_letters(&transaction, None, overflow.into_iter().map(overflowed).collect()).await?;
            insert_dead_letters(&transaction, None, intake.dead).await?;
            if has_others {
                super::wake::announce(&transaction).await?;
            }
            Self::commit(transaction, Step::StoreDeliveries).await?;
            Ok(stored)
        })
        .await
    }

    /// Puts events into the inbox from outside the daemon: they are due at once, and whoever works
    /// on this inbox is woken. Those beyond `stored_per_bot` are dead letters. Returns how many were new.
    pub(crate) async fn put_into_inbox(
        &self,
        events: Vec<NewEvent>,
        stored_per_bot: usize,
    ) -> Result<usize, StoreError> {
        let mut quota = Quota::new(stored_per_bot, usize::MAX);
        let uncounted = quota.uncounted(events.iter().map(|event| event.header.bot));
        for (bot, unfinished) in self.count_unfinished(uncounted).await? {
            quota.counted(bot, unfinished);
        }
        let intake = Intake { events, ..Intake::default() }.within(&mut quota);
        self.on_main(|store| async move {
            let transaction = store.begin().await?;
            let stored = insert_events(&transaction, intake.events, Partitions::NONE).await?;
            let overflow = unknown_events(&transaction, intake.overflow).await?;
            insert_dead_letters(&transaction, None, overflow.into_iter().map(overflowed).collect()).await?;
            super::wake::announce(&transaction).await?;
            Self::commit(transaction, Step::PutIntoInbox).await?;
            Ok(stored.rows)
        })
        .await
    }

    /// How many unfinished events these bots have.
    pub(crate) async fn count_unfinished(
        &self,
        bots: Vec<BotId>,
    ) -> Result<HashMap<BotId, usize>, StoreError> {
        self.on_main(move |store| async move {
            let among = among(store.backend(), 1);
            let sql = format!(
                "SELECT bot_id, count(*) AS unfinished FROM outhook_event
                 WHERE state = 0 AND bot_id {among} GROUP BY bot_id"
            );
            let rows = store
                .db()
                .query_all_raw(statement(store.backend(), sql, [ids(store.backend(), &bots)]))
                .await?;
            let mut counts: HashMap<BotId, usize> = bots.into_iter().map(|bot| (bot, 0)).collect();
            for row in rows {
                let count: i64 = row.try_get("", "unfinished")?;
                counts.insert(row.try_get("", "bot_id")?, usize::try_from(count).unwrap_or(0));
            }
            Ok(counts)
        })
        .await
    }
}

/// What came of storing events.
pub(crate) struct Stored {
    /// How many were not known.
    pub(crate) rows: usize,
    /// Those of them that are held now, in order of their messages.
    pub(crate) held: Vec<Taken>,
}

/// Inserts what is not known yet. Events of bots in `mine` are held, the others are due at once.
async fn insert_events(
    transaction: &DatabaseTransaction,
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

async fn free_known_events(transaction: &DatabaseTransaction, events: &[NewEvent]) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    let sql = "UPDATE outhook_event SET due = $4
        WHERE bot_id = $1 AND message_id = $2 AND replay = $3 AND state = 0 AND due IS NULL";
    for event in events {
        let values =
            [event.header.bot.into(), event.header.message.into(), event.replay.into(), now().into()];
        transaction.execute_raw(statement(backend, sql, values)).await?;
    }
    Ok(())
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
        let key = key(&event);
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

/// Those that the inbox does not hold: a redelivery of a known event is not a new one.
async fn unknown_events(
    transaction: &DatabaseTransaction,
    events: Vec<NewEvent>,
) -> Result<Vec<NewEvent>, DbErr> {
    let backend = transaction.get_database_backend();
    let sql = "SELECT 1 AS known FROM outhook_event WHERE bot_id = $1 AND message_id = $2 AND replay = $3";
    let mut unknown = Vec::new();
    for event in events {
        let values = [event.header.bot.into(), event.header.message.into(), event.replay.into()];
        if transaction.query_one_raw(statement(backend, sql, values)).await?.is_none() {
            unknown.push(event);
        }
    }
    Ok(unknown)
}

fn overflowed(event: NewEvent) -> DeadLetter {
    DeadLetter {
        detail: "the bot has queue.stored_per_bot unfinished events already".into(),
        payload: event.payload,
        ..DeadLetter::of_event(
            EventKey { bot: event.header.bot, message: event.header.message, replay: event.replay },
            "overflow",
            String::new(),
        )
    }
}

fn key(event: &NewEvent) -> EventKey {
    EventKey { bot: event.header.bot, message: event.header.message, replay: event.replay }
}

async fn insert_events_at_once(
    transaction: &DatabaseTransaction,
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
    transaction: &DatabaseTransaction,
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

/// Sets deliveries aside, one row each; they are rare.
pub(super) async fn insert_dead_letters(
    transaction: &DatabaseTransaction,
    event: Option<EventId>,
    letters: Vec<DeadLetter>,
) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    for letter in letters {
        let sql = "INSERT INTO outhook_dead_letter
                (event_id, bot_id, message_id, reason, detail, payload, created_at)
            VALUES ($1, $2, $3, $4, $5,
                COALESCE((SELECT payload FROM outhook_event WHERE id = $1), $6), $7)";
        let values: [Value; 7] = [
            event.into(),
            letter.bot.into(),
            letter.message.into(),
            letter.reason.into(),
            clean(&letter.detail).into(),
            letter.payload.into(),
            now().into(),
        ];
        transaction.execute_raw(statement(backend, sql, values)).await?;
    }
    Ok(())
}

pub(super) fn as_i64(number: usize) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

#[cfg(test)]
mod tests {
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
        let inserted = batch.iter().map(|event| (key(event), (event.header.message, alone))).collect();
        let handed: Vec<(i64, bool)> = hand_out(batch, 0, inserted)
            .iter()
            .map(|taken| (taken.event.id, taken.neighbours.earlier))
            .collect();
        assert_eq!(handed, [(1, false), (2, true), (3, false), (4, false)]);
    }
}
