//! Storing one event that somebody waits for.

use outhook_core::{identity::BotId, partition::Partitions};
use sea_orm::{ConnectionTrait, DbErr};

use super::{NewEvent, insert::insert_events, is_known};
use crate::{
    fail_points::Step,
    store::{
        Store, StoreError,
        pool::Transaction,
        sql::{as_i64, statement},
        wake::announce,
    },
};

/// What became of an event that was offered to the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is stored, and due at once.
    Stored,
    /// It had been stored before.
    Known,
    /// Its bot has as many unfinished events as it may: nothing was stored.
    Full,
}

impl Store {
    /// Stores an event unless it is known or its bot is full. Whoever offers it can wait and try again, so
    /// no dead letter is made of it.
    ///
    /// Of events that come at the same time on PostgreSQL, a few more may be stored.
    pub(crate) async fn admit_event(
        &self,
        event: NewEvent,
        stored_per_bot: usize,
    ) -> Result<Admission, StoreError> {
        self.write(Step::PutIntoInbox, move |transaction| async move {
            if is_known(&transaction, &event).await? {
                return Ok(Admission::Known);
            }
            if is_full(&transaction, event.header.bot, stored_per_bot).await? {
                return Ok(Admission::Full);
            }
            let stored = insert_events(&transaction, vec![event], Partitions::NONE).await?;
            announce(&transaction).await?;
            Ok(if stored.rows > 0 { Admission::Stored } else { Admission::Known })
        })
        .await
    }
}

async fn is_full(transaction: &Transaction, bot: BotId, stored_per_bot: usize) -> Result<bool, DbErr> {
    let sql = "SELECT count(*) AS unfinished
        FROM (SELECT 1 FROM outhook_event WHERE state = 0 AND bot_id = $1 LIMIT $2) e";
    let values = [bot.into(), as_i64(stored_per_bot)];
    let row = transaction.query_one_raw(statement(transaction.get_database_backend(), sql, values)).await?;
    let unfinished: i64 = row.map_or(Ok(0), |row| row.try_get("", "unfinished"))?;
    Ok(usize::try_from(unfinished).is_ok_and(|unfinished| unfinished >= stored_per_bot))
}
