//! Rows that an EventActor wants, and what was read for it.

use actix::Message;
use outhook_core::lanes::Wants;

use crate::store::{BotPage, LanePage};

/// An EventActor has room for rows that were left in the database.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct WantRows {
    /// Which EventActor.
    pub(crate) shard: usize,
    /// What it wants.
    pub(crate) wants: Wants,
}

/// Rows of lanes that had run empty.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct LanesRead {
    /// A page for each lane.
    pub(crate) pages: Vec<LanePage>,
}

/// Rows of bots that have room again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct BotsRead {
    /// A page for each bot.
    pub(crate) pages: Vec<BotPage>,
}

/// A new EventActor takes over a shard: whatever its predecessor held is to be handed out again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct TakeOverShard {
    /// Which EventActor.
    pub(crate) shard: usize,
}

/// The shard's rows are free again: events that come from now on may be worked on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ShardTakenOver;
