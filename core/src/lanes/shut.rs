//! Bots of which nothing can be called for a while. Their events stay rows, so that a backlog costs nothing.
//! By whatever way a row comes, it is let in only if it can't wait so long, to end; or to go before one in
//! memory that can't.

use super::{Lanes, Ticket};
use crate::identity::{BotId, EventId, Millis};

impl Lanes {
    /// An event that has begun can't be called, and neither can any other of its bot until [`Lanes::reopen`].
    /// It is only a row again, and so is what waited of the bot (returned). Meanwhile only heads of lanes are
    /// handed out that were taken before `taken_before`: they are to end without a call.
    pub fn shut(&mut self, event: EventId, taken_before: Millis) -> Vec<EventId> {
        let Some(ticket) = self.close(event) else { return Vec::new() };
        let Some(bot) = self.bots.get_mut(&ticket.bot) else { return Vec::new() };
        if let Some(lane) = bot.lanes.get_mut(&ticket.conversation) {
            lane.running = None;
        }
        let dropped = bot.shut(taken_before);
        let is_late = |event: &EventId| self.held.get(event).is_some_and(|held| held.taken_at < taken_before);
        bot.more |= dropped.iter().any(is_late);
        dropped.iter().for_each(|event| self.unhold_waiting(*event));
        self.after_release(ticket.bot);
        dropped
    }

    /// Calls of a bot that was shut may be made again: its rows are asked for.
    pub fn reopen(&mut self, id: BotId) {
        let Some(bot) = self.bots.get_mut(&id) else { return };
        if bot.shut.take().is_some() {
            bot.more = true;
            self.note_hunger(id);
        }
    }

    /// Whether an event has to stay a row because nothing of its bot can be called.
    pub(super) fn keeps_out(&self, ticket: &Ticket) -> bool {
        self.bots.get(&ticket.bot).is_some_and(|bot| bot.keeps_out(ticket))
    }
}
