//! Partitions that come and go.

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use outhook_core::partition::Partitions;

use super::LeaseActor;
use crate::messages::partitions::LetGo;

impl LeaseActor {
    pub(super) fn gained(&mut self, gained: Partitions) {
        if !gained.is_empty() {
            self.tenure.gain(gained);
            log::info!("{} partitions more, {} in all", gained.len(), self.tenure.partitions().len());
            self.wake_all();
        }
    }

    /// Begins to give partitions back, and asks again for those that nobody has answered for: whoever was
    /// asked may have failed.
    pub(super) fn let_go(&mut self, partitions: Partitions) {
        self.tenure.give_up(partitions);
        self.leaving = self.leaving.or(partitions);
        if !self.leaving.is_empty() {
            self.links.queue.send(LetGo { partitions: self.leaving });
        }
    }

    pub(super) fn give_back(&mut self, partitions: Partitions, context: &mut Context<Self>) {
        let given = partitions.and(self.leaving).without(self.giving);
        if given.is_empty() {
            return;
        }
        self.giving = self.giving.or(given);
        let (store, daemon) = (self.store(), self.tenure.daemon());
        let release = async move { store.release_partitions(daemon, given).await };
        context.spawn(release.into_actor(self).map(move |released, actor, context| {
            actor.giving = actor.giving.without(given);
            match released {
                Ok(()) => {
                    actor.leaving = actor.leaving.without(given);
                    log::info!("{} partitions were given back", given.len());
                    actor.look(context);
                }
                // They stay among those that are leaving, and are asked for again.
                Err(error) => log::debug!("giving partitions back: {error}"),
            }
        }));
    }
}
