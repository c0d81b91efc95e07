//! The outbox: replies that were committed with the outcome of their call and are to be posted.

use entity::outhook::reply;
use outhook_core::{
    identity::{BotId, Conversation, EventId, Millis},
    partition::Partitions,
};
use sea_orm::{ActiveEnum, ConnectionTrait, DatabaseTransaction, DbErr, FromQueryResult, Value};

use super::{
    Store, StoreError,
    sql::{clean, in_partitions, members, now, statement},
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
