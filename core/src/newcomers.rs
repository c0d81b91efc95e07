//! What was stored while rows were being read. A later row of the same lane was read without knowing of it,
//! and must not be taken for the next of its lane any more.

use std::collections::HashMap;

use crate::{
    identity::{BotId, Conversation, MessageId},
    lanes::Ticket,
};

/// The earliest event of each lane that was stored since rows were read.
#[derive(Debug, Clone)]
pub struct Newcomers {
    lanes_max: usize,
    earliest: HashMap<(BotId, Conversation), MessageId>,
}

impl Newcomers {
    /// None so far; those of about `lanes_max` lanes are remembered.
    pub fn new(lanes_max: usize) -> Self {
        Self { lanes_max, earliest: HashMap::new() }
    }

    /// Whether nothing more should be stored before the rows are read.
    pub fn are_too_many(&self) -> bool {
        self.earliest.len() >= self.lanes_max
    }

    /// An event was stored.
    pub fn add(&mut self, ticket: &Ticket) {
        let earliest = self.earliest.entry((ticket.bot, ticket.conversation)).or_insert(ticket.message);
        *earliest = ticket.message.min(*earliest);
    }

    /// Whether one of them comes before an event whose row was read.
    pub fn precede(&self, ticket: &Ticket) -> bool {
        self.earliest
            .get(&(ticket.bot, ticket.conversation))
            .is_some_and(|earliest| *earliest < ticket.message)
    }

    /// Keeps of a page's rows, in order, those that nothing new precedes. Says whether there were others.
    pub fn cut<R>(&self, rows: &mut Vec<R>, ticket: impl Fn(&R) -> Ticket) -> bool {
        let read = rows.len();
        rows.retain(|row| !self.precede(&ticket(row)));
        rows.len() < read
    }

    /// Rows are being read now.
    pub fn forget(&mut self) {
        self.earliest.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(conversation: Conversation, message: MessageId) -> Ticket {
        Ticket { event: message, bot: 1, conversation, message, taken_at: 0 }
    }

    #[test]
    fn only_what_is_later_in_the_same_lane_is_preceded() {
        let mut newcomers = Newcomers::new(2);
        newcomers.add(&ticket(7, 20));
        newcomers.add(&ticket(7, 10));
        newcomers.add(&ticket(7, 30));
        assert!(newcomers.precede(&ticket(7, 11)) && !newcomers.precede(&ticket(7, 10)));
        assert!(!newcomers.precede(&ticket(8, 99)));
        newcomers.forget();
        assert!(!newcomers.precede(&ticket(7, 11)));
    }

    #[test]
    fn there_are_too_many_when_the_limit_is_reached() {
        let mut newcomers = Newcomers::new(2);
        newcomers.add(&ticket(7, 1));
        newcomers.add(&ticket(7, 2));
        assert!(!newcomers.are_too_many());
        newcomers.add(&ticket(8, 3));
        assert!(newcomers.are_too_many());
    }
}
