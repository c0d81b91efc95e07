use proptest::prelude::*;

use super::*;
use crate::outcome::{Attempt, judge};

const POLICY: GatePolicy = GatePolicy {
    failures: 3,
    open: Duration::from_millis(100),
    max_open: Duration::from_millis(500),
    max_retry_after: Duration::from_millis(2000),
};

const FAILED: Signal = Signal::Failed { not_before: None };

fn asks_until(moment: Millis) -> Signal {
    Signal::Failed { not_before: Some(moment) }
}

fn closed(until: Millis, reason: Reason) -> Admission {
    Admission::Closed(Closed { until, reason })
}

/// A gate that the breaker has closed at 0.
fn tripped() -> Gate {
    let mut gate = Gate::default();
    for call in 0..3 {
        assert_eq!(gate.admit(call, 0, &POLICY), Admission::Go);
        gate.ended(call, FAILED, 0, &POLICY);
    }
    gate
}

#[test]
fn so_many_failures_in_a_row_close_it_and_no_fewer() {
    let mut gate = Gate::default();
    for call in 0..10 {
        let signal = if call % 3 == 2 { Signal::Answered } else { FAILED };
        assert_eq!(gate.admit(call, 0, &POLICY), Admission::Go);
        gate.ended(call, signal, 0, &POLICY);
    }
    assert_eq!(gate.closed(), None);
    assert_eq!(tripped().admit(9, 99, &POLICY), closed(100, Reason::Breaker));
}

#[test]
fn its_time_over_one_probe_goes_and_the_others_wait_for_its_end() {
    let mut gate = tripped();
    assert_eq!(gate.admit(3, 100, &POLICY), Admission::Probe);
    assert_eq!(gate.admit(4, 100, &POLICY), Admission::AwaitProbe);
    gate.ended(3, Signal::Answered, 150, &POLICY);
    assert!(gate.is_plain());
    assert_eq!((gate.admit(4, 150, &POLICY), gate.admit(5, 150, &POLICY)), (Admission::Go, Admission::Go));
}

#[test]
fn a_probe_that_says_nothing_makes_way_for_another() {
    let mut gate = tripped();
    assert_eq!(gate.admit(3, 100, &POLICY), Admission::Probe);
    gate.ended(3, Signal::None, 150, &POLICY);
    assert_eq!(gate.admit(4, 150, &POLICY), Admission::Probe);
}

#[test]
fn each_probe_that_fails_doubles_the_time_up_to_its_limit_and_an_answer_ends_that() {
    let mut gate = tripped();
    let (mut now, mut waits) = (0, Vec::new());
    for call in 3..8 {
        let until = gate.closed().map_or(now, |closed| closed.until);
        waits.push(until - now);
        now = until;
        assert_eq!(gate.admit(call, now, &POLICY), Admission::Probe);
        gate.ended(call, FAILED, now, &POLICY);
    }
    assert_eq!(waits, [100, 200, 400, 500, 500]);
    gate.ended(90, Signal::Answered, now, &POLICY);
    for call in 91..94 {
        gate.ended(call, FAILED, now, &POLICY);
    }
    assert_eq!(gate.closed().map(|closed| closed.until - now), Some(100));
}

#[test]
fn what_began_before_it_closed_and_fails_later_does_not_prolong_it() {
    let mut gate = tripped();
    gate.ended(3, FAILED, 50, &POLICY);
    assert_eq!(gate.admit(4, 99, &POLICY), closed(100, Reason::Breaker));
    assert_eq!(gate.admit(5, 100, &POLICY), Admission::Probe);
    gate.ended(6, FAILED, 101, &POLICY);
    assert_eq!(gate.admit(7, 102, &POLICY), Admission::AwaitProbe);
}

#[test]
fn an_answer_to_an_earlier_call_opens_it() {
    let mut gate = tripped();
    gate.ended(3, Signal::Answered, 50, &POLICY);
    assert_eq!(gate.admit(4, 50, &POLICY), Admission::Go);
}

#[test]
fn an_old_probe_is_not_taken_for_a_new_one() {
    let mut gate = tripped();
    assert_eq!(gate.admit(3, 100, &POLICY), Admission::Probe);
    gate.ended(2, Signal::Answered, 110, &POLICY);
    for call in 4..7 {
        gate.ended(call, FAILED, 120, &POLICY);
    }
    assert_eq!(gate.admit(7, 220, &POLICY), Admission::Probe);
    gate.ended(3, Signal::None, 230, &POLICY);
    assert_eq!(gate.admit(8, 240, &POLICY), Admission::AwaitProbe);
}

#[test]
fn an_endpoint_that_asks_for_it_is_left_alone_but_not_for_ever() {
    let mut gate = Gate::default();
    gate.ended(0, asks_until(700), 100, &POLICY);
    gate.ended(1, asks_until(300), 100, &POLICY);
    assert_eq!(gate.admit(2, 699, &POLICY), closed(700, Reason::RetryAfter));
    gate.ended(3, asks_until(Millis::MAX), 100, &POLICY);
    assert_eq!(gate.admit(4, 100, &POLICY), closed(2100, Reason::RetryAfter));
    let mut gate = Gate::default();
    gate.ended(0, asks_until(99), 100, &POLICY);
    assert_eq!(gate.admit(1, 100, &POLICY), Admission::Go);
}

#[test]
fn a_probe_that_is_asked_to_wait_again_closes_it_again() {
    let mut gate = Gate::default();
    gate.ended(0, asks_until(700), 100, &POLICY);
    assert_eq!(gate.admit(1, 700, &POLICY), Admission::Probe);
    gate.ended(1, asks_until(900), 710, &POLICY);
    assert_eq!(gate.admit(2, 899, &POLICY), closed(900, Reason::RetryAfter));
    assert_eq!(gate.admit(3, 900, &POLICY), Admission::Probe);
    gate.ended(3, FAILED, 910, &POLICY);
    assert_eq!(gate.closed().map(|closed| closed.reason), Some(Reason::Breaker), "it is the third failure");
}

/// A gate that the breaker has closed at 0, and whose probe (3) has begun at 100; then a call that began
/// before it closed is answered that no other is wanted before 700.
fn asked_during_a_probe() -> Gate {
    let mut gate = tripped();
    assert_eq!(gate.admit(3, 100, &POLICY), Admission::Probe);
    gate.ended(90, asks_until(700), 110, &POLICY);
    assert_eq!(gate.admit(4, 120, &POLICY), closed(700, Reason::RetryAfter));
    gate
}

#[test]
fn what_an_endpoint_asks_for_during_a_probe_outlasts_the_probe() {
    for signal in [Signal::Answered, FAILED, asks_until(500), Signal::None] {
        let mut gate = asked_during_a_probe();
        gate.ended(3, signal, 150, &POLICY);
        assert_eq!(gate.admit(5, 699, &POLICY), closed(700, Reason::RetryAfter), "{signal:?}");
        assert_eq!(gate.admit(6, 700, &POLICY), Admission::Probe, "{signal:?}");
        gate.ended(6, Signal::Answered, 710, &POLICY);
        assert!(gate.is_plain(), "{signal:?}");
    }
    let mut gate = asked_during_a_probe();
    gate.ended(3, Signal::Answered, 700, &POLICY);
    assert!(gate.is_plain(), "its moment has come before");
}

#[test]
fn of_the_breakers_moment_and_the_endpoints_the_later_one_counts() {
    for (ended, until, reason) in [(499, 700, Reason::RetryAfter), (501, 701, Reason::Breaker)] {
        let mut gate = asked_during_a_probe();
        gate.ended(3, FAILED, ended, &POLICY);
        assert_eq!(gate.closed(), Some(Closed { until, reason }));
        assert_eq!((gate.failures(), gate.openings()), (5, 2), "it has failed all the same");
    }
}

#[test]
fn an_answer_to_a_probe_starts_the_breaker_anew_also_if_the_endpoint_wants_peace() {
    let mut gate = asked_during_a_probe();
    gate.ended(3, Signal::Answered, 150, &POLICY);
    assert_eq!((gate.failures(), gate.openings()), (0, 0));
}

#[test]
fn a_gate_that_was_written_down_goes_on_as_it_was() {
    let mut gate = tripped();
    let probe = |gate: &mut Gate| {
        assert_eq!(gate.admit(8, 100, &POLICY), Admission::Probe);
        gate.ended(8, FAILED, 100, &POLICY);
        gate.closed()
    };
    let how = gate.closed().unwrap_or(Closed { until: 0, reason: Reason::RetryAfter });
    let mut restored = Gate::restored(how, gate.failures(), gate.openings());
    assert_eq!(probe(&mut restored), probe(&mut gate));
}

#[test]
fn a_clock_that_is_put_back_keeps_it_closed_no_longer_than_its_limit_from_then_on() {
    for (signal, reason, limit) in
        [(FAILED, Reason::Breaker, 500), (asks_until(Millis::MAX), Reason::RetryAfter, 2000)]
    {
        let mut gate = Gate::default();
        for call in 0..3 {
            gate.ended(call, signal, 1_000_000, &POLICY);
        }
        assert_eq!(gate.closed_until(10, &POLICY), Some(10 + limit));
        assert_eq!(gate.admit(3, 10, &POLICY), closed(10 + limit, reason));
        assert_eq!(gate.admit(4, 10 + limit - 1, &POLICY), closed(10 + limit, reason));
        assert_eq!(gate.closed_until(10 + limit, &POLICY), None);
        assert_eq!(gate.admit(5, 10 + limit, &POLICY), Admission::Probe);
    }
}

fn signal_of(status: u16, retry_after: Option<Millis>) -> Signal {
    Signal::of(&judge(Attempt::Answered { status, retry_after, leads_to: None, body: Vec::new() }))
}

#[test]
fn an_answer_is_a_sign_of_life_unless_it_asks_for_another_attempt() {
    for status in 100..=599 {
        let expected = match status {
            429 | 503 => asks_until(5),
            501 | 505..=508 | 510 | 511 => Signal::Answered,
            408 | 425 | 500.. => FAILED,
            _ => Signal::Answered,
        };
        assert_eq!(signal_of(status, Some(5)), expected, "{status}");
    }
    assert_eq!(signal_of(503, None), FAILED);
}

#[test]
fn a_call_that_was_not_made_says_nothing_of_its_endpoint() {
    let signal = |fault| Signal::of(&judge(Attempt::Failed { fault, detail: String::new() }));
    for fault in [Fault::Timeout, Fault::Refused, Fault::Reset, Fault::Dns, Fault::Tls, Fault::Truncated] {
        assert_eq!(signal(fault), FAILED, "{fault}");
    }
    for fault in [
        Fault::Blocked,
        Fault::BadUrl,
        Fault::Unsupported,
        Fault::Unsendable,
        Fault::BadInterface,
        Fault::Panicked,
        Fault::Proxy,
        Fault::NoFiles,
        Fault::Local,
    ] {
        assert_eq!(signal(fault), Signal::None, "{fault}");
    }
    for fault in [Fault::TooLarge, Fault::BadAnswer] {
        assert_eq!(signal(fault), Signal::Answered, "{fault}");
    }
}

#[derive(Debug, Clone)]
enum Act {
    /// Another call wants to go.
    Ask,
    /// One of those under way ends.
    End(prop::sample::Index, Outcome),
    /// Time passes.
    Pass(Millis),
    /// The clock is put back.
    PutBack(Millis),
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Answers,
    Fails,
    AsksFor(Millis),
    SaysNothing,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let outcome = prop_oneof![
        2 => Just(Outcome::Answers),
        6 => Just(Outcome::Fails),
        1 => (0..5000i64).prop_map(Outcome::AsksFor),
        1 => Just(Outcome::SaysNothing),
    ];
    let act = prop_oneof![
        5 => Just(Act::Ask),
        4 => (any::<prop::sample::Index>(), outcome).prop_map(|(at, outcome)| Act::End(at, outcome)),
        4 => (1..300i64).prop_map(Act::Pass),
        1 => (1..100_000i64).prop_map(Act::PutBack),
    ];
    proptest::collection::vec(act, 1..300)
}

/// The moment before which the endpoint wants no call.
fn wish(gate: Gate) -> Option<Millis> {
    gate.closed().filter(|closed| closed.reason == Reason::RetryAfter).map(|closed| closed.until)
}

proptest! {
    /// Calls come, and those admitted end in any order, while the clock goes on or is put back. Never are
    /// there two probes, never is a call made while the gate is closed, an answer opens it, but to what was
    /// asked before a wish for peace, no end of a call cuts such a wish short, and whoever asks finds it
    /// closed for no longer than its limits.
    #[test]
    fn a_gate_lets_one_probe_through_and_nothing_while_it_is_closed(acts in acts()) {
        let (mut gate, mut now, mut number) = (Gate::default(), 0, 0);
        let mut was_put_back = false;
        let mut under_way: Vec<(u64, bool)> = Vec::new();
        for act in acts {
            match act {
                Act::Pass(time) => now += time,
                Act::PutBack(time) => {
                    now -= time;
                    was_put_back = true;
                }
                Act::Ask => {
                    number += 1;
                    was_put_back = false;
                    let mut before = gate;
                    before.keep_to_limit(now, &POLICY);
                    match gate.admit(number, now, &POLICY) {
                        Admission::Go => {
                            prop_assert!(before.closed().is_none());
                            under_way.push((number, false));
                        }
                        Admission::Probe => {
                            prop_assert!(before.closed().is_some_and(|closed| closed.until <= now));
                            prop_assert!(!before.is_probing());
                            under_way.push((number, true));
                        }
                        Admission::AwaitProbe => {
                            // Somebody's end will tell.
                            prop_assert!(under_way.iter().any(|(_, is_probe)| *is_probe));
                            prop_assert_eq!(gate, before);
                        }
                        Admission::Closed(closed) => {
                            prop_assert!(closed.until > now);
                            prop_assert_eq!(gate, before);
                        }
                    }
                }
                Act::End(at, outcome) => {
                    if under_way.is_empty() { continue; }
                    let (call, _) = under_way.swap_remove(at.index(under_way.len()));
                    let signal = match outcome {
                        Outcome::Answers => Signal::Answered,
                        Outcome::Fails => FAILED,
                        Outcome::AsksFor(time) => asks_until(now + time),
                        Outcome::SaysNothing => Signal::None,
                    };
                    let before = gate;
                    let is_probe = before.probe == Some(call);
                    gate.ended(call, signal, now, &POLICY);
                    match signal {
                        Signal::Answered if wish(before).is_some_and(|until| !is_probe || until > now) => {
                            prop_assert_eq!(gate.closed(), before.closed());
                        }
                        Signal::Answered => prop_assert!(gate.is_plain()),
                        Signal::None => prop_assert_eq!(gate.closed(), before.closed()),
                        Signal::Failed { .. } => {
                            prop_assert_eq!(gate.failures(), before.failures() + 1);
                            prop_assert!(gate.closed().is_some() || gate.failures() < POLICY.failures);
                        }
                    }
                    if let Some(until) = wish(before).filter(|until| *until > now) {
                        prop_assert!(gate.closed().is_some_and(|closed| closed.until >= until));
                    }
                }
            }
            if let Some(Closed { until, reason }) = gate.closed() {
                let limit = match reason {
                    Reason::Breaker => POLICY.max_open,
                    Reason::RetryAfter => POLICY.max_retry_after,
                };
                prop_assert!(was_put_back || until - now <= millis(limit));
            }
        }
    }
}
