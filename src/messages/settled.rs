//! What was committed.

use actix::Message;
use outhook_core::identity::{EventId, Millis};

/// Events of a shard whose turn is over.
#[derive(Debug, Default, Message)]
#[rtype(result = "()")]
pub(crate) struct EventsSettled {
    /// Finished or dead-lettered: their lanes go on.
    pub(crate) finished: Vec<EventId>,
    /// Waiting for a retry, as rows.
    pub(crate) parked: Vec<EventId>,
}

/// A row will be due at this moment.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct DueAt(pub(crate) Millis);

/// There are new replies in the outbox.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct RepliesCommitted;
