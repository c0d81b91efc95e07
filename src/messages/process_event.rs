//! Events to work on.

use std::time::Instant;

use actix::Message;

use crate::store::Taken;

/// Events of one shard of bots, lowest message first.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ProcessEvents {
    /// The events.
    pub(crate) events: Vec<Taken>,
    /// A moment before their rows were read or written.
    pub(crate) read_at: Instant,
}
