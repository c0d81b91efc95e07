//! Events to work on.

use actix::Message;

use crate::store::Taken;

/// Events of one shard of bots, lowest message first.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ProcessEvents {
    /// The events.
    pub(crate) events: Vec<Taken>,
}
