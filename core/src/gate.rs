//! Whether a service may be called now: its gate is closed until a moment, then one probe decides.
//!
//! A *breaker* closes the gate after so many failures in a row, and for twice as long after each probe that
//! failed; an endpoint closes it itself by answering 429 or 503 with `Retry-After`. Any complete answer that
//! does not ask for another attempt opens it, unless what was asked for has been heard since that call was
//! made.

use std::time::Duration;

use crate::{
    identity::Millis,
    outcome::{Failure, Fault, Verdict},
};

/// Statuses whose `Retry-After` speaks for the endpoint as a whole.
const LEAVE_ALONE: [u16; 2] = [429, 503];

/// When a gate closes, and for how long (`[breaker]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatePolicy {
    /// Failures in a row that close it.
    pub failures: u32,
    /// How long they close it at first.
    pub open: Duration,
    /// How long they close it at most.
    pub max_open: Duration,
    /// How long a `Retry-After` closes it at most: no event waits longer (`retry.give_up_after`).
    pub max_retry_after: Duration,
}

impl GatePolicy {
    /// How long the gate stays closed that was closed `openings` times before without an answer in between.
    fn closed_for(&self, openings: u32) -> Millis {
        let factor = 2_u32.checked_pow(openings).unwrap_or(u32::MAX);
        millis(self.open.saturating_mul(factor).min(self.max_open))
    }

    /// How long a gate is closed at most for this reason.
    fn longest(&self, reason: Reason) -> Millis {
        millis(match reason {
            Reason::Breaker => self.max_open,
            Reason::RetryAfter => self.max_retry_after,
        })
    }
}

/// What closed a gate. The names are stored and shown (see [`Reason::fault`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Too many failures in a row.
    Breaker,
    /// The endpoint asked for it.
    RetryAfter,
}

impl Reason {
    /// As the reason why a call was not made.
    pub const fn fault(self) -> Fault {
        match self {
            Self::Breaker => Fault::Breaker,
            Self::RetryAfter => Fault::RetryAfter,
        }
    }
}

/// How a gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// No call is made before.
    pub until: Millis,
    /// Why.
    pub reason: Reason,
}

/// What an ended call says of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It gave a complete answer, whatever that means for the call: it lives.
    Answered,
    /// It gave none, or one that asks for another attempt.
    Failed {
        /// The moment before which it wants no call.
        not_before: Option<Millis>,
    },
    /// Nothing: it was not reached for.
    None,
}

impl Signal {
    /// What the verdict on an attempt says of the endpoint.
    pub fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Success { .. } => Self::Answered,
            // That is no fault of the endpoint.
            Verdict::Retry { failure, .. } if failure.fault.is_ours() => Self::None,
            Verdict::Retry { failure: Failure { status, .. }, not_before } => {
                let speaks_for_all = status.is_some_and(|status| LEAVE_ALONE.contains(&status));
                Self::Failed { not_before: not_before.filter(|_| speaks_for_all) }
            }
            // A 2xx that can't be read has a fault instead of its status.
            Verdict::Final(failure)
                if failure.status.is_some()
                    || matches!(failure.fault, Fault::TooLarge | Fault::BadAnswer) =>
            {
                Self::Answered
            }
            Verdict::Final(_) => Self::None,
        }
    }
}

/// What a gate says to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Make it.
    Go,
    /// Make it; all others wait for its end.
    Probe,
    /// Wait for the end of the probe.
    AwaitProbe,
    /// Don't make it now.
    Closed(Closed),
}

/// The gate of one service. Calls are told apart by numbers, each used once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gate {
    /// Failures in a row.
    failures: u32,
    /// How often the breaker closed it without an answer in between.
    openings: u32,
    closed: Option<Closed>,
    probe: Option<u64>,
}

impl Gate {
    /// A gate as it was written down: see [`Gate::failures`] and [`Gate::openings`].
    pub fn restored(closed: Closed, failures: u32, openings: u32) -> Self {
        Self { failures, openings, closed: Some(closed), probe: None }
    }

    /// Whether the call of this number may be made at `now`.
    pub fn admit(&mut self, call: u64, now: Millis, policy: &GatePolicy) -> Admission {
        self.keep_to_limit(now, policy);
        match self.closed {
            None => Admission::Go,
            Some(closed) if closed.until > now => Admission::Closed(closed),
            Some(_) if self.probe.is_some() => Admission::AwaitProbe,
            Some(_) => {
                self.probe = Some(call);
                Admission::Probe
            }
        }
    }

    /// The moment, still to come, until which it is closed.
    pub fn closed_until(&mut self, now: Millis, policy: &GatePolicy) -> Option<Millis> {
        self.keep_to_limit(now, policy);
        self.closed.map(|closed| closed.until).filter(|until| *until > now)
    }

    /// The clock may have been put back since it was closed, and the policy changed.
    fn keep_to_limit(&mut self, now: Millis, policy: &GatePolicy) {
        if let Some(closed) = &mut self.closed {
            closed.until = closed.until.min(now.saturating_add(policy.longest(closed.reason)));
        }
    }

    /// The call of this number, which was admitted, has ended at `now`.
    pub fn ended(&mut self, call: u64, signal: Signal, now: Millis, policy: &GatePolicy) {
        let was_probe = self.probe.take_if(|probe| *probe == call).is_some();
        if was_probe && signal != Signal::None {
            // What it was closed for is over, but for a wish that was made since the probe was asked.
            let stands = |closed: &Closed| closed.reason == Reason::RetryAfter && closed.until > now;
            self.closed = self.closed.filter(stands);
        }
        match signal {
            Signal::None => {}
            // The wish was made after what the call was asked.
            Signal::Answered if self.asks_for_peace() => (self.failures, self.openings) = (0, 0),
            Signal::Answered => *self = Self::default(),
            Signal::Failed { not_before } => {
                self.failures = self.failures.saturating_add(1);
                // Calls that began before it closed say nothing about how long it should be.
                if was_probe || self.closed.is_none() {
                    self.trip(now, policy);
                }
                self.leave_alone(not_before, now, policy);
            }
        }
    }

    fn asks_for_peace(&self) -> bool {
        self.closed.is_some_and(|closed| closed.reason == Reason::RetryAfter)
    }

    fn trip(&mut self, now: Millis, policy: &GatePolicy) {
        if self.failures < policy.failures {
            return;
        }
        let until = now.saturating_add(policy.closed_for(self.openings));
        self.openings = self.openings.saturating_add(1);
        self.close(Closed { until, reason: Reason::Breaker });
    }

    fn leave_alone(&mut self, not_before: Option<Millis>, now: Millis, policy: &GatePolicy) {
        let latest = now.saturating_add(millis(policy.max_retry_after));
        let until = not_before.map(|moment| moment.min(latest));
        if let Some(until) = until.filter(|until| *until > now) {
            self.close(Closed { until, reason: Reason::RetryAfter });
        }
    }

    /// Of two moments, the later one counts.
    fn close(&mut self, closed: Closed) {
        if self.closed.is_none_or(|before| before.until < closed.until) {
            self.closed = Some(closed);
        }
    }

    /// How it is closed, also if its moment has come and a probe has still to show how things are.
    pub fn closed(&self) -> Option<Closed> {
        self.closed
    }

    /// Whether a probe is under way.
    pub fn is_probing(&self) -> bool {
        self.probe.is_some()
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How often the breaker closed it without an answer in between.
    pub fn openings(&self) -> u32 {
        self.openings
    }

    /// Whether it is as good as a new one.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests;
