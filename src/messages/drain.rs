//! The end of work.

use actix::Message;
use tokio::sync::oneshot;

/// Begin nothing new; `done` is answered when nothing is under way any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    /// Answered when the actor has nothing under way; dropped if it ends before.
    pub(crate) done: oneshot::Sender<()>,
}

/// End at once. What was under way is aborted.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct Stop;
