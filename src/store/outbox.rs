//! The outbox: replies that were committed with the outcome of their call and are to be posted.

use entity::outhook::reply;
use outhook_core::{
    identity::{BotId, Conversation, EventId, Millis},
    partition::Partitions,
};
use sea_orm::{ActiveEnum, ConnectionTrait, DatabaseTransaction, DbErr, FromQueryResult, Value};

use super::{
    Store, StoreError,
    sql::{among, clean, ids, in_partitions, members, now, statement},
};
use crate::fail_points::Step;

/// A reply to post.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub(crate) struct Outgoing {
    /// Its row: the order within a conversation.
    pub(crate) id: i64,
    /// The event that it answers.
    pub(crate) event_id: EventId,
    /// The bot that says it.
    pub(crate) bot_id: BotId,
    /// The conversation.
    pub(crate) conversation: Conversation,
    /// Where to post.
    pub(crate) destination: String,
    /// Markdown, UTF-8.
    pub(crate) content: Vec<u8>,
    /// `widget_content`, UTF-8.
    pub(crate) widget: Option<Vec<u8>>,
    /// Attempts made before.
    pub(crate) attempts: i32,
    /// When it was committed.
    pub(crate) created_at: Millis,
}

/// What came of an attempt to post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PostResult {
    /// It is posted.
    Posted,
    /// It can't be posted.
    GivenUp(String),
    /// To be tried again.
    Again {
        /// When.
        due: Millis,
        /// Why.
        detail: String,
    },
    /// Not tried: its bot has to wait.
    PutBack {
        /// When.
        due: Millis,
    },
}

impl Store {
    /// Takes the replies of this daemon's bots whose time has come, at most one of each conversation, its oldest. Those
    /// behind it are put back until [`Store::settle_replies`] calls them forward.
    ///
    /// Only the ReplyActor calls this, and never beside `settle_replies`: the two keep each other's
    /// rows in order by taking turns.
    /// Also says when the next reply's time comes. After an error it is unknown what was taken:
    /// [`Store::free_replies`] sets it right.
    pub(crate) async fn take_due_replies(
        &self,
        rows_max: usize,
    ) -> Result<(Vec<Outgoing>, Option<Millis>), StoreError> {
        self.on_main(move |store| async move {
            let now = now();
            let transaction = store.begin().await?;
            let (replies, seen) = take_heads(&transaction, rows_max, now, store.partitions()).await?;
            Self::commit(transaction, Step::TakeReplies).await?;
            let next =
                if seen == rows_max { Some(now) } else { store.earliest_due("outhook_reply", now).await? };
            Ok((replies, next))
        })
        .await
    }

    /// Records what came of posts, and calls the next reply of each conversation forward.
    pub(crate) async fn settle_replies(
        &self,
        results: Vec<(Outgoing, PostResult)>,
    ) -> Result<(), StoreError> {
        self.on_main(|store| async move {
            let transaction = store.begin().await?;
            for (reply, result) in &results {
                settle_reply(&transaction, reply, result).await?;
            }
            Self::commit(transaction, Step::SettleReplies).await?;
            Ok(())
        })
        .await
    }

    /// Makes every pending reply of this daemon's bots due that is not: whoever held them has failed.
    pub(crate) async fn free_replies(&self) -> Result<(), StoreError> {
        self.on_main(|store| async move {
            let transaction = store.begin().await?;
            free_replies(&transaction, store.partitions()).await?;
            Self::commit(transaction, Step::FreeReplies).await
        })
        .await
    }
}

/// Makes every pending reply of these partitions due that is not.
pub(super) async fn free_replies(
    transaction: &DatabaseTransaction,
    partitions: Partitions,
) -> Result<(), DbErr> {
    let mine = in_partitions("bot_id", 2);
    let sql = format!("UPDATE outhook_reply SET due = $1 WHERE state = 0 AND due IS NULL AND {mine}");
    let values = [now().into(), members(partitions)];
    transaction.execute_raw(statement(transaction.get_database_backend(), sql, values)).await?;
    Ok(())
}

/// The heads among the due replies, and how many were looked at.
async fn take_heads(
    transaction: &DatabaseTransaction,
    rows_max: usize,
    now: Millis,
    partitions: Partitions,
) -> Result<(Vec<Outgoing>, usize), DbErr> {
    let backend = transaction.get_database_backend();
    let mine = in_partitions("r.bot_id", 3);
    let sql = format!(
        "SELECT r.id, r.event_id, r.bot_id, r.conversation, r.destination, r.content, r.widget,
            r.attempts, r.created_at,
            EXISTS (SELECT 1 FROM outhook_reply n WHERE n.state = 0 AND n.bot_id = r.bot_id
                AND n.conversation = r.conversation AND n.id < r.id) AS behind
        FROM outhook_reply r WHERE r.due <= $1 AND r.state = 0 AND {mine} ORDER BY r.due, r.id LIMIT $2"
    );
    let values = [now.into(), super::inbox::as_i64(rows_max), members(partitions)];
    let rows = transaction.query_all_raw(statement(backend, sql, values)).await?;
    let mut seen = Vec::with_capacity(rows.len());
    let mut heads = Vec::with_capacity(rows.len());
    for row in &rows {
        let behind: bool = row.try_get("", "behind")?;
        let reply = Outgoing::from_query_result(row, "")?;
        seen.push(reply.id);
        if !behind {
            heads.push(reply);
        }
    }
    if !seen.is_empty() {
        let among = among(backend, 1);
        let sql = format!("UPDATE outhook_reply SET due = NULL WHERE id {among}");
        transaction.execute_raw(statement(backend, sql, [ids(backend, &seen)])).await?;
    }
    Ok((heads, seen.len()))
}

async fn settle_reply(
    transaction: &DatabaseTransaction,
    reply: &Outgoing,
    result: &PostResult,
) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    let (state, due, detail) = match result {
        PostResult::Posted => (reply::State::Posted, None, None),
        PostResult::GivenUp(detail) => (reply::State::GivenUp, None, Some(clean(detail))),
        PostResult::Again { due, detail } => (reply::State::Pending, Some(*due), Some(clean(detail))),
        PostResult::PutBack { due } => (reply::State::Pending, Some(*due), None),
    };
    let settled_at = (state != reply::State::Pending).then(now);
    let tries = i32::from(!matches!(result, PostResult::PutBack { .. }));
    let sql = "UPDATE outhook_reply SET state = $2, due = $3, detail = COALESCE($4, detail), settled_at = $5,
        attempts = attempts + $6 WHERE id = $1 AND state = 0";
    let values: [Value; 6] = [
        reply.id.into(),
        state.to_value().into(),
        due.into(),
        detail.into(),
        settled_at.into(),
        tries.into(),
    ];
    transaction.execute_raw(statement(backend, sql, values)).await?;
    if state == reply::State::Pending {
        return Ok(());
    }
    let sql = "UPDATE outhook_reply SET due = $3 WHERE due IS NULL AND id = (
        SELECT min(n.id) FROM outhook_reply n WHERE n.state = 0 AND n.bot_id = $1 AND n.conversation = $2)";
    let values = [reply.bot_id.into(), reply.conversation.into(), now().into()];
    transaction.execute_raw(statement(backend, sql, values)).await?;
    Ok(())
}
