//! EventActor: owns a shard of bots. It lets their events run in order, shares its turns fairly between
//! the bots, and spawns a ServiceCallActor for each call.
//!
//! It holds no state that can't be found again in the database. A new generation takes its shard over:
//! it drops what it is offered until the QueueActor has freed the rows that its predecessor held.

mod begin;
mod calls;
mod gates;
mod progress;
mod rows;

use std::{
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use outhook_core::{
    identity::{EventId, ServiceId},
    lanes::{Lanes, Limits, Offered, Ticket},
    partition::Partitions,
    recent::Recent,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::{calls::RunningCall, gates::HeldBack, progress::Progress};
use super::{flag::FlagActor, queue::QueueActor, reply::ReplyActor, service_call::CallTools};
use crate::{
    blame::Blame,
    fail_points,
    health::Running,
    http::KEEP_ALIVE,
    mailbox::{Mailbox, takes_mail},
    messages::{
        completion::{CallEnded, EventTurn, Flush},
        drain::{Drain, Stop},
        partitions::{LetGo, MayWork},
        process_event::ProcessEvents,
        rows::{BotsRead, LanesRead, ShardTakenOver, TakeOverShard},
        settled::EventsSettled,
    },
    room::Room,
    store::InboxEvent,
    tenure::Tenure,
};

/// How many finished events are remembered, and how many parked ones: for the moment between reading a row
/// and being offered it, and to notice late events.
const RECENT_MAX: usize = 4096;
/// The wait before another try to take over a shard.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct EventActor {
    shard: usize,
    /// As they are now.
    limits: Box<dyn Fn() -> Limits>,
    lanes: Lanes,
    events: HashMap<EventId, Held>,
    calls: HashMap<(EventId, ServiceId), RunningCall>,
    held_back: HeldBack,
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
    /// The last events whose turn ended, so that one that was read before is not run again as it was then.
    recent: Recent<Instant>,
    phase: Phase,
    progress: Progress,
    awaits_permit: bool,
    awaits_patient: bool,
    awaits_files: bool,
    spare_permit: Option<OwnedSemaphorePermit>,
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
    /// Whom to tell what is held.
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
}

enum Phase {
    /// The rows of the shard are not free yet: offers are dropped, they stay rows. Health sees how long that
    /// takes.
    TakingOver(#[expect(dead_code, reason = "kept until it is over")] Running),
    Working,
    /// Nothing new is begun; answered when the last call has ended.
    Draining(Option<oneshot::Sender<()>>),
}

impl EventActor {
    /// A new generation for `shard`.
    pub(crate) fn new(
        shard: usize,
        generation: u64,
        limits: impl Fn() -> Limits + 'static,
        tools: CallTools,
        links: Links,
    ) -> Self {
        let takes_over = tools.directory.health().database_job("take-over");
        let progress = Progress::new(shard, tools.directory.health());
        Self {
            shard,
            lanes: Lanes::new(limits()),
            limits: Box::new(limits),
            events: HashMap::new(),
            calls: HashMap::new(),
            held_back: HeldBack::default(),
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
            recent: Recent::new(RECENT_MAX),
            phase: Phase::TakingOver(takes_over),
            progress,
            awaits_permit: false,
            awaits_patient: false,
            awaits_files: false,
            spare_permit: None,
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

    fn tidy_regularly(context: &mut Context<Self>) {
        context.run_later(KEEP_ALIVE, |actor, context| {
            fail_points::place("EventActor.timer");
            actor.tools.client.get().let_go_of_unused();
            actor.tools.gates.tidy();
            Self::tidy_regularly(context);
        });
    }

    /// Does whatever can be done now.
    fn pump(&mut self, context: &mut Context<Self>) {
        if !self.is_working() || !self.tenure.holds() {
            return;
        }
        self.lanes.set_limits((self.limits)());
        while let Some(event) = self.lanes.next_event() {
            self.begin(event, context);
        }
        self.start_calls(context);
        self.ask_for_rows(context);
        self.report();
    }

    fn report(&self) {
        self.room.report(self.shard, self.lanes.held(), self.lanes.is_crowded());
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

impl Actor for EventActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        fail_points::place("EventActor.started");
        self.report();
        self.take_over(context);
        Self::tidy_regularly(context);
        self.check_progress_regularly(context);
    }
}

impl Handler<ShardTakenOver> for EventActor {
    type Result = ();

    fn handle(&mut self, _: ShardTakenOver, _: &mut Context<Self>) {
        if matches!(self.phase, Phase::TakingOver(_)) {
            self.phase = Phase::Working;
        }
        self.pass_on_leaving();
    }
}

impl Handler<ProcessEvents> for EventActor {
    type Result = ();

    fn handle(&mut self, ProcessEvents { events, read_at }: ProcessEvents, context: &mut Context<Self>) {
        if !self.is_working() {
            return;
        }
        for taken in events {
            let event = &taken.event;
            self.look_at_bot_soon(event.key.bot, context);
            if self.recent.has_finished(event.id) || !self.tenure.owns(event.key.bot) {
                // It was finished since its row was read or written, or its bot is being given up.
                continue;
            }
            if self.recent.may_have_ended(event.id, read_at) {
                self.lanes.look_up(event.ticket());
                continue;
            }
            self.count_if_late(&taken.event);
            let offered = self.lanes.offer(taken.event.ticket(), taken.neighbours);
            let Offered::Held { evicted } = offered else { continue };
            if let Some(event) = evicted {
                self.events.remove(&event);
            }
            self.hold(taken.event);
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
            let (bot, conversation) = (page.want.bot, page.want.conversation);
            let taken = self.lanes.pulled(bot, conversation, &tickets, page.more);
            self.hold_taken(page.events, &taken);
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
        let mine = self.tenure.partitions();
        // A bot that is being given up takes nothing more in.
        for page in pages.into_iter().filter(|page| mine.hold(page.bot)) {
            let tickets: Vec<Ticket> = page.events.iter().map(InboxEvent::ticket).collect();
            let taken = self.lanes.refilled(page.bot, &tickets, page.more);
            self.hold_taken(page.events, &taken);
        }
        self.pump(context);
    }
}

impl Handler<CallEnded> for EventActor {
    type Result = ();

    fn handle(&mut self, CallEnded { event, service, failed }: CallEnded, context: &mut Context<Self>) {
        fail_points::place("EventActor.CallEnded");
        if let Some(call) = self.calls.remove(&(event, service)) {
            self.lanes.call_ended(call.bot, failed);
            self.reopen_if_open(call.bot);
            self.go_on_after_probes(call.bot);
        }
        self.answer_drain();
        self.pump(context);
    }
}

impl Handler<EventsSettled> for EventActor {
    type Result = ();

    fn handle(&mut self, settled: EventsSettled, context: &mut Context<Self>) {
        let now = Instant::now();
        for event in settled.finished {
            if let Some(held) = self.events.remove(&event) {
                self.recent.finished(held.event.ticket(), now);
            }
            self.lanes.finished(event);
        }
        for event in settled.parked {
            self.recent.parked(event, now);
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
