//! The lanes against a model of the rows: whatever comes in whatever order, each event runs once, in its
//! turn.

use proptest::prelude::*;

use super::super::*;
use crate::{newcomers::Newcomers, recent::Recent};

/// A row of the simulated inbox.
#[derive(Debug, Clone)]
struct Row {
    ticket: Ticket,
    finished: bool,
    parked: bool,
}

/// What the inbox is to read.
enum Job {
    Pull(LaneWant),
    Refill(BotWant),
    /// A parked event whose time has come.
    Due(EventId),
}

/// What the inbox has sent to the lanes. Events come with a moment before their rows were written or read.
#[derive(Debug)]
enum Mail {
    Stored(Ticket, Neighbours, u64),
    Due(Ticket, Neighbours, u64),
    Pulled(LaneWant, Vec<Ticket>, bool),
    Refilled(BotId, Vec<Ticket>, bool),
}

/// The lanes together with an inbox that stores and reads beside each other. What was stored or read is sent
/// later, and arrives later still. What became of an event is committed first and told later.
struct Simulation {
    lanes: Lanes,
    rows: Vec<Row>,
    jobs: VecDeque<Job>,
    stored: Option<(Ticket, Neighbours, u64)>,
    read: Option<Mail>,
    claiming: Option<(Mail, Newcomers)>,
    newcomers: Newcomers,
    mail: VecDeque<Mail>,
    running: Vec<EventId>,
    in_flight: HashMap<EventId, usize>,
    /// What was committed and not told, and whether it was parked.
    settled: VecDeque<(EventId, bool)>,
    recent: Recent<u64>,
    /// Goes on with whatever is told.
    clock: u64,
    /// Bots of which nothing can be called; of these only events that were taken before these moments end.
    closed: HashMap<BotId, Millis>,
    last_closed: HashMap<BotId, Millis>,
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
            claiming: None,
            newcomers: Newcomers::new(100),
            mail: VecDeque::new(),
            running: Vec::new(),
            in_flight: HashMap::new(),
            settled: VecDeque::new(),
            recent: Recent::new(1000),
            clock: 0,
            closed: HashMap::new(),
            last_closed: HashMap::new(),
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
        self.rows.push(Row { ticket, finished: false, parked: false });
        self.stored = Some((ticket, Neighbours { earlier, later }, self.clock));
    }

    /// Reads rows, or sends what was read.
    fn read_or_send(&mut self) -> bool {
        match self.read.take() {
            Some(read) => self.send(read),
            None => match self.jobs.pop_front() {
                Some(job) => {
                    self.newcomers.forget();
                    self.read = self.rows_of(job);
                }
                None => {
                    let Some((found, newcomers)) = self.claiming.take() else { return false };
                    (self.read, self.newcomers) = (Some(found), newcomers);
                }
            },
        }
        true
    }

    /// What was read as due is claimed later, and other rows are read before.
    fn fail_claim(&mut self) {
        if self.claiming.is_none()
            && let Some(found) = self.read.take_if(|read| matches!(read, Mail::Due(..)))
        {
            self.claiming = Some((found, self.newcomers.clone()));
        }
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
                let neighbours = Neighbours { earlier: self.has_earlier(&ticket), later: true };
                Mail::Due(ticket, neighbours, self.clock)
            }
        })
    }

    fn send(&mut self, mut read: Mail) {
        match &mut read {
            Mail::Stored(..) => unreachable!("it was not read"),
            // Only what is still due is claimed.
            Mail::Due(ticket, ..) if !self.rows[ticket.event as usize].parked => return,
            Mail::Due(ticket, neighbours, _) => {
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
        let Some((ticket, neighbours, at)) = self.stored.take() else { return false };
        self.newcomers.add(&ticket);
        self.claiming.iter_mut().for_each(|(_, newcomers)| newcomers.add(&ticket));
        self.mail.push_back(Mail::Stored(ticket, neighbours, at));
        true
    }

    fn go_on(&mut self) -> bool {
        self.read_or_send() | self.send_stored() | self.deliver() | self.tell() | self.let_patient_ask()
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
            Some(Mail::Stored(ticket, neighbours, at) | Mail::Due(ticket, neighbours, at)) => {
                self.offer(ticket, neighbours, at);
            }
            Some(Mail::Pulled(want, rows, more)) => {
                self.lanes.pulled(want.bot, want.conversation, &rows, more);
            }
            Some(Mail::Refilled(bot, rows, more)) => {
                self.lanes.refilled(bot, &rows, more);
            }
        }
        true
    }

    /// What has ended meanwhile is recognised, once that was told.
    fn offer(&mut self, ticket: Ticket, neighbours: Neighbours, read_at: u64) {
        if self.recent.may_have_ended(ticket.event, read_at) {
            self.lanes.look_up(ticket);
        } else if !self.recent.has_finished(ticket.event) {
            self.lanes.offer(ticket, neighbours);
        }
    }

    fn is_on_its_way(&self, event: EventId) -> bool {
        self.stored.iter().any(|(ticket, ..)| ticket.event == event)
            || self.mail.iter().any(|mail| {
                matches!(mail, Mail::Stored(ticket, ..) | Mail::Due(ticket, ..) if ticket.event == event)
            })
    }

    fn pump(&mut self) {
        while let Some(event) = self.lanes.next_event() {
            let ticket = self.rows[event as usize].ticket;
            for other in &self.running {
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
            self.lanes.opened(event, &(0..=event % 3).collect::<Vec<ServiceId>>());
            self.running.push(event);
        }
        while let Some((event, _)) = self.lanes.next_call() {
            *self.in_flight.entry(event).or_default() += 1;
        }
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

    /// An event that has begun can't be called. If its bot is shut already, it was only let through to go
    /// before one that can't wait.
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
                self.commit(0, false);
                self.pump();
            } else if !served {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.lanes);
    }

    /// A running event ends in the database; none of its calls is made after that.
    fn commit(&mut self, pick: usize, parks: bool) {
        let event = self.running.swap_remove(pick);
        let row = &mut self.rows[event as usize];
        let bot = row.ticket.bot;
        let calls = self.lanes.bots.get_mut(&bot).map(|bot| &mut bot.ready_calls);
        calls.expect("its bot").retain(|(other, _)| *other != event);
        for _ in 0..self.in_flight.remove(&event).unwrap_or_default() {
            self.lanes.call_ended(bot, Some(parks));
        }
        (row.parked, row.finished) = (parks, !parks);
        self.settled.push_back((event, parks));
    }

    /// Tells the lanes what was committed.
    fn tell(&mut self) -> bool {
        let Some((event, parks)) = self.settled.pop_front() else { return false };
        if parks {
            self.recent.parked(event, self.clock);
            self.lanes.parked(event);
        } else {
            self.recent.finished(self.rows[event as usize].ticket, self.clock);
            self.lanes.finished(event);
        }
        self.clock += 1;
        true
    }

    /// A bot goes to another daemon and comes back. What had been read or committed is delivered before, and
    /// its rows are due afterwards.
    fn go_away_and_back(&mut self, bot: BotId) {
        for _ in 0..5000 {
            if !self.go_on() {
                break;
            }
            self.pump();
        }
        assert!(!self.go_on(), "it never comes to rest: {:?}", self.lanes);
        self.lanes.let_go(|other| other == bot);
        self.closed.remove(&bot);
        self.pump();
        while let Some(at) =
            self.running.iter().position(|event| self.rows[*event as usize].ticket.bot == bot)
        {
            self.commit(at, false);
            self.tell();
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
            self.mail.push_back(Mail::Due(ticket, Neighbours { earlier, later: true }, self.clock));
        }
    }

    fn parked(&self) -> Vec<EventId> {
        self.rows.iter().filter(|row| row.parked).map(|row| row.ticket.event).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { ..ProptestConfig::default() })]

    /// Events of few lanes arrive, out of order at times, run, park, come back; jobs of the inbox are served,
    /// and what was committed is told, at random moments; bots go to another daemon and come back, or can't
    /// be called for a while. Each runs in order and alone in its lane, and every one finishes.
    #[test]
    fn every_event_runs_once_in_order_and_none_is_forgotten(
        calls_per_bot in 1usize..4,
        waiting_per_bot in 1usize..6,
        waiting_total in 0usize..10,
        open_total in 1usize..6,
        failing_total in 1usize..4,
        steps in proptest::collection::vec((0u8..17, any::<prop::sample::Index>(), 0i64..9), 1..300),
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
                    simulation.commit(at, step == 8);
                }
                9 => {
                    let parked = simulation.parked();
                    if !parked.is_empty() { simulation.jobs.push_back(Job::Due(parked[pick.index(parked.len())])); }
                }
                10 => simulation.go_away_and_back(lane % 3),
                11 => { simulation.send_stored(); }
                12 => {
                    // Moments of one bot grow, or else rows are not looked through again.
                    let drawn = pick.index(simulation.rows.len() + 1) as Millis;
                    let last = simulation.last_closed.entry(lane % 3).or_default();
                    let taken_before = drawn.max(*last + 1);
                    if let Entry::Vacant(open) = simulation.closed.entry(lane % 3) {
                        *last = *open.insert(taken_before);
                    }
                }
                13 => simulation.open(lane % 3),
                14 => { simulation.let_patient_ask(); }
                15 => simulation.fail_claim(),
                16 => { simulation.tell(); }
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
        prop_assert!(simulation.lanes.bots.is_empty(), "kept: {:?}", simulation.lanes);
        prop_assert_eq!(simulation.lanes.waiting, 0);
        prop_assert_eq!(simulation.lanes.failing, UnderWay::default());
    }
}
