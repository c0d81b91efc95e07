//! The outbox: replies that were committed with the outcome of their call and are to be posted.

use std::time::Duration;

use entity::outhook::reply;
use outhook_core::{
    identity::{BotId, Conversation, EventId, Millis, ServiceId},
    partition::Partitions,
};
use sea_orm::{ActiveEnum, ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement, Value};

use super::{
    Length, Lock, Store, StoreError,
    pool::Transaction,
    sql::{bigints, byte_strings, clean, in_partitions, members, now, statement, texts},
};
use crate::{fail_points::Step, tenure::Tenure};

/// Behind which a daemon takes replies; its number is added. Any number will do, as long as it is only outhook's.
const OUTBOX_LOCKS: i64 = 0x6f75_7468_6f6f_6b05;

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

impl NewReply {
    pub(crate) fn bytes(&self) -> usize {
        self.destination.len() + self.content.len() + self.widget.as_ref().map_or(0, String::len)
    }
}

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
        self.write(Step::SettleReplies, move |transaction| async move {
            for (reply, result) in &results {
                settle_reply(&transaction, reply, result).await?;
            }
            Ok(())
        })
        .await
    }

    /// Behind which this daemon takes replies and frees them: a first try whose commit is still under way would
    /// leave replies that nobody holds.
    pub(super) fn outbox_lock(&self) -> Lock {
        let daemon = self.tenure.as_ref().map_or(0, Tenure::daemon);
        Lock {
            number: OUTBOX_LOCKS.wrapping_add(daemon << 8),
            patience: Duration::from_secs(5),
            length: Length::Usual,
        }
    }

    /// Makes every pending reply of this daemon's bots due that is not: whoever held them has failed.
    pub(crate) async fn free_replies(&self) -> Result<(), StoreError> {
        let store = self.clone();
        self.write_behind(self.outbox_lock(), Step::FreeReplies, move |transaction| async move {
            free_replies(&transaction, store.partitions()).await?;
            Ok(())
        })
        .await
    }
}

/// Puts replies into the outbox, due at once.
pub(super) async fn insert_replies(
    transaction: &Transaction,
    replies: Vec<(EventId, ServiceId, NewReply)>,
) -> Result<(), DbErr> {
    if replies.is_empty() {
        return Ok(());
    }
    let (backend, created_at) = (transaction.get_database_backend(), now());
    if backend == DbBackend::Postgres {
        transaction.execute_raw(insert_replies_at_once(replies, created_at)).await?;
        return Ok(());
    }
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

fn insert_replies_at_once(replies: Vec<(EventId, ServiceId, NewReply)>, created_at: Millis) -> Statement {
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

/// Makes every pending reply of these partitions due that is not.
pub(super) async fn free_replies(transaction: &Transaction, partitions: Partitions) -> Result<(), DbErr> {
    let mine = in_partitions("bot_id", 2);
    let sql = format!("UPDATE outhook_reply SET due = $1 WHERE state = 0 AND due IS NULL AND {mine}");
    let values = [now().into(), members(partitions)];
    transaction.execute_raw(statement(transaction.get_database_backend(), sql, values)).await?;
    Ok(())
}

async fn settle_reply(transaction: &Transaction, reply: &Outgoing, result: &PostResult) -> Result<(), DbErr> {
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
