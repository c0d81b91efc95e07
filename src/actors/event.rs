//! EventActor: owns a shard of bots. It lets their events run in order, shares its turns fairly between
//! the bots, and spawns a ServiceCallActor for each call.
//!
//! It holds no state that can't be found again in the database. A new generation takes its shard over:
//! it drops what it is offered until the QueueActor has freed the rows that its predecessor held.

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use outhook_core::{
    completion::Turn,
    identity::{BotId, EventId, EventKey, ServiceId},
    lanes::{Lanes, Limits, Offered, Ticket},
    partition::Partitions,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinHandle,
};

use super::{
    EVENT_LOG,
    flag::FlagActor,
    queue::QueueActor,
    reply::ReplyActor,
    service_call::{Assignment, CallTools},
};
use crate::{
    blame::Blame,
    caution::is_poison,
    fail_points,
    http::KEEP_ALIVE,
    mailbox::{Mailbox, takes_mail},
    messages::{
        completion::{CallEnded, EventEnded, EventTurn, Flush},
        drain::{Drain, Stop},
        partitions::{LetGo, MayWork},
        process_event::ProcessEvents,
        rows::{BotsRead, LanesRead, ShardTakenOver, TakeOverShard, WantRows},
        settled::EventsSettled,
    },
    room::{Place, Room},
    store::{Bot, DeadLetter, InboxEvent, NotCallable, now},
    tenure::Tenure,
};

/// How many finished events are remembered: for the moment between two messages, and to notice late events.
const FINISHED_MAX: usize = 1024;
/// The wait before another try to take over a shard.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct EventActor {
    shard: usize,
    lanes: Lanes,
    events: HashMap<EventId, Held>,
    calls: HashMap<(EventId, ServiceId), RunningCall>,
    tools: Rc<CallTools>,
    room: Room,
    permits: Arc<Semaphore>,
    blame: Blame,
    queue: Mailbox<QueueActor>,
    flag: Mailbox<FlagActor>,
    replies: Mailbox<ReplyActor>,
    tenure: Tenure,
    turns: u64,
    /// To be passed on once nothing of them is held.
    leaving: Partitions,
    /// The last events that were finished, so that one that was read before is not run again.
    finished: VecDeque<Ticket>,
    phase: Phase,
    awaits_permit: bool,
    awaits_room: bool,
}

/// What an EventActor works with.
#[derive(Clone)]
pub(crate) struct Links {
    /// The inbox.
    pub(crate) queue: Mailbox<QueueActor>,
    /// Where completions go.
    pub(crate) flag: Mailbox<FlagActor>,
    /// The outbox.
    pub(crate) replies: Mailbox<ReplyActor>,
    /// What this process may work on.
    pub(crate) tenure: Tenure,
    /// Events in memory, of all shards.
    pub(crate) room: Room,
    /// Calls in flight, of all shards.
    pub(crate) permits: Arc<Semaphore>,
    /// Who makes actors panic.
    pub(crate) blame: Blame,
}

/// An event in memory.
struct Held {
    event: Arc<InboxEvent>,
    turn: Option<Arc<EventTurn>>,
    place: Place,
}

/// A call in flight; aborted when dropped.
struct RunningCall {
    bot: BotId,
    task: JoinHandle<()>,
}

enum Phase {
    /// The rows of the shard are not free yet: offers are dropped, they stay rows.
    TakingOver,
    Working,
    /// Nothing new is begun; answered when the last call has ended.
    Draining(Option<oneshot::Sender<()>>),
}

impl EventActor {
    /// A new generation for `shard`.
    pub(crate) fn new(shard: usize, generation: u64, limits: Limits, tools: CallTools, links: Links) -> Self {
        Self {
            shard,
            lanes: Lanes::new(limits),
            events: HashMap::new(),
            calls: HashMap::new(),
            tools: Rc::new(tools),
            room: links.room,
            permits: links.permits,
            blame: links.blame,
            queue: links.queue,
            flag: links.flag,
            replies: links.replies,
            tenure: links.tenure,
            // Told apart from the turns of its predecessors.
            turns: generation << 32,
            leaving: Partitions::NONE,
            finished: VecDeque::with_capacity(FINISHED_MAX),
            phase: Phase::TakingOver,
            awaits_permit: false,
            awaits_room: false,
        }
    }

    fn is_working(&self) -> bool {
        matches!(self.phase, Phase::Working)
    }

    /// Waits until what the predecessor's calls have reported is committed; only then may rows that look
    /// unfinished be handed out again.
    fn take_over(&mut self, context: &mut Context<Self>) {
        let (done, committed) = oneshot::channel();
        self.flag.send(Flush { done });
        context.spawn(committed.into_actor(self).map(|committed, actor, context| {
            let is_asked = committed.is_ok() && actor.queue.deliver(TakeOverShard { shard: actor.shard });
            if !is_asked {
                // One of them is not there, now or yet. Once it was asked, QueueActor answers, or else every
                // EventActor is built again.
                context.run_later(RETRY_DELAY, Self::take_over);
            }
        }));
    }

    fn hold(&mut self, event: InboxEvent, place: Place) {
        let held = Held { event: Arc::new(event), turn: None, place };
        self.events.insert(held.event.id, held);
    }

    fn renew_client_regularly(context: &mut Context<Self>) {
        context.run_later(KEEP_ALIVE, |actor, context| {
            fail_points::place("EventActor.timer");
            actor.tools.client.renew();
            Self::renew_client_regularly(context);
        });
    }

    /// Does whatever can be done now.
    fn pump(&mut self, context: &mut Context<Self>) {
        if !self.is_working() || !self.tenure.holds() {
            return;
        }
        while let Some(event) = self.lanes.next_event() {
            self.begin(event, context);
        }
        self.start_calls(context);
        self.ask_for_rows(context);
    }

    fn begin(&mut self, event: EventId, context: &mut Context<Self>) {
        let Some(held) = self.events.get(&event) else { return };
        let bot = held.event.key.bot;
        let directory = self.tools.directory.clone();
        let find = async move { directory.find(bot).await };
        context.spawn(find.into_actor(self).map(move |found, actor, context| {
            actor.open(event, found, context);
        }));
    }

    /// Decides which services an event calls now. The set is fixed the first time; later only those are
    /// called that have not finished.
    fn open(&mut self, event: EventId, found: Result<Arc<Bot>, NotCallable>, context: &mut Context<Self>) {
        if !self.is_working() {
            return;
        }
        let Some(held) = self.events.get_mut(&event) else { return };
        let key = held.event.key;
        if self.blame.is_poison(event) || is_poison(&held.event) {
            return self.end_without_call(event, Some(poison(key)));
        }
        let blame = self.blame.clone();
        let _turn = blame.turn(event);
        fail_points::turn(key.message);
        let bot = match found {
            Ok(bot) => bot,
            Err(reason) => {
                let letter = DeadLetter::of_event(key, reason.name(), reason.to_string());
                return self.end_without_call(event, Some(letter));
            }
        };
        self.turns += 1;
        let turn = new_turn(&held.event, &bot, self.shard, self.turns);
        if turn.turn.under_way().is_empty() {
            return self.end_without_call(event, None);
        }
        self.lanes.opened(event, turn.turn.under_way());
        held.turn = Some(Arc::new(turn));
        self.start_calls(context);
    }

    fn end_without_call(&self, event: EventId, dead: Option<DeadLetter>) {
        let Some(held) = self.events.get(&event) else { return };
        let key = held.event.key;
        if let Some(letter) = &dead {
            log::warn!(target: EVENT_LOG, "{key}: dead-lettered: {}", letter.detail);
        }
        self.flag.send(EventEnded { event, key, shard: self.shard, dead });
    }

    fn start_calls(&mut self, context: &mut Context<Self>) {
        // A call that begins after others have taken over would be made twice.
        while self.tenure.holds() && self.lanes.has_ready_calls() {
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                return self.await_permit(context);
            };
            let Some((event, service)) = self.lanes.next_call() else { return };
            self.start_call(event, service, permit, context);
        }
    }

    fn start_call(
        &mut self,
        event: EventId,
        service: ServiceId,
        permit: OwnedSemaphorePermit,
        context: &mut Context<Self>,
    ) {
        let Some(held) = self.events.get(&event) else { return };
        let Some(turn) = &held.turn else { return };
        let assignment = Assignment {
            event: Arc::clone(&held.event),
            turn: Arc::clone(turn),
            service,
            _permit: permit,
            tools: Rc::clone(&self.tools),
            flag: self.flag.clone(),
            owner: context.address().recipient(),
        };
        let call = RunningCall { bot: held.event.key.bot, task: assignment.spawn() };
        self.calls.insert((event, service), call);
    }

    /// All calls of the process are in flight; one permit wakes this actor.
    fn await_permit(&mut self, context: &mut Context<Self>) {
        if std::mem::replace(&mut self.awaits_permit, true) {
            return;
        }
        let permit = Arc::clone(&self.permits).acquire_owned();
        context.spawn(permit.into_actor(self).map(|permit, actor, context| {
            actor.awaits_permit = false;
            drop(permit);
            actor.pump(context);
        }));
    }

    fn ask_for_rows(&mut self, context: &mut Context<Self>) {
        let places = self.room.left();
        let wants = self.lanes.take_wants(places);
        if !wants.is_empty() {
            self.queue.send(WantRows { shard: self.shard, wants });
        }
        if self.lanes.has_wants() && places == 0 {
            self.await_room(context);
        }
    }

    fn await_room(&mut self, context: &mut Context<Self>) {
        if std::mem::replace(&mut self.awaits_room, true) {
            return;
        }
        let room = self.room.clone();
        let freed = async move { room.freed().await };
        context.spawn(freed.into_actor(self).map(|(), actor, context| {
            actor.awaits_room = false;
            actor.pump(context);
        }));
    }

    /// Keeps of the rows that were read those that the lanes have taken.
    fn hold_taken(&mut self, rows: Vec<InboxEvent>, taken: &[EventId], places: Vec<Place>) {
        let taken = rows.into_iter().filter(|row| taken.contains(&row.id));
        for (row, place) in taken.zip(places) {
            self.hold(row, place);
        }
    }

    fn has_finished(&self, event: EventId) -> bool {
        self.finished.iter().any(|finished| finished.event == event)
    }

    /// An event that was stored after a later one of its conversation had begun can't come before it any more.
    fn count_if_late(&self, event: &InboxEvent) {
        let ticket = event.ticket();
        let is_later = |other: &Ticket| {
            (other.bot, other.conversation) == (ticket.bot, ticket.conversation)
                && other.message > ticket.message
        };
        let is_new = event.key.replay == 0 && event.calls.is_empty();
        if is_new && (self.lanes.runs_later(&ticket) || self.finished.iter().any(is_later)) {
            metrics::counter!("outhook_events_late_total").increment(1);
        }
    }

    /// Passes on what is leaving and has nothing under way.
    fn pass_on_leaving(&mut self) {
        // A new generation speaks for its predecessor's events only when these are settled.
        if self.leaving.is_empty() || matches!(self.phase, Phase::TakingOver) {
            return;
        }
        let bots = self.events.values().map(|held| Partitions::of_bot(held.event.key.bot));
        let clear = self.leaving.without(bots.fold(Partitions::NONE, Partitions::or));
        self.leaving = self.leaving.without(clear);
        if !clear.is_empty() {
            self.replies.send(LetGo { partitions: clear });
        }
    }

    fn answer_drain(&mut self) {
        if self.calls.is_empty()
            && let Phase::Draining(done) = &mut self.phase
            && let Some(done) = done.take()
        {
            // The daemon stops waiting at its deadline.
            let _ = done.send(());
        }
    }
}

fn poison(key: EventKey) -> DeadLetter {
    DeadLetter::of_event(
        key,
        "poison",
        "three times an actor or the process failed while it worked on this event".into(),
    )
}

fn new_turn(event: &InboxEvent, bot: &Bot, shard: usize, number: u64) -> EventTurn {
    let (turn, fixed) = if event.calls.is_empty() {
        let fixed: Vec<_> = bot.services.iter().map(|service| (service.id, service.name.clone())).collect();
        // A single service needs no note of which others were to be called.
        let noted = if fixed.len() > 1 { fixed.clone() } else { Vec::new() };
        (Turn::new(fixed.iter().map(|(service, _)| *service), []), noted)
    } else {
        (next_turn(event), Vec::new())
    };
    EventTurn {
        event: event.id,
        key: event.key,
        conversation: event.conversation,
        shard,
        number,
        turn,
        fixed,
    }
}

/// The calls that are due; all that are left if none is, since somebody found the event due.
fn next_turn(event: &InboxEvent) -> Turn {
    let now = now();
    let left = || event.calls.iter().filter(|call| !call.finished);
    let is_due = |due: Option<i64>| due.is_none_or(|due| due <= now);
    if left().any(|call| is_due(call.due)) {
        let due = left().filter(|call| is_due(call.due)).map(|call| call.service);
        Turn::new(due, left().filter_map(|call| call.due).filter(|due| *due > now))
    } else {
        Turn::new(left().map(|call| call.service), [])
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Actor for EventActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        fail_points::place("EventActor.started");
        self.take_over(context);
        Self::renew_client_regularly(context);
    }
}

impl Handler<ShardTakenOver> for EventActor {
    type Result = ();

    fn handle(&mut self, _: ShardTakenOver, _: &mut Context<Self>) {
        if matches!(self.phase, Phase::TakingOver) {
            self.phase = Phase::Working;
        }
        self.pass_on_leaving();
    }
}

impl Handler<ProcessEvents> for EventActor {
    type Result = ();

    fn handle(&mut self, ProcessEvents { events }: ProcessEvents, context: &mut Context<Self>) {
        if !self.is_working() {
            return;
        }
        for taken in events {
            if self.has_finished(taken.event.id) || !self.tenure.owns(taken.event.key.bot) {
                // It was finished while it was being read, or its bot is being given up.
                continue;
            }
            self.count_if_late(&taken.event);
            let place = self.room.take();
            let offered = self.lanes.offer(taken.event.ticket(), taken.neighbours, place.is_some());
            let Offered::Held { evicted } = offered else { continue };
            let freed = evicted.and_then(|event| self.events.remove(&event)).map(|held| held.place);
            if let Some(place) = place.or(freed) {
                self.hold(taken.event, place);
            }
        }
        self.pump(context);
    }
}

impl Handler<LanesRead> for EventActor {
    type Result = ();

    fn handle(&mut self, LanesRead { pages }: LanesRead, context: &mut Context<Self>) {
        if !self.is_working() {
            return;
        }
        for page in pages {
            let tickets: Vec<Ticket> = page.events.iter().map(InboxEvent::ticket).collect();
            let places = self.room.take_up_to(tickets.len());
            let (bot, conversation) = (page.want.bot, page.want.conversation);
            let taken = self.lanes.pulled(bot, conversation, &tickets, page.more, places.len());
            self.hold_taken(page.events, &taken, places);
        }
        self.pump(context);
    }
}

impl Handler<BotsRead> for EventActor {
    type Result = ();

    fn handle(&mut self, BotsRead { pages }: BotsRead, context: &mut Context<Self>) {
        if !self.is_working() {
            return;
        }
        for page in pages {
            let tickets: Vec<Ticket> = page.events.iter().map(InboxEvent::ticket).collect();
            let places = self.room.take_up_to(tickets.len());
            let taken = self.lanes.refilled(page.bot, &tickets, page.more, places.len());
            self.hold_taken(page.events, &taken, places);
        }
        self.pump(context);
    }
}

impl Handler<CallEnded> for EventActor {
    type Result = ();

    fn handle(&mut self, CallEnded { event, service }: CallEnded, context: &mut Context<Self>) {
        fail_points::place("EventActor.CallEnded");
        if let Some(call) = self.calls.remove(&(event, service)) {
            self.lanes.call_ended(call.bot);
        }
        self.answer_drain();
        self.pump(context);
    }
}

impl Handler<EventsSettled> for EventActor {
    type Result = ();

    fn handle(&mut self, settled: EventsSettled, context: &mut Context<Self>) {
        for event in settled.finished {
            if let Some(held) = self.events.remove(&event) {
                self.finished.truncate(FINISHED_MAX - 1);
                self.finished.push_front(held.event.ticket());
            }
            self.lanes.finished(event);
        }
        for event in settled.parked {
            self.events.remove(&event);
            for dropped in self.lanes.parked(event) {
                self.events.remove(&dropped);
            }
        }
        self.pass_on_leaving();
        self.pump(context);
    }
}

impl Handler<LetGo> for EventActor {
    type Result = ();

    fn handle(&mut self, LetGo { partitions }: LetGo, _: &mut Context<Self>) {
        for event in self.lanes.let_go(|bot| partitions.hold(bot)) {
            self.events.remove(&event);
        }
        self.leaving = self.leaving.or(partitions);
        self.pass_on_leaving();
    }
}

impl Handler<MayWork> for EventActor {
    type Result = ();

    fn handle(&mut self, _: MayWork, context: &mut Context<Self>) {
        self.pump(context);
    }
}

impl Handler<Drain> for EventActor {
    type Result = ();

    fn handle(&mut self, Drain { done }: Drain, _: &mut Context<Self>) {
        self.phase = Phase::Draining(Some(done));
        self.answer_drain();
    }
}

impl Handler<Stop> for EventActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

takes_mail!(
    EventActor: ProcessEvents, LanesRead, BotsRead, ShardTakenOver, EventsSettled, LetGo, MayWork, Drain, Stop
);
