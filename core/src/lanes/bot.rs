//! What is held of one bot.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::Ticket;
use crate::identity::{Conversation, EventId, MessageId, Millis, ServiceId};

/// The lanes of one bot, and what is under way in them.
#[derive(Debug, Default)]
pub(super) struct Bot {
    pub(super) lanes: HashMap<Conversation, Lane>,
    /// Lanes whose head may run.
    pub(super) ready_lanes: VecDeque<Conversation>,
    pub(super) ready_calls: VecDeque<(EventId, ServiceId)>,
    /// Events that have begun.
    pub(super) open: usize,
    /// Calls in flight.
    pub(super) calls: usize,
    pub(super) waiting: usize,
    /// The call that ended last got no usable answer.
    pub(super) is_failing: bool,
    /// Nothing of it can be called; only events that were taken before this moment may begin, to end without
    /// a call.
    pub(super) shut: Option<Millis>,
    /// Rows were left that may begin now, for want of room.
    pub(super) more: bool,
    /// The conversation that rows were last read of.
    pub(super) last_read: Conversation,
    pub(super) refilling: bool,
    /// Rows are being read of events that were taken before this moment.
    pub(super) searching: Option<Millis>,
    /// There was none, before this moment.
    pub(super) searched: Option<Millis>,
    /// What finished or was parked while rows were being read, so that a stale row is not run again.
    pub(super) released: Vec<EventId>,
    pub(super) has_event_turn: bool,
    pub(super) has_call_turn: bool,
    pub(super) hunger: Hunger,
}

/// How much a bot wants rows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hunger {
    #[default]
    None,
    /// So that there is something at hand when a call ends.
    Hungry,
    /// It could run one now and holds none.
    Starving,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) running: Option<Place>,
    pub(super) queue: BTreeSet<Place>,
    /// There are rows later than all of the queue that are not held.
    pub(super) more: bool,
    /// There is a row that may run when what runs is parked: an earlier one, which was stored too late to go
    /// before, or that of the same event.
    pub(super) awaits_park: bool,
    pub(super) pulling: bool,
    /// Something was left while the rows were being read.
    pub(super) missed: bool,
}

/// The order within a lane. Two events of one message differ by their replay; the older row is first.
pub(super) type Place = (MessageId, EventId);

pub(super) enum Admission {
    Taken { evicted: Option<EventId> },
    Refused,
}

impl Lane {
    pub(super) fn pulling() -> Self {
        Self { pulling: true, ..Self::default() }
    }

    pub(super) fn admit(&mut self, place: Place, has_room: bool) -> Admission {
        if self.pulling {
            self.missed = true;
            return Admission::Refused;
        }
        let goes_before = self.queue.last().is_some_and(|last| place < *last);
        if !goes_before && (self.more || !has_room) {
            self.leave(place);
            return Admission::Refused;
        }
        self.queue.insert(place);
        if has_room {
            return Admission::Taken { evicted: None };
        }
        let evicted = self.queue.pop_last();
        evicted.into_iter().for_each(|place| self.leave(place));
        Admission::Taken { evicted: evicted.map(|(_, event)| event) }
    }

    /// An event of the lane is only a row.
    pub(super) fn leave(&mut self, place: Place) {
        self.more = true;
        self.note_row(place);
    }

    /// A row may run, as far as the database knows.
    pub(super) fn note_row(&mut self, place: Place) {
        self.awaits_park |= self.running.is_some_and(|running| place <= running);
    }
}

impl Bot {
    pub(super) fn is_idle(&self) -> bool {
        self.lanes.is_empty()
            && self.open + self.calls == 0
            && !(self.more || self.refilling || self.has_event_turn || self.shut.is_some())
            && self.hunger == Hunger::None
    }

    pub(super) fn held(&self) -> Vec<EventId> {
        self.lanes
            .values()
            .flat_map(|lane| lane.running.iter().chain(&lane.queue))
            .map(|(_, event)| *event)
            .collect()
    }

    pub(super) fn begin_next(&mut self) -> Option<EventId> {
        while let Some(conversation) = self.ready_lanes.pop_front() {
            let Some(lane) = self.lanes.get_mut(&conversation) else { continue };
            let Some(place) = lane.queue.pop_first() else { continue };
            (lane.running, lane.awaits_park) = (Some(place), false);
            self.open += 1;
            self.waiting -= 1;
            return Some(place.1);
        }
        None
    }

    pub(super) fn keeps_out(&self, ticket: &Ticket) -> bool {
        self.shut.is_some_and(|taken_before| ticket.taken_at >= taken_before)
    }

    /// Keeps only what has begun and lanes that are being read. Everything else is left. Rows are not looked
    /// through for what was looked for before.
    pub(super) fn shut(&mut self, taken_before: Millis) -> Vec<EventId> {
        self.shut = Some(taken_before);
        self.more = self.searched.is_none_or(|searched| searched < taken_before);
        self.ready_lanes.clear();
        let mut dropped = Vec::new();
        self.lanes.retain(|_, lane| {
            lane.more = true;
            dropped.extend(std::mem::take(&mut lane.queue).into_iter().map(|(_, event)| event));
            lane.running.is_some() || lane.pulling
        });
        dropped
    }

    /// Keeps only what has begun.
    pub(super) fn let_go(&mut self) -> Vec<EventId> {
        self.ready_lanes.clear();
        self.shut = None;
        self.more = false;
        self.hunger = Hunger::None;
        self.has_event_turn = false;
        self.refilling = false;
        self.released.clear();
        let mut dropped = Vec::new();
        self.lanes.retain(|_, lane| {
            dropped.extend(std::mem::take(&mut lane.queue).into_iter().map(|(_, event)| event));
            *lane = Lane { running: lane.running, ..Lane::default() };
            lane.running.is_some()
        });
        dropped
    }
}
