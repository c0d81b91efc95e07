//! LeaseActor: keeps this daemon alive in the eyes of the others of its database, takes over from those that
//! died, and sees to it that all have a fair share of the partitions.
//!
//! It does one thing at a time with the database. What it decides by is in `outhook_core::partition`.

mod partitions;
mod renewal;
mod session;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use outhook_core::{
    identity::DaemonId,
    partition::{Intake, Partitions, Roster, Shares},
};

use super::{event::EventActor, flag::FlagActor, queue::QueueActor, reply::ReplyActor};
use crate::{
    fail_points,
    health::Health,
    mailbox::{Mailbox, takes_mail},
    messages::{
        drain::{Drain, Stop},
        partitions::{BrokerChanged, LetGo, MayWork},
        settled::DueAt,
    },
    store::{Sighting, Store, StoreError, now},
    tenure::{CurrentTenure, Tenure},
};

/// The longest time between two looks at the other daemons.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The wait before a database that is away is asked again.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// The wait before a session that could not be opened is tried again.
const SESSION_RETRY_DELAY: Duration = Duration::from_millis(100);
/// A daemon without a session for so long has ended: one that only lost its connection is back sooner.
const SESSION_GRACE: Duration = Duration::from_millis(500);
/// After the own session was lost, the others have probably lost theirs too, and get so long to come back.
const RETURN_GRACE: Duration = Duration::from_secs(3);

/// Under which it complains of the database.
const NAME: &str = "lease";

/// See the module.
pub(crate) struct LeaseActor {
    links: Links,
    tenure: Tenure,
    /// Since when the session has stood.
    session_since: Option<Instant>,
    /// The session was lost once.
    has_lost_session: bool,
    /// Since when other daemons have been seen without a session.
    missing: HashMap<DaemonId, Instant>,
    /// Given up, and not yet given back.
    leaving: Partitions,
    /// Those of them that are being given back.
    giving: Partitions,
    is_busy: bool,
    /// What it is busy with is a change.
    is_changing: bool,
    /// The lease is being renewed beside a change.
    renews_beside: bool,
    /// A look soon is arranged.
    looks_soon: bool,
    /// Something has changed since the look that is under way began.
    looks_again: bool,
}

/// What LeaseActor works with.
#[derive(Clone)]
pub(crate) struct Links {
    /// The database.
    pub(crate) store: Store,
    /// Where to tell of trouble.
    pub(crate) health: Health,
    /// The tenure that actors are built with.
    pub(crate) current: CurrentTenure,
    /// What the others call this daemon.
    pub(crate) name: String,
    /// `database.lease`.
    pub(crate) lease: Duration,
    /// Whether there is a broker, as far as this daemon's configuration goes.
    pub(crate) has_broker: bool,
    /// The inbox.
    pub(crate) queue: Mailbox<QueueActor>,
    /// The pool.
    pub(crate) events: Vec<Mailbox<EventActor>>,
    /// What commits outcomes.
    pub(crate) flag: Mailbox<FlagActor>,
    /// The outbox.
    pub(crate) replies: Mailbox<ReplyActor>,
}

impl LeaseActor {
    /// A new generation, which goes on with the tenure there is.
    pub(crate) fn new(links: Links) -> Self {
        links.health.withdraw(NAME);
        let tenure = links.current.get();
        Self {
            tenure,
            links,
            session_since: None,
            has_lost_session: false,
            missing: HashMap::new(),
            leaving: Partitions::NONE,
            giving: Partitions::NONE,
            is_busy: false,
            is_changing: false,
            renews_beside: false,
            looks_soon: false,
            looks_again: false,
        }
    }

    /// The store, as far as the tenure allows.
    fn store(&self) -> Store {
        self.links.store.under(self.tenure.clone())
    }

    fn look_regularly(&self, context: &mut Context<Self>) {
        context.run_later(LOOK_EVERY.min(self.links.lease / 3), |actor, context| {
            fail_points::place("LeaseActor.timer");
            actor.look(context);
            actor.look_regularly(context);
        });
    }

    /// Renews the lease and looks at the others.
    fn look(&mut self, context: &mut Context<Self>) {
        if self.is_busy {
            self.looks_again = true;
            return self.renew_beside(context);
        }
        self.is_busy = true;
        let began = Instant::now();
        context.spawn(self.renewal().into_actor(self).map(move |seen, actor, context| match seen {
            Ok(sighting) => {
                actor.renewed(began + actor.links.lease);
                match actor.session_since {
                    Some(_) => actor.act(&sighting, context),
                    // The others may be about to declare this daemon dead.
                    None => actor.done(context),
                }
            }
            Err(error) => actor.failed(&error, context),
        }));
    }

    fn act(&mut self, sighting: &Sighting, context: &mut Context<Self>) {
        let dead = self.find_dead(sighting);
        if !dead.is_empty() {
            log::warn!("daemons {dead:?} have ended without leaving: their work is taken over");
            let store = self.store();
            return self.change(async move { store.bury_daemons(dead).await }, context, |actor, (), _| {
                actor.looks_again = true;
            });
        }
        let Shares { claim, release, intake } = self.roster(sighting).shares(self.tenure.daemon());
        self.set_intake(intake == Intake::Take);
        // Also what a predecessor had begun to give up or was granted without hearing of it, and what is not
        // this daemon's any more, should it think so.
        let mine = self.tenure.partitions();
        let mistaken = sighting.owned.without(mine).or(mine.without(sighting.owned));
        self.let_go(release.or(mistaken));
        let (store, daemon) = (self.store(), self.tenure.daemon());
        let change = async move {
            let gained = match claim.is_empty() {
                true => Partitions::NONE,
                false => store.claim_partitions(daemon, claim).await?,
            };
            let takes = match intake {
                Intake::Claim => store.claim_intake(daemon).await?,
                Intake::Release => store.release_intake(daemon).await.map(|()| false)?,
                Intake::Take | Intake::Leave => intake == Intake::Take,
            };
            Ok((gained, takes))
        };
        self.change(change, context, |actor, (gained, takes), _| {
            actor.gained(gained);
            actor.set_intake(takes);
        });
    }

    fn roster(&self, sighting: &Sighting) -> Roster {
        let ends = |daemon: DaemonId| daemon == self.tenure.daemon() && self.links.health.is_draining();
        let wanting = sighting.daemons.iter().filter(|daemon| !daemon.is_leaving && !ends(daemon.id));
        Roster {
            daemons: wanting.map(|daemon| daemon.id).collect(),
            mine: self.tenure.partitions(),
            // What is on its way out is given back first.
            free: sighting.free.without(self.leaving),
            taker: sighting.taker.filter(|_| !self.links.health.is_draining()),
            can_take: self.links.has_broker && self.links.health.has_broker(),
        }
    }

    /// Those whose process has ended, and those that have been silent for too long. After the database was
    /// away all seem to be so, and get time to come back: that of a lease to renew theirs.
    fn find_dead(&mut self, sighting: &Sighting) -> Vec<DaemonId> {
        let others = || sighting.daemons.iter().filter(|daemon| daemon.id != self.tenure.daemon());
        let missing: HashMap<DaemonId, Instant> = others()
            .filter(|daemon| !daemon.has_session)
            .map(|daemon| (daemon.id, self.missing.get(&daemon.id).copied().unwrap_or_else(Instant::now)))
            .collect();
        let connected = self.session_since.map_or(Duration::ZERO, |since| since.elapsed());
        let has_returned = !self.has_lost_session || connected >= RETURN_GRACE;
        let dead = others().filter(|daemon| {
            let is_gone = missing.get(&daemon.id).is_some_and(|since| since.elapsed() >= SESSION_GRACE);
            is_gone && has_returned || daemon.is_silent && connected >= self.links.lease
        });
        let dead = dead.map(|daemon| daemon.id).collect();
        self.missing = missing;
        dead
    }

    /// Does one thing with the database.
    fn change<T: 'static>(
        &mut self,
        job: impl Future<Output = Result<T, StoreError>> + 'static,
        context: &mut Context<Self>,
        then: impl FnOnce(&mut Self, T, &mut Context<Self>) + 'static,
    ) {
        self.is_changing = true;
        context.spawn(job.into_actor(self).map(|result, actor, context| match result {
            Ok(value) => {
                then(actor, value, context);
                actor.done(context);
            }
            Err(error) => actor.failed(&error, context),
        }));
    }

    fn done(&mut self, context: &mut Context<Self>) {
        self.links.health.database_answers(NAME);
        (self.is_busy, self.is_changing) = (false, false);
        if std::mem::take(&mut self.looks_again) {
            return self.look(context);
        }
        // Whether those that are missing are really gone is seen soon.
        if !self.missing.is_empty() && !std::mem::replace(&mut self.looks_soon, true) {
            context.run_later(SESSION_GRACE, |actor, context| {
                actor.looks_soon = false;
                actor.look(context);
            });
        }
    }

    fn failed(&mut self, error: &StoreError, context: &mut Context<Self>) {
        if error.is_lock_timeout() {
            // Another daemon changes something; the next look tells what is left to do.
            return self.done(context);
        }
        if matches!(error, StoreError::Fenced) && !self.links.health.is_draining() {
            return self.join_again(error, context);
        }
        self.links.health.database_is_away(NAME, error);
        context.run_later(RETRY_DELAY, |actor, context| {
            (actor.is_busy, actor.is_changing) = (false, false);
            actor.look(context);
        });
    }

    /// During a drain QueueActor ends the consumer, once what it has is stored.
    fn set_intake(&self, takes: bool) {
        if !self.links.health.is_draining() {
            self.tenure.take_deliveries(takes);
        }
    }

    fn wake_all(&self) {
        self.links.queue.send(DueAt(now()));
        self.links.events.iter().for_each(|actor| actor.send(MayWork));
        self.links.replies.send(MayWork);
    }

    /// The others have taken over. Every actor is built anew under another tenure: whatever the old ones
    /// still hold can't be written any more.
    fn join_again(&mut self, error: &StoreError, context: &mut Context<Self>) {
        self.is_changing = false;
        self.tenure.revoke();
        self.links.health.database_is_away(NAME, error);
        let (store, name, lease) = (self.links.store.clone(), self.links.name.clone(), self.links.lease);
        let join = async move { store.join(name, lease).await };
        context.spawn(join.into_actor(self).map(|joined, actor, context| match joined {
            Ok(tenure) => actor.begin_again(tenure, context),
            Err(error) => {
                actor.links.health.database_is_away(NAME, &error);
                context.run_later(RETRY_DELAY, |actor, context| {
                    actor.join_again(&StoreError::Fenced, context);
                });
            }
        }));
    }

    fn begin_again(&mut self, tenure: Tenure, context: &mut Context<Self>) {
        log::warn!("this daemon goes on as number {}", tenure.daemon());
        self.links.current.set(tenure.clone());
        self.tenure = tenure;
        (self.leaving, self.giving) = (Partitions::NONE, Partitions::NONE);
        self.session_since = None;
        self.links.queue.send(Stop);
        self.links.flag.send(Stop);
        self.links.events.iter().for_each(|actor| actor.send(Stop));
        self.links.replies.send(Stop);
        self.open_session(context);
        self.done(context);
    }
}

impl Actor for LeaseActor {
    type Context = Context<Self>;

    /// The session ends with the actor.
    fn stopped(&mut self, _: &mut Self::Context) {
        self.tenure.holds_no_longer_than(Instant::now() + SESSION_GRACE / 2);
    }

    fn started(&mut self, context: &mut Self::Context) {
        fail_points::place("LeaseActor.started");
        self.open_session(context);
        self.look_regularly(context);
    }
}

impl Handler<LetGo> for LeaseActor {
    type Result = ();

    fn handle(&mut self, LetGo { partitions }: LetGo, context: &mut Context<Self>) {
        self.give_back(partitions, context);
    }
}

impl Handler<BrokerChanged> for LeaseActor {
    type Result = ();

    fn handle(&mut self, _: BrokerChanged, context: &mut Context<Self>) {
        self.look(context);
    }
}

impl Handler<Drain> for LeaseActor {
    type Result = ();

    /// Gives partitions back one by one as their calls end, and answers when the others know of it.
    fn handle(&mut self, Drain { done }: Drain, context: &mut Context<Self>) {
        self.tenure.take_deliveries(false);
        self.let_go(self.tenure.partitions());
        let (store, daemon) = (self.store(), self.tenure.daemon());
        let leave = async move { store.announce_leaving(daemon).await };
        context.spawn(leave.into_actor(self).map(move |told, _, _| {
            if let Err(error) = told {
                log::debug!("announcing the end: {error}");
            }
            // The daemon stops waiting at its deadline.
            let _ = done.send(());
        }));
    }
}

impl Handler<Stop> for LeaseActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

takes_mail!(LeaseActor: LetGo, BrokerChanged, Drain, Stop);
