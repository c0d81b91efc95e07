//! When to look for rows: at a moment, when somebody else has written, and now and then.

use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, fut::wrap_future};
use outhook_core::identity::Millis;

use super::QueueActor;
use crate::{database_job::Ended, fail_points, store::FileWatch};

/// The database is looked at this often even if nobody says that there is something new.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The wait before a file that could not be read is watched again.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// Retries are looked for together, so often at most: many of them are hardly more work than a few. In
/// milliseconds.
const DUE_SLOT_MS: Millis = 100;

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
            if !fail_points::is_lost("look") {
                actor.look(context);
            }
            Self::look_regularly(context);
        });
    }

    /// Looks whenever another process has written to an SQLite file; what PostgreSQL tells, LeaseActor hears.
    pub(super) fn watch_file(&mut self, context: &mut Context<Self>) {
        let store = self.store.clone();
        let begin = async move { store.watch_file().await };
        self.watching.begin(
            context,
            |actor| &mut actor.watching,
            begin,
            |actor, ended, context| match ended {
                Ended::Done(Some(watch)) => {
                    // What was written before is found by looking now.
                    actor.look(context);
                    Self::wait_for_change(watch, context);
                }
                Ended::Done(None) => {}
                Ended::Again => actor.watch_file(context),
                Ended::Failed(error) => {
                    log::error!("the database file can't be watched: {error}");
                    context.run_later(WATCH_AGAIN, Self::watch_file);
                }
            },
        );
    }

    fn wait_for_change(mut watch: FileWatch, context: &mut Context<Self>) {
        let change = async move { watch.changed().await.map(|()| watch) };
        context.spawn(wrap_future::<_, Self>(change).map(|changed, actor, context| {
            actor.look(context);
            match changed {
                Ok(watch) => Self::wait_for_change(watch, context),
                Err(_) => drop(context.run_later(WATCH_AGAIN, Self::watch_file)),
            }
        }));
    }
}
