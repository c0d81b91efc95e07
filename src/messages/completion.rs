//! What has ended.

use std::sync::{Arc, atomic::AtomicBool};

use actix::Message;
use outhook_core::{
    completion::Turn,
    identity::{Conversation, EventId, EventKey, ServiceId},
};
use tokio::sync::oneshot;

use crate::store::{CallRecord, DeadLetter};

/// One turn of an event at its calls, shared by them.
#[derive(Debug)]
pub(crate) struct EventTurn {
    /// The event's row.
    pub(crate) event: EventId,
    /// Its identity.
    pub(crate) key: EventKey,
    /// Its conversation.
    pub(crate) conversation: Conversation,
    /// Which EventActor works on it.
    pub(crate) shard: usize,
    /// Tells this turn from every other turn of this process.
    pub(crate) number: u64,
    /// The calls of this turn.
    pub(crate) turn: Turn,
    /// All its services with their names, if they were fixed in this turn.
    pub(crate) fixed: Vec<(ServiceId, String)>,
    /// A handler has panicked at one of the calls: the event is set aside once.
    pub(crate) panicked: AtomicBool,
}

/// A service call has ended, for good or until its next try.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ServiceCallFinished {
    /// The turn that the call was part of.
    pub(crate) turn: Arc<EventTurn>,
    /// What to write down of it.
    pub(crate) record: CallRecord,
    /// Its handler panicked: what to set aside.
    pub(crate) panicked: Option<DeadLetter>,
}

/// An event has ended without a call.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct EventEnded {
    /// The event's row.
    pub(crate) event: EventId,
    /// Its identity.
    pub(crate) key: EventKey,
    /// Which EventActor works on it.
    pub(crate) shard: usize,
    /// Set aside with this; otherwise finished, its bot having no services.
    pub(crate) dead: Option<DeadLetter>,
}

/// Asks to be told when everything that was sent before is committed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Flush {
    /// Answered after the commit; dropped if the actor ends before.
    pub(crate) done: oneshot::Sender<()>,
}

/// A ServiceCallActor has ended. It tells the EventActor that spawned it, after its completion was sent.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct CallEnded {
    /// The event.
    pub(crate) event: EventId,
    /// The service.
    pub(crate) service: ServiceId,
    /// Whether it got no usable answer; `None` if nothing was asked of the endpoint.
    pub(crate) failed: Option<bool>,
}
