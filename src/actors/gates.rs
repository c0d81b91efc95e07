//! The gates of the services of one shard of bots, and the paces of these bots. EventActor and its calls share them;
//! all of these live in one thread.
//!
//! What is remembered is bounded: a gate that is open and has seen no failure takes no memory for long, and neither does
//! one of which nothing was heard for long. What closed a gate is committed with the outcome of the call that did it, so a new
//! generation, or another daemon, takes it from there ([`Gates::adopt`]).

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    rc::Rc,
    time::{Duration, Instant},
};

use outhook_core::{
    gate::{Admission, Closed, Gate, GatePolicy, Reason, Signal},
    identity::{BotId, Millis, ServiceId},
    partition::Partitions,
    rate::{Pace, RateLimit},
};

use crate::store::{Bot, GateChange, now};

/// How long memory knows better than the directory, which may be 5 s old, what has just been committed.
const KNOWN_BETTER: Duration = Duration::from_secs(10);
/// After so long without news, failures are forgotten; that a gate has still to be probed is written down.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gates(Rc<RefCell<State>>);

struct State {
    actor: String,
    policy: GatePolicy,
    rate: Option<RateLimit>,
    known: HashMap<ServiceId, Known>,
    paces: HashMap<BotId, Pace>,
    /// From which paces count.
    origin: Instant,
    /// Calls that were let in.
    calls: u64,
}

/// What is remembered of a service.
struct Known {
    bot: BotId,
    gate: Gate,
    /// Why it is closed, in words.
    detail: String,
    /// It was opened or closed.
    has_changed: bool,
    /// Its endpoint said that it is gone.
    gone_at: Option<Instant>,
    /// When something of it was last changed.
    touched: Instant,
}

/// For what a call waits that can't begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For the end of the probe of its service.
    Probe,
    /// For this moment: its bot has made enough calls.
    Pace(Millis),
}

/// A call's way through its gate. Given back when dropped, so that a probe that came to nothing makes way for another.
pub(crate) struct Pass {
    gates: Gates,
    bot: BotId,
    service: ServiceId,
    number: u64,
    refusal: Option<Refusal>,
}

/// Why a call is not to be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// How the gate is closed.
    pub(crate) closed: Closed,
    /// Why, in words.
    pub(crate) detail: String,
}

impl Gates {
    /// Open gates, for the actor of this name.
    pub(crate) fn new(actor: String, policy: GatePolicy, rate: Option<RateLimit>) -> Self {
        let state = State {
            actor,
            policy,
            rate,
            known: HashMap::new(),
            paces: HashMap::new(),
            origin: Instant::now(),
            calls: 0,
        };
        // A predecessor may have left other numbers.
        state.publish();
        Self(Rc::new(RefCell::new(state)))
    }

    /// Goes on from what is written down of the services of a bot, where nothing is remembered of them.
    pub(crate) fn adopt(&self, bot: &Bot) {
        let stored = bot.services.iter().filter_map(|service| Some((service.id, service.gate.as_ref()?)));
        for (service, stored) in stored {
            let Some(gate) = stored.restored() else { continue };
            let mut state = self.0.borrow_mut();
            if let Entry::Vacant(unknown) = state.known.entry(service) {
                unknown.insert(Known { detail: stored.detail.clone(), ..Known::new(bot.id, gate) });
                state.publish();
            }
        }
    }

    /// Lets a call in.
    ///
    /// # Errors
    /// It has to wait.
    pub(crate) fn enter(&self, bot: BotId, service: ServiceId) -> Result<Pass, Wait> {
        let (number, refusal) = self.0.borrow_mut().admit(bot, service)?;
        Ok(Pass { gates: self.clone(), bot, service, number, refusal })
    }

    /// Whether calls of the service wait for the end of its probe.
    pub(crate) fn is_probing(&self, service: ServiceId) -> bool {
        self.0.borrow().known.get(&service).is_some_and(|known| known.gate.is_probing())
    }

    /// When the first of these services opens, if all of them are closed until a moment that has still to come.
    pub(crate) fn all_closed_until(&self, services: &[ServiceId]) -> Option<Millis> {
        let (state, now) = (self.0.borrow(), now());
        let until = |service: &ServiceId| {
            let closed = state.known.get(service).and_then(|known| known.gate.closed());
            closed.map(|closed| closed.until).filter(|until| *until > now && !self.is_gone(*service))
        };
        let moments: Option<Vec<Millis>> = services.iter().map(until).collect();
        moments?.into_iter().min()
    }

    /// Whether the endpoint has said that it is gone, so short a time ago that the directory may not know. After that
    /// the directory's word counts: a service may have been resumed.
    pub(crate) fn is_gone(&self, service: ServiceId) -> bool {
        let state = self.0.borrow();
        let gone_at = state.known.get(&service).and_then(|known| known.gone_at);
        gone_at.is_some_and(|at| at.elapsed() < KNOWN_BETTER)
    }

    /// Forgets what need not be remembered.
    pub(crate) fn tidy(&self) {
        let mut state = self.0.borrow_mut();
        state.known.retain(|_, known| known.is_worth_remembering());
        let at = state.origin.elapsed();
        state.paces.retain(|_, pace| !pace.is_idle(at));
        state.publish();
    }

    /// Forgets the bots that others work for now.
    pub(crate) fn forget(&self, partitions: Partitions) {
        let mut state = self.0.borrow_mut();
        state.known.retain(|_, known| !partitions.hold(known.bot));
        state.paces.retain(|bot, _| !partitions.hold(*bot));
        state.publish();
    }
}

impl State {
    /// The number of a call that is let in, and why it is not to be made if so.
    fn admit(&mut self, bot: BotId, service: ServiceId) -> Result<(u64, Option<Refusal>), Wait> {
        self.calls += 1;
        let number = self.calls;
        let mut gate = self.known.get(&service).map(|known| known.gate).unwrap_or_default();
        match gate.admit(number, now()) {
            Admission::AwaitProbe => return Err(Wait::Probe),
            Admission::Closed(closed) => return Ok((number, Some(self.refusal(service, closed)))),
            Admission::Go | Admission::Probe => self.reserve(bot).map_err(Wait::Pace)?,
        }
        // Only now: one that has to wait for its pace is no probe yet.
        if let Some(known) = self.known.get_mut(&service) {
            known.gate = gate;
        }
        Ok((number, None))
    }

    fn refusal(&self, service: ServiceId, closed: Closed) -> Refusal {
        let why = self.known.get(&service).map_or("", |known| known.detail.as_str());
        let detail = match closed.reason {
            Reason::Breaker => format!("the breaker is open until its next probe: {why}"),
            Reason::RetryAfter => why.to_owned(),
        };
        Refusal { closed, detail }
    }

    fn reserve(&mut self, bot: BotId) -> Result<(), Millis> {
        let Some(limit) = self.rate else { return Ok(()) };
        let at = self.origin.elapsed();
        let reserved = self.paces.entry(bot).or_default().reserve(at, limit);
        reserved.map_err(|moment| {
            let wait = Millis::try_from(moment.saturating_sub(at).as_millis()).unwrap_or(Millis::MAX);
            now().saturating_add(wait).saturating_add(1)
        })
    }

    fn ended(&mut self, pass: &Pass, signal: Signal, failure: &str) -> Option<GateChange> {
        if !matches!(signal, Signal::Failed { .. }) && !self.known.contains_key(&pass.service) {
            return None;
        }
        let known = self.known.entry(pass.service).or_insert_with(|| Known::new(pass.bot, Gate::default()));
        let before = known.gate;
        known.gate.ended(pass.number, signal, now(), &self.policy);
        if known.gate != before {
            known.touched = Instant::now();
        }
        if known.gate.closed() == before.closed() {
            if known.gate.is_plain() && !known.has_changed {
                self.known.remove(&pass.service);
            }
            return None;
        }
        let change = known.changed(failure);
        // Each of many calls in flight may ask for a little more time.
        let asked = [before.closed(), known.gate.closed()];
        if !asked.iter().all(|closed| closed.is_some_and(|closed| closed.reason == Reason::RetryAfter)) {
            tell(pass, &change);
        }
        self.publish();
        Some(change)
    }

    /// How many gates are closed, or have still to be probed.
    fn publish(&self) {
        for reason in [Reason::Breaker, Reason::RetryAfter] {
            let is_closed =
                |known: &&Known| known.gate.closed().is_some_and(|closed| closed.reason == reason);
            let closed = self.known.values().filter(is_closed).count();
            let (actor, reason) = (self.actor.clone(), reason.fault().name());
            metrics::gauge!("outhook_gates_closed", "actor" => actor, "reason" => reason).set(closed as f64);
        }
    }
}

impl Known {
    fn new(bot: BotId, gate: Gate) -> Self {
        let detail = String::new();
        Self { bot, gate, detail, has_changed: false, gone_at: None, touched: Instant::now() }
    }

    fn changed(&mut self, failure: &str) -> GateChange {
        self.has_changed = true;
        let Some(closed) = self.gate.closed() else { return GateChange::Opened };
        self.detail = match closed.reason {
            Reason::Breaker => match self.gate.failures() {
                1 => format!("a call failed with: {failure}"),
                failures => format!("{failures} calls in a row failed, the last with: {failure}"),
            },
            Reason::RetryAfter => "the endpoint asked for no calls until then (Retry-After)".into(),
        };
        GateChange::Closed { gate: self.gate, detail: self.detail.clone() }
    }

    fn is_worth_remembering(&self) -> bool {
        let time = if self.gate.is_plain() { KNOWN_BETTER } else { FORGOTTEN };
        let is_closed = self.gate.closed().is_some_and(|closed| closed.until > now());
        is_closed || self.gate.is_probing() || self.touched.elapsed() < time
    }
}

/// Counts and logs a change.
fn tell(pass: &Pass, change: &GateChange) {
    let (bot, service) = (pass.bot, pass.service);
    let (reason, detail) = match change {
        GateChange::Opened => return log::info!("bot {bot} service {service}: called again"),
        GateChange::Closed { gate, detail } => {
            (gate.closed().map_or("", |closed| closed.reason.fault().name()), detail)
        }
        GateChange::Gone { detail } => ("gone", detail),
    };
    metrics::counter!("outhook_gate_closings_total", "reason" => reason).increment(1);
    log::info!("bot {bot} service {service}: not called for a while ({reason}): {detail}");
}

impl Pass {
    /// Why the call is not to be made, if so.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// The call has ended with this sign of its endpoint; `failure` says in words what it failed with. Returns what is
    /// to be committed of it.
    pub(crate) fn ended(&self, signal: Signal, failure: &str) -> Option<GateChange> {
        self.gates.0.borrow_mut().ended(self, signal, failure)
    }

    /// The endpoint has said that it is gone: the service is paused. Returns what is to be committed of it.
    pub(crate) fn gone(&self, detail: &str) -> GateChange {
        let mut state = self.gates.0.borrow_mut();
        let known = state.known.entry(self.service).or_insert_with(|| Known::new(self.bot, Gate::default()));
        (known.gone_at, known.touched, known.has_changed) = (Some(Instant::now()), Instant::now(), true);
        let change = GateChange::Gone { detail: detail.to_owned() };
        tell(self, &change);
        change
    }

    /// The moment up to which the gate is closed now.
    pub(crate) fn closed_until(&self) -> Option<Millis> {
        let state = self.gates.0.borrow();
        let closed = state.known.get(&self.service).and_then(|known| known.gate.closed());
        closed.map(|closed| closed.until).filter(|until| *until > now())
    }

    /// The call is over: whoever waits for a probe need not wait for this one.
    pub(crate) fn give_back(&self) {
        self.ended(Signal::None, "");
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Signal = Signal::Failed { not_before: None };

    fn gates(rate: u32) -> Gates {
        let hour = Duration::from_secs(3600);
        let policy = GatePolicy { failures: 2, open: hour, max_open: hour, max_retry_after: hour };
        Gates::new("event-0".into(), policy, RateLimit::per_second(rate))
    }

    fn enter(gates: &Gates, service: ServiceId) -> Pass {
        gates.enter(1, service).unwrap_or_else(|wait| panic!("it has to wait: {wait:?}"))
    }

    fn wait(gates: &Gates, service: ServiceId) -> Option<Wait> {
        gates.enter(1, service).err()
    }

    fn remembered(gates: &Gates) -> usize {
        gates.0.borrow().known.len()
    }

    #[test]
    fn a_service_that_answers_takes_no_memory() {
        let gates = gates(0);
        assert_eq!(enter(&gates, 7).ended(Signal::Answered, ""), None);
        assert_eq!(remembered(&gates), 0);
        assert_eq!(enter(&gates, 7).ended(FAILED, "a timeout"), None);
        assert_eq!(remembered(&gates), 1);
        assert_eq!(enter(&gates, 7).ended(Signal::Answered, ""), None);
        assert_eq!(remembered(&gates), 0);
    }

    #[test]
    fn what_closes_a_gate_is_told_once_and_refuses_its_own_service_only() {
        let gates = gates(0);
        assert_eq!(enter(&gates, 7).ended(FAILED, "a timeout"), None);
        let change = enter(&gates, 7).ended(FAILED, "a timeout");
        assert!(matches!(change, Some(GateChange::Closed { .. })), "{change:?}");
        let told =
            "the breaker is open until its next probe: 2 calls in a row failed, the last with: a timeout";
        let pass = enter(&gates, 7);
        assert_eq!(pass.refusal().map(|refusal| &*refusal.detail), Some(told));
        assert_eq!(pass.ended(Signal::None, ""), None);
        assert_eq!(enter(&gates, 8).refusal(), None);
    }

    #[test]
    fn services_are_all_closed_until_the_first_of_them_opens() {
        let gates = gates(0);
        let (past, hour) = (now(), now() + 3_600_000);
        for (service, until) in [(1, hour + 1), (2, hour), (3, past)] {
            let gate = Gate::restored(Closed { until, reason: Reason::Breaker }, 2, 1);
            gates.0.borrow_mut().known.insert(service, Known::new(1, gate));
        }
        assert_eq!(gates.all_closed_until(&[1]), Some(hour + 1));
        assert_eq!(gates.all_closed_until(&[1, 2]), Some(hour));
        for open in [&[1, 3][..], &[1, 4], &[]] {
            assert_eq!(gates.all_closed_until(open), None, "{open:?}");
        }
        enter(&gates, 2).gone("410");
        assert_eq!(gates.all_closed_until(&[1, 2]), None);
    }

    #[test]
    fn a_call_that_waits_for_its_pace_is_not_taken_for_a_probe() {
        let gates = gates(1);
        let closed = Closed { until: 0, reason: Reason::Breaker };
        gates.0.borrow_mut().known.insert(7, Known::new(1, Gate::restored(closed, 2, 1)));
        drop(enter(&gates, 8));
        assert!(matches!(wait(&gates, 7), Some(Wait::Pace(_))));
        assert!(!gates.is_probing(7));
    }

    #[test]
    fn a_probe_that_is_dropped_makes_way_for_another() {
        let gates = gates(0);
        let closed = Closed { until: 0, reason: Reason::Breaker };
        gates.0.borrow_mut().known.insert(7, Known::new(1, Gate::restored(closed, 2, 1)));
        let probe = enter(&gates, 7);
        assert_eq!(wait(&gates, 7), Some(Wait::Probe));
        drop(probe);
        assert!(!gates.is_probing(7));
        assert_eq!(enter(&gates, 7).refusal(), None);
    }
}
