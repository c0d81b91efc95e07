//! Bots take turns in the inbox and in the outbox: what finds the next bot with due rows, and the next of its
//! rows.

use sea_orm_migration::prelude::*;

/// See the module.
#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

/// Of expressions, so that only they serve what asks for turns. With columns there is a choice, and
/// PostgreSQL makes it by statistics that don't know of what has just come: it may walk from end to end
/// through an index of the moments, for each bot.
///
/// Replies come before events, as in a settlement: on PostgreSQL each waits for locks of the other.
const INDEXES: [&str; 3] = [
    "DROP INDEX outhook_reply_turn",
    "CREATE INDEX outhook_reply_turn ON outhook_reply ((bot_id + 0), COALESCE(due, 0), id)
        WHERE COALESCE(due, 0) > 0",
    "CREATE INDEX outhook_event_turn ON outhook_event ((bot_id + 0), COALESCE(due, 0), id)
        WHERE COALESCE(due, 0) > 0",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        for index in INDEXES {
            connection.execute_unprepared(index).await?;
        }
        Ok(())
    }
}
