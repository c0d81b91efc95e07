//! `zerver_userprofile`: an account, here a bot or its owner.

use sea_orm::entity::prelude::*;

/// An account, here a bot or its owner.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "zerver_userprofile")]
pub struct Model {
    /// Row id.
    #[sea_orm(primary_key)]
    pub id: i32,
    /// Its organisation.
    pub realm_id: i32,
    /// The direct-message recipient that stands for this account.
    pub recipient_id: Option<i32>,
    /// Address it signs in with.
    pub delivery_email: String,
    /// Address shown to others; for bots the same.
    pub email: String,
    /// Display name.
    pub full_name: String,
    /// Whether it is a bot.
    pub is_bot: bool,
    /// Kind of bot; 3 is outgoing webhook.
    pub bot_type: Option<i16>,
    /// The bot's owner.
    pub bot_owner_id: Option<i32>,
    /// Password for Zulip's REST API.
    pub api_key: String,
    /// Whether it may be used.
    pub is_active: bool,
}

/// No relation is followed through the ORM.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
