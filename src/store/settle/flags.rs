//! The flag of Zulip that says that a message is processed.

use entity::zulip::FLAG_READ;
use outhook_core::identity::{EventId, EventKey};
use sea_orm::{ConnectionTrait, DbBackend, DbErr};

use crate::store::{
    pool::Transaction,
    sql::{bigints, statement},
};

/// Marks messages processed where the bot has a row for them. Returns the events whose row somebody
/// else holds locked; waiting for it would hold up the whole batch.
pub(super) async fn flag_messages(
    transaction: &Transaction,
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

async fn flag_one_by_one(transaction: &Transaction, finished: &[(EventId, EventKey)]) -> Result<(), DbErr> {
    let backend = transaction.get_database_backend();
    let sql =
        "UPDATE zerver_usermessage SET flags = flags | $3 WHERE user_profile_id = $1 AND message_id = $2";
    for (_, key) in finished {
        let values = [key.bot.into(), key.message.into(), FLAG_READ.into()];
        transaction.execute_raw(statement(backend, sql, values)).await?;
    }
    Ok(())
}
