//! `outhook_event`: the inbox. Every delivery is a row here before it is acknowledged.

use sea_orm::entity::prelude::*;

/// One message for one bot.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "outhook_event")]
pub struct Model {
    /// Row id.
    #[sea_orm(primary_key)]
    pub id: i64,
    /// The bot that is called.
    pub bot_id: i64,
    /// The message; with bot and replay the event's identity.
    pub message_id: i64,
    /// 0 as it arrived; replays count up.
    pub replay: i32,
    /// Digest of the conversation, the unit of order.
    pub conversation: i64,
    /// Where it stands.
    pub state: State,
    /// When to work on it next. NULL while a daemon holds it in memory, while it waits behind an
    /// earlier event of its conversation, and when it is done with.
    pub due: Option<i64>,
    /// When outhook stored it.
    pub taken_at: i64,
    /// When it was finished or dead-lettered.
    pub finished_at: Option<i64>,
    /// The delivery's body. It goes to the dead letter of a dead event, and is removed some time after an
    /// event is finished without a failed call.
    pub payload: Option<Vec<u8>>,
    /// It was held when a process ended uncleanly, and may have been what ended it.
    pub is_suspect: bool,
    /// The event that this one repeats, if an operator replayed one that has a row.
    pub replay_of: Option<i64>,
}

/// Where an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "i16", db_type = "SmallInteger")]
pub enum State {
    /// Not all of its calls have finished.
    Unfinished = 0,
    /// Each call has finished.
    Finished = 1,
    /// Its calls could not be made; see `outhook_dead_letter`.
    Dead = 2,
}

/// No relation is followed through the ORM.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
