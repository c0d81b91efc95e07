//! A look at the moment when the next thing is due that waits for its time.

use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, SpawnHandle};
use outhook_core::identity::Millis;

use crate::store::now;

/// A moment of some clock.
pub(super) trait Moment: Copy + PartialOrd {
    /// How long it is until then.
    fn wait(self) -> Duration;
}

/// Of the database's clock, which may be put back.
impl Moment for Millis {
    fn wait(self) -> Duration {
        Duration::from_millis(u64::try_from(self - now()).unwrap_or(0))
    }
}

impl Moment for Instant {
    fn wait(self) -> Duration {
        self.saturating_duration_since(Self::now())
    }
}

/// The timer of the earliest that is known to wait for its time.
pub(super) struct DueTimer<M = Millis>(Option<(M, SpawnHandle)>);

impl<M> Default for DueTimer<M> {
    fn default() -> Self {
        Self(None)
    }
}

impl<M: Moment> DueTimer<M> {
    /// Calls `look` at this moment, unless it is called before. `look` says that the timer has [`fired`].
    ///
    /// [`fired`]: DueTimer::fired
    pub(super) fn arm<A: Actor<Context = Context<A>>>(
        &mut self,
        due: M,
        context: &mut Context<A>,
        look: fn(&mut A, &mut Context<A>),
    ) {
        if self.0.is_some_and(|(armed, _)| armed <= due) {
            return;
        }
        if let Some((_, timer)) = self.0.take() {
            context.cancel_future(timer);
        }
        self.0 = Some((due, context.run_later(due.wait(), look)));
    }

    /// It has called, and can be armed for any moment again.
    pub(super) fn fired(&mut self) {
        self.0 = None;
    }
}

impl DueTimer {
    /// The same as [`DueTimer::arm`] at the end of a slot of so many milliseconds: what is due within one is
    /// looked for together.
    pub(super) fn arm_in_slots<A: Actor<Context = Context<A>>>(
        &mut self,
        due: Millis,
        slot_ms: Millis,
        context: &mut Context<A>,
        look: fn(&mut A, &mut Context<A>),
    ) {
        self.arm(due.saturating_add(slot_ms - 1) / slot_ms * slot_ms, context, look);
    }
}
