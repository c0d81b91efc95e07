//! `outhook_call`: the ledger. One row for each call of a service for an event.

use sea_orm::entity::prelude::*;

/// The call of one service for one event, over all its attempts.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outhook_call")]
pub struct Model {
    /// The event.
    #[sea_orm(primary_key, auto_increment = false)]
    pub event_id: i64,
    /// The service.
    #[sea_orm(primary_key, auto_increment = false)]
    pub service_id: i64,
    /// The service's name when it was last called.
    pub service_name: String,
    /// Where it stands.
    pub state: State,
    /// Attempts made.
    pub attempts: i32,
    /// When the next attempt is due.
    pub due: Option<i64>,
    /// What went wrong in the last attempt, by its stable name.
    pub fault: Option<String>,
    /// HTTP status of the last answer.
    pub status: Option<i16>,
    /// What went wrong, in words.
    pub detail: Option<String>,
    /// First bytes of the last answer, scrubbed of secrets.
    pub excerpt: Option<Vec<u8>>,
    /// How long the last attempt took, in milliseconds.
    pub duration_ms: i32,
    /// When the last attempt ended.
    pub ended_at: Option<i64>,
}

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "i16", db_type = "SmallInteger")]
pub enum State {
    /// Another attempt is to come.
    Pending = 0,
    /// The endpoint took the event.
    Succeeded = 1,
    /// It failed for good.
    Failed = 2,
    /// The service is gone; nothing was left to call.
    Removed = 3,
}

/// No relation is followed through the ORM.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
