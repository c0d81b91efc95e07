//! Zulip's tables for a database without Zulip: the same names, only the columns that are used.

use sea_orm_migration::{prelude::*, schema::*};

/// See the module.
#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(realm()).await?;
        manager.create_table(user_profile()).await?;
        manager.create_table(service()).await?;
        manager.create_table(user_message()).await?;
        let connection = manager.get_connection();
        connection
            .execute_unprepared("CREATE INDEX zerver_service_user ON zerver_service (user_profile_id)")
            .await?;
        connection
            .execute_unprepared(
                "CREATE UNIQUE INDEX zerver_usermessage_pair ON zerver_usermessage (user_profile_id, message_id)",
            )
            .await?;
        connection.execute_unprepared("INSERT INTO zerver_realm (id, string_id) VALUES (1, '')").await?;
        Ok(())
    }
}

fn realm() -> TableCreateStatement {
    Table::create().table("zerver_realm").col(pk_auto("id")).col(string_uniq("string_id")).take()
}

fn user_profile() -> TableCreateStatement {
    Table::create()
        .table("zerver_userprofile")
        .col(pk_auto("id"))
        .col(integer("realm_id"))
        .col(integer_null("recipient_id"))
        .col(string("delivery_email"))
        .col(string("email"))
        .col(string("full_name"))
        .col(boolean("is_bot"))
        .col(small_integer_null("bot_type"))
        .col(integer_null("bot_owner_id"))
        .col(string_uniq("api_key"))
        .col(boolean("is_active"))
        .take()
}

fn service() -> TableCreateStatement {
    Table::create()
        .table("zerver_service")
        .col(pk_auto("id").big_integer())
        .col(string("name"))
        .col(integer("user_profile_id"))
        .col(text("base_url"))
        .col(text("token"))
        .col(small_integer("interface").default(1))
        .take()
}

fn user_message() -> TableCreateStatement {
    Table::create()
        .table("zerver_usermessage")
        .col(pk_auto("id").big_integer())
        .col(integer("user_profile_id"))
        .col(big_integer("message_id"))
        .col(big_integer("flags"))
        .take()
}
