//! `zerver_service`: an endpoint of a bot.

use sea_orm::entity::prelude::*;

/// An endpoint of a bot.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "zerver_service")]
pub struct Model {
    /// Row id.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// Name, at most 100 characters; not unique.
    pub name: String,
    /// The bot.
    pub user_profile_id: i32,
    /// URL that is called.
    pub base_url: String,
    /// Shared secret that the endpoint knows the caller by.
    pub token: String,
    /// 1 generic, 2 Slack.
    pub interface: i16,
}

/// No relation is followed through the ORM.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
