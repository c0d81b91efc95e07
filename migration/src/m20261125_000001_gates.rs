//! Services that may not be called as they come: breaker, `Retry-After`, pause.

use sea_orm_migration::{prelude::*, schema::*};

/// See the module.
#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let gate = Table::create()
            .table("outhook_gate")
            .col(big_integer("service_id").primary_key())
            .col(small_integer("reason"))
            .col(big_integer_null("closed_until"))
            .col(big_integer("since"))
            .col(text("detail"))
            .col(integer("failures"))
            .col(integer("openings"))
            .take();
        manager.create_table(gate).await
    }
}
