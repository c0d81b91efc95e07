//! The gates of the services of one shard of bots, and the paces of these bots. EventActor and its calls
//! share them; all of these live in one thread.
//!
//! What is remembered is bounded: a gate that is open and has seen no failure takes no memory for long, and
//! neither does one of which nothing was heard for long. What closed a gate is committed with the outcome of
//! the call that did it, so a new generation, or another daemon, takes it from there ([`Gates::adopt`]).

mod known;

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Instant};

use outhook_core::{
    gate::{Admission, Closed, Gate, GatePolicy, Reason, Signal},
    identity::{BotId, Millis, ServiceId},
    partition::Partitions,
    rate::{Pace, RateLimit},
};

use self::known::{Known, Memory};
use crate::{
    moment::moment,
    store::{Bot, DatedChange, GateChange, StoredGate, now},
};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gates(Rc<RefCell<State>>);

/// When gates close, and how many calls of a bot are made in a second.
type Rules = (GatePolicy, Option<RateLimit>);

struct State {
    /// As they are now.
    rules: Box<dyn Fn() -> Rules>,
    memory: Memory,
    paces: HashMap<BotId, Pace>,
    /// From which paces count.
    origin: Instant,
    /// Calls that were let in.
    calls: u64,
}

/// For what a call waits that can't begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For the end of the probe of its service.
    Probe,
    /// For this moment, of the clock that is never put back: its bot has made enough calls.
    Pace(Instant),
}

/// A call's way through its gate. Given back when dropped, so that a probe that came to nothing makes way for
/// another.
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
    pub(crate) fn new(actor: String, rules: impl Fn() -> Rules + 'static) -> Self {
        let state = State {
            rules: Box::new(rules),
            memory: Memory::new(actor),
            paces: HashMap::new(),
            origin: Instant::now(),
            calls: 0,
        };
        Self(Rc::new(RefCell::new(state)))
    }

    /// Goes on from what is written down of the services of a bot: where nothing is remembered of them, and
    /// where an operator has resumed them since.
    pub(crate) fn adopt(&self, bot: &Bot) {
        let mut state = self.0.borrow_mut();
        for service in &bot.services {
            if let Some(stored) = &service.gate {
                state.adopt(bot.id, service.id, stored);
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
        self.0.borrow().memory.get(service).is_some_and(|known| known.gate.is_probing())
    }

    /// When the first of these services opens, if all of them are closed until a moment that has still to
    /// come.
    pub(crate) fn all_closed_until(&self, services: &[ServiceId]) -> Option<Millis> {
        let mut state = self.0.borrow_mut();
        let moments: Option<Vec<Millis>> =
            services.iter().map(|service| state.closed_until(*service)).collect();
        moments?.into_iter().min()
    }

    /// Whether the endpoint has said that it is gone, so short a time ago that the directory may not know.
    /// After that the directory's word counts: a service may have been resumed.
    pub(crate) fn is_gone(&self, service: ServiceId) -> bool {
        self.0.borrow().memory.get(service).is_some_and(Known::is_gone)
    }

    /// Forgets what need not be remembered.
    pub(crate) fn tidy(&self) {
        let mut state = self.0.borrow_mut();
        state.memory.tidy();
        let at = state.origin.elapsed();
        state.paces.retain(|_, pace| !pace.is_idle(at));
    }

    /// Forgets the bots that others work for now.
    pub(crate) fn forget(&self, partitions: Partitions) {
        let mut state = self.0.borrow_mut();
        state.memory.forget(|known| partitions.hold(known.bot));
        state.paces.retain(|bot, _| !partitions.hold(*bot));
    }
}

impl State {
    fn adopt(&mut self, bot: BotId, service: ServiceId, stored: &StoredGate) {
        if let Some(at) = stored.resumed_at() {
            return self.resume(bot, service, at);
        }
        if self.memory.get(service).is_none() {
            self.memory.change(service, |known| *known = Known::stored(bot, stored));
        }
    }

    fn resume(&mut self, bot: BotId, service: ServiceId, at: Millis) {
        let resume = |known: &mut Option<Known>| known.as_mut().is_some_and(|known| known.resume(at));
        if self.memory.change(service, resume) {
            log::info!("bot {bot} service {service}: called again (resumed by command)");
        }
    }

    /// The moment until which a service is closed, unless its endpoint is gone.
    fn closed_until(&mut self, service: ServiceId) -> Option<Millis> {
        let (now, (policy, _)) = (now(), (self.rules)());
        self.memory.change(service, |known| {
            let known = known.as_mut().filter(|known| !known.is_gone())?;
            known.gate.closed_until(now, &policy)
        })
    }

    /// The number of a call that is let in, and why it is not to be made if so.
    fn admit(&mut self, bot: BotId, service: ServiceId) -> Result<(u64, Option<Refusal>), Wait> {
        self.calls += 1;
        let number = self.calls;
        let mut gate = self.memory.get(service).map(|known| known.gate).unwrap_or_default();
        let admission = gate.admit(number, now(), &(self.rules)().0);
        match admission {
            Admission::AwaitProbe => return Err(Wait::Probe),
            Admission::Closed(_) => {}
            Admission::Go | Admission::Probe => self.reserve(bot).map_err(Wait::Pace)?,
        }
        // Only now: one that has to wait for its pace is no probe yet.
        self.memory.change(service, |known| {
            if let Some(known) = known {
                known.gate = gate;
            }
        });
        let Admission::Closed(closed) = admission else { return Ok((number, None)) };
        Ok((number, Some(self.refusal(service, closed))))
    }

    fn refusal(&self, service: ServiceId, closed: Closed) -> Refusal {
        let why = self.memory.get(service).map_or("", |known| known.detail.as_str());
        let detail = match closed.reason {
            Reason::Breaker => format!("the breaker is open until its next probe: {why}"),
            Reason::RetryAfter => why.to_owned(),
        };
        Refusal { closed, detail }
    }

    fn reserve(&mut self, bot: BotId) -> Result<(), Instant> {
        let Some(limit) = (self.rules)().1 else { return Ok(()) };
        let at = self.origin.elapsed();
        let reserved = self.paces.entry(bot).or_default().reserve(at, limit);
        reserved.map_err(|moment| self.origin + moment)
    }

    fn ended(&mut self, pass: &Pass, signal: Signal, failure: &str) -> Option<DatedChange> {
        let (policy, _) = (self.rules)();
        self.memory.change(pass.service, |known| ended(known, (pass, signal, failure), &policy))
    }
}

/// A call has ended with this sign of its endpoint, and this failure if it failed.
fn ended(
    slot: &mut Option<Known>,
    (pass, signal, failure): (&Pass, Signal, &str),
    policy: &GatePolicy,
) -> Option<DatedChange> {
    if slot.is_none() && !matches!(signal, Signal::Failed { .. }) {
        return None;
    }
    let known = slot.get_or_insert_with(|| Known::new(pass.bot, Gate::default()));
    let (before, now) = (known.gate, now());
    known.gate.ended(pass.number, signal, now, policy);
    if known.gate != before {
        known.touched = Instant::now();
    }
    if known.gate.closed() == before.closed() {
        if known.gate.is_plain() && !known.has_changed {
            *slot = None;
        }
        return None;
    }
    let dated = known.changed(now, failure);
    // Each of many calls in flight may ask for a little more time.
    let asked = [before.closed(), known.gate.closed()];
    if !asked.iter().all(|closed| closed.is_some_and(|closed| closed.reason == Reason::RetryAfter)) {
        tell(pass, &dated.change);
    }
    Some(dated)
}

/// Counts and logs a change.
fn tell(pass: &Pass, change: &GateChange) {
    let (bot, service) = (pass.bot, pass.service);
    let (reason, until, detail) = match change {
        GateChange::Opened => return log::info!("bot {bot} service {service}: called again"),
        GateChange::Closed { gate, detail } => {
            let Some(closed) = gate.closed() else { return };
            (closed.reason.fault().name(), moment(closed.until), detail)
        }
        GateChange::Gone { detail } => ("gone", "it is resumed".to_owned(), detail),
    };
    metrics::counter!("outhook_gate_closings_total", "reason" => reason).increment(1);
    log::info!("bot {bot} service {service}: not called for a while, until {until} ({reason}): {detail}");
}

impl Pass {
    /// Why the call is not to be made, if so.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// The call has ended with this sign of its endpoint; `failure` says in words what it failed with.
    /// Returns what is to be committed of it.
    pub(crate) fn ended(&self, signal: Signal, failure: &str) -> Option<DatedChange> {
        self.gates.0.borrow_mut().ended(self, signal, failure)
    }

    /// The endpoint has said that it is gone: the service is paused. Returns what is to be committed of it.
    pub(crate) fn gone(&self, detail: &str) -> DatedChange {
        let at = now();
        let unknown = || Known::new(self.bot, Gate::default());
        let gone = |known: &mut Option<Known>| known.get_or_insert_with(unknown).gone(at);
        let is_news = self.gates.0.borrow_mut().memory.change(self.service, gone);
        let change = GateChange::Gone { detail: detail.to_owned() };
        // Each of many calls in flight may be told so.
        if is_news {
            tell(self, &change);
        }
        DatedChange { change, at }
    }

    /// The moment up to which the gate is closed now.
    pub(crate) fn closed_until(&self) -> Option<Millis> {
        let state = self.gates.0.borrow();
        let closed = state.memory.get(self.service).and_then(|known| known.gate.closed());
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
mod tests;
