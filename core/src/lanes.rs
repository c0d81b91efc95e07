//! Which event may run next: order within a conversation, fair shares between bots.
//!
//! A *lane* is one conversation of one bot. Its events run one at a time, lowest message id first;
//! lanes run beside each other, up to `calls_per_bot`, and bots take turns. Everything held here is
//! bounded, because the database holds the rest: an event that finds no room is *left* as a row, and
//! asked for again ([`Lanes::take_wants`]) when there is room.
//!
//! Bots that are not getting on can't take the room of the others, by three rules:
//!
//! - An event that can begin at once needs no room to wait in, so a full waiting room delays nobody whose own
//!   calls have room.
//! - A bot may have no more events waiting than there are places still free: however many want places, some
//!   stay free for those that come later (the dynamic thresholds of Choudhury and Hahne, 1998).
//! - Bots whose last call failed hold nothing that waits, and share a part of what may be under way.
//!
//! A bot of which nothing can be called for a while is *shut* ([`Lanes::shut`]): its events stay rows, but
//! for those that can't wait so long.
//!
//! Three facts keep rows and memory in step:
//!
//! - Within a lane, every row that is not held, left out or parked, is later than every event held. So
//!   a lane is served from memory until it is empty, then from rows if there are any (`more`).
//! - A lane that is not in memory is looked up in the database before it is used, unless the
//!   database has just said that the event has no predecessor.
//! - What is told of an event may come later than what the database does with it. One that is offered while
//!   it runs may have been parked and handed out again, so its lane is read when its park is told.

mod bot;
mod failing;
mod round_robin;
mod rows;
mod shut;

use std::collections::{HashMap, VecDeque, hash_map::Entry};

pub use self::rows::{BotWant, LANE_PAGE_ROWS_MAX, LaneWant, Wants};
use self::{
    bot::{Admission, Bot, Lane, Place},
    failing::Failed,
    round_robin::RoundRobin,
};
use crate::identity::{BotId, Conversation, EventId, MessageId, Millis, ServiceId};

/// How much may be held and done at a time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Calls in flight for one bot, and events of it whose calls have begun.
    pub calls_per_bot: usize,
    /// Events of one bot that wait in memory.
    pub waiting_per_bot: usize,
    /// Events of all bots that wait in memory.
    pub waiting_total: usize,
    /// Events of all bots whose calls have begun.
    pub open_total: usize,
    /// Of these, events of bots whose last call failed; also calls of such bots in flight. At least 1.
    pub failing_total: usize,
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
    /// When it was stored.
    pub taken_at: Millis,
}

impl Ticket {
    fn place(&self) -> Place {
        (self.message, self.event)
    }
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

/// The lanes of a shard of bots.
#[derive(Debug)]
pub struct Lanes {
    limits: Limits,
    bots: HashMap<BotId, Bot>,
    held: HashMap<EventId, Ticket>,
    waiting: usize,
    /// Of bots whose last call failed.
    failing: UnderWay,
    /// Such bots that hold nothing.
    failed: Failed,
    event_turns: RoundRobin,
    call_turns: RoundRobin,
    lane_wants: VecDeque<(BotId, Conversation)>,
    /// Those whose last call failed stand aside: they are *patient*.
    starving: RoundRobin,
    hungry: VecDeque<BotId>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct UnderWay {
    events: usize,
    calls: usize,
}

impl Lanes {
    /// Empty lanes.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            bots: HashMap::new(),
            held: HashMap::new(),
            waiting: 0,
            failing: UnderWay::default(),
            failed: Failed::default(),
            event_turns: RoundRobin::default(),
            call_turns: RoundRobin::default(),
            lane_wants: VecDeque::new(),
            starving: RoundRobin::default(),
            hungry: VecDeque::new(),
        }
    }

    /// Has other limits from now on. What is held or under way beyond them stays until it is done.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How many events are held, waiting or running.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether more events could run than may be under way, so that others would only wait behind them.
    pub fn is_crowded(&self) -> bool {
        self.open() >= self.limits.open_total && self.waiting * 2 >= self.limits.waiting_total
    }

    /// Whether a later event of the same lane is running.
    pub fn runs_later(&self, ticket: &Ticket) -> bool {
        let lane = self.bots.get(&ticket.bot).and_then(|bot| bot.lanes.get(&ticket.conversation));
        let running = lane.and_then(|lane| lane.running);
        running.is_some_and(|(message, _)| message > ticket.message)
    }

    /// Offers an event that was stored or read from the database.
    pub fn offer(&mut self, ticket: Ticket, neighbours: Neighbours) -> Offered {
        if self.meets_again(&ticket) {
            return Offered::Known;
        }
        let has_lane = self.known(ticket.bot).lanes.contains_key(&ticket.conversation);
        let is_kept_out = self.keeps_out(&ticket);
        if is_kept_out && !has_lane {
            return Offered::Left;
        }
        let has_room = if has_lane { self.room(ticket.bot) > 0 } else { self.has_room(ticket.bot) };
        let has_room = has_room && !is_kept_out;
        let place = ticket.place();
        let bot = self.known(ticket.bot);
        let evicted = match bot.lanes.entry(ticket.conversation) {
            Entry::Occupied(mut lane) => match lane.get_mut().admit(place, has_room) {
                Admission::Refused => return Offered::Left,
                Admission::Taken { evicted } => evicted,
            },
            Entry::Vacant(_) if !has_room => {
                bot.more = true;
                self.note_hunger(ticket.bot);
                return Offered::Left;
            }
            Entry::Vacant(lane) if neighbours.earlier => {
                lane.insert(Lane::pulling());
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

    /// Whether an event may begin: after [`Lanes::next_event`] has given all out, none may.
    pub fn has_ready_event(&self) -> bool {
        self.open() < self.limits.open_total && self.event_turns.has_next(self.failing_spare() > 0)
    }

    /// The next event whose calls may begin; answer with [`Lanes::opened`].
    pub fn next_event(&mut self) -> Option<EventId> {
        while self.open() < self.limits.open_total {
            let failing_may_begin = self.failing_spare() > 0;
            let id = self.event_turns.next(failing_may_begin)?;
            let Some(bot) = self.bots.get_mut(&id) else { continue };
            if bot.is_failing && !failing_may_begin {
                self.event_turns.step_aside(id);
                continue;
            }
            bot.has_event_turn = false;
            let may_begin = bot.open < self.limits.calls_per_bot;
            let begun = may_begin.then(|| bot.begin_next()).flatten();
            if begun.is_some() {
                self.failing.events += usize::from(bot.is_failing);
                self.waiting -= 1;
            }
            self.give_event_turn(id);
            self.note_hunger(id);
            self.forget_if_idle(id);
            if begun.is_some() {
                return begun;
            }
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
        self.call_turns.has_next(self.failing_may_call())
    }

    /// The next call to make; answer with [`Lanes::call_ended`].
    pub fn next_call(&mut self) -> Option<(EventId, ServiceId)> {
        while let Some(id) = self.call_turns.next(self.failing_may_call()) {
            let failing_may_call = self.failing_may_call();
            let Some(bot) = self.bots.get_mut(&id) else { continue };
            if bot.is_failing && !failing_may_call {
                self.call_turns.step_aside(id);
                continue;
            }
            bot.has_call_turn = false;
            if bot.calls >= self.limits.calls_per_bot {
                continue;
            }
            let Some(call) = bot.ready_calls.pop_front() else { continue };
            bot.calls += 1;
            self.failing.calls += usize::from(bot.is_failing);
            self.give_call_turn(id);
            return Some(call);
        }
        None
    }

    /// A call of `bot` is no longer in flight. `failed` says whether it got no usable answer; `None` if
    /// nothing was asked of the endpoint.
    pub fn call_ended(&mut self, id: BotId, failed: Option<bool>) {
        let Some(bot) = self.bots.get_mut(&id) else { return };
        if bot.calls > 0 {
            bot.calls -= 1;
            if bot.is_failing {
                self.failing.calls -= 1;
            }
        }
        if let Some(failed) = failed {
            self.judge(id, failed);
        }
        self.give_call_turn(id);
        self.forget_if_idle(id);
    }

    /// Calls that were given out by [`Lanes::next_call`] and, reported as no longer in flight, had to wait:
    /// they are the next of their bots, in this order.
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

    /// An event waits for a retry, as a row. Its lane waits with it: what was queued behind it is only rows
    /// again (returned). What is earlier, and was stored too late to go before, goes on, and so does the
    /// event itself if it was offered again before this was told.
    pub fn parked(&mut self, event: EventId) -> Vec<EventId> {
        let Some(ticket) = self.close(event) else { return Vec::new() };
        let mut dropped = Vec::new();
        if let Some(bot) = self.bots.get_mut(&ticket.bot)
            && let Entry::Occupied(mut lane) = bot.lanes.entry(ticket.conversation)
        {
            lane.get_mut().running = None;
            let later = lane.get_mut().queue.split_off(&ticket.place());
            dropped.extend(later.into_iter().map(|(_, event)| event));
            if !lane.get().queue.is_empty() {
                lane.get_mut().more = true;
                bot.ready_lanes.push_back(ticket.conversation);
            } else if lane.get().awaits_park {
                *lane.get_mut() = Lane::pulling();
                self.lane_wants.push_back((ticket.bot, ticket.conversation));
            } else {
                lane.remove();
            }
        }
        dropped.iter().for_each(|event| self.unhold_waiting(*event));
        self.after_release(ticket.bot);
        dropped
    }

    /// Forgets what waits of these bots, which others will work for; what has begun goes on. Returns what is
    /// only rows again.
    pub fn let_go(&mut self, is_leaving: impl Fn(BotId) -> bool) -> Vec<EventId> {
        self.lane_wants.retain(|(bot, _)| !is_leaving(*bot));
        self.event_turns.retain(|bot| !is_leaving(bot));
        self.starving.retain(|bot| !is_leaving(bot));
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

    /// Events that have begun.
    fn open(&self) -> usize {
        self.held.len() - self.waiting
    }

    /// How many more events of a bot may wait.
    fn room(&self, id: BotId) -> usize {
        let bot = self.bots.get(&id);
        if bot.is_some_and(|bot| bot.is_failing) {
            return 0;
        }
        let free = self.limits.waiting_total.saturating_sub(self.waiting);
        self.limits.waiting_per_bot.min(free).saturating_sub(bot.map_or(0, |bot| bot.waiting))
    }

    /// How many more events of a bot could begin at once.
    fn spare(&self, id: BotId) -> usize {
        let Some(bot) = self.bots.get(&id) else { return self.limits.calls_per_bot };
        let own = self.limits.calls_per_bot.saturating_sub(bot.open + bot.ready_lanes.len());
        if bot.is_failing { own.min(self.failing_spare()) } else { own }
    }

    fn has_place(&self) -> bool {
        self.held.len() < self.limits.waiting_total.saturating_add(self.limits.open_total)
    }

    /// Whether the head of another lane of this bot may be held.
    fn has_room(&self, bot: BotId) -> bool {
        self.room(bot) > 0 || self.has_place() && self.spare(bot) > 0
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
        if bot.is_failing {
            self.failing.events -= 1;
        }
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
            self.event_turns.line_up(id);
        }
    }

    fn give_call_turn(&mut self, id: BotId) {
        let Some(bot) = self.bots.get_mut(&id) else { return };
        if !bot.has_call_turn && !bot.ready_calls.is_empty() && bot.calls < self.limits.calls_per_bot {
            bot.has_call_turn = true;
            self.call_turns.line_up(id);
        }
    }
}

#[cfg(test)]
mod tests;
