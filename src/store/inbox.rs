//! The inbox: storing deliveries. What is due of them is handed out by `rows`.

mod admit;
mod event;
mod insert;

use std::collections::{HashMap, HashSet};

use outhook_core::{
    event::{Header, Malformed},
    identity::{BotId, EventKey},
    json::with_surrogates_replaced,
    partition::Partitions,
    quota::Quota,
};
use sea_orm::{ConnectionTrait, DbErr};

pub(super) use self::event::PendingCall;
use self::insert::insert_events;
pub(crate) use self::{
    admit::Admission,
    event::{BotPage, InboxEvent, LanePage, Taken},
    insert::Stored,
};
use super::{
    DeadLetter, Store, StoreError,
    letters::insert_dead_letters,
    pool::Transaction,
    sql::{among, ids, now, statement},
    wake::announce,
};
use crate::{config::queue::PerBot, fail_points::Step};

/// A delivery that is an event, on its way into the inbox.
#[derive(Debug, Clone)]
pub(crate) struct NewEvent {
    /// What was read of it.
    pub(crate) header: Header,
    /// 0 but for replays.
    pub(crate) replay: i32,
    /// The body as it came, but for lone surrogates: whoever reads it must be able to.
    pub(crate) payload: Vec<u8>,
}

impl NewEvent {
    /// Reads a delivery.
    ///
    /// # Errors
    /// Why it is no event.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Malformed> {
        let payload = with_surrogates_replaced(body);
        Ok(Self { header: Header::read(&payload)?, replay: 0, payload: payload.into_owned() })
    }

    fn key(&self) -> EventKey {
        EventKey { bot: self.header.bot, message: self.header.message, replay: self.replay }
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
    ///
    /// Of one bot, `letters_per_bot` dead letters keep their body.
    pub(crate) async fn store_deliveries(
        &self,
        intake: Intake,
        again: bool,
        letters_per_bot: usize,
    ) -> Result<Stored, StoreError> {
        let store = self.clone();
        self.write(Step::StoreDeliveries, move |transaction| async move {
            let mine = store.partitions();
            let has_others = intake.events.iter().any(|event| !mine.hold(event.header.bot));
            let keys: Vec<EventKey> =
                if again { intake.events.iter().map(NewEvent::key).collect() } else { Vec::new() };
            let stored = insert_events(&transaction, intake.events, mine).await?;
            // Behind the insert, which waits for a first try whose commit is still under way.
            free_known_events(&transaction, &keys, &stored).await?;
            let mut letters = unknown_overflow(&transaction, intake.overflow).await?;
            letters.extend(intake.dead);
            insert_dead_letters(&transaction, letters, letters_per_bot).await?;
            if has_others {
                announce(&transaction).await?;
            }
            Ok(stored)
        })
        .await
    }

    /// Puts events into the inbox from outside the daemon: they are due at once, and whoever works
    /// on this inbox is woken. Those beyond what a bot may have are dead letters. Returns how many were new.
    pub(crate) async fn put_into_inbox(
        &self,
        events: Vec<NewEvent>,
        per_bot: PerBot,
    ) -> Result<usize, StoreError> {
        let mut quota = Quota::new(per_bot.events, usize::MAX);
        let uncounted = quota.uncounted(events.iter().map(|event| event.header.bot));
        for (bot, unfinished) in self.count_unfinished(uncounted).await? {
            quota.counted(bot, unfinished);
        }
        let intake = Intake { events, ..Intake::default() }.within(&mut quota);
        self.write(Step::PutIntoInbox, move |transaction| async move {
            let stored = insert_events(&transaction, intake.events, Partitions::NONE).await?;
            let letters = unknown_overflow(&transaction, intake.overflow).await?;
            insert_dead_letters(&transaction, letters, per_bot.dead_letters).await?;
            announce(&transaction).await?;
            Ok(stored.rows)
        })
        .await
    }

    /// How many unfinished events these bots have.
    pub(crate) async fn count_unfinished(
        &self,
        bots: Vec<BotId>,
    ) -> Result<HashMap<BotId, usize>, StoreError> {
        self.read(move |store| async move {
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

/// Makes those of these events due that were stored before and that nobody may hold.
async fn free_known_events(
    transaction: &Transaction,
    keys: &[EventKey],
    stored: &Stored,
) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    let sql = "UPDATE outhook_event SET due = $4
        WHERE bot_id = $1 AND message_id = $2 AND replay = $3 AND state = 0 AND due IS NULL";
    let held: HashSet<EventKey> = stored.held.iter().map(|taken| taken.event.key).collect();
    for key in keys.iter().filter(|key| !held.contains(key)) {
        let values = [key.bot.into(), key.message.into(), key.replay.into(), now().into()];
        transaction.execute_raw(statement(backend, sql, values)).await?;
    }
    Ok(())
}

/// Dead letters of those that the inbox does not hold: a redelivery of a known event is not a new one.
async fn unknown_overflow(
    transaction: &Transaction,
    events: Vec<NewEvent>,
) -> Result<Vec<DeadLetter>, DbErr> {
    let mut letters = Vec::new();
    for event in events {
        if !is_known(transaction, &event).await? {
            letters.push(overflowed(event));
        }
    }
    Ok(letters)
}

async fn is_known(transaction: &Transaction, event: &NewEvent) -> Result<bool, DbErr> {
    let sql = "SELECT 1 AS known FROM outhook_event WHERE bot_id = $1 AND message_id = $2 AND replay = $3";
    let values = [event.header.bot.into(), event.header.message.into(), event.replay.into()];
    let query = statement(transaction.get_database_backend(), sql, values);
    Ok(transaction.query_one_raw(query).await?.is_some())
}

fn overflowed(event: NewEvent) -> DeadLetter {
    let detail = "the bot has queue.stored_per_bot unfinished events already".to_owned();
    let letter = DeadLetter::of_event(event.key(), "overflow", detail);
    DeadLetter { payload: event.payload, ..letter }
}
