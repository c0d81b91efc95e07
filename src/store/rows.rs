//! Handing out rows of the inbox that EventActors ask for, and freeing those of an actor that failed.

use std::collections::{HashMap, VecDeque};

use entity::outhook::call;
use outhook_core::{
    identity::{EventId, EventKey, Millis},
    lanes::{BotWant, LaneWant},
    partition::Partitions,
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, QueryResult, Statement};

use super::{
    Store, StoreError,
    inbox::{BotPage, InboxEvent, LanePage, PendingCall},
    pool::Transaction,
    sql::{among, as_i64, bigints, ids, in_partitions, members, now, statement, texts},
};
use crate::fail_points::Step;

pub(super) const COLUMNS: &str =
    "e.id, e.bot_id, e.message_id, e.replay, e.conversation, e.taken_at, e.due, e.payload,
    e.is_suspect";

#[derive(FromQueryResult)]
pub(super) struct Row {
    id: i64,
    bot_id: i64,
    message_id: i64,
    replay: i32,
    conversation: i64,
    taken_at: i64,
    due: Option<i64>,
    payload: Option<Vec<u8>>,
    is_suspect: bool,
}

impl From<Row> for InboxEvent {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            key: EventKey { bot: row.bot_id, message: row.message_id, replay: row.replay },
            conversation: row.conversation,
            taken_at: row.taken_at,
            payload: row.payload.unwrap_or_default(),
            is_suspect: row.is_suspect,
            calls: Vec::new(),
        }
    }
}

impl Store {
    /// Reads lanes whose events in memory are done.
    pub(crate) async fn rows_of_lanes(&self, wants: Vec<LaneWant>) -> Result<Vec<LanePage>, StoreError> {
        if wants.is_empty() {
            return Ok(Vec::new());
        }
        self.read(|store| async move {
            let mut lanes = store.read_wants(&wants, lanes_at_once, one_lane).await?;
            let mut pages: Vec<LanePage> = wants
                .into_iter()
                .map(|want| lane_page(want, lanes.pop_front().unwrap_or_default()))
                .collect();
            store.load_calls(pages.iter_mut().flat_map(|page| &mut page.events).collect()).await?;
            Ok(pages)
        })
        .await
    }

    /// Reads heads of lanes for bots that have room again.
    pub(crate) async fn rows_of_bots(&self, wants: Vec<BotWant>) -> Result<Vec<BotPage>, StoreError> {
        if wants.is_empty() {
            return Ok(Vec::new());
        }
        self.read(|store| async move {
            let mut heads = store.read_wants(&wants, heads_at_once, heads_of_one).await?;
            let mut pages: Vec<BotPage> = wants
                .into_iter()
                .map(|want| bot_page(&want, heads.pop_front().unwrap_or_default()))
                .collect();
            store.load_calls(pages.iter_mut().flat_map(|page| &mut page.events).collect()).await?;
            Ok(pages)
        })
        .await
    }

    /// The rows of each want: in one statement where that can be written, else in one for each.
    async fn read_wants<W>(
        &self,
        wants: &[W],
        at_once: fn(&[W]) -> Statement,
        one: fn(DbBackend, usize, &W) -> Statement,
    ) -> Result<VecDeque<Vec<Row>>, DbErr> {
        if self.backend() == DbBackend::Postgres {
            return by_want(wants.len(), &self.db().query_all_raw(at_once(wants)).await?);
        }
        let mut rows = Vec::new();
        for (index, want) in wants.iter().enumerate() {
            rows.extend(self.db().query_all_raw(one(self.backend(), index, want)).await?);
        }
        by_want(wants.len(), &rows)
    }

    /// Makes every unfinished event of these partitions due that is not: whoever held them has failed.
    pub(crate) async fn free_events(&self, partitions: Partitions) -> Result<u64, StoreError> {
        self.write_at_length(Step::FreeEvents, move |transaction| async move {
            let freed = free_events(&transaction, partitions, Suspicion::None).await?;
            Ok(freed)
        })
        .await
    }

    /// Adds to events what is known of their calls, if they were worked on before.
    pub(super) async fn load_calls(&self, mut events: Vec<&mut InboxEvent>) -> Result<(), DbErr> {
        if events.is_empty() {
            return Ok(());
        }
        let wanted: Vec<EventId> = events.iter().map(|event| event.id).collect();
        let among = among(self.backend(), 1);
        let sql = format!(
            "SELECT event_id, service_id, attempts, due, state FROM outhook_call
             WHERE event_id {among} ORDER BY event_id, service_id"
        );
        let values = [ids(self.backend(), &wanted)];
        let rows = self.db().query_all_raw(statement(self.backend(), sql, values)).await?;
        let mut calls: HashMap<EventId, Vec<PendingCall>> = HashMap::new();
        for row in rows {
            let event = row.try_get("", "event_id")?;
            calls.entry(event).or_default().push(pending_call(&row)?);
        }
        for event in &mut events {
            event.calls = calls.remove(&event.id).unwrap_or_default();
        }
        Ok(())
    }
}

/// Whether events that are made free may have ended the process that held them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspicion {
    None,
    AnyOfThem,
}

/// When the next row of a table in these partitions is due after a moment.
pub(super) async fn earliest_due(
    connection: &impl ConnectionTrait,
    table: &str,
    after: Millis,
    partitions: Partitions,
) -> Result<Option<Millis>, DbErr> {
    let mine = in_partitions("bot_id", 2);
    let sql = format!("SELECT min(due) AS due FROM {table} WHERE due > $1 AND {mine}");
    let values = [after.into(), members(partitions)];
    let row = connection.query_one_raw(statement(connection.get_database_backend(), sql, values)).await?;
    row.map_or(Ok(None), |row| row.try_get("", "due"))
}

/// Makes every unfinished event of these partitions due that is not.
pub(super) async fn free_events(
    transaction: &Transaction,
    partitions: Partitions,
    suspicion: Suspicion,
) -> Result<u64, DbErr> {
    let sql = format!(
        "UPDATE outhook_event SET due = $1, is_suspect = is_suspect OR $2
         WHERE state = 0 AND due IS NULL AND {}",
        in_partitions("bot_id", 3)
    );
    let values = [now().into(), (suspicion == Suspicion::AnyOfThem).into(), members(partitions)];
    let backend = transaction.get_database_backend();
    Ok(transaction.execute_raw(statement(backend, sql, values)).await?.rows_affected())
}

/// The rows of each want, which a column `want` numbers from 0.
fn by_want(wants: usize, rows: &[QueryResult]) -> Result<VecDeque<Vec<Row>>, DbErr> {
    let mut sorted: VecDeque<Vec<Row>> = (0..wants).map(|_| Vec::new()).collect();
    for row in rows {
        let want: i64 = row.try_get("", "want")?;
        if let Some(rows) = usize::try_from(want).ok().and_then(|want| sorted.get_mut(want)) {
            rows.push(Row::from_query_result(row, "")?);
        }
    }
    Ok(sorted)
}

/// A lane up to the first event that waits for its time.
fn lane_page(want: LaneWant, rows: Vec<Row>) -> LanePage {
    let all = rows.len();
    let free = rows.into_iter().take(want.rows_max).take_while(|row| row.due.is_none());
    let events: Vec<InboxEvent> = free.map(InboxEvent::from).collect();
    LanePage { want, more: all > events.len(), events }
}

fn bot_page(want: &BotWant, rows: Vec<Row>) -> BotPage {
    let more = rows.len() > want.rows_max;
    let events = rows.into_iter().take(want.rows_max).map(InboxEvent::from).collect();
    BotPage { bot: want.bot, events, more }
}

/// The first rows of a lane, one more than is wanted.
fn lane_rows(bot: &str, conversation: &str, rows_max: &str) -> String {
    format!(
        "SELECT {COLUMNS} FROM outhook_event e
         WHERE e.state = 0 AND e.bot_id = {bot} AND e.conversation = {conversation}
         ORDER BY e.message_id, e.id LIMIT {rows_max} + 1"
    )
}

fn one_lane(backend: DbBackend, index: usize, want: &LaneWant) -> Statement {
    let sql = format!("SELECT $4 AS want, r.* FROM ({}) r", lane_rows("$1", "$2", "$3"));
    let values = [want.bot.into(), want.conversation.into(), as_i64(want.rows_max), as_i64(index)];
    statement(backend, sql, values)
}

fn lanes_at_once(wants: &[LaneWant]) -> Statement {
    let rows = lane_rows("w.bot", "w.conversation", "w.rows_max");
    let sql = format!(
        "SELECT w.n - 1 AS want, r.* FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
           WITH ORDINALITY AS w (bot, conversation, rows_max, n)
         CROSS JOIN LATERAL ({rows}) r ORDER BY w.n, r.message_id, r.id"
    );
    let values = [
        bigints(wants.iter().map(|want| want.bot)),
        bigints(wants.iter().map(|want| want.conversation)),
        bigints(wants.iter().map(|want| rows_max(want.rows_max))),
    ];
    statement(DbBackend::Postgres, sql, values)
}

/// The first unfinished event of each conversation in a range, if it is wanted and does not wait for its
/// time. The recursion jumps from one conversation to the next, whatever stands in between. `CROSS JOIN` says
/// to SQLite that it goes before, so that it ends when enough rows are found and not with the last
/// conversation.
fn heads(bot: &str, range: (&str, &str), is_wanted: &str) -> String {
    let (above, up_to) = range;
    format!(
        "WITH RECURSIVE lanes (conversation) AS (
            SELECT min(n.conversation) FROM outhook_event n
            WHERE n.state = 0 AND n.bot_id = {bot} AND n.conversation > {above}
            UNION ALL
            SELECT (SELECT min(n.conversation) FROM outhook_event n
                    WHERE n.state = 0 AND n.bot_id = {bot} AND n.conversation > lanes.conversation)
            FROM lanes WHERE lanes.conversation < {up_to}
         )
         SELECT {COLUMNS} FROM lanes CROSS JOIN outhook_event e
         WHERE lanes.conversation <= {up_to} AND e.due IS NULL AND {is_wanted} AND e.id = (
            SELECT h.id FROM outhook_event h
            WHERE h.state = 0 AND h.bot_id = {bot} AND h.conversation = lanes.conversation
            ORDER BY h.message_id, h.id LIMIT 1)"
    )
}

/// Once round a bot's conversations, beginning behind the one where it last stopped.
fn round(bot: &str, after: &str, rows_max: &str, is_wanted: &str) -> String {
    let (behind, before) =
        (heads(bot, (after, &i64::MAX.to_string()), is_wanted), heads(bot, (LOWEST, after), is_wanted));
    format!("SELECT * FROM ({behind}) behind UNION ALL SELECT * FROM ({before}) before LIMIT {rows_max} + 1")
}

/// Below every conversation.
pub(super) const LOWEST: &str = "(-9223372036854775807 - 1)";

fn heads_of_one(backend: DbBackend, index: usize, want: &BotWant) -> Statement {
    let is_wanted = format!("NOT (e.id {}) AND e.taken_at < $6", among(backend, 4));
    let sql = format!("SELECT $5 AS want, r.* FROM ({}) r", round("$1", "$2", "$3", &is_wanted));
    let values = [
        want.bot.into(),
        want.after.into(),
        as_i64(want.rows_max),
        ids(backend, &want.held),
        as_i64(index),
        taken_before(want).into(),
    ];
    statement(backend, sql, values)
}

fn heads_at_once(wants: &[BotWant]) -> Statement {
    let is_wanted = "NOT (e.id = ANY (w.held::bigint[])) AND e.taken_at < w.taken_before";
    let round = round("w.bot", "w.after", "w.rows_max", is_wanted);
    let sql = format!(
        "SELECT w.n - 1 AS want, r.*
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[])
           WITH ORDINALITY AS w (bot, after, rows_max, held, taken_before, n)
         CROSS JOIN LATERAL ({round}) r ORDER BY w.n, (r.conversation <= w.after), r.conversation"
    );
    let held = |want: &BotWant| {
        let held: Vec<String> = want.held.iter().map(EventId::to_string).collect();
        format!("{{{}}}", held.join(","))
    };
    let values = [
        bigints(wants.iter().map(|want| want.bot)),
        bigints(wants.iter().map(|want| want.after)),
        bigints(wants.iter().map(|want| rows_max(want.rows_max))),
        texts(wants.iter().map(held)),
        bigints(wants.iter().map(taken_before)),
    ];
    statement(DbBackend::Postgres, sql, values)
}

fn taken_before(want: &BotWant) -> Millis {
    want.taken_before.unwrap_or(Millis::MAX)
}

fn rows_max(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn pending_call(row: &QueryResult) -> Result<PendingCall, DbErr> {
    let attempts: i32 = row.try_get("", "attempts")?;
    let state: call::State = row.try_get("", "state")?;
    Ok(PendingCall {
        service: row.try_get("", "service_id")?,
        attempts: attempts.unsigned_abs(),
        due: row.try_get("", "due")?,
        finished: state != call::State::Pending,
    })
}
