//! What is remembered of services, and how many of their gates are closed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use outhook_core::{
    gate::{Gate, Reason},
    identity::{BotId, Millis, ServiceId},
};

use crate::store::{DatedChange, GateChange, StoredGate, now};

/// How long memory knows better than the directory, which may be 5 s old, what has just been committed.
const KNOWN_BETTER: Duration = Duration::from_secs(10);
/// After so long without news, failures are forgotten; that a gate has still to be probed is written down.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// What is remembered of a service.
pub(super) struct Known {
    pub(super) bot: BotId,
    pub(super) gate: Gate,
    /// Why it is closed, in words.
    pub(super) detail: String,
    /// It was opened or closed.
    pub(super) has_changed: bool,
    /// When something of it was last changed.
    pub(super) touched: Instant,
    /// Its endpoint said that it is gone.
    gone_at: Option<Instant>,
    /// When it was last closed, or its endpoint said that it is gone, by the database's clock.
    closed_at: Millis,
    /// When it was resumed that it was opened for last, by the database's clock.
    resumed_at: Option<Millis>,
}

impl Known {
    pub(super) fn new(bot: BotId, gate: Gate) -> Self {
        Self {
            bot,
            gate,
            detail: String::new(),
            has_changed: false,
            touched: Instant::now(),
            gone_at: None,
            closed_at: 0,
            resumed_at: None,
        }
    }

    /// As it is written down, if its gate is closed until a moment.
    pub(super) fn stored(bot: BotId, stored: &StoredGate) -> Option<Self> {
        let gate = stored.restored()?;
        Some(Self { detail: stored.detail.clone(), closed_at: stored.since, ..Self::new(bot, gate) })
    }

    /// A call has opened or closed its gate at this moment; `failure` says in words what it failed with.
    pub(super) fn changed(&mut self, at: Millis, failure: &str) -> DatedChange {
        self.has_changed = true;
        let Some(closed) = self.gate.closed() else {
            return DatedChange { change: GateChange::Opened, at };
        };
        self.closed_at = at;
        self.detail = match closed.reason {
            Reason::Breaker => match self.gate.failures() {
                1 => format!("a call failed with: {failure}"),
                failures => format!("{failures} calls in a row failed, the last with: {failure}"),
            },
            Reason::RetryAfter => "the endpoint asked for no calls until then (Retry-After)".into(),
        };
        DatedChange { change: GateChange::Closed { gate: self.gate, detail: self.detail.clone() }, at }
    }

    /// Its endpoint has said at this moment that it is gone. Returns whether it had not said so before.
    pub(super) fn gone(&mut self, at: Millis) -> bool {
        let (instant, is_news) = (Instant::now(), self.gone_at.is_none());
        (self.gone_at, self.touched, self.has_changed, self.closed_at) = (Some(instant), instant, true, at);
        is_news
    }

    /// Whether its endpoint has said so, so short a time ago that the directory may not know.
    pub(super) fn is_gone(&self) -> bool {
        self.gone_at.is_some_and(|at| at.elapsed() < KNOWN_BETTER)
    }

    /// An operator has resumed it at this moment. Returns whether that opens its gate: not if it was closed
    /// since.
    pub(super) fn resume(&mut self, at: Millis) -> bool {
        let is_shut = self.gate.closed().is_some() || self.gone_at.is_some();
        // If the clock was put back, what closes it from now on is dated before that, and is nevertheless
        // later.
        if !is_shut || self.closed_at > at || self.resumed_at == Some(at) {
            return false;
        }
        // It is remembered, because an older state of the directory may still come.
        *self = Self { has_changed: true, resumed_at: Some(at), ..Self::new(self.bot, Gate::default()) };
        true
    }

    fn is_worth_remembering(&self) -> bool {
        let time = if self.gate.is_plain() { KNOWN_BETTER } else { FORGOTTEN };
        let is_closed = self.gate.closed().is_some_and(|closed| closed.until > now());
        is_closed || self.gate.is_probing() || self.touched.elapsed() < time
    }
}

/// All that is known, by service. Every change of it passes one place, so that closed gates need not be
/// counted anew.
pub(super) struct Memory {
    actor: String,
    known: HashMap<ServiceId, Known>,
    /// Gates that are closed, or have still to be probed.
    by_breaker: usize,
    by_retry_after: usize,
}

impl Memory {
    /// Nothing, for the actor of this name.
    pub(super) fn new(actor: String) -> Self {
        let memory = Self { actor, known: HashMap::new(), by_breaker: 0, by_retry_after: 0 };
        // A predecessor may have left other numbers.
        memory.publish();
        memory
    }

    pub(super) fn get(&self, service: ServiceId) -> Option<&Known> {
        self.known.get(&service)
    }

    /// Changes what is known of a service; `None` is nothing.
    pub(super) fn change<T>(
        &mut self,
        service: ServiceId,
        change: impl FnOnce(&mut Option<Known>) -> T,
    ) -> T {
        let mut known = self.known.remove(&service);
        let before = known.as_ref().and_then(reason);
        let result = change(&mut known);
        let after = known.as_ref().and_then(reason);
        if let Some(known) = known {
            self.known.insert(service, known);
        }
        if before != after {
            before.into_iter().for_each(|reason| *self.count(reason) -= 1);
            after.into_iter().for_each(|reason| *self.count(reason) += 1);
            self.publish();
        }
        result
    }

    /// Forgets what need not be remembered.
    pub(super) fn tidy(&mut self) {
        self.forget(|known| !known.is_worth_remembering());
    }

    /// Forgets these.
    pub(super) fn forget(&mut self, is_to_go: impl Fn(&Known) -> bool) {
        let mut closed = Vec::new();
        self.known.retain(|_, known| {
            let known = &*known;
            let goes = is_to_go(known);
            closed.extend(reason(known).filter(|_| goes));
            !goes
        });
        closed.into_iter().for_each(|reason| *self.count(reason) -= 1);
        self.publish();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    fn count(&mut self, reason: Reason) -> &mut usize {
        match reason {
            Reason::Breaker => &mut self.by_breaker,
            Reason::RetryAfter => &mut self.by_retry_after,
        }
    }

    fn publish(&self) {
        for (reason, closed) in
            [(Reason::Breaker, self.by_breaker), (Reason::RetryAfter, self.by_retry_after)]
        {
            let (actor, reason) = (self.actor.clone(), reason.fault().name());
            metrics::gauge!("outhook_gates_closed", "actor" => actor, "reason" => reason).set(closed as f64);
        }
    }
}

fn reason(known: &Known) -> Option<Reason> {
    known.gate.closed().map(|closed| closed.reason)
}

#[cfg(test)]
mod tests {
    use outhook_core::gate::Closed;

    use super::*;

    fn closed(bot: BotId, reason: Reason) -> Option<Known> {
        Some(Known::new(bot, Gate::restored(Closed { until: Millis::MAX, reason }, 1, 1)))
    }

    fn counted(memory: &Memory) -> (usize, usize) {
        (memory.by_breaker, memory.by_retry_after)
    }

    #[test]
    fn that_an_endpoint_is_gone_is_news_once_until_it_is_resumed() {
        let mut known = Known::new(1, Gate::default());
        assert_eq!([known.gone(5), known.gone(6)], [true, false]);
        assert!(known.resume(6));
        assert!(known.gone(7));
    }

    #[test]
    fn a_resume_opens_once_what_was_closed_before_the_clock_was_put_back() {
        let mut known = Known::new(1, Gate::default());
        known.gone(1000);
        assert!(known.resume(1000));
        known.gone(10);
        assert!(!known.resume(1000));
        assert!(known.resume(11), "another one");
    }

    #[test]
    fn closed_gates_are_counted_by_their_reasons_whatever_becomes_of_them() {
        let mut memory = Memory::new("event-0".into());
        for service in 0..10 {
            let reason = if service < 6 { Reason::Breaker } else { Reason::RetryAfter };
            memory.change(service, |known| *known = closed(service % 2, reason));
        }
        memory.change(10, |known| *known = Some(Known::new(0, Gate::default())));
        assert_eq!(counted(&memory), (6, 4));
        memory.change(0, |known| *known = closed(0, Reason::RetryAfter));
        memory.change(1, |known| *known = closed(1, Reason::Breaker));
        assert_eq!(counted(&memory), (5, 5), "another reason, and the same again");
        assert!(memory.change(2, |known| known.as_mut().is_some_and(|known| known.resume(1))));
        memory.change(3, |known| *known = None);
        memory.change(11, |known| *known = None);
        assert_eq!(counted(&memory), (3, 5), "opened, forgotten, and never known");
        memory.forget(|known| known.bot == 1);
        assert_eq!(counted(&memory), (1, 3));
        memory.tidy();
        assert_eq!(counted(&memory), (1, 3), "they are closed for long");
        memory.forget(|_| true);
        assert_eq!(counted(&memory), (0, 0));
    }
}
