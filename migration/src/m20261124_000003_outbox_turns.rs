//! Bots take turns in the outbox: what finds the next bot with replies, and the next of its replies.

use sea_orm_migration::prelude::*;

/// See the module.
#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

/// Partial, so that its size follows what is to be posted.
const INDEX: &str =
    "CREATE INDEX outhook_reply_turn ON outhook_reply (bot_id, due, id) WHERE due IS NOT NULL";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(INDEX).await?;
        Ok(())
    }
}
