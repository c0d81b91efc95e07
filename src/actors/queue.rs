//! QueueActor: owns the inbox's intake. It stores deliveries and only then acknowledges them, and it
//! hands out the rows that may be worked on.
//!
//! Storing does not wait for reading, nor reading for storing ([`jobs`]). What was stored may so have been
//! read, worked on and settled before it is handed out; EventActors recognise it ([`outhook_core::recent`]).

mod intake;
mod jobs;
mod rows;
mod wake;

use std::{
    collections::{BTreeSet, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, StreamHandler, WrapFuture,
};
use outhook_core::{
    identity::{BotId, Millis},
    newcomers::Newcomers,
    partition::Partitions,
    quota::Quota,
};
use tokio::sync::oneshot;

pub(crate) use intake::read_delivery;

use self::jobs::Lines;
use super::{due_timer::DueTimer, event::EventActor, lease::LeaseActor};
use crate::{
    broker::{Broker, BrokerEvent, Delivery, Session},
    database_job::DatabaseJob,
    fail_points,
    health::{Health, Pulse},
    mailbox::{Mailbox, takes_mail},
    messages::{
        drain::{Drain, Stop},
        partitions::{BrokerChanged, LetGo},
        rows::{TakeOverShard, WantRows},
        settled::DueAt,
    },
    room::Room,
    store::{Store, Taken},
    supervise::{Fatal, Supervisor},
    tenure::Tenure,
};

/// How long a broker may take to say good-bye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Lanes in which events may be stored while rows are being read.
const NEWCOMERS_MAX: usize = 20_000;

/// See the module.
pub(crate) struct QueueActor {
    store: Store,
    tenure: Tenure,
    broker: Option<Rc<dyn Broker>>,
    events: Vec<Mailbox<EventActor>>,
    lease: Mailbox<LeaseActor>,
    health: Health,
    pulse: Pulse,
    supervisor: Supervisor,
    room: Room,
    event_bytes_max: usize,
    batch_rows_max: usize,
    letters_per_bot: usize,
    quota: Quota,
    session: Option<CurrentSession>,
    sessions: u64,
    /// Of the current session, not yet being stored.
    deliveries: VecDeque<Delivery>,
    shards_to_free: BTreeSet<usize>,
    /// To be let go of once no job is under way that might still take some of it.
    leaving: Partitions,
    wants: VecDeque<WantRows>,
    is_due: bool,
    /// The bot behind which the next turn of those with due rows begins.
    due_after: BotId,
    /// Found due and not yet known to be claimed.
    claiming: Option<FoundDue>,
    due_timer: DueTimer,
    lines: Lines,
    /// Looks whether another process has written to an SQLite file.
    watching: DatabaseJob,
    /// Stored since the reading of rows began that is under way.
    newcomers: Newcomers,
    /// How many deliveries are stored at once; smaller for a while after a refusal.
    batch_rows: usize,
    awaits_room: bool,
    awaits_pump: bool,
    is_draining: bool,
    drained: Option<oneshot::Sender<()>>,
}

/// Due rows as they were read.
struct FoundDue {
    events: Vec<Taken>,
    /// The moment that they were due by.
    due_by: Millis,
    /// A moment before they were read, of this process.
    read_at: Instant,
    /// Stored since then.
    newcomers: Newcomers,
}

/// A session and its number in this life.
#[derive(Clone)]
struct CurrentSession {
    number: u64,
    session: Rc<dyn Session>,
}

/// Looks for the next job after everything that has arrived together.
#[derive(Message)]
#[rtype(result = "()")]
struct Pump;

/// What QueueActor works with.
pub(crate) struct Links {
    /// The database, under the tenure.
    pub(crate) store: Store,
    /// What this process may work on.
    pub(crate) tenure: Tenure,
    /// The broker, if the queue is not the inbox itself.
    pub(crate) broker: Option<Rc<dyn Broker>>,
    /// The pool; a bot's events go to the one at its partition modulo the pool's size.
    pub(crate) events: Vec<Mailbox<EventActor>>,
    /// Who decides which daemon takes deliveries.
    pub(crate) lease: Mailbox<LeaseActor>,
    /// Where to tell of trouble.
    pub(crate) health: Health,
    /// Whom to tell that we are not let in.
    pub(crate) supervisor: Supervisor,
    /// Events in memory.
    pub(crate) room: Room,
}

impl QueueActor {
    /// A new generation.
    pub(crate) fn new(config: &crate::config::Config, links: Links) -> Self {
        let bots_max = usize::try_from(config.actors.bots_cached).unwrap_or(usize::MAX);
        Self {
            store: links.store,
            tenure: links.tenure,
            broker: links.broker,
            events: links.events,
            lease: links.lease,
            pulse: links.health.pulse("queue".into(), "has not looked for due events"),
            health: links.health.clone(),
            supervisor: links.supervisor,
            room: links.room,
            event_bytes_max: config.queue.max_event_bytes,
            batch_rows_max: config.queue.prefetch.into(),
            letters_per_bot: config.queue.dead_letters_per_bot,
            quota: Quota::new(config.queue.stored_per_bot, bots_max),
            session: None,
            sessions: 0,
            deliveries: VecDeque::new(),
            shards_to_free: BTreeSet::new(),
            leaving: Partitions::NONE,
            wants: VecDeque::new(),
            is_due: true,
            due_after: 0,
            claiming: None,
            due_timer: DueTimer::default(),
            lines: Lines::new(&links.health),
            watching: DatabaseJob::new("watching", &links.health),
            newcomers: Newcomers::new(NEWCOMERS_MAX),
            batch_rows: config.queue.prefetch.into(),
            awaits_room: false,
            awaits_pump: false,
            // A generation that is built while the process ends takes nothing.
            is_draining: links.health.is_draining(),
            drained: None,
        }
    }

    /// Returns to the broker what was not stored, when nothing is being stored any more.
    fn close_session(&mut self, context: &mut Context<Self>) {
        let Some(done) = self.drained.take() else { return };
        let session = self.session.take();
        self.deliveries.clear();
        let close = async move {
            if let Some(current) = session {
                // A broker that does not answer returns the deliveries when the process ends.
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, current.session.close()).await;
            }
        };
        context.spawn(close.into_actor(self).map(|(), _, _| {
            // The daemon stops waiting at its deadline.
            let _ = done.send(());
        }));
    }

    fn await_room(&mut self, context: &mut Context<Self>) {
        if std::mem::replace(&mut self.awaits_room, true) {
            return;
        }
        let room = self.room.clone();
        let freed = async move { room.freed().await };
        context.spawn(freed.into_actor(self).map(|(), actor, context| {
            actor.awaits_room = false;
            actor.begin_jobs(context);
        }));
    }
}

impl Actor for QueueActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        fail_points::place("QueueActor.started");
        match self.broker.clone() {
            _ if self.is_draining => {}
            Some(broker) => drop(context.add_stream(broker.events())),
            None => self.health.broker_answers(),
        }
        self.watch_file(context);
        Self::look_regularly(context);
    }
}

impl StreamHandler<BrokerEvent> for QueueActor {
    fn handle(&mut self, event: BrokerEvent, context: &mut Context<Self>) {
        match event {
            BrokerEvent::Answers => {
                self.health.broker_answers();
                self.lease.send(BrokerChanged);
            }
            BrokerEvent::Connected(session) => {
                self.health.broker_answers();
                // What is left of an older session can't be acknowledged and comes again.
                self.deliveries.clear();
                self.sessions += 1;
                self.session = Some(CurrentSession { number: self.sessions, session });
            }
            BrokerEvent::Delivered(delivery) => {
                self.deliveries.push_back(delivery);
                if !std::mem::replace(&mut self.awaits_pump, true) {
                    context.notify(Pump);
                }
            }
            BrokerEvent::Lost(error) => {
                self.session = None;
                if !self.is_draining {
                    self.health.broker_is_away(&error);
                    self.lease.send(BrokerChanged);
                }
            }
            BrokerEvent::Released => self.session = None,
            BrokerEvent::Denied(error) => {
                self.supervisor.report(Fatal::Denied(error.to_string()));
            }
        }
    }

    /// By default the actor would stop here.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

impl Handler<WantRows> for QueueActor {
    type Result = ();

    fn handle(&mut self, wants: WantRows, context: &mut Context<Self>) {
        // What one shard wants is read together, however often it asked, a page at a time.
        match self.wants.iter_mut().find(|waiting| waiting.shard == wants.shard) {
            Some(waiting) => waiting.wants.extend(wants.wants),
            None => self.wants.push_back(wants),
        }
        self.begin_jobs(context);
    }
}

impl Handler<TakeOverShard> for QueueActor {
    type Result = ();

    fn handle(&mut self, TakeOverShard { shard }: TakeOverShard, context: &mut Context<Self>) {
        self.shards_to_free.insert(shard);
        // What the predecessor wanted is of no use to its successor.
        self.wants.retain(|wants| wants.shard != shard);
        self.begin_jobs(context);
    }
}

impl Handler<LetGo> for QueueActor {
    type Result = ();

    fn handle(&mut self, LetGo { partitions }: LetGo, context: &mut Context<Self>) {
        self.leaving = self.leaving.or(partitions);
        self.begin_jobs(context);
    }
}

impl Handler<DueAt> for QueueActor {
    type Result = ();

    fn handle(&mut self, DueAt(due): DueAt, context: &mut Context<Self>) {
        self.arm_due_timer(due, context);
    }
}

impl Handler<Drain> for QueueActor {
    type Result = ();

    /// Takes nothing more.
    fn handle(&mut self, Drain { done }: Drain, context: &mut Context<Self>) {
        self.is_draining = true;
        self.drained = Some(done);
        self.begin_jobs(context);
    }
}

impl Handler<Pump> for QueueActor {
    type Result = ();

    fn handle(&mut self, _: Pump, context: &mut Context<Self>) {
        fail_points::place("QueueActor.Pump");
        self.awaits_pump = false;
        self.begin_jobs(context);
    }
}

impl Handler<Stop> for QueueActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

takes_mail!(QueueActor: WantRows, TakeOverShard, LetGo, DueAt, Drain, Stop);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_may_be_as_large_as_the_limit() {
        let body = br#"{"message":{"id":1,"content":""},"user_profile_id":2}"#;
        assert!(read_delivery(body, body.len()).is_ok());
        assert_eq!(
            read_delivery(body, body.len() - 1).map_err(|letter| letter.reason).err(),
            Some("too_large")
        );
        assert_eq!(read_delivery(b"{}", 9).map_err(|letter| letter.reason).err(), Some("malformed"));
    }
}
