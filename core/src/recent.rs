//! The last events whose turn ended: whether one of them is offered as it was before, and whether another
//! comes late.
//!
//! An event may be offered long after its row was read. What ended since then is known here, unless so much
//! has ended meanwhile that some of it was forgotten ([`Recent::may_have_ended`]).

use std::collections::{HashMap, HashSet, VecDeque};

use crate::{
    identity::{BotId, Conversation, EventId, MessageId},
    lanes::Ticket,
};

/// A bounded memory of events whose turn ended. Moments are of any clock that does not go back.
#[derive(Debug)]
pub struct Recent<M> {
    events_max: usize,
    order: VecDeque<(Ticket, M)>,
    finished: HashSet<EventId>,
    /// The highest message of each lane.
    lanes: HashMap<(BotId, Conversation), MessageId>,
    parked_order: VecDeque<(EventId, M)>,
    parked: HashMap<EventId, M>,
    /// The last of these moments that was forgotten.
    forgotten: Option<M>,
}

impl<M: Copy + PartialOrd> Recent<M> {
    /// Remembers the last `events_max` events that were finished, and as many that were parked.
    pub fn new(events_max: usize) -> Self {
        Self {
            events_max,
            order: VecDeque::new(),
            finished: HashSet::new(),
            lanes: HashMap::new(),
            parked_order: VecDeque::new(),
            parked: HashMap::new(),
            forgotten: None,
        }
    }

    /// An event was parked at this moment, the latest so far.
    pub fn parked(&mut self, event: EventId, at: M) {
        self.parked.insert(event, at);
        self.parked_order.push_back((event, at));
        if self.parked_order.len() > self.events_max
            && let Some((oldest, at)) = self.parked_order.pop_front()
        {
            self.forgot(at);
            // It may have been parked again.
            if self.parked.get(&oldest) == Some(&at) {
                self.parked.remove(&oldest);
            }
        }
    }

    /// Whether it was this event that was finished.
    pub fn has_finished(&self, event: EventId) -> bool {
        self.finished.contains(&event)
    }

    /// Whether an event may have been finished or parked after its row was read at this moment, so that the
    /// row may be another now.
    pub fn may_have_ended(&self, event: EventId, read_at: M) -> bool {
        let since = |at: &M| *at >= read_at;
        self.parked.get(&event).is_some_and(since) || self.forgotten.as_ref().is_some_and(since)
    }

    /// An event was finished at this moment, the latest so far.
    pub fn finished(&mut self, ticket: Ticket, at: M) {
        if self.order.len() >= self.events_max {
            self.forget_oldest();
        }
        self.order.push_back((ticket, at));
        self.finished.insert(ticket.event);
        let highest = self.lanes.entry(lane(&ticket)).or_insert(ticket.message);
        *highest = ticket.message.max(*highest);
    }

    /// Whether a later event of the same lane was finished.
    pub fn has_later(&self, ticket: &Ticket) -> bool {
        self.lanes.get(&lane(ticket)).is_some_and(|highest| *highest > ticket.message)
    }

    fn forget_oldest(&mut self) {
        let Some((oldest, at)) = self.order.pop_front() else { return };
        self.forgot(at);
        self.finished.remove(&oldest.event);
        if self.lanes.get(&lane(&oldest)) == Some(&oldest.message) {
            self.lanes.remove(&lane(&oldest));
        }
    }

    fn forgot(&mut self, at: M) {
        self.forgotten = self.forgotten.filter(|forgotten| *forgotten > at).or(Some(at));
    }
}

fn lane(ticket: &Ticket) -> (BotId, Conversation) {
    (ticket.bot, ticket.conversation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(event: EventId, conversation: Conversation, message: MessageId) -> Ticket {
        Ticket { event, bot: 1, conversation, message, taken_at: 0 }
    }

    #[test]
    fn an_event_is_late_for_a_later_one_of_its_lane_only() {
        let mut recent = Recent::new(10);
        recent.finished(ticket(1, 7, 50), 1);
        recent.finished(ticket(2, 7, 40), 2);
        assert!(recent.has_finished(1) && !recent.has_finished(3));
        assert!(recent.has_later(&ticket(3, 7, 45)));
        assert!(!recent.has_later(&ticket(3, 7, 60)) && !recent.has_later(&ticket(3, 8, 45)));
    }

    #[test]
    fn an_event_that_was_parked_after_it_was_read_is_not_as_it_was_read() {
        let mut recent = Recent::new(10);
        recent.parked(1, 7);
        assert!(recent.may_have_ended(1, 6) && recent.may_have_ended(1, 7) && !recent.may_have_ended(1, 8));
        recent.parked(1, 9);
        assert!(recent.may_have_ended(1, 8) && !recent.may_have_ended(2, 8));
    }

    #[test]
    fn what_is_parked_again_is_remembered_for_as_long_as_if_it_were_new() {
        let mut recent = Recent::new(2);
        for (event, at) in [(1, 1), (2, 2), (1, 3)] {
            recent.parked(event, at);
        }
        assert!(recent.may_have_ended(1, 3) && !recent.may_have_ended(9, 2));
        recent.parked(3, 4);
        recent.parked(4, 5);
        assert_eq!(recent.parked.len(), 2);
    }

    #[test]
    fn once_something_is_forgotten_whatever_was_read_before_it_ended_may_have_ended() {
        for parks in [true, false] {
            let mut recent = Recent::new(2);
            for (event, at) in [(1, 5), (2, 6), (3, 7)] {
                assert!(!recent.may_have_ended(99, 5), "nothing is forgotten yet");
                if parks { recent.parked(event, at) } else { recent.finished(ticket(event, 7, event), at) }
            }
            assert!(recent.may_have_ended(99, 5) && !recent.may_have_ended(99, 6));
        }
    }

    #[test]
    fn what_is_older_than_the_last_few_is_forgotten() {
        let mut recent = Recent::new(2);
        for event in 1..=100 {
            recent.finished(ticket(event, event, event), event);
            recent.parked(1000 + event, event);
        }
        for (event, is_known) in [(98, false), (99, true), (100, true)] {
            assert_eq!(recent.has_finished(event), is_known);
            assert_eq!(recent.parked.contains_key(&(1000 + event)), is_known);
        }
        assert_eq!((recent.parked.len(), recent.parked_order.len()), (2, 2));
        assert!(!recent.has_later(&ticket(0, 98, 0)) && recent.has_later(&ticket(0, 99, 0)));
        assert_eq!((recent.order.len(), recent.finished.len(), recent.lanes.len()), (2, 2, 2));
    }
}
