//! `outhook_dead_letter`: deliveries whose calls could not be made.

use sea_orm::entity::prelude::*;

/// A delivery whose calls could not be made.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outhook_dead_letter")]
pub struct Model {
    /// Row id.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The event, if it was one.
    pub event_id: Option<i64>,
    /// The bot, if it could be read.
    pub bot_id: Option<i64>,
    /// The message, if it could be read.
    pub message_id: Option<i64>,
    /// Stable name of the reason.
    pub reason: String,
    /// The reason in words.
    pub detail: String,
    /// The delivery's whole body; empty once it was replayed or dropped.
    pub payload: Vec<u8>,
    /// When it was set aside.
    pub created_at: i64,
    /// The event as which it was replayed.
    pub replayed_by: Option<i64>,
    /// How large the body was, if it was dropped because its bot has too many dead letters.
    pub dropped_bytes: Option<i64>,
}

/// No relation is followed through the ORM.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
