//! A look at the moment when the next row is due.

use std::time::Duration;

use actix::{Actor, AsyncContext, Context, SpawnHandle};
use outhook_core::identity::Millis;

use crate::store::now;

/// The timer of the earliest row that is known to wait for its time.
#[derive(Default)]
pub(super) struct DueTimer(Option<(Millis, SpawnHandle)>);

impl DueTimer {
    /// Calls `look` at this moment, unless it is called before. `look` says that the timer has [`fired`].
    ///
    /// [`fired`]: DueTimer::fired
    pub(super) fn arm<A: Actor<Context = Context<A>>>(
        &mut self,
        due: Millis,
        context: &mut Context<A>,
        look: fn(&mut A, &mut Context<A>),
    ) {
        if self.0.is_some_and(|(armed, _)| armed <= due) {
            return;
        }
        if let Some((_, timer)) = self.0.take() {
            context.cancel_future(timer);
        }
        let wait = Duration::from_millis(u64::try_from(due - now()).unwrap_or(0));
        self.0 = Some((due, context.run_later(wait, look)));
    }

    /// The same at the end of a slot of so many milliseconds: what is due within one is looked for together.
    pub(super) fn arm_in_slots<A: Actor<Context = Context<A>>>(
        &mut self,
        due: Millis,
        slot_ms: Millis,
        context: &mut Context<A>,
        look: fn(&mut A, &mut Context<A>),
    ) {
        self.arm(due.saturating_add(slot_ms - 1) / slot_ms * slot_ms, context, look);
    }

    /// It has called, and can be armed for any moment again.
    pub(super) fn fired(&mut self) {
        self.0 = None;
    }
}
