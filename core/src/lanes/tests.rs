#![allow(clippy::expect_used)]

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::newcomers::Newcomers;

const LIMITS: Limits =
    Limits { calls_per_bot: 2, waiting_per_bot: 4, waiting_total: 100, open_total: 100, failing_total: 50 };
const FRESH: Neighbours = Neighbours { earlier: false, later: false };

fn ticket(event: EventId, conversation: Conversation, message: MessageId) -> Ticket {
    Ticket { event, bot: 1, conversation, message, taken_at: event }
}

fn lanes_with(tickets: impl IntoIterator<Item = Ticket>) -> Lanes {
    let mut lanes = Lanes::new(LIMITS);
    for ticket in tickets {
        lanes.offer(ticket, FRESH);
    }
    lanes
}

#[test]
fn a_lane_runs_its_lowest_message_and_nothing_beside_it() {
    let mut lanes = lanes_with([ticket(1, 7, 30), ticket(2, 7, 20), ticket(3, 7, 10)]);
    for event in [3, 2, 1] {
        assert_eq!(lanes.next_event(), Some(event));
        assert_eq!(lanes.next_event(), None);
        lanes.finished(event);
    }
    assert_eq!(lanes.held(), 0);
    assert!(lanes.bots.is_empty());
}

#[test]
fn lanes_run_beside_each_other_up_to_the_bots_limit() {
    let mut lanes = lanes_with([ticket(1, 7, 1), ticket(2, 8, 2), ticket(3, 9, 3)]);
    assert_eq!((lanes.next_event(), lanes.next_event()), (Some(1), Some(2)));
    assert_eq!(lanes.next_event(), None);
    lanes.finished(2);
    assert_eq!(lanes.next_event(), Some(3));
}

#[test]
fn calls_of_an_event_count_each_by_itself() {
    let mut lanes = lanes_with([ticket(1, 7, 1)]);
    lanes.next_event();
    lanes.opened(1, &[11, 12, 13]);
    assert_eq!((lanes.next_call(), lanes.next_call()), (Some((1, 11)), Some((1, 12))));
    assert_eq!(lanes.next_call(), None);
    lanes.call_ended(1, Some(false));
    assert_eq!(lanes.next_call(), Some((1, 13)));
}

#[test]
fn calls_that_had_to_wait_go_before_the_others_of_their_bot_in_their_order() {
    let mut lanes = lanes_with([ticket(1, 7, 1), ticket(2, 8, 2)]);
    for event in [1, 2] {
        assert_eq!(lanes.next_event(), Some(event));
        lanes.opened(event, &[4, 5]);
    }
    for call in [(1, 4), (1, 5)] {
        assert_eq!(lanes.next_call(), Some(call));
        lanes.call_ended(1, None);
    }
    lanes.ready_again(&[(1, 4), (1, 5), (9, 9)]);
    assert_eq!((lanes.next_call(), lanes.next_call(), lanes.next_call()), (Some((1, 4)), Some((1, 5)), None));
    lanes.call_ended(1, None);
    assert_eq!(lanes.next_call(), Some((2, 4)));
}

#[test]
fn what_has_begun_of_a_bot_that_is_let_go_ends_and_nothing_else_of_it_is_kept() {
    let mut lanes = lanes_with([ticket(1, 7, 1), ticket(2, 7, 2), ticket(3, 8, 3)]);
    assert_eq!(lanes.next_event(), Some(1));
    assert!(lanes.let_go(|bot| bot == 2).is_empty());
    let mut dropped = lanes.let_go(|bot| bot == 1);
    dropped.sort_unstable();
    assert_eq!((dropped, lanes.held(), lanes.next_event()), (vec![2, 3], 1, None));
    lanes.finished(1);
    assert_eq!(lanes.take_wants(), Wants::default());
    assert!(lanes.bots.is_empty());
}

#[test]
fn an_event_is_late_for_a_later_one_of_its_lane_that_runs() {
    let mut lanes = lanes_with([ticket(1, 7, 5)]);
    assert!(!lanes.runs_later(&ticket(2, 7, 4)), "it does not run yet");
    lanes.next_event();
    assert!(lanes.runs_later(&ticket(2, 7, 4)));
    assert!(!lanes.runs_later(&ticket(2, 7, 6)) && !lanes.runs_later(&ticket(2, 8, 4)));
}

#[test]
fn a_lane_that_is_looked_up_is_read_again_and_holds_nothing_meanwhile() {
    let mut lanes = lanes_with([]);
    lanes.look_up(ticket(1, 7, 1));
    let wants = lanes.take_wants();
    assert_eq!((wants.lanes.len(), lanes.held(), lanes.next_event()), (1, 0, None));
    assert_eq!(lanes.pulled(1, 7, &[ticket(1, 7, 1)], false), [1]);
    assert_eq!(lanes.next_event(), Some(1));
    lanes.look_up(ticket(1, 7, 1));
    lanes.finished(1);
    assert!(lanes.bots.is_empty());
}

#[test]
fn bots_take_turns_however_much_one_of_them_has() {
    let mut lanes = Lanes::new(Limits {
        calls_per_bot: 100,
        waiting_per_bot: 100,
        waiting_total: 1000,
        open_total: 1000,
        failing_total: 500,
    });
    for event in 0..50 {
        lanes.offer(ticket(event, event, event), FRESH);
    }
    lanes.offer(Ticket { bot: 2, ..ticket(100, 0, 0) }, FRESH);
    lanes.next_event();
    assert_eq!(lanes.next_event(), Some(100));
}

#[test]
fn an_event_without_room_is_left_and_asked_for_when_half_is_free() {
    let mut lanes = lanes_with((1..=4).map(|event| ticket(event, event, event)));
    assert_eq!(lanes.offer(ticket(5, 5, 5), FRESH), Offered::Left);
    assert!(lanes.take_wants().is_empty());
    lanes.next_event();
    lanes.next_event();
    let wants = lanes.take_wants();
    assert_eq!(wants.bots.len(), 1);
    assert_eq!(wants.bots[0].rows_max, 2);
    assert_eq!(wants.bots[0].held.iter().collect::<HashSet<_>>(), [1, 2, 3, 4].iter().collect());
    assert!(lanes.take_wants().is_empty());
}

#[test]
fn an_earlier_message_evicts_the_last_one_of_its_lane() {
    let mut lanes = lanes_with((1..=4).map(|event| ticket(event, 7, event * 10)));
    assert_eq!(lanes.offer(ticket(5, 7, 15), FRESH), Offered::Held { evicted: Some(4) });
    assert_eq!(lanes.offer(ticket(6, 7, 50), FRESH), Offered::Left);
}

#[test]
fn a_lane_waits_with_its_parked_event() {
    let mut lanes = lanes_with([ticket(1, 7, 1), ticket(2, 7, 2)]);
    lanes.next_event();
    assert_eq!(lanes.parked(1), [2]);
    assert_eq!(lanes.next_event(), None);
    assert_eq!(lanes.offer(ticket(3, 7, 3), Neighbours { earlier: true, later: false }), Offered::Left);
    let wants = lanes.take_wants();
    assert_eq!(wants.lanes, [LaneWant { bot: 1, conversation: 7, rows_max: 4 }]);
    assert!(lanes.pulled(1, 7, &[], false).is_empty());
    assert!(lanes.bots.is_empty());
}

#[test]
fn what_came_too_late_to_go_before_an_event_goes_on_when_that_is_parked() {
    for has_room in [true, false] {
        let waiting_per_bot = if has_room { 4 } else { 0 };
        let mut lanes = Lanes::new(Limits { waiting_per_bot, ..LIMITS });
        lanes.offer(ticket(1, 7, 10), FRESH);
        assert_eq!(lanes.next_event(), Some(1));
        let later = lanes.offer(ticket(2, 7, 20), FRESH);
        let earlier = lanes.offer(ticket(3, 7, 5), FRESH);
        let held = Offered::Held { evicted: None };
        assert_eq!((later, earlier), if has_room { (held, held) } else { (Offered::Left, Offered::Left) });
        assert_eq!(lanes.parked(1), if has_room { vec![2] } else { vec![] });
        if !has_room {
            assert_eq!(lanes.take_wants().lanes.len(), 1);
            assert_eq!(lanes.pulled(1, 7, &[ticket(3, 7, 5)], true), [3]);
        }
        assert_eq!(lanes.next_event(), Some(3));
        lanes.finished(3);
        assert_eq!(lanes.take_wants().lanes.len(), 1);
        assert!(lanes.pulled(1, 7, &[], true).is_empty());
        assert!(lanes.bots.is_empty());
    }
}

#[test]
fn a_lane_that_ran_empty_asks_for_what_was_left() {
    let mut lanes = lanes_with((1..=6).map(|event| ticket(event, 7, event)));
    for event in 1..=4 {
        assert_eq!(lanes.next_event(), Some(event));
        lanes.finished(event);
    }
    assert_eq!(lanes.next_event(), None);
    assert_eq!(lanes.take_wants().lanes, [LaneWant { bot: 1, conversation: 7, rows_max: 4 }]);
    assert_eq!(lanes.pulled(1, 7, &[ticket(5, 7, 5), ticket(6, 7, 6)], false), [5, 6]);
    assert_eq!(lanes.next_event(), Some(5));
}

/// Offers events of one bot each, and of a conversation each.
fn offer_each(lanes: &mut Lanes, bot: BotId, events: std::ops::Range<EventId>) -> usize {
    let offer = |event| lanes.offer(Ticket { bot, ..ticket(event, event, event) }, FRESH);
    events.map(offer).filter(|offered| matches!(offered, Offered::Held { .. })).count()
}

#[test]
fn an_event_that_can_begin_at_once_needs_no_room_to_wait_in() {
    let mut lanes = Lanes::new(Limits { waiting_total: 0, ..LIMITS });
    assert_eq!(offer_each(&mut lanes, 1, 0..10), 2);
    assert_eq!(offer_each(&mut lanes, 2, 10..20), 2);
    while lanes.next_event().is_some() {}
    assert_eq!(offer_each(&mut lanes, 1, 20..30), 0);
    lanes.finished(0);
    let wants = lanes.take_wants();
    assert_eq!(wants.bots.iter().map(|want| (want.bot, want.rows_max)).collect::<Vec<_>>(), [(1, 1)]);
}

#[test]
fn a_bot_has_no_more_waiting_than_there_are_places_free() {
    let limits = Limits { calls_per_bot: 1, waiting_per_bot: 64, waiting_total: 100, ..LIMITS };
    let mut lanes = Lanes::new(limits);
    let waiting: Vec<usize> =
        (0..5).map(|bot| offer_each(&mut lanes, bot, bot * 100..bot * 100 + 100)).collect();
    assert_eq!(waiting, [50, 25, 13, 6, 3]);
}

/// Begins whatever may begin, one call each.
fn begin_all(lanes: &mut Lanes) -> Vec<EventId> {
    let begun: Vec<EventId> = std::iter::from_fn(|| lanes.next_event()).collect();
    begun.iter().for_each(|event| lanes.opened(*event, &[1]));
    while lanes.next_call().is_some() {}
    begun
}

#[test]
fn bots_whose_last_call_failed_share_a_part_and_hold_nothing_that_waits() {
    let mut lanes = Lanes::new(Limits { failing_total: 2, ..LIMITS });
    offer_each(&mut lanes, 1, 10..12);
    offer_each(&mut lanes, 2, 20..22);
    assert_eq!(begin_all(&mut lanes), [10, 20, 11, 21]);
    for bot in [1, 2] {
        lanes.call_ended(bot, Some(true));
        assert_eq!(offer_each(&mut lanes, bot, bot * 10 + 2..bot * 10 + 9), 0, "bot {bot}");
    }
    assert_eq!(offer_each(&mut lanes, 3, 30..39), 4);
    assert_eq!(begin_all(&mut lanes), [30, 31], "others do as before");
    [10, 11].iter().for_each(|event| drop(lanes.parked(*event)));
    assert!(lanes.take_wants().bots.iter().all(|want| want.bot == 3), "two events are their whole share");
    lanes.parked(20);
    assert!(begin_all(&mut lanes).is_empty());
    assert!(lanes.take_wants().is_empty() && lanes.has_patient(), "they ask together");
    lanes.let_patient_ask();
    let asking: HashSet<BotId> = lanes.take_wants().bots.iter().map(|want| want.bot).collect();
    assert_eq!(asking, [1, 2].into(), "they may go again");
}

#[test]
fn a_bot_that_gets_on_again_is_held_back_no_longer() {
    let mut lanes = Lanes::new(Limits { failing_total: 1, ..LIMITS });
    offer_each(&mut lanes, 1, 10..12);
    offer_each(&mut lanes, 2, 20..21);
    begin_all(&mut lanes);
    lanes.call_ended(1, Some(true));
    lanes.call_ended(2, Some(true));
    lanes.parked(10);
    assert_eq!(offer_each(&mut lanes, 1, 12..19), 0);
    lanes.call_ended(1, Some(false));
    lanes.finished(11);
    assert_eq!(offer_each(&mut lanes, 1, 12..19), 4);
    assert_eq!(begin_all(&mut lanes), [12, 13]);
}

#[test]
fn a_bot_whose_last_call_failed_is_known_again_after_it_held_nothing_for_a_while() {
    let mut lanes = Lanes::new(LIMITS);
    offer_each(&mut lanes, 1, 10..11);
    begin_all(&mut lanes);
    lanes.call_ended(1, Some(true));
    lanes.parked(10);
    assert!(lanes.bots.is_empty());
    assert_eq!(offer_each(&mut lanes, 1, 20..30), 2, "it holds nothing that waits");
    begin_all(&mut lanes);
    for event in [20, 21] {
        lanes.call_ended(1, Some(false));
        lanes.finished(event);
    }
    lanes.take_wants();
    lanes.refilled(1, &[], false);
    assert!(lanes.bots.is_empty());
    assert_eq!(offer_each(&mut lanes, 1, 30..40), 4);
}

/// What is wanted of bots: how many rows of which, taken before which moment.
fn bot_wants(lanes: &mut Lanes) -> Vec<(BotId, usize, Option<Millis>)> {
    let wants = lanes.take_wants();
    assert!(wants.lanes.is_empty(), "{wants:?}");
    wants.bots.iter().map(|want| (want.bot, want.rows_max, want.taken_before)).collect()
}

/// Bot 1 with two events begun and two waiting, shut at the first of them.
fn shut_lanes(taken_before: Millis) -> Lanes {
    let mut lanes = lanes_with((11..=14).map(|event| ticket(event, event, event)));
    assert_eq!((lanes.next_event(), lanes.next_event()), (Some(11), Some(12)));
    let mut dropped = lanes.shut(11, taken_before);
    dropped.sort_unstable();
    assert_eq!((dropped, lanes.held()), (vec![13, 14], 1));
    lanes
}

#[test]
fn a_bot_that_is_shut_holds_nothing_and_asks_for_nothing_but_what_cant_wait() {
    let mut lanes = shut_lanes(11);
    assert_eq!(bot_wants(&mut lanes), [(1, 4, Some(11))]);
    assert!(lanes.refilled(1, &[], false).is_empty());
    assert_eq!(offer_each(&mut lanes, 1, 20..30), 0);
    assert!(bot_wants(&mut lanes).is_empty());
    assert!(lanes.shut(12, 11).is_empty());
    assert_eq!(bot_wants(&mut lanes), [(1, 4, Some(11))]);
    lanes.refilled(1, &[], false);
    assert_eq!((bot_wants(&mut lanes), lanes.held(), lanes.next_event()), (vec![], 0, None));
    assert_eq!(offer_each(&mut lanes, 2, 30..31), 1, "others are not held back");
    assert_eq!(lanes.next_event(), Some(30));
}

#[test]
fn what_cant_wait_until_a_bot_is_reopened_runs_at_once_if_it_is_the_head_of_its_lane() {
    let mut lanes = shut_lanes(8);
    bot_wants(&mut lanes);
    let heads: Vec<Ticket> = [5, 6, 20].iter().map(|event| ticket(*event, *event, *event)).collect();
    assert_eq!(lanes.refilled(1, &heads, false), [5, 6], "one could not be meant: it can wait");
    assert_eq!(lanes.next_event(), Some(5));
    assert_eq!(lanes.offer(ticket(7, 7, 7), Neighbours { earlier: true, later: false }), Offered::Left);
    assert_eq!(lanes.offer(ticket(4, 4, 4), FRESH), Offered::Held { evicted: None });
    lanes.finished(5);
    assert_eq!((lanes.next_event(), lanes.next_event()), (Some(6), None));
}

#[test]
fn what_can_wait_is_let_in_only_to_go_before_what_cant() {
    let mut lanes = shut_lanes(8);
    assert_eq!(lanes.offer(ticket(5, 50, 100), FRESH), Offered::Held { evicted: None });
    assert_eq!(lanes.offer(ticket(21, 50, 110), FRESH), Offered::Left);
    assert_eq!(lanes.offer(ticket(20, 50, 90), FRESH), Offered::Held { evicted: Some(5) });
    assert_eq!(lanes.next_event(), Some(20));
}

#[test]
fn what_waited_behind_an_event_that_goes_on_is_looked_for_when_that_ends() {
    let mut lanes = lanes_with([ticket(1, 7, 1), ticket(2, 8, 2), ticket(3, 8, 3)]);
    assert_eq!((lanes.next_event(), lanes.next_event()), (Some(1), Some(2)));
    assert_eq!(lanes.shut(1, 0), [3]);
    bot_wants(&mut lanes);
    lanes.refilled(1, &[], false);
    lanes.finished(2);
    assert_eq!(lanes.take_wants().lanes, [LaneWant { bot: 1, conversation: 8, rows_max: 4 }]);
    assert!(lanes.pulled(1, 8, &[ticket(3, 8, 3)], false).is_empty(), "it can wait");
    assert_eq!((bot_wants(&mut lanes), lanes.held()), (vec![], 0));
    lanes.reopen(1);
    assert_eq!(bot_wants(&mut lanes), [(1, 4, None)]);
}

#[test]
fn a_bot_that_is_reopened_asks_for_its_rows_once() {
    let mut lanes = shut_lanes(0);
    bot_wants(&mut lanes);
    lanes.refilled(1, &[], false);
    lanes.reopen(1);
    lanes.reopen(2);
    assert_eq!(bot_wants(&mut lanes), [(1, 4, None)]);
    lanes.reopen(1);
    assert_eq!(lanes.refilled(1, &[ticket(11, 11, 11)], false), [11]);
    assert_eq!((bot_wants(&mut lanes), lanes.next_event()), (vec![], Some(11)));
    assert_eq!(offer_each(&mut lanes, 1, 20..30), 4);
}

#[test]
fn a_page_that_was_read_before_a_bot_was_shut_is_left() {
    let mut lanes = lanes_with((1..=6).map(|event| ticket(event, 7, event)));
    for event in 1..=4 {
        assert_eq!(lanes.next_event(), Some(event));
        lanes.finished(event);
    }
    assert_eq!(lanes.take_wants().lanes.len(), 1);
    assert_eq!(lanes.next_event(), None);
    lanes.offer(ticket(10, 10, 10), FRESH);
    assert_eq!(lanes.next_event(), Some(10));
    lanes.shut(10, 0);
    assert!(lanes.pulled(1, 7, &[ticket(5, 7, 5), ticket(6, 7, 6)], false).is_empty());
    assert_eq!((lanes.held(), lanes.next_event()), (0, None));
    lanes.reopen(1);
    assert_eq!(bot_wants(&mut lanes), [(1, 4, None)]);
}

/// A row of the simulated inbox.
#[derive(Debug, Clone)]
struct Row {
    ticket: Ticket,
    finished: bool,
    parked: bool,
    was_parked: bool,
}

/// What the inbox is to read.
enum Job {
    Pull(LaneWant),
    Refill(BotWant),
    /// A parked event whose time has come.
    Due(EventId),
}

/// What the inbox has sent to the lanes.
#[derive(Debug)]
enum Mail {
    Stored(Ticket, Neighbours),
    Due(Ticket, Neighbours),
    Pulled(LaneWant, Vec<Ticket>, bool),
    Refilled(BotId, Vec<Ticket>, bool),
}

/// The lanes together with an inbox that stores and reads beside each other. What was stored or read is sent later, and
/// arrives later still.
struct Simulation {
    lanes: Lanes,
    rows: Vec<Row>,
    jobs: VecDeque<Job>,
    stored: Option<(Ticket, Neighbours)>,
    read: Option<Mail>,
    newcomers: Newcomers,
    mail: VecDeque<Mail>,
    running: Vec<(EventId, usize)>,
    /// Bots of which nothing can be called; of these only events that were taken before these moments end.
    closed: HashMap<BotId, Millis>,
    limits: Limits,
}

impl Simulation {
    fn new(limits: Limits) -> Self {
        Self {
            lanes: Lanes::new(limits),
            rows: Vec::new(),
            jobs: VecDeque::new(),
            stored: None,
            read: None,
            newcomers: Newcomers::new(100),
            mail: VecDeque::new(),
            running: Vec::new(),
            closed: HashMap::new(),
            limits,
        }
    }

    /// Whether an event can neither be called now nor end.
    fn has_to_wait(&self, of: &Ticket) -> bool {
        self.closed.get(&of.bot).is_some_and(|taken_before| of.taken_at >= *taken_before)
    }

    fn open(&mut self, bot: BotId) {
        self.closed.remove(&bot);
        self.lanes.reopen(bot);
    }

    fn has_earlier(&self, of: &Ticket) -> bool {
        self.rows.iter().any(|row| {
            !row.finished
                && (row.ticket.bot, row.ticket.conversation) == (of.bot, of.conversation)
                && (row.ticket.message, row.ticket.event) < (of.message, of.event)
        })
    }

    fn has_later(&self, of: &Ticket) -> bool {
        let lane = self.unfinished(|row| (row.bot, row.conversation) == (of.bot, of.conversation));
        lane.last().is_some_and(|row| row.ticket.message > of.message)
    }

    fn store(&mut self, bot: BotId, conversation: Conversation, message: MessageId) {
        self.send_stored();
        let event = self.rows.len() as EventId;
        let ticket = Ticket { event, bot, conversation, message, taken_at: event };
        let earlier = self.has_earlier(&ticket);
        let later = self.has_later(&ticket);
        self.rows.push(Row { ticket, finished: false, parked: false, was_parked: false });
        self.stored = Some((ticket, Neighbours { earlier, later }));
    }

    /// Reads rows, or sends what was read.
    fn read_or_send(&mut self) -> bool {
        match self.read.take() {
            Some(read) => self.send(read),
            None => {
                let Some(job) = self.jobs.pop_front() else { return false };
                self.newcomers.forget();
                self.read = self.rows_of(job);
            }
        }
        true
    }

    fn rows_of(&self, job: Job) -> Option<Mail> {
        Some(match job {
            Job::Pull(want) => {
                let lane =
                    self.unfinished(|row| (row.bot, row.conversation) == (want.bot, want.conversation));
                let page = &lane[..lane.len().min(want.rows_max)];
                let free: Vec<Ticket> =
                    page.iter().take_while(|row| !row.parked).map(|row| row.ticket).collect();
                let more = lane.len() > free.len();
                Mail::Pulled(want, free, more)
            }
            Job::Refill(want) => {
                let mut heads = self.free_heads(want.bot);
                heads.retain(|head| !want.held.contains(&head.event));
                heads.retain(|head| want.taken_before.is_none_or(|moment| head.taken_at < moment));
                heads.sort_by_key(|head| (head.conversation <= want.after, head.conversation));
                let more = heads.len() > want.rows_max;
                heads.truncate(want.rows_max);
                Mail::Refilled(want.bot, heads, more)
            }
            Job::Due(event) => {
                let Row { ticket, parked: true, .. } = self.rows[event as usize] else { return None };
                Mail::Due(ticket, Neighbours { earlier: self.has_earlier(&ticket), later: true })
            }
        })
    }

    fn send(&mut self, mut read: Mail) {
        match &mut read {
            Mail::Stored(..) => unreachable!("it was not read"),
            Mail::Due(ticket, neighbours) => {
                self.rows[ticket.event as usize].parked = false;
                neighbours.earlier |= self.newcomers.precede(ticket);
            }
            Mail::Pulled(_, rows, more) | Mail::Refilled(_, rows, more) => {
                *more |= self.newcomers.cut(rows, |row| *row);
            }
        }
        self.mail.push_back(read);
    }

    fn send_stored(&mut self) -> bool {
        let Some((ticket, neighbours)) = self.stored.take() else { return false };
        self.newcomers.add(&ticket);
        self.mail.push_back(Mail::Stored(ticket, neighbours));
        true
    }

    fn go_on(&mut self) -> bool {
        self.read_or_send() | self.send_stored() | self.deliver() | self.let_patient_ask()
    }

    fn let_patient_ask(&mut self) -> bool {
        let has_patient = self.lanes.has_patient();
        self.lanes.let_patient_ask();
        has_patient
    }

    fn free_heads(&self, bot: BotId) -> Vec<Ticket> {
        let rows = self.unfinished(|row| row.bot == bot);
        let heads = rows.iter().filter(|row| !row.parked && !self.has_earlier(&row.ticket));
        heads.map(|row| row.ticket).collect()
    }

    fn unfinished(&self, wanted: impl Fn(&Ticket) -> bool) -> Vec<&Row> {
        let mut rows: Vec<&Row> =
            self.rows.iter().filter(|row| !row.finished && wanted(&row.ticket)).collect();
        rows.sort_by_key(|row| (row.ticket.message, row.ticket.event));
        rows
    }

    fn deliver(&mut self) -> bool {
        match self.mail.pop_front() {
            None => return false,
            Some(Mail::Stored(ticket, neighbours)) => self.offer_stored(ticket, neighbours),
            Some(Mail::Due(ticket, neighbours)) => drop(self.lanes.offer(ticket, neighbours)),
            Some(Mail::Pulled(want, rows, more)) => {
                self.lanes.pulled(want.bot, want.conversation, &rows, more);
            }
            Some(Mail::Refilled(bot, rows, more)) => {
                self.lanes.refilled(bot, &rows, more);
            }
        }
        true
    }

    /// What was read meanwhile, and has ended, is recognised.
    fn offer_stored(&mut self, ticket: Ticket, neighbours: Neighbours) {
        let row = &self.rows[ticket.event as usize];
        if row.was_parked {
            self.lanes.look_up(ticket);
        } else if !row.finished {
            self.lanes.offer(ticket, neighbours);
        }
    }

    fn is_on_its_way(&self, event: EventId) -> bool {
        self.stored.iter().any(|(ticket, _)| ticket.event == event)
            || self.mail.iter().any(|mail| {
                matches!(mail, Mail::Stored(ticket, _) | Mail::Due(ticket, _) if ticket.event == event)
            })
    }

    fn pump(&mut self) {
        while let Some(event) = self.lanes.next_event() {
            let ticket = self.rows[event as usize].ticket;
            for (other, _) in &self.running {
                let other = self.rows[*other as usize].ticket;
                assert!(
                    (other.bot, other.conversation) != (ticket.bot, ticket.conversation),
                    "two events of one lane at a time"
                );
            }
            assert!(!self.rows[event as usize].finished && !self.rows[event as usize].parked);
            let offered_earlier = self.rows.iter().any(|row| {
                !row.finished
                    && !self.is_on_its_way(row.ticket.event)
                    && (row.ticket.bot, row.ticket.conversation) == (ticket.bot, ticket.conversation)
                    && (row.ticket.message, row.ticket.event) < (ticket.message, ticket.event)
            });
            assert!(!offered_earlier, "an earlier event of the lane was taken and unfinished");
            if self.has_to_wait(&ticket) {
                self.shut(ticket);
                continue;
            }
            let services = (event % 3 + 1) as usize;
            self.lanes.opened(event, &(0..services as ServiceId).collect::<Vec<_>>());
            self.running.push((event, services));
        }
        while self.lanes.next_call().is_some() {}
        let mut calls: HashMap<BotId, usize> = HashMap::new();
        for (id, bot) in &self.lanes.bots {
            *calls.entry(*id).or_default() += bot.calls;
            assert!(bot.calls <= self.limits.calls_per_bot && bot.open <= self.limits.calls_per_bot);
            assert!(bot.waiting <= self.limits.waiting_per_bot + 1 + bot.lanes.len());
        }
        assert!(self.lanes.held() <= self.limits.waiting_total + self.limits.open_total);
        assert!(self.lanes.open() <= self.limits.open_total);
        let wants = self.lanes.take_wants();
        self.jobs.extend(wants.lanes.into_iter().map(Job::Pull));
        self.jobs.extend(wants.bots.into_iter().map(Job::Refill));
    }

    /// An event that has begun can't be called. If its bot is shut already, it was only let through to go before one that
    /// can't wait.
    fn shut(&mut self, ticket: Ticket) {
        let is_shut = self.lanes.bots[&ticket.bot].shut.is_some();
        let goes_before = self
            .unfinished(|row| (row.bot, row.conversation) == (ticket.bot, ticket.conversation))
            .iter()
            .any(|row| row.ticket.message > ticket.message && !self.has_to_wait(&row.ticket));
        assert!(!is_shut || goes_before, "an event began although its bot is shut");
        self.lanes.shut(ticket.event, self.closed[&ticket.bot]);
    }

    /// Whatever can be done without calling bots that are closed is done, and then nothing more is asked for.
    fn settle(&mut self) {
        for _ in 0..5000 {
            let served = self.go_on();
            self.pump();
            if !self.running.is_empty() {
                self.end(0, false);
                self.pump();
            } else if !served {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.lanes);
    }

    fn end(&mut self, pick: usize, parks: bool) {
        let (event, services) = self.running.swap_remove(pick);
        let row = &mut self.rows[event as usize];
        let in_flight = services.min(self.lanes.bots[&row.ticket.bot].calls);
        for _ in 0..in_flight {
            self.lanes.call_ended(row.ticket.bot, Some(parks));
        }
        if parks {
            (row.parked, row.was_parked) = (true, true);
            self.lanes.parked(event);
        } else {
            row.finished = true;
            self.lanes.finished(event);
        }
    }

    /// A bot goes to another daemon and comes back. What had been read is delivered before, and its rows are
    /// due afterwards.
    fn go_away_and_back(&mut self, bot: BotId) {
        while self.go_on() {
            self.pump();
        }
        self.lanes.let_go(|other| other == bot);
        self.closed.remove(&bot);
        self.pump();
        while let Some(at) =
            self.running.iter().position(|(event, _)| self.rows[*event as usize].ticket.bot == bot)
        {
            self.end(at, false);
            self.pump();
        }
        assert!(!self.lanes.bots.contains_key(&bot), "something of it is left");
        let back: Vec<Ticket> = self
            .unfinished(|row| row.bot == bot)
            .iter()
            .filter(|row| !row.parked)
            .map(|row| row.ticket)
            .collect();
        for ticket in back {
            let earlier = self.has_earlier(&ticket);
            self.mail.push_back(Mail::Due(ticket, Neighbours { earlier, later: true }));
        }
    }

    fn parked(&self) -> Vec<EventId> {
        self.rows.iter().filter(|row| row.parked).map(|row| row.ticket.event).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { ..ProptestConfig::default() })]

    /// Events of few lanes arrive, out of order at times, run, park, come back; jobs of the inbox are
    /// served at random moments; bots go to another daemon and come back, or can't be called for a while. Each runs in order
    /// and alone in its lane, and every one finishes.
    #[test]
    fn every_event_runs_once_in_order_and_none_is_forgotten(
        calls_per_bot in 1usize..4,
        waiting_per_bot in 1usize..6,
        waiting_total in 0usize..10,
        open_total in 1usize..6,
        failing_total in 1usize..4,
        steps in proptest::collection::vec((0u8..15, any::<prop::sample::Index>(), 0i64..9), 1..300),
    ) {
        let mut simulation = Simulation::new(Limits { calls_per_bot, waiting_per_bot, waiting_total, open_total, failing_total });
        let mut next_message = 10;
        for (step, pick, lane) in steps {
            match step {
                0..=3 => {
                    next_message += 2;
                    let late = if step == 3 { 5 } else { 0 };
                    simulation.store(lane % 3, lane / 3, next_message - late);
                }
                4 => { simulation.read_or_send(); }
                5 | 6 => { simulation.deliver(); }
                7 | 8 if !simulation.running.is_empty() => {
                    let at = pick.index(simulation.running.len());
                    simulation.end(at, step == 8);
                }
                9 => {
                    let parked = simulation.parked();
                    if !parked.is_empty() { simulation.jobs.push_back(Job::Due(parked[pick.index(parked.len())])); }
                }
                10 => simulation.go_away_and_back(lane % 3),
                11 => { simulation.send_stored(); }
                12 => {
                    let taken_before = pick.index(simulation.rows.len() + 1) as Millis;
                    simulation.closed.entry(lane % 3).or_insert(taken_before);
                }
                13 => simulation.open(lane % 3),
                14 => { simulation.let_patient_ask(); }
                _ => {}
            }
            simulation.pump();
        }
        simulation.settle();
        for bot in 0..3 {
            let heads = simulation.free_heads(bot);
            prop_assert!(heads.iter().all(|head| simulation.has_to_wait(head)), "it can't wait: {heads:?}");
        }
        for bot in 0..3 {
            simulation.open(bot);
            simulation.pump();
        }
        simulation.settle();
        while let Some(event) = simulation.parked().first() {
            simulation.jobs.push_back(Job::Due(*event));
            simulation.settle();
        }
        prop_assert!(simulation.rows.iter().all(|row| row.finished), "forgotten: {:?} in {:?}",
            simulation.rows.iter().filter(|row| !row.finished).collect::<Vec<_>>(), simulation.lanes);
        prop_assert_eq!(simulation.lanes.held(), 0);
        prop_assert!(simulation.lanes.bots.is_empty());
        prop_assert_eq!(simulation.lanes.waiting, 0);
        prop_assert_eq!(simulation.lanes.failing, UnderWay::default());
    }
}
