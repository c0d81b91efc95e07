//! The last events that were finished: whether one of them is offered again, and whether another comes late.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::{
    identity::{BotId, Conversation, EventId, MessageId},
    lanes::Ticket,
};

/// A bounded memory of finished events.
#[derive(Debug)]
pub struct Recent {
    events_max: usize,
    order: VecDeque<Ticket>,
    events: HashSet<EventId>,
    /// The highest message of each lane.
    lanes: HashMap<(BotId, Conversation), MessageId>,
}

impl Recent {
    /// Remembers the last `events_max` events.
    pub fn new(events_max: usize) -> Self {
        Self { events_max, order: VecDeque::new(), events: HashSet::new(), lanes: HashMap::new() }
    }

    /// An event was finished.
    pub fn finished(&mut self, ticket: Ticket) {
        if self.order.len() >= self.events_max {
            self.forget_oldest();
        }
        self.order.push_back(ticket);
        self.events.insert(ticket.event);
        let highest = self.lanes.entry(lane(&ticket)).or_insert(ticket.message);
        *highest = ticket.message.max(*highest);
    }

    /// Whether it was this event.
    pub fn has(&self, event: EventId) -> bool {
        self.events.contains(&event)
    }

    /// Whether a later event of the same lane was finished.
    pub fn has_later(&self, ticket: &Ticket) -> bool {
        self.lanes.get(&lane(ticket)).is_some_and(|highest| *highest > ticket.message)
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        self.events.remove(&oldest.event);
        if self.lanes.get(&lane(&oldest)) == Some(&oldest.message) {
            self.lanes.remove(&lane(&oldest));
        }
    }
}

fn lane(ticket: &Ticket) -> (BotId, Conversation) {
    (ticket.bot, ticket.conversation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(event: EventId, conversation: Conversation, message: MessageId) -> Ticket {
        Ticket { event, bot: 1, conversation, message }
    }

    #[test]
    fn an_event_is_late_for_a_later_one_of_its_lane_only() {
        let mut recent = Recent::new(10);
        recent.finished(ticket(1, 7, 50));
        recent.finished(ticket(2, 7, 40));
        assert!(recent.has(1) && !recent.has(3));
        assert!(recent.has_later(&ticket(3, 7, 45)));
        assert!(!recent.has_later(&ticket(3, 7, 60)) && !recent.has_later(&ticket(3, 8, 45)));
    }

    #[test]
    fn what_is_older_than_the_last_few_is_forgotten() {
        let mut recent = Recent::new(2);
        for event in 1..=100 {
            recent.finished(ticket(event, event, event));
        }
        assert!(recent.has(99) && recent.has(100) && !recent.has(98));
        assert!(!recent.has_later(&ticket(0, 98, 0)) && recent.has_later(&ticket(0, 99, 0)));
        assert_eq!((recent.order.len(), recent.events.len(), recent.lanes.len()), (2, 2, 2));
    }
}
