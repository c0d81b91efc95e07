//! ReplyActor: posts the outbox, in order within a conversation, beside each other across, with a
//! backoff of its own for each bot. Bots take turns, so that one with many replies holds up nobody.
//!
//! It does one thing at a time with the outbox: what was posted is recorded before more is taken, so a
//! reply never overtakes an earlier one of its conversation.

mod outlet;
mod post;

use std::{collections::HashMap, time::Duration};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler};
use outhook_core::{
    identity::{BotId, Millis},
    partition::Partitions,
};
use tokio::sync::oneshot;

pub(crate) use self::outlet::Outlet;
use super::{due_timer::DueTimer, lease::LeaseActor};
use crate::{
    database_job::DatabaseJob,
    directory::Directory,
    fail_points,
    health::Health,
    mailbox::{Mailbox, takes_mail},
    messages::{
        completion::Flush,
        drain::{Drain, Stop},
        partitions::{LetGo, MayWork},
        settled::RepliesCommitted,
    },
    settings::Live,
    store::{DueReplies, Outgoing, Places, PostResult, Store, StoreError, now},
    tenure::Tenure,
};

/// The outbox is looked at this often even if nobody says that there is something new.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The most replies that are logged at a time.
const LOGGED_ROWS_MAX: usize = 256;

/// See the module.
pub(crate) struct ReplyActor {
    links: Links,
    /// The bots whose replies are being posted.
    in_flight: Vec<BotId>,
    posted: Vec<(Outgoing, PostResult)>,
    /// Bots that Zulip has told to wait.
    waiting_bots: HashMap<BotId, Millis>,
    /// The bot behind which the next turn begins.
    last_bot: BotId,
    /// To be passed on once nothing of them is held.
    leaving: Partitions,
    is_freed: bool,
    is_due: bool,
    job: DatabaseJob,
    due_timer: DueTimer,
    is_draining: bool,
    drained: Option<oneshot::Sender<()>>,
    /// To be told when what was posted is recorded.
    flushes: Vec<oneshot::Sender<()>>,
}

/// What ReplyActor works with.
#[derive(Clone)]
pub(crate) struct Links {
    /// The database, under the tenure.
    pub(crate) store: Store,
    /// What this process may work on.
    pub(crate) tenure: Tenure,
    /// Who gets partitions back.
    pub(crate) lease: Mailbox<LeaseActor>,
    /// Where to tell of trouble.
    pub(crate) health: Health,
    /// Bots, for their keys.
    pub(crate) directory: Directory,
    /// Where replies go.
    pub(crate) outlet: Outlet,
    /// How long to wait between attempts, how many posts are under way, and how long a reply is tried.
    pub(crate) live: Live,
}

impl ReplyActor {
    /// A new generation.
    pub(crate) fn new(links: Links) -> Self {
        Self {
            in_flight: Vec::new(),
            leaving: Partitions::NONE,
            posted: Vec::new(),
            waiting_bots: HashMap::new(),
            last_bot: 0,
            is_freed: false,
            is_due: true,
            job: DatabaseJob::new("reply", &links.health),
            due_timer: DueTimer::default(),
            // A generation that is built while the process ends takes nothing.
            is_draining: links.health.is_draining(),
            links,
            drained: None,
            flushes: Vec::new(),
        }
    }

    fn rows_max(&self) -> usize {
        match self.links.outlet {
            Outlet::Log | Outlet::Nowhere => LOGGED_ROWS_MAX,
            Outlet::Zulip { .. } => self.links.live.get().reply.in_flight,
        }
    }

    fn next_step(&mut self, context: &mut Context<Self>) {
        if self.job.is_under_way() {
            return;
        }
        self.pass_on_leaving();
        if self.posted.is_empty() {
            for done in self.flushes.drain(..) {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
        let free = self.rows_max().saturating_sub(self.in_flight.len());
        match () {
            () if !self.posted.is_empty() => self.settle(context),
            () if self.is_draining => self.answer_drain(),
            () if !self.is_freed && !self.in_flight.is_empty() => {}
            () if !self.is_freed => self.free(context),
            () if self.is_due && free > 0 && self.links.tenure.holds() => self.take(free, context),
            () => {}
        }
    }

    /// What a predecessor had taken, or what was taken without our hearing of it, is to be posted.
    fn free(&mut self, context: &mut Context<Self>) {
        let store = self.links.store.clone();
        self.step(async move { store.free_replies().await }, context, |actor, freed, _| {
            actor.is_freed = freed.is_some();
        });
    }

    fn settle(&mut self, context: &mut Context<Self>) {
        let (store, results) = (self.links.store.clone(), std::mem::take(&mut self.posted));
        let job = {
            let results = results.clone();
            async move { store.settle_replies(results).await }
        };
        self.step(job, context, |actor, settled, _| {
            actor.is_due = true;
            if settled.is_none() {
                // Not recorded: they must not be posted again while we are alive.
                actor.posted.extend(results);
            }
        });
    }

    fn take(&mut self, free: usize, context: &mut Context<Self>) {
        self.is_due = false;
        self.waiting_bots.retain(|_, until| *until > now());
        let places = Places {
            free,
            in_flight: self.in_flight.clone(),
            waiting: self.waiting_bots.keys().copied().collect(),
            after: self.last_bot,
        };
        let store = self.links.store.clone();
        // Until it is known what was taken.
        self.is_freed = false;
        self.step(async move { store.take_due_replies(places).await }, context, |actor, taken, context| {
            match taken {
                Some(due) => actor.post_all(due, context),
                None => actor.is_due = true,
            }
        });
    }

    fn post_all(&mut self, DueReplies { replies, next, last }: DueReplies, context: &mut Context<Self>) {
        self.is_freed = true;
        self.last_bot = last;
        for reply in replies {
            self.post(reply, context);
        }
        let waits = self.waiting_bots.values().copied();
        if let Some(due) = waits.chain(next).min() {
            self.arm_due_timer(due, context);
        }
    }

    /// Does one thing with the outbox; `then` is told nothing if it has to be done again.
    fn step<T: 'static>(
        &mut self,
        job: impl Future<Output = Result<T, StoreError>> + 'static,
        context: &mut Context<Self>,
        then: impl FnOnce(&mut Self, Option<T>, &mut Context<Self>) + 'static,
    ) {
        self.job.begin_stubbornly(
            context,
            |actor| &mut actor.job,
            job,
            |actor, done, context| {
                then(actor, done, context);
                actor.next_step(context);
            },
        );
    }

    fn arm_due_timer(&mut self, due: Millis, context: &mut Context<Self>) {
        self.due_timer.arm(due, context, |actor, context| {
            actor.due_timer.fired();
            actor.look(context);
        });
    }

    fn look(&mut self, context: &mut Context<Self>) {
        self.is_due = true;
        self.next_step(context);
    }

    fn look_regularly(context: &mut Context<Self>) {
        context.run_later(LOOK_EVERY, |actor, context| {
            fail_points::place("ReplyActor.timer");
            actor.look(context);
            Self::look_regularly(context);
        });
    }

    /// Passes on what is leaving and has nothing under way.
    fn pass_on_leaving(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let bots = self.in_flight.iter().copied().chain(self.posted.iter().map(|(reply, _)| reply.bot_id));
        let clear = self.leaving.without(Partitions::of_bots(bots));
        self.leaving = self.leaving.without(clear);
        if !clear.is_empty() {
            self.links.lease.send(LetGo { partitions: clear });
        }
    }

    fn answer_drain(&mut self) {
        if self.in_flight.is_empty()
            && let Some(done) = self.drained.take()
        {
            // The daemon stops waiting at its deadline.
            let _ = done.send(());
        }
    }
}

impl Actor for ReplyActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        fail_points::place("ReplyActor.started");
        self.next_step(context);
        Self::look_regularly(context);
    }
}

impl Handler<RepliesCommitted> for ReplyActor {
    type Result = ();

    fn handle(&mut self, _: RepliesCommitted, context: &mut Context<Self>) {
        self.look(context);
    }
}

impl Handler<LetGo> for ReplyActor {
    type Result = ();

    fn handle(&mut self, LetGo { partitions }: LetGo, context: &mut Context<Self>) {
        self.leaving = self.leaving.or(partitions);
        self.next_step(context);
    }
}

impl Handler<MayWork> for ReplyActor {
    type Result = ();

    fn handle(&mut self, _: MayWork, context: &mut Context<Self>) {
        self.look(context);
    }
}

impl Handler<Drain> for ReplyActor {
    type Result = ();

    fn handle(&mut self, Drain { done }: Drain, context: &mut Context<Self>) {
        self.is_draining = true;
        self.drained = Some(done);
        self.next_step(context);
    }
}

impl Handler<Flush> for ReplyActor {
    type Result = ();

    fn handle(&mut self, Flush { done }: Flush, context: &mut Context<Self>) {
        self.flushes.push(done);
        self.next_step(context);
    }
}

impl Handler<Stop> for ReplyActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

takes_mail!(ReplyActor: RepliesCommitted, LetGo, MayWork, Flush, Drain, Stop);
