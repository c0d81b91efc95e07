//! Events, as the inbox hands them out.

use outhook_core::{
    identity::{BotId, EventId, EventKey, Millis, ServiceId},
    lanes::{LaneWant, Neighbours, Ticket},
};

/// An event that is handed out to be worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InboxEvent {
    /// Its row.
    pub(crate) id: EventId,
    /// Its identity.
    pub(crate) key: EventKey,
    /// Its place in order.
    pub(crate) conversation: i64,
    /// When outhook stored it.
    pub(crate) taken_at: Millis,
    /// The delivery's body.
    pub(crate) payload: Vec<u8>,
    /// Whether it may have ended a process.
    pub(crate) is_suspect: bool,
    /// Calls that were fixed when it was worked on before; empty for a fresh one.
    pub(crate) calls: Vec<PendingCall>,
}

impl InboxEvent {
    /// Its place in its lane.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket {
            event: self.id,
            bot: self.key.bot,
            conversation: self.conversation,
            message: self.key.message,
            taken_at: self.taken_at,
        }
    }

    /// Whether the call of a service of its bot has not finished, as far as is known of its calls.
    pub(crate) fn has_yet_to_call(&self, service: ServiceId) -> bool {
        self.calls.is_empty() || self.calls.iter().any(|call| call.service == service && !call.finished)
    }
}

/// A call of an event that was worked on before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PendingCall {
    /// The service.
    pub(crate) service: ServiceId,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// When the next attempt is due; `None` if no attempt has ended yet.
    pub(crate) due: Option<Millis>,
    /// Its outcome is committed.
    pub(crate) finished: bool,
}

/// An event that was taken from the inbox because it was due, or has just been stored.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    /// The event.
    pub(crate) event: InboxEvent,
    /// What else its lane holds.
    pub(crate) neighbours: Neighbours,
}

/// Rows of one lane, in order, up to the first that waits for its time.
#[derive(Debug)]
pub(crate) struct LanePage {
    /// What was asked for.
    pub(crate) want: LaneWant,
    /// The events.
    pub(crate) events: Vec<InboxEvent>,
    /// The lane has other unfinished events.
    pub(crate) more: bool,
}

/// Heads of lanes of one bot.
#[derive(Debug)]
pub(crate) struct BotPage {
    /// The bot.
    pub(crate) bot: BotId,
    /// The events.
    pub(crate) events: Vec<InboxEvent>,
    /// There may be others.
    pub(crate) more: bool,
}
