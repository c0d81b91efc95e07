//! Several daemons on one database: who is alive, and who works for which bots. What an unclean end leaves.

use sea_orm_migration::{prelude::*, schema::*};

/// See the module.
#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

/// As many as `outhook_core::partition` has.
const PARTITIONS: i32 = 64;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(daemon()).await?;
        manager.create_table(partition()).await?;
        manager.alter_table(suspicion()).await?;
        let numbers: Vec<String> = (0..PARTITIONS).map(|number| format!("({number})")).collect();
        let fill = format!("INSERT INTO outhook_partition (id) VALUES {}", numbers.join(", "));
        manager.get_connection().execute_unprepared(&fill).await?;
        Ok(())
    }
}

fn daemon() -> TableCreateStatement {
    Table::create()
        .table("outhook_daemon")
        .col(pk_auto("id").big_integer())
        .col(text("name"))
        .col(big_integer("alive_until"))
        .col(boolean("is_leaving"))
        .col(boolean("takes_deliveries").default(false))
        .take()
}

fn partition() -> TableCreateStatement {
    Table::create()
        .table("outhook_partition")
        .col(integer("id").primary_key())
        .col(big_integer_null("owner"))
        .take()
}

fn suspicion() -> TableAlterStatement {
    Table::alter().table("outhook_event").add_column(boolean("is_suspect").default(false)).take()
}
