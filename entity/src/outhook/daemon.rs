//! `outhook_daemon`: the daemons that work on this database.

use sea_orm::entity::prelude::*;

/// A daemon. The row of one that ended in good order is gone.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outhook_daemon")]
pub struct Model {
    /// Row id; a daemon that was declared dead and goes on gets another.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// Host and process, for people.
    pub name: String,
    /// It counts as dead after this, by the database's clock.
    pub alive_until: i64,
    /// It drains, and wants no partitions.
    pub is_leaving: bool,
    /// It takes the broker's deliveries; one does at most.
    pub takes_deliveries: bool,
}

/// No relation is followed through the ORM.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
