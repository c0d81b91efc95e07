//! The actors of a process, by their mailboxes.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::{
    actors::{
        event::EventActor, flag::FlagActor, history::HistoryActor, lease::LeaseActor, queue::QueueActor,
        reply::ReplyActor,
    },
    mailbox::{Mailbox, MailboxStats},
    messages::{
        completion::Flush,
        drain::{Drain, Stop},
    },
};

/// The mailboxes of all actors.
#[derive(Clone)]
pub(super) struct Actors {
    pub(super) queue: Mailbox<QueueActor>,
    pub(super) events: Vec<Mailbox<EventActor>>,
    pub(super) flag: Mailbox<FlagActor>,
    pub(super) replies: Mailbox<ReplyActor>,
    pub(super) history: Mailbox<HistoryActor>,
    pub(super) lease: Mailbox<LeaseActor>,
    /// Whether there may be other daemons, so that there is a LeaseActor.
    pub(super) has_peers: bool,
}

impl Actors {
    /// Mailboxes of actors that are not there yet, `pool` of them of EventActors.
    pub(super) fn new(pool: usize, has_peers: bool) -> Self {
        Self {
            lease: Mailbox::new("lease"),
            has_peers,
            queue: Mailbox::new("queue"),
            events: (0..pool).map(|index| Mailbox::new(format!("event-{index}"))).collect(),
            flag: Mailbox::new("flag"),
            replies: Mailbox::new("reply"),
            history: Mailbox::new("history"),
        }
    }

    /// The figures of all actors.
    pub(super) fn stats(&self) -> Vec<Arc<MailboxStats>> {
        let mut stats = vec![self.queue.stats()];
        stats.extend(self.events.iter().map(Mailbox::stats));
        stats.extend([self.flag.stats(), self.replies.stats(), self.history.stats()]);
        stats.extend(self.has_peers.then(|| self.lease.stats()));
        stats
    }

    /// Lets each end its work, in the order of the pipeline. Whether everything that was known is committed.
    pub(super) async fn drain(&self) -> bool {
        ask(|done| self.queue.send(Drain { done })).await;
        ask(|done| self.lease.send(Drain { done })).await;
        let drained = self.events.iter().map(|actor| ask(|done| actor.send(Drain { done })));
        futures_util::future::join_all(drained).await;
        let is_committed = self.flush().await;
        ask(|done| self.replies.send(Drain { done })).await && is_committed
    }

    /// Has outcomes and posts that are known committed. Whether they are.
    pub(super) async fn flush(&self) -> bool {
        let is_committed = ask(|done| self.flag.send(Flush { done })).await;
        ask(|done| self.replies.send(Flush { done })).await && is_committed
    }

    /// Ends them all.
    pub(super) fn stop(&self) {
        self.queue.send(Stop);
        self.events.iter().for_each(|actor| actor.send(Stop));
        self.flag.send(Stop);
        self.replies.send(Stop);
        self.history.send(Stop);
        self.lease.send(Stop);
    }
}

/// Asks an actor to answer when it is done; `false` if it ended instead.
async fn ask(send: impl FnOnce(oneshot::Sender<()>)) -> bool {
    let (done, answer) = oneshot::channel();
    send(done);
    answer.await.is_ok()
}
