//! When to look for rows: at a moment, when somebody else has written, and now and then.

use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use outhook_core::identity::Millis;

use super::{QueueActor, RETRY_DELAY_MAX};
use crate::{
    fail_points,
    store::{StoreError, Wake},
};

/// The database is looked at this often even if nobody says that there is something new.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Retries are looked for together, so often at most: many of them are hardly more work than a few. In
/// milliseconds.
const DUE_SLOT_MS: Millis = 100;

/// Whose complaint it is if nothing can be heard.
const LISTENER: &str = "listen";

impl QueueActor {
    /// Looks at this moment or a little later, unless it looks before.
    pub(super) fn arm_due_timer(&mut self, due: Millis, context: &mut Context<Self>) {
        self.due_timer.arm_in_slots(due, DUE_SLOT_MS, context, |actor, context| {
            actor.due_timer.fired();
            actor.look(context);
        });
    }

    pub(super) fn look(&mut self, context: &mut Context<Self>) {
        self.is_due = true;
        self.begin_jobs(context);
    }

    pub(super) fn look_regularly(context: &mut Context<Self>) {
        context.run_later(LOOK_EVERY, |actor, context| {
            fail_points::place("QueueActor.timer");
            actor.look(context);
            Self::look_regularly(context);
        });
    }

    /// Looks whenever somebody else has written to the inbox.
    pub(super) fn listen(&mut self, context: &mut Context<Self>) {
        self.health.withdraw(LISTENER);
        let store = self.store.clone();
        let listen = async move { store.listen().await };
        context.spawn(listen.into_actor(self).map(|wake, actor, context| actor.heard(wake, context)));
    }

    fn heard(&mut self, wake: Result<Wake, StoreError>, context: &mut Context<Self>) {
        match wake {
            Ok(mut wake) => {
                // What was written before we began to listen is found by looking now.
                self.health.database_answers(LISTENER);
                self.look(context);
                let next = async move { wake.heard().await.map(|()| wake) };
                context.spawn(next.into_actor(self).map(|wake, actor, context| actor.heard(wake, context)));
            }
            Err(error) => {
                self.health.database_is_away(LISTENER, &error);
                context.run_later(RETRY_DELAY_MAX, Self::listen);
            }
        }
    }
}
