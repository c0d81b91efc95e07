//! The inbox, the ledger, the outbox and the dead letters.

use sea_orm_migration::{prelude::*, schema::*};

/// See the module.
#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

/// Partial, so that their size follows the work that is left, not the history that is kept.
const INDEXES: [&str; 6] = [
    "CREATE UNIQUE INDEX outhook_event_identity ON outhook_event (bot_id, message_id, replay)",
    "CREATE INDEX outhook_event_lane ON outhook_event (bot_id, conversation, message_id, id) WHERE state = 0",
    "CREATE INDEX outhook_event_due ON outhook_event (due) WHERE due IS NOT NULL",
    "CREATE UNIQUE INDEX outhook_reply_call ON outhook_reply (event_id, service_id)",
    "CREATE INDEX outhook_reply_lane ON outhook_reply (bot_id, conversation, id) WHERE state = 0",
    "CREATE INDEX outhook_reply_due ON outhook_reply (due) WHERE due IS NOT NULL",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(event()).await?;
        manager.create_table(call()).await?;
        manager.create_table(reply()).await?;
        manager.create_table(dead_letter()).await?;
        let connection = manager.get_connection();
        for index in INDEXES {
            connection.execute_unprepared(index).await?;
        }
        Ok(())
    }
}

fn event() -> TableCreateStatement {
    Table::create()
        .table("outhook_event")
        .col(pk_auto("id").big_integer())
        .col(big_integer("bot_id"))
        .col(big_integer("message_id"))
        .col(integer("replay"))
        .col(big_integer("conversation"))
        .col(small_integer("state"))
        .col(big_integer_null("due"))
        .col(big_integer("taken_at"))
        .col(big_integer_null("finished_at"))
        .col(blob_null("payload"))
        .take()
}

fn call() -> TableCreateStatement {
    Table::create()
        .table("outhook_call")
        .col(big_integer("event_id"))
        .col(big_integer("service_id"))
        .col(text("service_name"))
        .col(small_integer("state"))
        .col(integer("attempts"))
        .col(big_integer_null("due"))
        .col(text_null("fault"))
        .col(small_integer_null("status"))
        .col(text_null("detail"))
        .col(blob_null("excerpt"))
        .col(integer("duration_ms"))
        .col(big_integer_null("ended_at"))
        .primary_key(Index::create().col("event_id").col("service_id"))
        .take()
}

fn reply() -> TableCreateStatement {
    Table::create()
        .table("outhook_reply")
        .col(pk_auto("id").big_integer())
        .col(big_integer("event_id"))
        .col(big_integer("service_id"))
        .col(big_integer("bot_id"))
        .col(big_integer("conversation"))
        .col(text("destination"))
        .col(blob("content"))
        .col(blob_null("widget"))
        .col(small_integer("state"))
        .col(big_integer_null("due"))
        .col(integer("attempts"))
        .col(big_integer("created_at"))
        .col(big_integer_null("settled_at"))
        .col(text_null("detail"))
        .take()
}

fn dead_letter() -> TableCreateStatement {
    Table::create()
        .table("outhook_dead_letter")
        .col(pk_auto("id").big_integer())
        .col(big_integer_null("event_id"))
        .col(big_integer_null("bot_id"))
        .col(big_integer_null("message_id"))
        .col(text("reason"))
        .col(text("detail"))
        .col(blob("payload"))
        .col(big_integer("created_at"))
        .take()
}
