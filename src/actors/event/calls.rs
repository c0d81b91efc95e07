//! Starting calls, as many as may be in flight.

use std::{rc::Rc, sync::Arc};

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use outhook_core::identity::{BotId, EventId, ServiceId};
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};

use super::EventActor;
use crate::{actors::service_call::Assignment, http::NO_FILES_PAUSE};

/// A call in flight; aborted when dropped.
pub(super) struct RunningCall {
    pub(super) bot: BotId,
    task: JoinHandle<()>,
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl EventActor {
    pub(super) fn start_calls(&mut self, context: &mut Context<Self>) {
        // A call that begins after others have taken over would be made twice.
        while self.tenure.holds() && self.lanes.has_ready_calls() {
            if self.tools.client.get().lacks_files() {
                return self.await_files(context);
            }
            let spare = self.spare_permit.take();
            let Some(permit) = spare.or_else(|| Arc::clone(&self.permits).try_acquire_owned().ok()) else {
                return self.await_permit(context);
            };
            let Some((event, service)) = self.lanes.next_call() else { return };
            self.start_call(event, service, permit, context);
        }
    }

    fn start_call(
        &mut self,
        event: EventId,
        service: ServiceId,
        permit: OwnedSemaphorePermit,
        context: &mut Context<Self>,
    ) {
        let Some(held) = self.events.get(&event) else { return };
        let Some(turn) = &held.turn else { return };
        let bot = held.event.key.bot;
        let pass = match self.tools.gates.enter(bot, service) {
            Ok(pass) => pass,
            Err(wait) => return self.hold_back((bot, (event, service)), wait, context),
        };
        let assignment = Assignment {
            event: Arc::clone(&held.event),
            turn: Arc::clone(turn),
            service,
            pass,
            _permit: permit,
            tools: Rc::clone(&self.tools),
            flag: self.flag.clone(),
            owner: context.address().recipient(),
        };
        let call = RunningCall { bot, task: assignment.spawn() };
        self.calls.insert((event, service), call);
        self.progress.moved();
    }

    fn await_files(&mut self, context: &mut Context<Self>) {
        if !std::mem::replace(&mut self.awaits_files, true) {
            context.run_later(NO_FILES_PAUSE, |actor, context| {
                actor.awaits_files = false;
                actor.pump(context);
            });
        }
    }

    /// All calls of the process are in flight; one permit wakes this actor.
    fn await_permit(&mut self, context: &mut Context<Self>) {
        if std::mem::replace(&mut self.awaits_permit, true) {
            return;
        }
        let permit = Arc::clone(&self.permits).acquire_owned();
        context.spawn(permit.into_actor(self).map(|permit, actor, context| {
            actor.awaits_permit = false;
            // Kept for the first call that can use it: given back, it would go to whoever waits next.
            actor.spare_permit = permit.ok();
            actor.pump(context);
            actor.spare_permit = None;
        }));
    }
}
