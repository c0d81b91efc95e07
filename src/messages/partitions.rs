//! Partitions that come and go. `LetGo` travels down the pipeline: each actor passes on what it has nothing
//! of any more, and the LeaseActor gets back what may be given to others.

use actix::Message;
use outhook_core::partition::Partitions;

/// Begin nothing more of these partitions, and pass on those of which nothing is under way.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct LetGo {
    /// Which.
    pub(crate) partitions: Partitions,
}

/// Whether this daemon could take deliveries has changed.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct BrokerChanged;

/// There are partitions, or the lease holds again: what waited for that may begin.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct MayWork;
