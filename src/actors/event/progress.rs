//! Detects events that are ready but never called. Health already watches database jobs and mailboxes.

use std::time::{Duration, Instant};

use actix::{AsyncContext, Context};

use super::EventActor;
use crate::health::{Health, Pulse, Running, UnderWay};

const CHECK_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Progress {
    pulse: Pulse,
    /// Lookups of bots.
    lookups: UnderWay,
    /// Since when an event could begin that does not.
    ready_since: Option<Instant>,
}

impl Progress {
    pub(super) fn new(shard: usize, health: &Health) -> Self {
        let pulse = health.pulse(format!("event-{shard}"), "has ready events but has begun no call");
        Self { pulse, lookups: UnderWay::default(), ready_since: None }
    }

    pub(super) fn begin_lookup(&self) -> Running {
        self.lookups.begin("lookup")
    }

    /// A call has begun.
    pub(super) fn moved(&mut self) {
        self.ready_since = None;
    }

    fn check(&mut self, is_ready: bool) {
        let now = Instant::now();
        self.ready_since = is_ready.then(|| self.ready_since.unwrap_or(now));
        let oldest_lookup = self.lookups.oldest().map(|(_, began)| began);
        self.pulse.beat_at(self.ready_since.into_iter().chain(oldest_lookup).min().unwrap_or(now));
    }
}

impl EventActor {
    pub(super) fn check_progress_regularly(&mut self, context: &mut Context<Self>) {
        let is_ready = self.has_events_to_begin();
        self.progress.check(is_ready);
        context.run_later(CHECK_EVERY, Self::check_progress_regularly);
    }

    /// Whether no limit keeps an event or a call from beginning.
    fn has_events_to_begin(&self) -> bool {
        let has_calls = self.lanes.has_ready_calls() && !self.awaits_permit && !self.awaits_files;
        self.is_working() && self.tenure.holds() && (has_calls || self.lanes.has_ready_event())
    }
}
