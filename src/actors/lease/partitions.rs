//! Partitions that come and go.

use actix::Context;
use outhook_core::partition::Partitions;

use super::LeaseActor;
use crate::{messages::partitions::LetGo, store::StoreError};

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
        self.giving = self.giving.or(partitions.and(self.leaving));
        self.release(context);
    }

    /// Releases what is to be given back, one transaction after another.
    pub(super) fn release(&mut self, context: &mut Context<Self>) {
        let given = self.giving;
        if given.is_empty() || self.releasing.is_under_way() {
            return;
        }
        let (store, daemon) = (self.store(), self.tenure.daemon());
        let job = async move {
            match store.release_partitions(daemon, given).await {
                // Another daemon changes something: after the next look.
                Err(error) if error.is_lock_timeout() => Ok(false),
                // They have taken over: there is nothing left to give.
                Err(StoreError::Fenced) => Ok(false),
                released => released.map(|()| true),
            }
        };
        self.releasing.begin_stubbornly(
            context,
            |actor| &mut actor.releasing,
            job,
            move |actor, released, context| match released {
                Some(true) => {
                    actor.leaving = actor.leaving.without(given);
                    actor.giving = actor.giving.without(given);
                    log::info!("{} partitions were given back", given.len());
                    actor.look(context);
                    actor.release(context);
                }
                Some(false) => {}
                None => actor.release(context),
            },
        );
    }
}
