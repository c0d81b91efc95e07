//! Which event may run next: order within a conversation, fair shares between bots.
//!
//! A *lane* is one conversation of one bot. Its events run one at a time, lowest message id first;
//! lanes run beside each other, up to `calls_per_bot`, and bots take turns. Everything held here is
//! bounded, because the database holds the rest: an event that finds no room is *left* as a row, and
//! asked for again ([`Lanes::take_wants`]) when there is room.
//!
//! Two facts keep rows and memory in step:
//!
//! - Within a lane, every row that is not held, left out or parked, is later than every event held. So
//!   a lane is served from memory until it is empty, then from rows if there are any (`more`).
//! - A lane that is not in memory is looked up in the database before it is used, unless the
//!   database has just said that the event has no predecessor.

use std::collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry};

use crate::identity::{BotId, Conversation, EventId, MessageId, ServiceId};

/// The most events that one lane asks for at a time.
pub const LANE_PAGE_ROWS_MAX: usize = 16;

/// How much may be held and done at a time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Calls in flight for one bot, and events of it whose calls have begun.
    pub calls_per_bot: usize,
    /// Events of one bot that wait in memory.
    pub waiting_per_bot: usize,
    /// Events of all bots that wait in memory.
    pub waiting_total: usize,
}

/// An event, as far as its place in a lane is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The event's row.
    pub event: EventId,
    /// Its bot.
    pub bot: BotId,
    /// Its conversation.
    pub conversation: Conversation,
    /// Its message: the order within the conversation.
    pub message: MessageId,
}

/// What the database knew of an event's lane when it handed the event out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbours {
    /// An earlier event of the lane was unfinished.
    pub earlier: bool,
    /// Later events of the lane may be unfinished and were not offered yet.
    pub later: bool,
}

/// What became of an offered event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// Held; `evicted` had to make room and is only a row again.
    Held {
        /// A later event of the same lane.
        evicted: Option<EventId>,
    },
    /// It was held already.
    Known,
    /// It stays a row, to be asked for again.
    Left,
}

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
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.bots.is_empty()
    }
}

/// The lanes of a shard of bots.
#[derive(Debug)]
pub struct Lanes {
    limits: Limits,
    bots: HashMap<BotId, Bot>,
    held: HashMap<EventId, Ticket>,
    waiting: usize,
    event_turns: VecDeque<BotId>,
    call_turns: VecDeque<BotId>,
    lane_wants: VecDeque<(BotId, Conversation)>,
    hungry: VecDeque<BotId>,
}

#[derive(Debug, Default)]
struct Bot {
    lanes: HashMap<Conversation, Lane>,
    /// Lanes whose head may run.
    ready_lanes: VecDeque<Conversation>,
    ready_calls: VecDeque<(EventId, ServiceId)>,
    /// Events that have begun.
    open: usize,
    /// Calls in flight.
    calls: usize,
    waiting: usize,
    /// Rows were left for want of room.
    more: bool,
    /// The conversation that rows were last read of.
    last_read: Conversation,
    refilling: bool,
    /// What finished or was parked while rows were being read, so that a stale row is not run again.
    released: Vec<EventId>,
    has_event_turn: bool,
    has_call_turn: bool,
    is_hungry: bool,
}

#[derive(Debug, Default)]
struct Lane {
    running: Option<EventId>,
    queue: BTreeSet<Place>,
    /// There are rows later than all of the queue that are not held.
    more: bool,
    pulling: bool,
    /// Something was left while the rows were being read.
    missed: bool,
}

/// The order within a lane. Two events of one message differ by their replay; the older row is first.
type Place = (MessageId, EventId);

enum Admission {
    Taken { evicted: Option<EventId> },
    Refused,
}

impl Lane {
    fn admit(&mut self, place: Place, room: bool) -> Admission {
        if self.pulling {
            self.missed = true;
            return Admission::Refused;
        }
        let goes_before = self.queue.last().is_some_and(|last| place < *last);
        if !goes_before && (self.more || !room) {
            self.more = true;
            return Admission::Refused;
        }
        self.queue.insert(place);
        if room {
            return Admission::Taken { evicted: None };
        }
        self.more = true;
        Admission::Taken { evicted: self.queue.pop_last().map(|(_, event)| event) }
    }
}

impl Bot {
    fn is_idle(&self) -> bool {
        self.lanes.is_empty()
            && self.open + self.calls == 0
            && !(self.more || self.refilling || self.is_hungry)
    }

    fn held(&self) -> Vec<EventId> {
        self.lanes
            .values()
            .flat_map(|lane| lane.running.into_iter().chain(lane.queue.iter().map(|(_, event)| *event)))
            .collect()
    }
}

impl Lanes {
    /// Empty lanes.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            bots: HashMap::new(),
            held: HashMap::new(),
            waiting: 0,
            event_turns: VecDeque::new(),
            call_turns: VecDeque::new(),
            lane_wants: VecDeque::new(),
            hungry: VecDeque::new(),
        }
    }

    /// How many events are held, waiting or running.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether a later event of the same lane is running.
    pub fn runs_later(&self, ticket: &Ticket) -> bool {
        let lane = self.bots.get(&ticket.bot).and_then(|bot| bot.lanes.get(&ticket.conversation));
        let running = lane.and_then(|lane| lane.running).and_then(|event| self.held.get(&event));
        running.is_some_and(|running| running.message > ticket.message)
    }

    /// Offers an event that was stored or read from the database. `room` says whether the process may
    /// hold more events.
    pub fn offer(&mut self, ticket: Ticket, neighbours: Neighbours, room: bool) -> Offered {
        if self.held.contains_key(&ticket.event) {
            return Offered::Known;
        }
        let room = room && self.has_room(ticket.bot);
        let place = (ticket.message, ticket.event);
        let bot = self.bots.entry(ticket.bot).or_default();
        let evicted = match bot.lanes.entry(ticket.conversation) {
            Entry::Occupied(mut lane) => match lane.get_mut().admit(place, room) {
                Admission::Refused => return Offered::Left,
                Admission::Taken { evicted } => evicted,
            },
            Entry::Vacant(_) if !room => {
                bot.more = true;
                self.note_hunger(ticket.bot);
                return Offered::Left;
            }
            Entry::Vacant(lane) if neighbours.earlier => {
                lane.insert(Lane { pulling: true, ..Lane::default() });
                self.lane_wants.push_back((ticket.bot, ticket.conversation));
                return Offered::Left;
            }
            Entry::Vacant(lane) => {
                lane.insert(Lane { queue: [place].into(), more: neighbours.later, ..Lane::default() });
                bot.ready_lanes.push_back(ticket.conversation);
                None
            }
        };
        self.hold(ticket);
        if let Some(event) = evicted {
            self.unhold_waiting(event);
        }
        self.give_event_turn(ticket.bot);
        Offered::Held { evicted }
    }

    /// An event that is not held was read, and may not be as it was read: its lane is to be read again.
    pub fn look_up(&mut self, ticket: Ticket) {
        if self.held.contains_key(&ticket.event) {
            return;
        }
        match self.bots.entry(ticket.bot).or_default().lanes.entry(ticket.conversation) {
            Entry::Occupied(mut lane) if lane.get().pulling => lane.get_mut().missed = true,
            Entry::Occupied(mut lane) => lane.get_mut().more = true,
            Entry::Vacant(lane) => {
                lane.insert(Lane { pulling: true, ..Lane::default() });
                self.lane_wants.push_back((ticket.bot, ticket.conversation));
            }
        }
    }

    /// The next event whose calls may begin; answer with [`Lanes::opened`].
    pub fn next_event(&mut self) -> Option<EventId> {
        while let Some(id) = self.event_turns.pop_front() {
            let Some(bot) = self.bots.get_mut(&id) else { continue };
            bot.has_event_turn = false;
            if bot.open >= self.limits.calls_per_bot {
                continue;
            }
            let Some(event) = bot.begin_next() else { continue };
            self.waiting -= 1;
            self.give_event_turn(id);
            self.note_hunger(id);
            return Some(event);
        }
        None
    }

    /// An event has begun: these are the services that it calls.
    pub fn opened(&mut self, event: EventId, services: &[ServiceId]) {
        let Some(ticket) = self.held.get(&event).copied() else { return };
        let Some(bot) = self.bots.get_mut(&ticket.bot) else { return };
        bot.ready_calls.extend(services.iter().map(|service| (event, *service)));
        self.give_call_turn(ticket.bot);
    }

    /// Whether a call could start, given a permit for it.
    pub fn has_ready_calls(&self) -> bool {
        !self.call_turns.is_empty()
    }

    /// The next call to make; answer with [`Lanes::call_ended`].
    pub fn next_call(&mut self) -> Option<(EventId, ServiceId)> {
        while let Some(id) = self.call_turns.pop_front() {
            let Some(bot) = self.bots.get_mut(&id) else { continue };
            bot.has_call_turn = false;
            if bot.calls >= self.limits.calls_per_bot {
                continue;
            }
            let Some(call) = bot.ready_calls.pop_front() else { continue };
            bot.calls += 1;
            self.give_call_turn(id);
            return Some(call);
        }
        None
    }

    /// A call of `bot` is no longer in flight.
    pub fn call_ended(&mut self, bot: BotId) {
        if let Some(state) = self.bots.get_mut(&bot) {
            state.calls = state.calls.saturating_sub(1);
        }
        self.give_call_turn(bot);
        self.forget_if_idle(bot);
    }

    /// Calls that were given out by [`Lanes::next_call`] and, reported as no longer in flight, had to wait: they are the
    /// next of their bots, in this order.
    pub fn ready_again(&mut self, calls: &[(EventId, ServiceId)]) {
        for (event, service) in calls.iter().rev() {
            let Some(ticket) = self.held.get(event).copied() else { continue };
            let Some(bot) = self.bots.get_mut(&ticket.bot) else { continue };
            bot.ready_calls.push_front((*event, *service));
            self.give_call_turn(ticket.bot);
        }
    }

    /// An event is finished, or dead-lettered: its lane goes on.
    pub fn finished(&mut self, event: EventId) {
        let Some(ticket) = self.close(event) else { return };
        let Some(bot) = self.bots.get_mut(&ticket.bot) else { return };
        if let Entry::Occupied(mut lane) = bot.lanes.entry(ticket.conversation) {
            lane.get_mut().running = None;
            if !lane.get().queue.is_empty() {
                bot.ready_lanes.push_back(ticket.conversation);
            } else if lane.get().more {
                lane.get_mut().more = false;
                lane.get_mut().pulling = true;
                self.lane_wants.push_back((ticket.bot, ticket.conversation));
            } else {
                lane.remove();
            }
        }
        self.after_release(ticket.bot);
    }

    /// An event waits for a retry, as a row. Its lane waits with it: what was queued behind it is
    /// only rows again (returned).
    pub fn parked(&mut self, event: EventId) -> Vec<EventId> {
        let Some(ticket) = self.close(event) else { return Vec::new() };
        let lane = self.bots.get_mut(&ticket.bot).and_then(|bot| bot.lanes.remove(&ticket.conversation));
        let dropped: Vec<EventId> =
            lane.into_iter().flat_map(|lane| lane.queue).map(|(_, event)| event).collect();
        for event in &dropped {
            self.unhold_waiting(*event);
        }
        self.after_release(ticket.bot);
        dropped
    }

    /// Forgets what waits of these bots, which others will work for; what has begun goes on. Returns what is only
    /// rows again.
    pub fn let_go(&mut self, is_leaving: impl Fn(BotId) -> bool) -> Vec<EventId> {
        self.lane_wants.retain(|(bot, _)| !is_leaving(*bot));
        self.hungry.retain(|bot| !is_leaving(*bot));
        let leaving: Vec<BotId> = self.bots.keys().copied().filter(|bot| is_leaving(*bot)).collect();
        let mut dropped = Vec::new();
        for id in leaving {
            let Some(bot) = self.bots.get_mut(&id) else { continue };
            let waiting = bot.let_go();
            waiting.iter().for_each(|event| self.unhold_waiting(*event));
            self.forget_if_idle(id);
            dropped.extend(waiting);
        }
        dropped
    }

    /// What should be read from the database now, given that the process may hold so many more events.
    pub fn take_wants(&mut self, mut places: usize) -> Wants {
        let mut wants = Wants::default();
        while places > 0 {
            let Some((bot, conversation)) = self.lane_wants.pop_front() else { break };
            let rows_max = self.room(bot).clamp(1, LANE_PAGE_ROWS_MAX).min(places);
            places -= rows_max;
            wants.lanes.push(LaneWant { bot, conversation, rows_max });
        }
        while places > 0 && self.waiting < self.limits.waiting_total {
            let Some(id) = self.hungry.pop_front() else { break };
            let rows_max = self.room(id).max(1).min(places);
            let Some(bot) = self.bots.get_mut(&id) else { continue };
            places -= rows_max;
            bot.is_hungry = false;
            bot.refilling = true;
            bot.more = false;
            wants.bots.push(BotWant { bot: id, after: bot.last_read, rows_max, held: bot.held() });
        }
        wants
    }

    /// Whether rows would be asked for, if there were room for them.
    pub fn has_wants(&self) -> bool {
        !(self.hungry.is_empty() && self.lane_wants.is_empty())
    }

    /// Rows of a lane that was asked for, in order, up to the first that is parked; `more` if there are
    /// others. Returns those that are now held, at most `places`.
    pub fn pulled(
        &mut self,
        bot: BotId,
        conversation: Conversation,
        rows: &[Ticket],
        more: bool,
        places: usize,
    ) -> Vec<EventId> {
        let is_pulling =
            self.bots.get(&bot).and_then(|bot| bot.lanes.get(&conversation)).is_some_and(|lane| lane.pulling);
        if !is_pulling {
            return Vec::new();
        }
        let mut taken = Vec::new();
        for ticket in rows.iter().take(places) {
            if !taken.is_empty() && !self.has_room(bot) {
                break;
            }
            taken.push(ticket.event);
            self.hold(*ticket);
        }
        let Some(state) = self.bots.get_mut(&bot) else { return taken };
        let Entry::Occupied(mut lane) = state.lanes.entry(conversation) else { return taken };
        let missed = std::mem::take(&mut lane.get_mut().missed);
        lane.get_mut().more = more || missed || taken.len() < rows.len();
        lane.get_mut().queue.extend(rows.iter().take(taken.len()).map(|row| (row.message, row.event)));
        if !taken.is_empty() {
            lane.get_mut().pulling = false;
            state.ready_lanes.push_back(conversation);
        } else if missed || !rows.is_empty() {
            self.lane_wants.push_back((bot, conversation));
        } else {
            lane.remove();
        }
        self.after_release(bot);
        taken
    }

    /// Heads of a bot that was asked for; `more` if there may be others. Returns those that are now
    /// held, at most `places`. If none could be taken beside what the bot holds, it asks again when something
    /// of that ends.
    pub fn refilled(&mut self, bot: BotId, rows: &[Ticket], more: bool, places: usize) -> Vec<EventId> {
        let Some(state) = self.bots.get_mut(&bot) else { return Vec::new() };
        state.refilling = false;
        state.more |= more;
        state.last_read = rows.last().map_or(state.last_read, |row| row.conversation);
        let released = std::mem::take(&mut state.released);
        let loaded = Neighbours { earlier: false, later: true };
        let mut taken = Vec::new();
        for row in rows.iter().filter(|row| !released.contains(&row.event)) {
            if taken.len() >= places || !self.has_room(bot) {
                self.bots.entry(bot).or_default().more = true;
                break;
            }
            if matches!(self.offer(*row, loaded, true), Offered::Held { .. }) {
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

    fn room(&self, bot: BotId) -> usize {
        let waiting = self.bots.get(&bot).map_or(0, |bot| bot.waiting);
        let of_bot = self.limits.waiting_per_bot.saturating_sub(waiting);
        of_bot.min(self.limits.waiting_total.saturating_sub(self.waiting))
    }

    fn has_room(&self, bot: BotId) -> bool {
        self.room(bot) > 0
    }

    fn hold(&mut self, ticket: Ticket) {
        self.held.insert(ticket.event, ticket);
        self.waiting += 1;
        self.bots.entry(ticket.bot).or_default().waiting += 1;
    }

    fn unhold_waiting(&mut self, event: EventId) {
        let Some(ticket) = self.held.remove(&event) else { return };
        self.waiting -= 1;
        if let Some(bot) = self.bots.get_mut(&ticket.bot) {
            bot.waiting -= 1;
        }
    }

    fn close(&mut self, event: EventId) -> Option<Ticket> {
        let ticket = self.held.remove(&event)?;
        let bot = self.bots.get_mut(&ticket.bot)?;
        bot.open -= 1;
        if bot.refilling {
            bot.released.push(event);
        }
        bot.ready_calls.retain(|(other, _)| *other != event);
        Some(ticket)
    }

    fn after_release(&mut self, bot: BotId) {
        self.give_event_turn(bot);
        self.note_hunger(bot);
        self.forget_if_idle(bot);
    }

    fn give_event_turn(&mut self, id: BotId) {
        let Some(bot) = self.bots.get_mut(&id) else { return };
        if !bot.has_event_turn && !bot.ready_lanes.is_empty() && bot.open < self.limits.calls_per_bot {
            bot.has_event_turn = true;
            self.event_turns.push_back(id);
        }
    }

    fn give_call_turn(&mut self, id: BotId) {
        let Some(bot) = self.bots.get_mut(&id) else { return };
        if !bot.has_call_turn && !bot.ready_calls.is_empty() && bot.calls < self.limits.calls_per_bot {
            bot.has_call_turn = true;
            self.call_turns.push_back(id);
        }
    }

    /// A bot asks for rows when at least half of its room is free, so that it reads pages.
    fn note_hunger(&mut self, id: BotId) {
        let Some(bot) = self.bots.get_mut(&id) else { return };
        let has_appetite = bot.waiting * 2 <= self.limits.waiting_per_bot;
        if bot.more && has_appetite && !bot.refilling && !bot.is_hungry {
            bot.is_hungry = true;
            self.hungry.push_back(id);
        }
    }

    fn forget_if_idle(&mut self, id: BotId) {
        if self.bots.get(&id).is_some_and(Bot::is_idle) {
            self.bots.remove(&id);
        }
    }
}

impl Bot {
    /// Keeps only what has begun.
    fn let_go(&mut self) -> Vec<EventId> {
        self.ready_lanes.clear();
        self.more = false;
        self.is_hungry = false;
        self.refilling = false;
        let mut dropped = Vec::new();
        self.lanes.retain(|_, lane| {
            dropped.extend(std::mem::take(&mut lane.queue).into_iter().map(|(_, event)| event));
            *lane = Lane { running: lane.running, ..Lane::default() };
            lane.running.is_some()
        });
        dropped
    }

    fn begin_next(&mut self) -> Option<EventId> {
        while let Some(conversation) = self.ready_lanes.pop_front() {
            let Some(lane) = self.lanes.get_mut(&conversation) else { continue };
            let Some((_, event)) = lane.queue.pop_first() else { continue };
            lane.running = Some(event);
            self.open += 1;
            self.waiting -= 1;
            return Some(event);
        }
        None
    }
}

#[cfg(test)]
mod tests;
