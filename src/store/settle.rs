//! One transaction for the outcomes of many calls: ledger, replies, next tries, dead letters and
//! processed flags, all or nothing.

use std::collections::{BTreeMap, HashSet};

use entity::{
    outhook::{call, event},
    zulip::FLAG_READ,
};
use outhook_core::identity::{Conversation, EventId, EventKey, Millis, ServiceId};
use sea_orm::{ActiveEnum, ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Value};

use super::{
    DeadLetter, GateChange, Store, StoreError,
    gates::{change_gates, merge},
    inbox::insert_dead_letters,
    sql::{NO_NUMBER, among, bigints, byte_strings, clean, ids, integers, now, statement, texts},
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
    pub(crate) gates: BTreeMap<ServiceId, GateChange>,
    /// Payloads set aside although their events end as others do.
    pub(crate) letters: Vec<(EventId, DeadLetter)>,
    /// Events that none is working on any more.
    pub(crate) events: Vec<(EventId, EventKey, EventEnd)>,
}

/// One ended attempt.
#[derive(Debug, Clone)]
pub(crate) struct CallRecord {
    /// The event.
    pub(crate) event: EventId,
    /// The service.
    pub(crate) service: ServiceId,
    /// The service's name.
    pub(crate) service_name: String,
    /// How the call stands now.
    pub(crate) outcome: CallOutcome,
    /// Attempts made so far.
    pub(crate) attempts: u32,
    /// What went wrong, by its stable name.
    pub(crate) fault: Option<&'static str>,
    /// HTTP status of the answer.
    pub(crate) status: Option<u16>,
    /// What went wrong, in words.
    pub(crate) detail: Option<String>,
    /// First bytes of the answer, scrubbed.
    pub(crate) excerpt: Option<Vec<u8>>,
    /// How long the attempt took.
    pub(crate) duration_ms: i32,
    /// When it ended.
    pub(crate) ended_at: Millis,
    /// What to say in the conversation.
    pub(crate) reply: Option<NewReply>,
    /// How it has changed the gate of its service.
    pub(crate) gate: Option<GateChange>,
}

/// How a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    /// The endpoint took the event.
    Succeeded,
    /// It failed for good.
    Failed,
    /// The service is gone.
    Removed,
    /// To be made again.
    Waiting {
        /// When.
        due: Millis,
    },
}

/// A message for the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewReply {
    /// The bot.
    pub(crate) bot: i64,
    /// The conversation.
    pub(crate) conversation: Conversation,
    /// Where to post.
    pub(crate) destination: String,
    /// Markdown.
    pub(crate) content: String,
    /// `widget_content`.
    pub(crate) widget: Option<String>,
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
    /// Replies that are in the outbox now.
    pub(crate) replies: usize,
    /// Events whose message row is locked by somebody else. If there are any, nothing was committed.
    pub(crate) locked: Vec<EventId>,
    /// When the first of the parked events is due.
    pub(crate) due: Option<Millis>,
}

impl CallOutcome {
    fn state(self) -> call::State {
        match self {
            Self::Succeeded => call::State::Succeeded,
            Self::Failed => call::State::Failed,
            Self::Removed => call::State::Removed,
            Self::Waiting { .. } => call::State::Pending,
        }
    }

    fn due(self) -> Option<Millis> {
        match self {
            Self::Waiting { due } => Some(due),
            Self::Succeeded | Self::Failed | Self::Removed => None,
        }
    }
}

impl Settlement {
    /// Adds a call that ended later than those before.
    pub(crate) fn add_call(&mut self, mut call: CallRecord) {
        if let Some(change) = call.gate.take() {
            merge(&mut self.gates, call.service, change);
        }
        self.calls.push(call);
    }

    fn finished(&self) -> Vec<(EventId, EventKey)> {
        let is_finished = |end: &EventEnd| matches!(end, EventEnd::Finished);
        self.events.iter().filter(|(_, _, end)| is_finished(end)).map(|(id, key, _)| (*id, *key)).collect()
    }
}

impl Store {
    /// Commits a settlement.
    pub(crate) async fn settle(&self, settlement: Settlement) -> Result<Settled, StoreError> {
        self.on_main(|store| async move {
            let transaction = store.begin().await?;
            let locked = flag_messages(&transaction, &settlement.finished()).await?;
            if !locked.is_empty() {
                transaction.rollback().await?;
                return Ok(Settled { locked, ..Settled::default() });
            }
            fix_services(&transaction, settlement.begun).await?;
            let (dropped, replies) = record_calls(&transaction, settlement.calls).await?;
            let replies_count = replies.len();
            insert_replies(&transaction, replies).await?;
            change_gates(&transaction, settlement.gates).await?;
            for (event, letter) in settlement.letters {
                insert_dead_letters(&transaction, Some(event), vec![letter]).await?;
            }
            let due = end_events(&transaction, settlement.events).await?;
            Self::commit(transaction, Step::Settle).await?;
            Ok(Settled { dropped, replies: replies_count, locked: Vec::new(), due })
        })
        .await
    }
}

/// Marks messages processed where the bot has a row for them. Returns the events whose row somebody
/// else holds locked; waiting for it would hold up the whole batch.
async fn flag_messages(
    transaction: &DatabaseTransaction,
    finished: &[(EventId, EventKey)],
) -> Result<Vec<EventId>, DbErr> {
    if finished.is_empty() {
        return Ok(Vec::new());
    }
    if transaction.get_database_backend() != DbBackend::Postgres {
        flag_one_by_one(transaction, finished).await?;
        return Ok(Vec::new());
    }
    let pairs = || {
        [
            bigints(finished.iter().map(|(_, key)| key.bot)),
            bigints(finished.iter().map(|(_, key)| key.message)),
            FLAG_READ.into(),
        ]
    };
    let update = "UPDATE zerver_usermessage AS m SET flags = m.flags | $3 FROM (
            SELECT u.id FROM zerver_usermessage u
            JOIN unnest($1::bigint[], $2::bigint[]) AS p (bot, message)
              ON u.user_profile_id = p.bot AND u.message_id = p.message
            ORDER BY u.id FOR UPDATE OF u SKIP LOCKED
        ) AS mine WHERE m.id = mine.id";
    let updated = transaction.execute_raw(statement(DbBackend::Postgres, update, pairs())).await?;
    if updated.rows_affected() >= finished.len() as u64 {
        return Ok(Vec::new());
    }
    let unread = "SELECT p.n FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS p (bot, message, n)
        JOIN zerver_usermessage u ON u.user_profile_id = p.bot AND u.message_id = p.message
        WHERE u.flags & $3 = 0";
    let rows = transaction.query_all_raw(statement(DbBackend::Postgres, unread, pairs())).await?;
    let mut locked = Vec::new();
    for row in rows {
        let ordinal: i64 = row.try_get("", "n")?;
        let index = usize::try_from(ordinal - 1).unwrap_or(usize::MAX);
        locked.extend(finished.get(index).map(|(event, _)| *event));
    }
    Ok(locked)
}

async fn flag_one_by_one(
    transaction: &DatabaseTransaction,
    finished: &[(EventId, EventKey)],
) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    let sql =
        "UPDATE zerver_usermessage SET flags = flags | $3 WHERE user_profile_id = $1 AND message_id = $2";
    for (_, key) in finished {
        let values = [key.bot.into(), key.message.into(), FLAG_READ.into()];
        transaction.execute_raw(statement(backend, sql, values)).await?;
    }
    Ok(())
}

/// Writes down which services an event calls, when its first call has ended before the others.
async fn fix_services(
    transaction: &DatabaseTransaction,
    begun: Vec<(EventId, ServiceId, String)>,
) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    let sql = "INSERT INTO outhook_call (event_id, service_id, service_name, state, attempts, duration_ms)
        VALUES ($1, $2, $3, 0, 0, 0) ON CONFLICT (event_id, service_id) DO NOTHING";
    for (event, service, name) in begun {
        let values = [event.into(), service.into(), clean(&name).into()];
        transaction.execute_raw(statement(backend, sql, values)).await?;
    }
    Ok(())
}

const CALL_COLUMNS: &str = "event_id, service_id, service_name, state, attempts, due, fault, status, detail,
    excerpt, duration_ms, ended_at";

/// The first committed outcome of a call wins.
const UNLESS_ENDED: &str = "ON CONFLICT (event_id, service_id) DO UPDATE SET
        service_name = excluded.service_name, state = excluded.state, attempts = excluded.attempts,
        due = excluded.due, fault = excluded.fault, status = excluded.status, detail = excluded.detail,
        excerpt = excluded.excerpt, duration_ms = excluded.duration_ms, ended_at = excluded.ended_at
    WHERE outhook_call.state = 0
    RETURNING event_id, service_id";

/// Records calls. Returns how many came too late, and the replies of the others.
async fn record_calls(
    transaction: &DatabaseTransaction,
    mut calls: Vec<CallRecord>,
) -> Result<(usize, Vec<(EventId, ServiceId, NewReply)>), DbErr> {
    if calls.is_empty() {
        return Ok((0, Vec::new()));
    }
    let offered = calls.len();
    let mut first = HashSet::with_capacity(calls.len());
    calls.retain(|call| first.insert((call.event, call.service)));
    let rows = if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.query_all_raw(upsert_calls(&calls)).await?
    } else {
        let mut rows = Vec::with_capacity(calls.len());
        for call in &calls {
            let upsert = upsert_call(transaction.get_database_backend(), call);
            rows.extend(transaction.query_one_raw(upsert).await?);
        }
        rows
    };
    let mut recorded = HashSet::with_capacity(rows.len());
    for row in rows {
        recorded.insert((row.try_get::<i64>("", "event_id")?, row.try_get::<i64>("", "service_id")?));
    }
    let replies = calls
        .into_iter()
        .filter(|call| recorded.contains(&(call.event, call.service)))
        .filter_map(|call| call.reply.map(|reply| (call.event, call.service, reply)))
        .collect();
    Ok((offered - recorded.len(), replies))
}

fn upsert_calls(calls: &[CallRecord]) -> sea_orm::Statement {
    let sql = format!(
        "INSERT INTO outhook_call ({CALL_COLUMNS})
         SELECT event_id, service_id, service_name, state, attempts, NULLIF(due, {NO_NUMBER}),
             NULLIF(fault, ''), NULLIF(status, {NO_NUMBER}), NULLIF(detail, ''),
             NULLIF(excerpt, ''::bytea), duration_ms, ended_at
         FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::integer[], $5::integer[], $6::bigint[],
             $7::text[], $8::integer[], $9::text[], $10::bytea[], $11::integer[], $12::bigint[])
           AS c ({CALL_COLUMNS})
         {UNLESS_ENDED}"
    );
    let text = |text: Option<&str>| clean(text.unwrap_or_default());
    let values: [Value; 12] = [
        bigints(calls.iter().map(|call| call.event)),
        bigints(calls.iter().map(|call| call.service)),
        texts(calls.iter().map(|call| clean(&call.service_name))),
        integers(calls.iter().map(|call| call.outcome.state().to_value().into())),
        integers(calls.iter().map(attempts)),
        bigints(calls.iter().map(|call| call.outcome.due().unwrap_or(NO_NUMBER))),
        texts(calls.iter().map(|call| text(call.fault))),
        integers(calls.iter().map(|call| call.status.map_or(NO_NUMBER as i32, i32::from))),
        texts(calls.iter().map(|call| text(call.detail.as_deref()))),
        byte_strings(calls.iter().map(|call| call.excerpt.clone().unwrap_or_default())),
        integers(calls.iter().map(|call| call.duration_ms)),
        bigints(calls.iter().map(|call| call.ended_at)),
    ];
    statement(DbBackend::Postgres, sql, values)
}

fn upsert_call(backend: DbBackend, call: &CallRecord) -> sea_orm::Statement {
    let sql = format!(
        "INSERT INTO outhook_call ({CALL_COLUMNS})
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) {UNLESS_ENDED}"
    );
    let values: [Value; 12] = [
        call.event.into(),
        call.service.into(),
        clean(&call.service_name).into(),
        call.outcome.state().to_value().into(),
        attempts(call).into(),
        call.outcome.due().into(),
        call.fault.into(),
        call.status.map(i32::from).into(),
        call.detail.as_deref().map(clean).into(),
        call.excerpt.clone().into(),
        call.duration_ms.into(),
        call.ended_at.into(),
    ];
    statement(backend, sql, values)
}

fn attempts(call: &CallRecord) -> i32 {
    i32::try_from(call.attempts).unwrap_or(i32::MAX)
}

async fn insert_replies(
    transaction: &DatabaseTransaction,
    replies: Vec<(EventId, ServiceId, NewReply)>,
) -> Result<(), DbErr> {
    if replies.is_empty() {
        return Ok(());
    }
    let created_at = now();
    if transaction.get_database_backend() == DbBackend::Postgres {
        transaction.execute_raw(insert_replies_at_once(replies, created_at)).await?;
        return Ok(());
    }
    let backend = transaction.get_database_backend();
    let sql = "INSERT INTO outhook_reply (event_id, service_id, bot_id, conversation, destination, content,
            widget, state, due, attempts, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, 0, $8)";
    for (event, service, reply) in replies {
        let values: [Value; 8] = [
            event.into(),
            service.into(),
            reply.bot.into(),
            reply.conversation.into(),
            clean(&reply.destination).into(),
            reply.content.into_bytes().into(),
            reply.widget.map(String::into_bytes).into(),
            created_at.into(),
        ];
        transaction.execute_raw(statement(backend, sql, values)).await?;
    }
    Ok(())
}

fn insert_replies_at_once(
    replies: Vec<(EventId, ServiceId, NewReply)>,
    created_at: Millis,
) -> sea_orm::Statement {
    let sql = "INSERT INTO outhook_reply (event_id, service_id, bot_id, conversation, destination, content,
            widget, state, due, attempts, created_at)
        SELECT event_id, service_id, bot_id, conversation, destination, content, NULLIF(widget, ''::bytea),
            0, $8, 0, $8
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::bytea[], $7::bytea[])
          WITH ORDINALITY AS r (event_id, service_id, bot_id, conversation, destination, content, widget, n)
        ORDER BY n";
    let bytes = |text: &str| text.as_bytes().to_vec();
    let values: [Value; 8] = [
        bigints(replies.iter().map(|(event, _, _)| *event)),
        bigints(replies.iter().map(|(_, service, _)| *service)),
        bigints(replies.iter().map(|(_, _, reply)| reply.bot)),
        bigints(replies.iter().map(|(_, _, reply)| reply.conversation)),
        texts(replies.iter().map(|(_, _, reply)| clean(&reply.destination))),
        byte_strings(replies.iter().map(|(_, _, reply)| bytes(&reply.content))),
        byte_strings(replies.iter().map(|(_, _, reply)| bytes(reply.widget.as_deref().unwrap_or_default()))),
        created_at.into(),
    ];
    statement(DbBackend::Postgres, sql, values)
}

/// Returns when the first of those is due that are parked.
async fn end_events(
    transaction: &DatabaseTransaction,
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
                insert_dead_letters(transaction, Some(event), vec![letter]).await?;
                dead.push(event);
            }
        }
    }
    close_events(transaction, &finished, event::State::Finished).await?;
    close_events(transaction, &dead, event::State::Dead).await?;
    Ok(earliest)
}

/// Returns when it is due: as its calls say, one of which a resume may have called forward since it ended.
async fn park_event(
    transaction: &DatabaseTransaction,
    event: EventId,
    due: Millis,
) -> Result<Option<Millis>, DbErr> {
    let sql = "UPDATE outhook_event SET due = COALESCE(
            (SELECT min(c.due) FROM outhook_call c WHERE c.event_id = $1 AND c.state = 0), $2)
        WHERE id = $1 AND state = 0 RETURNING due";
    let park = statement(transaction.get_database_backend(), sql, [event.into(), due.into()]);
    let row = transaction.query_one_raw(park).await?;
    row.map_or(Ok(None), |row| row.try_get("", "due"))
}

/// An event keeps its body if one of its calls failed: a replay needs it.
const BODY_IF_FAILED: &str = "CASE WHEN EXISTS (
    SELECT 1 FROM outhook_call c WHERE c.event_id = outhook_event.id AND c.state = 2) THEN payload END";

async fn close_events(
    transaction: &DatabaseTransaction,
    events: &[EventId],
    state: event::State,
) -> Result<(), DbErr> {
    if events.is_empty() {
        return Ok(());
    }
    let backend = transaction.get_database_backend();
    let among = among(backend, 1);
    let body = if state == event::State::Finished { BODY_IF_FAILED } else { "NULL" };
    let sql = format!(
        "UPDATE outhook_event SET state = $2, finished_at = $3, due = NULL, payload = {body}
         WHERE id {among} AND state = 0"
    );
    let values = [ids(backend, events), state.to_value().into(), now().into()];
    transaction.execute_raw(statement(backend, sql, values)).await?;
    Ok(())
}
