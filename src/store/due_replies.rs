//! Handing out the replies whose time has come. Bots take turns, so that one with many holds up nobody.

use std::collections::HashMap;

use outhook_core::{
    fair_share::{Claim, share_out},
    identity::{BotId, Millis},
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, QueryResult};

use super::{
    Outgoing, Store, StoreError,
    pool::Transaction,
    rows::earliest_due,
    sql::{among, as_i64, bigints, ids, now, statement},
    turns::{Round, bots_in_turn, first_due_rows},
};
use crate::fail_points::Step;

/// So many rows at least are looked at for heads at a time, of all bots together.
const ROWS_MIN: usize = 64;

/// What the ReplyActor has room for, and whom it serves already.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    /// How many posts may be begun.
    pub(crate) free: usize,
    /// The bot of each post under way.
    pub(crate) in_flight: Vec<BotId>,
    /// Bots whose replies are to stay where they are.
    pub(crate) waiting: Vec<BotId>,
    /// The bot behind which the turn begins.
    pub(crate) after: BotId,
}

/// Replies to post now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DueReplies {
    /// At most one of each conversation, its oldest.
    pub(crate) replies: Vec<Outgoing>,
    /// When the next one's time comes, but for those of bots that wait.
    pub(crate) next: Option<Millis>,
    /// The bot behind which the next turn begins.
    pub(crate) last: BotId,
}

/// A bot in turn and the first of its due replies, by their ids.
#[derive(Debug, Default)]
struct Page {
    bot: BotId,
    /// The oldest of their conversations.
    heads: Vec<i64>,
    behind: Vec<i64>,
}

impl Store {
    /// Takes replies of this daemon's bots whose time has come. A place goes to the bot that has the fewest
    /// posts under way, and among several to the first behind the one that was served last. Replies that are
    /// met behind an older one of their conversation are put back until [`Store::settle_replies`] calls them
    /// forward.
    ///
    /// However many replies a bot has, only the first few are looked at, each is put back at most once, and
    /// those of bots that wait are not touched.
    ///
    /// Only the ReplyActor calls this, and never beside `settle_replies`: the two keep each other's
    /// rows in order by taking turns. After an error it is unknown what was taken:
    /// [`Store::free_replies`] sets it right.
    pub(crate) async fn take_due_replies(&self, places: Places) -> Result<DueReplies, StoreError> {
        let store = self.clone();
        self.write_behind(self.outbox_lock(), Step::TakeReplies, move |transaction| async move {
            let now = now();
            // So there is a bot without posts under way for each place, or these are all bots.
            let bots_max = places.free.saturating_add(distinct(&places.in_flight));
            let round = Round {
                table: "outhook_reply",
                due_by: now,
                after: places.after,
                waiting: &places.waiting,
                bots_max,
                partitions: store.partitions(),
            };
            let bots = bots_in_turn(&transaction, round).await?;
            let rows_max = places.free.max(ROWS_MIN).div_ceil(bots.len().max(1));
            let pages = first_rows(&transaction, &bots, rows_max, now).await?;
            let served = serve(&places, &pages);
            let behind: Vec<i64> = pages.iter().flat_map(|page| page.behind.iter().copied()).collect();
            put_back(&transaction, &behind).await?;
            let replies = take(&transaction, &served.heads).await?;
            let may_be_more = bots.len() == bots_max || pages.iter().any(|page| page.rows() == rows_max);
            let next = if !served.is_full && may_be_more {
                Some(now)
            } else {
                earliest_due(&transaction, "outhook_reply", now, store.partitions()).await?
            };
            Ok(DueReplies { replies, next, last: served.last })
        })
        .await
    }
}

impl Page {
    fn rows(&self) -> usize {
        self.heads.len() + self.behind.len()
    }
}

fn distinct(bots: &[BotId]) -> usize {
    let mut bots = bots.to_vec();
    bots.sort_unstable();
    bots.dedup();
    bots.len()
}

/// The first due replies of each bot, at most `rows_max`: in one statement where that can be written, else in
/// one for each.
async fn first_rows(
    transaction: &Transaction,
    bots: &[BotId],
    rows_max: usize,
    now: Millis,
) -> Result<Vec<Page>, DbErr> {
    let backend = transaction.get_database_backend();
    let rows_of = |bot: &str| {
        let first = first_due_rows("outhook_reply", bot, "$1", "$3");
        format!(
            "SELECT r.id, r.bot_id, r.moment,
                EXISTS (SELECT 1 FROM outhook_reply n WHERE n.state = 0 AND n.bot_id = r.bot_id
                    AND n.conversation = r.conversation AND n.id < r.id) AS behind
             FROM ({first}) r ORDER BY r.moment, r.id"
        )
    };
    if backend == DbBackend::Postgres {
        let rows_of_each = rows_of("b.bot_id");
        let sql = format!(
            "SELECT page.id, page.bot_id, page.behind FROM unnest($2::bigint[]) AS b (bot_id)
             CROSS JOIN LATERAL ({rows_of_each}) page ORDER BY page.moment, page.id"
        );
        let values = [now.into(), bigints(bots.iter().copied()), as_i64(rows_max)];
        return by_bot(bots, &transaction.query_all_raw(statement(backend, sql, values)).await?);
    }
    let (sql, mut rows) = (rows_of("$2"), Vec::new());
    for bot in bots {
        let values = [now.into(), (*bot).into(), as_i64(rows_max)];
        rows.extend(transaction.query_all_raw(statement(backend, sql.as_str(), values)).await?);
    }
    by_bot(bots, &rows)
}

/// Sorts the rows into a page for each bot, in the order of the bots.
fn by_bot(bots: &[BotId], rows: &[QueryResult]) -> Result<Vec<Page>, DbErr> {
    let mut pages: Vec<Page> = bots.iter().map(|bot| Page { bot: *bot, ..Page::default() }).collect();
    let numbers: HashMap<BotId, usize> = bots.iter().copied().zip(0..).collect();
    for row in rows {
        let bot: BotId = row.try_get("", "bot_id")?;
        if let Some(page) = numbers.get(&bot).and_then(|at| pages.get_mut(*at)) {
            let is_behind: bool = row.try_get("", "behind")?;
            let list = if is_behind { &mut page.behind } else { &mut page.heads };
            list.push(row.try_get("", "id")?);
        }
    }
    Ok(pages)
}

/// Which replies are posted now.
struct Served {
    heads: Vec<i64>,
    /// Every place is taken.
    is_full: bool,
    last: BotId,
}

fn serve(places: &Places, pages: &[Page]) -> Served {
    let mut held: HashMap<BotId, usize> = HashMap::new();
    for bot in &places.in_flight {
        *held.entry(*bot).or_default() += 1;
    }
    let claims: Vec<Claim> = pages
        .iter()
        .map(|page| Claim { held: held.get(&page.bot).copied().unwrap_or(0), wants: page.heads.len() })
        .collect();
    let turns = share_out(places.free, &claims);
    let mut heads: Vec<_> = pages.iter().map(|page| page.heads.iter().copied()).collect();
    let is_full = turns.len() == places.free;
    // With places left, everybody who was looked at has had a turn.
    let last = if is_full { turns.last().and_then(|at| pages.get(*at)) } else { pages.last() };
    Served {
        last: last.map_or(places.after, |page| page.bot),
        heads: turns.iter().filter_map(|at| heads.get_mut(*at)?.next()).collect(),
        is_full,
    }
}

/// They are called forward when what they are behind is settled.
async fn put_back(transaction: &Transaction, replies: &[i64]) -> Result<(), DbErr> {
    if replies.is_empty() {
        return Ok(());
    }
    let backend = transaction.get_database_backend();
    let sql = format!("UPDATE outhook_reply SET due = NULL WHERE id {}", among(backend, 1));
    transaction.execute_raw(statement(backend, sql, [ids(backend, replies)])).await?;
    Ok(())
}

/// Takes these replies, oldest first.
async fn take(transaction: &Transaction, replies: &[i64]) -> Result<Vec<Outgoing>, DbErr> {
    if replies.is_empty() {
        return Ok(Vec::new());
    }
    let backend = transaction.get_database_backend();
    let sql = format!(
        "UPDATE outhook_reply SET due = NULL WHERE id {} AND state = 0
         RETURNING id, event_id, bot_id, conversation, destination, content, widget, attempts, created_at",
        among(backend, 1)
    );
    let rows = transaction.query_all_raw(statement(backend, sql, [ids(backend, replies)])).await?;
    let mut taken: Vec<Outgoing> =
        rows.iter().map(|row| Outgoing::from_query_result(row, "")).collect::<Result<_, _>>()?;
    taken.sort_unstable_by_key(|reply| reply.id);
    Ok(taken)
}

#[cfg(test)]
mod tests;
