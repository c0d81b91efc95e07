//! The ledger: how each call of an event stands.

use std::collections::HashSet;

use entity::outhook::call;
use outhook_core::identity::{EventId, Millis, ServiceId};
use sea_orm::{ActiveEnum, ConnectionTrait, DbBackend, DbErr, Statement, Value};

use crate::store::{
    DatedChange, NewReply,
    pool::Transaction,
    sql::{NO_NUMBER, bigints, byte_strings, clean, integers, statement, texts},
};

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
    pub(crate) gate: Option<DatedChange>,
}

impl CallRecord {
    /// The bytes of what endpoints have a hand in.
    pub(crate) fn bytes(&self) -> usize {
        let detail = self.detail.as_ref().map_or(0, String::len);
        let excerpt = self.excerpt.as_ref().map_or(0, Vec::len);
        detail + excerpt + self.reply.as_ref().map_or(0, NewReply::bytes)
    }
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

/// Writes down which services an event calls, when its first call has ended before the others.
pub(super) async fn fix_services(
    transaction: &Transaction,
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

/// The first committed outcome of a call wins. That it waits is not written down twice, after a commit of
/// unknown outcome: a resume may have called it forward in between.
const UNLESS_ENDED: &str = "ON CONFLICT (event_id, service_id) DO UPDATE SET
        service_name = excluded.service_name, state = excluded.state, attempts = excluded.attempts,
        due = excluded.due, fault = excluded.fault, status = excluded.status, detail = excluded.detail,
        excerpt = excluded.excerpt, duration_ms = excluded.duration_ms, ended_at = excluded.ended_at
    WHERE outhook_call.state = 0
        AND (excluded.state <> 0 OR outhook_call.ended_at IS DISTINCT FROM excluded.ended_at)
    RETURNING event_id, service_id";

/// Records calls. Returns how many came too late, and the replies of the others.
pub(super) async fn record_calls(
    transaction: &Transaction,
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

fn upsert_calls(calls: &[CallRecord]) -> Statement {
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

fn upsert_call(backend: DbBackend, call: &CallRecord) -> Statement {
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
