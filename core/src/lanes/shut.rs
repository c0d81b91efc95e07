//! Bots of which nothing can be called for a while. Their events stay rows, so that a backlog costs nothing; only those
//! that can't wait so long are handed out, to end.

use super::Lanes;
use crate::identity::{BotId, EventId, Millis};

impl Lanes {
    /// An event that has begun can't be called, and neither can any other of its bot until [`Lanes::reopen`]. It is only
    /// a row again, and so is what waited of the bot (returned). Meanwhile only heads of lanes are handed out that were
    /// taken before `taken_before`: they are to end without a call.
    pub fn shut(&mut self, event: EventId, taken_before: Millis) -> Vec<EventId> {
        let Some(ticket) = self.close(event) else { return Vec::new() };
        let Some(bot) = self.bots.get_mut(&ticket.bot) else { return Vec::new() };
        if let Some(lane) = bot.lanes.get_mut(&ticket.conversation) {
            lane.running = None;
        }
        let dropped = bot.shut(taken_before);
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

    pub(super) fn is_shut(&self, id: BotId) -> bool {
        self.bots.get(&id).is_some_and(|bot| bot.shut.is_some())
    }
}
