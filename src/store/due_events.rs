//! Handing out the events whose time has come. Bots take turns, so that one with many holds up nobody.

use std::collections::{HashMap, HashSet};

use outhook_core::{
    batch::batch_len,
    identity::{BotId, EventId, Millis},
    lanes::Neighbours,
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};

use super::{
    Store, StoreError,
    inbox::{Taken, neighbour},
    rows::{COLUMNS, Row, earliest_due},
    sql::{among, as_i64, ids, statement},
    turns::{Round, bots_in_turn, first_due_rows},
};
use crate::fail_points::Step;

/// The most events of one bot that are read at a time while there is more than a page: not many, as those of
/// other bots that come meanwhile wait for the page.
const ROWS_OF_BOT_MAX: usize = 100;

/// A condition: the event of this row is unfinished. Only the primary key serves it, whatever a planner
/// believes of the others.
fn is_unfinished(row: &str) -> String {
    format!("{row}.state + 0 = 0")
}

/// Events that may be worked on now.
#[derive(Debug)]
pub(crate) struct DueEvents {
    /// Lowest message first.
    pub(crate) events: Vec<Taken>,
    /// When the next one's time comes.
    pub(crate) next: Option<Millis>,
    /// The bot behind which the next turn begins.
    pub(crate) last: BotId,
}

/// Which events are read.
struct Page {
    events: Vec<(EventId, BotId)>,
    may_be_more: bool,
    last: BotId,
}

impl Store {
    /// The events of this daemon's bots whose time has come by `due_by`, at most `rows_max`. If there are
    /// more, bots take turns, the first behind `after`, and have equal shares. They are not claimed yet:
    /// whatever fails here has changed nothing.
    pub(crate) async fn due_events(
        &self,
        due_by: Millis,
        after: BotId,
        rows_max: usize,
    ) -> Result<DueEvents, StoreError> {
        self.read(move |store| async move {
            let page = store.due_page(due_by, after, rows_max).await?;
            let page = store.within_bytes(page).await?;
            let events: Vec<EventId> = page.events.iter().map(|(event, _)| *event).collect();
            let events = store.read_due(&events).await?;
            let next = if page.may_be_more {
                Some(due_by)
            } else {
                earliest_due(store.db(), "outhook_event", due_by, store.partitions()).await?
            };
            Ok(DueEvents { events, next, last: page.last })
        })
        .await
    }

    /// Claims events that were due by a moment to be worked on from memory, and returns which of them still
    /// are: not those that were finished since, or wait for another attempt. Doing it again after an error of
    /// unknown outcome does no harm.
    pub(crate) async fn claim_events(
        &self,
        events: Vec<EventId>,
        due_by: Millis,
    ) -> Result<HashSet<EventId>, StoreError> {
        let store = self.clone();
        self.write(Step::ClaimEvents, move |transaction| async move {
            let (among, is_unfinished) = (among(store.backend(), 1), is_unfinished("outhook_event"));
            let sql = format!(
                "UPDATE outhook_event SET due = NULL
                 WHERE id {among} AND {is_unfinished} AND (due IS NULL OR due <= $2) RETURNING id"
            );
            let values = [ids(store.backend(), &events), due_by.into()];
            let rows = transaction.query_all_raw(statement(store.backend(), sql, values)).await?;
            Ok(rows.iter().map(|row| row.try_get("", "id")).collect::<Result<_, _>>()?)
        })
        .await
    }

    /// All due events, if they are no more than a page, else a share of each bot's. Those of other daemons'
    /// bots count for the page too and are left out afterwards: a query that left them out might have to read
    /// any number of them.
    async fn due_page(&self, due_by: Millis, after: BotId, rows_max: usize) -> Result<Page, DbErr> {
        let first = self.earliest_of_all(due_by, rows_max.saturating_add(1)).await?;
        let partitions = self.partitions();
        if first.len() <= rows_max {
            let events = first.into_iter().filter(|(_, bot)| partitions.hold(*bot)).collect();
            return Ok(Page { events, may_be_more: false, last: after });
        }
        let round =
            Round { table: "outhook_event", due_by, after, waiting: &[], bots_max: rows_max, partitions };
        let bots = bots_in_turn(self.db(), round).await?;
        let rows_of_each = (rows_max / bots.len().max(1)).clamp(1, ROWS_OF_BOT_MAX);
        let mut events = self.first_of_each(&bots, due_by, rows_of_each).await?;
        let may_be_more = bots.len() == rows_max || has_filled(&events, rows_of_each);
        // In turn, so that a page that is cut goes on with the right bot.
        let turns: HashMap<BotId, usize> = bots.iter().copied().zip(0..).collect();
        events.sort_by_key(|(_, bot)| turns.get(bot).copied());
        Ok(Page { events, may_be_more, last: bots.last().copied().unwrap_or(after) })
    }

    /// As much of a page as may be read together.
    async fn within_bytes(&self, mut page: Page) -> Result<Page, DbErr> {
        if page.events.len() < 2 {
            return Ok(page);
        }
        let events: Vec<EventId> = page.events.iter().map(|(event, _)| *event).collect();
        let among = among(self.backend(), 1);
        let sql = format!(
            "SELECT id, CAST(length(payload) AS BIGINT) AS bytes FROM outhook_event
             WHERE id {among} AND payload IS NOT NULL"
        );
        let query = statement(self.backend(), sql, [ids(self.backend(), &events)]);
        let mut bytes: HashMap<EventId, i64> = HashMap::new();
        for row in self.db().query_all_raw(query).await? {
            bytes.insert(row.try_get("", "id")?, row.try_get("", "bytes")?);
        }
        let size = |event: &EventId| usize::try_from(bytes.get(event).copied().unwrap_or(0)).unwrap_or(0);
        let fits = batch_len(events.iter().map(size), usize::MAX);
        if fits < page.events.len() {
            page.events.truncate(fits);
            page.may_be_more = true;
            page.last = page.events.last().map_or(page.last, |(_, bot)| *bot);
        }
        Ok(page)
    }

    async fn earliest_of_all(&self, due_by: Millis, rows_max: usize) -> Result<Vec<(EventId, BotId)>, DbErr> {
        let sql = "SELECT id, bot_id FROM outhook_event WHERE due <= $1 ORDER BY due LIMIT $2";
        let values = [due_by.into(), as_i64(rows_max)];
        self.events_and_bots(statement(self.backend(), sql, values)).await
    }

    async fn first_of_each(
        &self,
        bots: &[BotId],
        due_by: Millis,
        rows_max: usize,
    ) -> Result<Vec<(EventId, BotId)>, DbErr> {
        let first = |bot| first_due_rows("outhook_event", bot, "$1", "$3");
        let sql = match self.backend() {
            DbBackend::Postgres => format!(
                "SELECT page.id, page.bot_id FROM unnest($2::bigint[]) AS b (bot_id) CROSS JOIN LATERAL ({}) page",
                first("b.bot_id")
            ),
            _ => format!(
                "SELECT e.id, e.bot_id FROM json_each($2) b CROSS JOIN outhook_event e
                 WHERE e.id IN (SELECT page.id FROM ({}) page)",
                first("b.value")
            ),
        };
        let values = [due_by.into(), ids(self.backend(), bots), as_i64(rows_max)];
        self.events_and_bots(statement(self.backend(), sql, values)).await
    }

    async fn events_and_bots(&self, query: Statement) -> Result<Vec<(EventId, BotId)>, DbErr> {
        let rows = self.db().query_all_raw(query).await?;
        rows.iter().map(|row| Ok((row.try_get("", "id")?, row.try_get("", "bot_id")?))).collect()
    }

    async fn read_due(&self, events: &[EventId]) -> Result<Vec<Taken>, DbErr> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let (earlier, among) = (neighbour('<', "e"), among(self.backend(), 1));
        let is_unfinished = is_unfinished("e");
        let sql = format!(
            "SELECT {COLUMNS}, {earlier} AS earlier FROM outhook_event e WHERE e.id {among} AND {is_unfinished}"
        );
        let values = [ids(self.backend(), events)];
        let mut due = Vec::with_capacity(events.len());
        for row in self.db().query_all_raw(statement(self.backend(), sql, values)).await? {
            let earlier = row.try_get("", "earlier")?;
            let event = Row::from_query_result(&row, "")?.into();
            due.push(Taken { event, neighbours: Neighbours { earlier, later: true } });
        }
        due.sort_by_key(|taken: &Taken| (taken.event.key.message, taken.event.id));
        self.load_calls(due.iter_mut().map(|taken| &mut taken.event).collect()).await?;
        Ok(due)
    }
}

/// Whether one of these bots has so many of the events.
fn has_filled(events: &[(EventId, BotId)], share: usize) -> bool {
    let mut counts: HashMap<BotId, usize> = HashMap::new();
    events.iter().for_each(|(_, bot)| *counts.entry(*bot).or_default() += 1);
    counts.values().any(|count| *count >= share)
}

#[cfg(test)]
mod tests;
