//! `zerver_usermessage`: a message as one account has it.

use sea_orm::entity::prelude::*;

/// A message as one account has it. Many bots have no row for a message they are called for.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "zerver_usermessage")]
pub struct Model {
    /// Row id.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The account.
    pub user_profile_id: i32,
    /// The message.
    pub message_id: i64,
    /// Bit field; bit 0 is `read`.
    pub flags: i64,
}

/// No relation is followed through the ORM.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
