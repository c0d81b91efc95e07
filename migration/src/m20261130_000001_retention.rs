//! How long bodies are kept: what finds those that are old enough, and which dead letters have lost theirs.

use sea_orm_migration::{prelude::*, schema::*};

/// See the module.
#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

/// Partial, so that their size follows what is kept, not the history.
const INDEXES: [&str; 4] = [
    "CREATE INDEX outhook_event_body ON outhook_event (finished_at, id) WHERE state = 1 AND payload IS NOT NULL",
    "CREATE INDEX outhook_reply_text ON outhook_reply (settled_at, id) WHERE state = 1 AND length(content) > 0",
    "CREATE INDEX outhook_dead_letter_open ON outhook_dead_letter (created_at, id) WHERE replayed_by IS NULL",
    "CREATE INDEX outhook_dead_letter_body ON outhook_dead_letter ((COALESCE(bot_id, -1)), id)
        WHERE length(payload) > 0",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let dropped = big_integer_null("dropped_bytes");
        let letters = Table::alter().table("outhook_dead_letter").add_column(dropped).take();
        manager.alter_table(letters).await?;
        for index in INDEXES {
            manager.get_connection().execute_unprepared(index).await?;
        }
        Ok(())
    }
}
