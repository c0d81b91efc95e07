//! `outhook_partition`: which daemon works for which bots.

use sea_orm::entity::prelude::*;

/// The bots whose id has the same lowest six bits.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outhook_partition")]
pub struct Model {
    /// 0 to 63.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    /// The daemon that works on their events.
    pub owner: Option<i64>,
}

/// No relation is followed through the ORM.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
