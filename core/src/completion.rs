//! When an event is finished: when each of its service calls is.

use std::collections::HashMap;

use crate::identity::{EventId, Millis, ServiceId};

/// How a service call stands after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallState {
    /// Succeeded, or failed for good: never made again.
    Finished,
    /// To be made again at this moment.
    Waiting(Millis),
}

/// What a completion means for its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Other calls of the event are still under way.
    Open,
    /// No call is under way, and the earliest retry is due at this moment.
    Parked(Millis),
    /// Every call has finished: the message may be marked processed.
    Finished,
}

/// One turn of an event at its calls: which are under way, and what the others ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    under_way: Vec<ServiceId>,
    earliest: Option<Millis>,
}

impl Turn {
    /// A turn in which `under_way` are called; `waiting` are the moments at which calls that are
    /// not part of this turn are due.
    pub fn new(
        under_way: impl IntoIterator<Item = ServiceId>,
        waiting: impl IntoIterator<Item = Millis>,
    ) -> Self {
        Self { under_way: under_way.into_iter().collect(), earliest: waiting.into_iter().min() }
    }

    /// Records how the call of `service` stands. A second completion of a call changes nothing.
    pub fn record(&mut self, service: ServiceId, state: CallState) -> Progress {
        if let Some(at) = self.under_way.iter().position(|open| *open == service) {
            self.under_way.swap_remove(at);
            if let CallState::Waiting(due) = state {
                self.earliest = Some(self.earliest.map_or(due, |earliest| earliest.min(due)));
            }
        }
        self.progress()
    }

    /// The calls that are under way.
    pub fn under_way(&self) -> &[ServiceId] {
        &self.under_way
    }

    /// Where the event stands.
    pub fn progress(&self) -> Progress {
        match (self.under_way.is_empty(), self.earliest) {
            (false, _) => Progress::Open,
            (true, Some(due)) => Progress::Parked(due),
            (true, None) => Progress::Finished,
        }
    }
}

/// The turns of all events that have at least one call under way.
///
/// Single-call events do not stay in the map: their first completion is their last.
#[derive(Debug, Default)]
pub struct Completions {
    turns: HashMap<EventId, (u64, Turn)>,
}

impl Completions {
    /// Records a completion of `event`'s turn number `number`. `turn` gives the turn as it began,
    /// used when this is its first completion, or when an older turn of the event was cut off.
    pub fn record(
        &mut self,
        event: EventId,
        (number, turn): (u64, &Turn),
        service: ServiceId,
        state: CallState,
    ) -> Progress {
        let entry = self.turns.entry(event).or_insert_with(|| (number, turn.clone()));
        if entry.0 != number {
            *entry = (number, turn.clone());
        }
        let progress = entry.1.record(service, state);
        if progress != Progress::Open {
            self.turns.remove(&event);
        }
        progress
    }

    /// How many events are waiting for further completions.
    pub fn len(&self) -> usize {
        self.turns.len()
    }

    /// Whether no event is waiting for further completions.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_is_finished_by_its_last_call_whatever_it_ended_with() {
        let mut turn = Turn::new([1, 2, 3], []);
        assert_eq!(turn.record(2, CallState::Finished), Progress::Open);
        assert_eq!(turn.record(2, CallState::Finished), Progress::Open);
        assert_eq!(turn.record(1, CallState::Finished), Progress::Open);
        assert_eq!(turn.record(3, CallState::Finished), Progress::Finished);
    }

    #[test]
    fn a_waiting_call_keeps_its_event_open_until_the_earliest_retry() {
        let mut turn = Turn::new([1, 2], [70]);
        assert_eq!(turn.record(1, CallState::Waiting(90)), Progress::Open);
        assert_eq!(turn.record(2, CallState::Finished), Progress::Parked(70));
    }

    #[test]
    fn a_turn_that_was_cut_off_leaves_no_trace_in_the_next() {
        let mut completions = Completions::default();
        let turn = Turn::new([1, 2], []);
        assert_eq!(completions.record(5, (1, &turn), 1, CallState::Finished), Progress::Open);
        assert_eq!(completions.record(5, (2, &turn), 2, CallState::Finished), Progress::Open);
        assert_eq!(completions.record(5, (2, &turn), 1, CallState::Finished), Progress::Finished);
        assert!(completions.is_empty());
    }

    #[test]
    fn an_event_without_calls_is_finished_at_once() {
        assert_eq!(Turn::new([], []).progress(), Progress::Finished);
    }

    proptest! {
        /// Events of one to four calls complete in random order, retries included, until nothing
        /// is left; each is finished exactly once, and only after each of its calls is.
        #[test]
        fn an_event_is_finished_once_and_never_early(
            sizes in proptest::collection::vec(1usize..=4, 1..20),
            steps in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..400),
        ) {
            let mut completions = Completions::default();
            let mut unfinished: Vec<Vec<ServiceId>> =
                sizes.iter().map(|size| (0..*size as i64).collect()).collect();
            let mut turns: Vec<(u64, Turn)> =
                unfinished.iter().map(|calls| (0, Turn::new(calls.clone(), []))).collect();
            let mut under_way = unfinished.clone();
            let mut finished = vec![false; sizes.len()];
            for (pick, succeeds) in steps {
                let open: Vec<(usize, ServiceId)> = under_way.iter().enumerate()
                    .flat_map(|(event, calls)| calls.iter().map(move |call| (event, *call)))
                    .collect();
                if open.is_empty() { break; }
                let (event, call) = open[pick.index(open.len())];
                under_way[event].retain(|other| *other != call);
                let state = if succeeds { CallState::Finished } else { CallState::Waiting(1) };
                if succeeds { unfinished[event].retain(|other| *other != call); }
                let (number, turn) = &turns[event];
                match completions.record(event as i64, (*number, turn), call, state) {
                    Progress::Open => prop_assert!(!under_way[event].is_empty()),
                    Progress::Parked(_) => {
                        prop_assert!(under_way[event].is_empty() && !unfinished[event].is_empty());
                        under_way[event] = unfinished[event].clone();
                        turns[event] = (number + 1, Turn::new(unfinished[event].clone(), []));
                    }
                    Progress::Finished => {
                        prop_assert!(unfinished[event].is_empty() && !finished[event]);
                        finished[event] = true;
                    }
                }
            }
            for (event, calls) in unfinished.iter().enumerate() {
                prop_assert_eq!(calls.is_empty(), finished[event]);
            }
            prop_assert_eq!(
                completions.len(),
                (0..sizes.len()).filter(|&event| {
                    let (_, turn) = &turns[event];
                    !finished[event] && under_way[event].len() < turn.under_way.len()
                }).count()
            );
        }
    }
}
