//! Renewing the lease.

use std::time::Instant;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::LeaseActor;
use crate::store::{Sighting, StoreError};

impl LeaseActor {
    pub(super) fn renewal(&self) -> impl Future<Output = Result<Sighting, StoreError>> + use<> {
        let (store, daemon, lease) = (self.links.store.clone(), self.tenure.daemon(), self.links.lease);
        async move {
            // A database that says nothing must not keep us from noticing that the lease has run out.
            tokio::time::timeout(lease, store.renew_lease(daemon, lease)).await.unwrap_or_else(|_| {
                Err(StoreError::Ended("the database has not answered within database.lease".into()))
            })
        }
    }

    /// A change may take longer than the lease, if a daemon with much work is buried.
    pub(super) fn renew_beside(&mut self, context: &mut Context<Self>) {
        if !self.is_changing || std::mem::replace(&mut self.renews_beside, true) {
            return;
        }
        let began = Instant::now();
        context.spawn(self.renewal().into_actor(self).map(move |seen, actor, _| {
            actor.renews_beside = false;
            // What went wrong is seen at the next look, too.
            if seen.is_ok() {
                actor.renewed(began + actor.links.lease);
            }
        }));
    }

    /// Without a session the others do not wait for the lease to run out.
    pub(super) fn renewed(&mut self, holds_until: Instant) {
        if self.session_since.is_some() && self.tenure.renew(holds_until) {
            log::info!("the lease holds again");
            self.wake_all();
        }
    }
}
