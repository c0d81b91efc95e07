//! Detects events that are ready but never called. Health already watches database jobs and mailboxes.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};

use actix::{AsyncContext, Context};

use super::EventActor;
use crate::health::{Health, Pulse};

const CHECK_EVERY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Progress {
    pulse: Pulse,
    lookups: Lookups,
    last_lookup: u64,
    /// Since when an event could begin that does not.
    ready_since: Option<Instant>,
}

/// When each lookup of a bot began that has not ended.
type Lookups = Rc<RefCell<BTreeMap<u64, Instant>>>;

/// A lookup of a bot, until dropped.
pub(super) struct Lookup {
    lookups: Lookups,
    number: u64,
}

impl Drop for Lookup {
    fn drop(&mut self) {
        self.lookups.borrow_mut().remove(&self.number);
    }
}

impl Progress {
    pub(super) fn new(shard: usize, health: &Health) -> Self {
        let pulse = health.pulse(format!("event-{shard}"), "has ready events but has begun no call");
        Self { pulse, lookups: Lookups::default(), last_lookup: 0, ready_since: None }
    }

    pub(super) fn begin_lookup(&mut self) -> Lookup {
        self.last_lookup += 1;
        self.lookups.borrow_mut().insert(self.last_lookup, Instant::now());
        Lookup { lookups: Rc::clone(&self.lookups), number: self.last_lookup }
    }

    /// A call has begun.
    pub(super) fn moved(&mut self) {
        self.ready_since = None;
    }

    fn check(&mut self, is_ready: bool) {
        let now = Instant::now();
        self.ready_since = is_ready.then(|| self.ready_since.unwrap_or(now));
        // Numbers rise with time.
        let oldest_lookup = self.lookups.borrow().values().next().copied();
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
