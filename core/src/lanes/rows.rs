//! Asking the database for rows that were left, and taking them in.

use std::collections::hash_map::Entry;

use super::{
    Lanes, Neighbours, Offered, Ticket,
    bot::{Hunger, Lane},
};
use crate::identity::{BotId, Conversation, EventId, Millis};

/// The most events that one lane asks for at a time.
pub const LANE_PAGE_ROWS_MAX: usize = 16;
/// The most events that are asked for, and read, at a time.
const PAGE_ROWS_MAX: usize = 1000;

/// Rows of a lane that are wanted, in order of their message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneWant {
    /// The bot.
    pub bot: BotId,
    /// Its conversation.
    pub conversation: Conversation,
    /// How many rows at most.
    pub rows_max: usize,
}

/// Heads of any lanes of a bot that are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BotWant {
    /// The bot.
    pub bot: BotId,
    /// Conversations are asked for in turn, beginning behind this one.
    pub after: Conversation,
    /// How many rows at most.
    pub rows_max: usize,
    /// Events of the bot that are held already.
    pub held: Vec<EventId>,
    /// Only heads that were taken before this moment.
    pub taken_before: Option<Millis>,
}

/// What should be read from the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// Lanes that ran empty and have more rows.
    pub lanes: Vec<LaneWant>,
    /// Bots that have room again and have more rows.
    pub bots: Vec<BotWant>,
}

impl Wants {
    /// Adds what is wanted besides.
    pub fn extend(&mut self, others: Self) {
        self.lanes.extend(others.lanes);
        self.bots.extend(others.bots);
    }

    /// Takes what is read at a time, of what has waited longest. Lanes and bots have half a page each, and
    /// what the others don't need. The last want that fits may be cut short: it says then that there is more.
    pub fn take_page(&mut self) -> Self {
        let of_bots: usize = self.bots.iter().map(|want| want.rows_max).sum();
        let of_lanes = PAGE_ROWS_MAX - of_bots.min(PAGE_ROWS_MAX / 2);
        let lanes = take_rows(&mut self.lanes, of_lanes, |want| &mut want.rows_max);
        let read: usize = lanes.iter().map(|want| want.rows_max).sum();
        let bots = take_rows(&mut self.bots, PAGE_ROWS_MAX - read, |want| &mut want.rows_max);
        Self { lanes, bots }
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.bots.is_empty()
    }
}

/// The first wants, for so many rows.
fn take_rows<W>(wants: &mut Vec<W>, mut rows_left: usize, rows_max: fn(&mut W) -> &mut usize) -> Vec<W> {
    let mut taken = 0;
    for want in wants.iter_mut() {
        if rows_left == 0 {
            break;
        }
        let rows = rows_max(want);
        *rows = rows_left.min(*rows);
        rows_left -= *rows;
        taken += 1;
    }
    wants.drain(..taken).collect()
}

impl Lanes {
    /// What should be read from the database now. What does not fit into one page is asked for after it.
    pub fn take_wants(&mut self) -> Wants {
        let mut wants = Wants::default();
        let mut rows_left = PAGE_ROWS_MAX;
        while rows_left > 0 {
            let Some((bot, conversation)) = self.lane_wants.pop_front() else { break };
            if !self.has_room(bot) {
                self.leave_lane(bot, conversation);
                continue;
            }
            let rows_max = self.room(bot).clamp(1, LANE_PAGE_ROWS_MAX).min(rows_left);
            rows_left -= rows_max;
            wants.lanes.push(LaneWant { bot, conversation, rows_max });
        }
        while rows_left > 0 {
            let Some(want) = self.next_bot_want(rows_left) else { break };
            rows_left -= want.rows_max;
            wants.bots.push(want);
        }
        wants
    }

    /// Whether bots whose last call failed wait to ask for rows that could begin: see
    /// [`Lanes::let_patient_ask`].
    pub fn has_patient(&self) -> bool {
        self.starving.has_aside() && self.failing_spare() > 0
    }

    /// Lets bots whose last call failed ask for rows, with the next wants: in turn, and only as many as can
    /// begin some, for what can't would be read in vain. Called now and then, so that they ask together: each
    /// of their calls that fails would else be a reason to read.
    pub fn let_patient_ask(&mut self) {
        let mut places = self.failing_spare();
        while places > 0
            && let Some(id) = self.starving.let_one_back()
        {
            places = places.saturating_sub(self.spare(id));
        }
    }

    fn next_bot_want(&mut self, rows_left: usize) -> Option<BotWant> {
        loop {
            // Without a place for anything, the starving wait.
            let starving = if self.has_place() { self.starving.next(false) } else { None };
            let (id, level) = match starving {
                Some(id) => (id, Hunger::Starving),
                None => (self.hungry.pop_front()?, Hunger::Hungry),
            };
            let rows_max = self.room(id).max(self.spare(id)).min(rows_left);
            let Some(bot) = self.bots.get_mut(&id).filter(|bot| bot.hunger == level) else { continue };
            bot.hunger = Hunger::None;
            if rows_max > 0 && bot.more {
                bot.refilling = true;
                bot.more = false;
                bot.searching = bot.shut;
                let (after, held, taken_before) = (bot.last_read, bot.held(), bot.shut);
                return Some(BotWant { bot: id, after, rows_max, held, taken_before });
            }
            if level == Hunger::Starving {
                self.note_hunger(id);
            }
            self.forget_if_idle(id);
        }
    }

    /// An event that is not held was read, and may not be as it was read: its lane is to be read again.
    pub fn look_up(&mut self, ticket: Ticket) {
        if self.meets_again(&ticket) {
            return;
        }
        let place = ticket.place();
        match self.known(ticket.bot).lanes.entry(ticket.conversation) {
            Entry::Occupied(mut lane) if lane.get().pulling => lane.get_mut().missed = true,
            Entry::Occupied(mut lane) => lane.get_mut().leave(place),
            Entry::Vacant(lane) => {
                lane.insert(Lane::pulling());
                self.lane_wants.push_back((ticket.bot, ticket.conversation));
            }
        }
    }

    /// Whether an event that is offered is held already.
    pub(super) fn meets_again(&mut self, ticket: &Ticket) -> bool {
        let is_held = self.held.contains_key(&ticket.event);
        if is_held
            && let Some(bot) = self.bots.get_mut(&ticket.bot)
            && let Some(lane) = bot.lanes.get_mut(&ticket.conversation)
        {
            lane.note_row(ticket.place());
        }
        is_held
    }

    /// Rows of a lane that was asked for, in order, up to the first that is parked; `more` if there are
    /// others. Returns those that are now held.
    pub fn pulled(
        &mut self,
        bot: BotId,
        conversation: Conversation,
        rows: &[Ticket],
        more: bool,
    ) -> Vec<EventId> {
        let is_pulling =
            self.bots.get(&bot).and_then(|bot| bot.lanes.get(&conversation)).is_some_and(|lane| lane.pulling);
        if !is_pulling {
            return Vec::new();
        }
        let mut taken = Vec::new();
        for ticket in rows {
            let has_room = if taken.is_empty() { self.has_room(bot) } else { self.room(bot) > 0 };
            if !has_room || self.keeps_out(ticket) {
                break;
            }
            taken.push(ticket.event);
            self.hold(*ticket);
        }
        let Some(state) = self.bots.get_mut(&bot) else { return taken };
        let Entry::Occupied(mut lane) = state.lanes.entry(conversation) else { return taken };
        let missed = std::mem::take(&mut lane.get_mut().missed);
        lane.get_mut().more = more || missed || taken.len() < rows.len();
        lane.get_mut().queue.extend(rows.iter().take(taken.len()).map(Ticket::place));
        if !taken.is_empty() {
            lane.get_mut().pulling = false;
            state.ready_lanes.push_back(conversation);
        } else if let Some(head) = rows.first() {
            lane.remove();
            // What is kept out is asked for when the bot is reopened.
            state.more |= !state.keeps_out(head);
        } else if missed {
            self.lane_wants.push_back((bot, conversation));
        } else {
            lane.remove();
        }
        self.after_release(bot);
        taken
    }

    /// Heads of a bot that was asked for; `more` if there may be others. Returns those that are now
    /// held. If none could be taken beside what the bot holds, it asks again when something of that ends.
    pub fn refilled(&mut self, bot: BotId, rows: &[Ticket], more: bool) -> Vec<EventId> {
        let Some(state) = self.bots.get_mut(&bot) else { return Vec::new() };
        state.refilling = false;
        state.more |= more;
        if rows.is_empty() && !more {
            state.searched = state.searched.max(state.searching);
        }
        state.last_read = rows.last().map_or(state.last_read, |row| row.conversation);
        let released = std::mem::take(&mut state.released);
        let loaded = Neighbours { earlier: false, later: true };
        let mut taken = Vec::new();
        for row in rows.iter().filter(|row| !released.contains(&row.event)) {
            if !self.has_room(bot) {
                self.bots.entry(bot).or_default().more = true;
                break;
            }
            if matches!(self.offer(*row, loaded), Offered::Held { .. }) {
                taken.push(row.event);
            }
        }
        let holds_nothing = self.bots.get(&bot).is_some_and(|state| state.lanes.is_empty());
        if holds_nothing || !taken.is_empty() {
            self.note_hunger(bot);
        }
        self.forget_if_idle(bot);
        taken
    }

    /// Forgets a lane that holds nothing: its rows are found again when the bot has room.
    fn leave_lane(&mut self, id: BotId, conversation: Conversation) {
        let Some(bot) = self.bots.get_mut(&id) else { return };
        if bot.lanes.get(&conversation).is_some_and(|lane| lane.pulling) {
            bot.lanes.remove(&conversation);
            bot.more = true;
            self.note_hunger(id);
        }
    }

    /// A bot asks for rows when it could run one and holds none, or when at least half of its room is free,
    /// so that it reads pages.
    pub(super) fn note_hunger(&mut self, id: BotId) {
        let Some(bot) = self.bots.get_mut(&id) else { return };
        if !bot.more || bot.refilling {
            return;
        }
        let is_idle = bot.ready_lanes.is_empty() && bot.open < self.limits.calls_per_bot;
        if is_idle {
            if std::mem::replace(&mut bot.hunger, Hunger::Starving) != Hunger::Starving {
                if bot.is_failing { self.starving.step_aside(id) } else { self.starving.line_up(id) }
            }
        } else if bot.hunger == Hunger::None && bot.waiting * 2 <= self.limits.waiting_per_bot {
            bot.hunger = Hunger::Hungry;
            self.hungry.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneWant = LaneWant { bot: 1, conversation: 7, rows_max: LANE_PAGE_ROWS_MAX };

    fn bot_want(bot: BotId, rows_max: usize) -> BotWant {
        BotWant { bot, after: 0, rows_max, held: Vec::new(), taken_before: None }
    }

    fn rows(wants: &Wants) -> (usize, usize) {
        let of_lanes = wants.lanes.iter().map(|want| want.rows_max).sum();
        (of_lanes, wants.bots.iter().map(|want| want.rows_max).sum())
    }

    #[test]
    fn no_more_than_a_page_is_read_at_a_time_and_neither_lanes_nor_bots_starve() {
        let bots = (0..20).map(|bot| bot_want(bot, 100)).collect();
        let mut wants = Wants { lanes: vec![LANE; 200], bots };
        let page = wants.take_page();
        assert_eq!(rows(&page), (PAGE_ROWS_MAX / 2, PAGE_ROWS_MAX / 2));
        assert_eq!(page.bots.iter().map(|want| want.bot).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let mut pages = 1;
        while !wants.is_empty() {
            let (of_lanes, of_bots) = rows(&wants.take_page());
            assert!((1..=PAGE_ROWS_MAX).contains(&(of_lanes + of_bots)));
            pages += 1;
        }
        assert!(pages <= 6, "{pages}");
    }

    #[test]
    fn what_fits_into_a_page_is_read_as_it_is_wanted() {
        let all = Wants { lanes: vec![LANE; 50], bots: vec![bot_want(1, 200)] };
        let mut wants = all.clone();
        assert_eq!(wants.take_page(), all);
        assert!(wants.is_empty());
    }

    #[test]
    fn one_bot_may_want_a_whole_page() {
        let mut wants = Wants { lanes: Vec::new(), bots: vec![bot_want(1, PAGE_ROWS_MAX); 2] };
        assert_eq!(rows(&wants.take_page()), (0, PAGE_ROWS_MAX));
        assert_eq!((wants.lanes.len(), wants.bots.len()), (0, 1));
    }
}
