//! `outhook_gate`: services that may not be called as they come, and those that an operator has resumed.
//! Others have no row.

use sea_orm::entity::prelude::*;

/// Why a service is not called, or only to see how it does.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outhook_gate")]
pub struct Model {
    /// The service.
    #[sea_orm(primary_key, auto_increment = false)]
    pub service_id: i64,
    /// Why.
    pub reason: Reason,
    /// Until when, after which one call decides; `None` until an operator resumes it.
    pub closed_until: Option<i64>,
    /// When that was decided.
    pub since: i64,
    /// Why, in words.
    pub detail: String,
    /// Failures in a row.
    pub failures: i32,
    /// How often the breaker closed the gate without an answer in between.
    pub openings: i32,
}

/// Why a service is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "i16", db_type = "SmallInteger")]
pub enum Reason {
    /// Its endpoint failed too often in a row.
    Breaker = 0,
    /// Its endpoint asked for it.
    RetryAfter = 1,
    /// An operator paused it.
    Paused = 2,
    /// Its endpoint said that it is gone.
    Gone = 3,
    /// It may be called: an operator has taken back whatever closed its gate before `since`.
    Resumed = 4,
}

/// No relation is followed through the ORM.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
