use std::time::Duration;

use entity::outhook::gate;

use super::*;
use crate::store::Service;

const FAILED: Signal = Signal::Failed { not_before: None };

fn gates(rate: u32) -> Gates {
    let hour = Duration::from_secs(3600);
    let policy = GatePolicy { failures: 2, open: hour, max_open: hour, max_retry_after: hour };
    Gates::new("event-0".into(), move || (policy, RateLimit::per_second(rate)))
}

/// As it is written down of a service since a moment.
fn stored(reason: gate::Reason, since: Millis) -> StoredGate {
    let until = Some(since).filter(|_| reason == gate::Reason::Breaker);
    StoredGate { reason, until, since, detail: "a timeout".into(), failures: 2, openings: 1 }
}

/// Bot 1, whose service 7 is written down like this.
fn bot(gate: StoredGate) -> Bot {
    let service = Service {
        id: 7,
        name: "s".into(),
        base_url: "http://127.0.0.1/".into(),
        token: "t".to_owned().into(),
        interface: 1,
        gate: Some(gate),
    };
    Bot {
        id: 1,
        email: String::new(),
        delivery_email: String::new(),
        full_name: String::new(),
        api_key: "k".to_owned().into(),
        recipient_id: None,
        realm_id: 1,
        realm_string_id: String::new(),
        services: vec![service],
    }
}

fn resumed(at: Millis) -> Bot {
    bot(stored(gate::Reason::Resumed, at))
}

/// Closes the gate of service 7.
fn close(gates: &Gates) {
    for _ in 0..2 {
        enter(gates, 7).ended(FAILED, "a timeout");
    }
}

fn enter(gates: &Gates, service: ServiceId) -> Pass {
    gates.enter(1, service).unwrap_or_else(|wait| panic!("it has to wait: {wait:?}"))
}

fn wait(gates: &Gates, service: ServiceId) -> Option<Wait> {
    gates.enter(1, service).err()
}

fn remembered(gates: &Gates) -> usize {
    gates.0.borrow().memory.len()
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
    let is_closed = change.as_ref().is_some_and(|dated| matches!(dated.change, GateChange::Closed { .. }));
    assert!(is_closed, "{change:?}");
    let told = "the breaker is open until its next probe: 2 calls in a row failed, the last with: a timeout";
    let pass = enter(&gates, 7);
    assert_eq!(pass.refusal().map(|refusal| &*refusal.detail), Some(told));
    assert_eq!(pass.ended(Signal::None, ""), None);
    assert_eq!(enter(&gates, 8).refusal(), None);
}

#[test]
fn services_are_all_closed_until_the_first_of_them_opens() {
    let gates = gates(0);
    // The policy would cut what is closed for longer than an hour.
    let (past, soon) = (now(), now() + 1_800_000);
    for (service, until) in [(1, soon + 1), (2, soon), (3, past)] {
        let gate = Gate::restored(Closed { until, reason: Reason::Breaker }, 2, 1);
        gates.0.borrow_mut().memory.change(service, |known| *known = Some(Known::new(1, gate)));
    }
    assert_eq!(gates.all_closed_until(&[1]), Some(soon + 1));
    assert_eq!(gates.all_closed_until(&[1, 2]), Some(soon));
    for open in [&[1, 3][..], &[1, 4], &[]] {
        assert_eq!(gates.all_closed_until(open), None, "{open:?}");
    }
    enter(&gates, 2).gone("410");
    assert_eq!(gates.all_closed_until(&[1, 2]), None);
}

#[test]
fn a_call_that_waits_for_its_pace_is_not_taken_for_a_probe() {
    let gates = gates(1);
    gates.adopt(&bot(stored(gate::Reason::Breaker, 0)));
    drop(enter(&gates, 8));
    let Some(Wait::Pace(due)) = wait(&gates, 7) else { panic!("it need not wait") };
    assert!(due <= Instant::now() + Duration::from_secs(1));
    assert!(!gates.is_probing(7));
}

#[test]
fn a_probe_that_is_dropped_makes_way_for_another() {
    let gates = gates(0);
    gates.adopt(&bot(stored(gate::Reason::Breaker, 0)));
    let probe = enter(&gates, 7);
    assert_eq!(wait(&gates, 7), Some(Wait::Probe));
    drop(probe);
    assert!(!gates.is_probing(7));
    assert_eq!(enter(&gates, 7).refusal(), None);
}

#[test]
fn an_operator_opens_what_was_closed_before_and_nothing_that_is_closed_after() {
    let gates = gates(0);
    close(&gates);
    gates.adopt(&resumed(now() - 1000));
    assert!(enter(&gates, 7).refusal().is_some());
    let refused = enter(&gates, 7);
    gates.adopt(&resumed(now() + 1000));
    assert_eq!((refused.closed_until(), enter(&gates, 7).refusal()), (None, None));
    // The directory may have been read before that.
    gates.adopt(&bot(StoredGate { until: Some(Millis::MAX), ..stored(gate::Reason::Breaker, 0) }));
    assert_eq!(enter(&gates, 7).refusal(), None);
}

#[test]
fn nobody_waits_for_the_probe_of_a_service_that_is_resumed() {
    let gates = gates(0);
    gates.adopt(&bot(stored(gate::Reason::Breaker, 0)));
    let probe = enter(&gates, 7);
    assert_eq!(wait(&gates, 7), Some(Wait::Probe));
    gates.adopt(&resumed(now()));
    assert!(!gates.is_probing(7));
    assert_eq!((wait(&gates, 7), probe.ended(FAILED, "a timeout")), (None, None));
    assert_eq!(enter(&gates, 7).refusal(), None, "it is a call as any other, and its failure the first");
}

#[test]
fn an_operator_who_resumed_long_ago_does_not_keep_the_breaker_from_counting() {
    let gates = gates(0);
    for _ in 0..2 {
        gates.adopt(&resumed(1));
        enter(&gates, 7).ended(FAILED, "a timeout");
    }
    gates.adopt(&resumed(1));
    assert!(enter(&gates, 7).refusal().is_some());
}

#[test]
fn an_operator_takes_back_that_an_endpoint_is_gone() {
    let gates = gates(0);
    enter(&gates, 7).gone("410");
    gates.adopt(&resumed(now() - 1000));
    assert!(gates.is_gone(7));
    gates.adopt(&resumed(now() + 1000));
    assert!(!gates.is_gone(7));
}
