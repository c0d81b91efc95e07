//! Whether events that could be called are called. What does not end in time elsewhere is named there: jobs of
//! the database, messages that are not handled. Here is seen what would otherwise get lost in silence.

use std::time::Duration;

use actix::{AsyncContext, Context};

use super::EventActor;
use crate::health::{Health, Pulse};

/// How often it is seen whether there is anything to begin.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Progress {
    pulse: Pulse,
    /// Events that have begun and whose bot is being looked up.
    lookups: usize,
}

impl Progress {
    pub(super) fn new(shard: usize, health: &Health) -> Self {
        let pulse = health.pulse(format!("event-{shard}"), "has events to call, and has begun no call");
        Self { pulse, lookups: 0 }
    }

    /// A call has begun, or something is done that comes before it.
    pub(super) fn moved(&self) {
        self.pulse.beat();
    }

    pub(super) fn lookup_began(&mut self) {
        self.lookups += 1;
    }

    pub(super) fn lookup_ended(&mut self) {
        self.lookups -= 1;
        self.moved();
    }
}

impl EventActor {
    pub(super) fn check_progress_regularly(&mut self, context: &mut Context<Self>) {
        if !self.has_calls_to_begin() {
            self.progress.moved();
        }
        context.run_later(CHECK_EVERY, Self::check_progress_regularly);
    }

    /// Whether an event could be called that no limit keeps from it.
    fn has_calls_to_begin(&self) -> bool {
        let is_at_limit = self.awaits_permit || self.awaits_files;
        let is_ready = self.lanes.has_ready_event() || self.lanes.has_ready_calls() && !is_at_limit;
        self.is_working() && (is_ready || self.progress.lookups > 0 || self.lanes.awaits_rows())
    }
}
