//! Replays and how long history is kept: which event repeats which, and what finds old rows.

use sea_orm_migration::{prelude::*, schema::*};

/// See the module.
#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

/// Partial, so that those of replays, failures and dead letters cost nothing where there are none.
const INDEXES: [&str; 5] = [
    "CREATE INDEX outhook_event_finished ON outhook_event (finished_at, id) WHERE finished_at IS NOT NULL",
    "CREATE INDEX outhook_event_replay ON outhook_event (replay_of) WHERE replay_of IS NOT NULL",
    "CREATE INDEX outhook_call_failed ON outhook_call (event_id) WHERE state = 2",
    "CREATE INDEX outhook_dead_letter_event ON outhook_dead_letter (event_id) WHERE event_id IS NOT NULL",
    "CREATE INDEX outhook_dead_letter_replay ON outhook_dead_letter (replayed_by) WHERE replayed_by IS NOT NULL",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.alter_table(added("outhook_event", "replay_of")).await?;
        manager.alter_table(added("outhook_dead_letter", "replayed_by")).await?;
        let connection = manager.get_connection();
        for index in INDEXES {
            connection.execute_unprepared(index).await?;
        }
        Ok(())
    }
}

/// A column that names an event's row, or none.
fn added(table: &'static str, column: &'static str) -> TableAlterStatement {
    Table::alter().table(table).add_column(big_integer_null(column)).take()
}
