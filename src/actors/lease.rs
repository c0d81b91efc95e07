//! LeaseActor: keeps this daemon alive in the eyes of the others of its database, takes over from those that
//! died, and sees to it that all have a fair share of the partitions.
//!
//! It looks at the others whenever it renews its lease, and changes one thing at a time. What it decides by is in
//! `outhook_core::partition`.

mod partitions;
mod session;
mod sightings;

use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use outhook_core::{
    identity::DaemonId,
    partition::{Intake, Partitions, Roster, Shares},
};

use self::sightings::{SESSION_GRACE, Sightings};
use super::{event::EventActor, flag::FlagActor, queue::QueueActor, reply::ReplyActor};
use crate::{
    backoff::Backoff,
    database_job::{DatabaseJob, Ended},
    fail_points,
    health::Health,
    mailbox::{Mailbox, takes_mail},
    messages::{
        drain::{Drain, Stop},
        partitions::{BrokerChanged, LetGo, MayWork},
        settled::DueAt,
    },
    store::{SeenDaemon, Sighting, Store, StoreError, now},
    tenure::{CurrentTenure, Tenure},
};

/// The longest time between two looks at the other daemons.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon a session that could not be opened is tried again: the others wait for it.
const SESSION_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));
/// For how long other daemons may keep this one from changing anything before an operator hears of it.
const BLOCKED_MAX: Duration = Duration::from_secs(10);

/// Under which it complains of a lease that has run out.
const LEASE: &str = "lease";

/// See the module.
pub(crate) struct LeaseActor {
    links: Links,
    tenure: Tenure,
    has_session: bool,
    sightings: Sightings,
    /// Given up, and not yet given back.
    leaving: Partitions,
    /// Those of them that are being given back.
    giving: Partitions,
    /// Renews the lease and looks at the others.
    looking: DatabaseJob,
    /// Changes what the last look showed to be wrong.
    changing: DatabaseJob,
    /// How often a change has begun or ended: a look beside one may have seen what was before it.
    changes: u64,
    /// Since when other daemons' locks have kept this one from changing anything.
    blocked_since: Option<Instant>,
    releasing: DatabaseJob,
    opening: DatabaseJob,
    /// A look soon is arranged.
    looks_soon: bool,
    /// Something has changed since the look that is under way began.
    looks_again: bool,
}

/// What came of a change.
enum Change<T> {
    Made(T),
    /// Somebody else holds a lock.
    Blocked,
    /// The others have taken over; the next look tells.
    Fenced,
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
        let job = |name| DatabaseJob::new(name, &links.health);
        Self {
            tenure: links.current.get(),
            has_session: false,
            sightings: Sightings::default(),
            leaving: Partitions::NONE,
            giving: Partitions::NONE,
            looking: job("look"),
            changing: job("change"),
            changes: 0,
            blocked_since: None,
            releasing: job("release"),
            opening: DatabaseJob::with_backoff("session", &links.health, SESSION_BACKOFF),
            looks_soon: false,
            looks_again: false,
            links,
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

    /// Renews the lease and looks at the others, also beside a change: burying a daemon with much work may take
    /// longer than the lease.
    fn look(&mut self, context: &mut Context<Self>) {
        if !self.tenure.holds() && !self.links.health.is_draining() {
            self.links.health.database_is_away(LEASE, &"the lease has run out");
        }
        if self.looking.is_under_way() {
            self.looks_again = true;
            return;
        }
        let (store, daemon, lease) = (self.links.store.clone(), self.tenure.daemon(), self.links.lease);
        let (began, changes) = (Instant::now(), self.changes);
        let job = async move {
            // Whatever database.timeout is, the lease must not run out while one look hangs.
            match tokio::time::timeout(lease / 3, store.renew_lease(daemon, lease)).await {
                Err(_) => {
                    Err(StoreError::Ended("the database has not answered within a third of the lease".into()))
                }
                Ok(Err(StoreError::Fenced)) => Ok(None),
                Ok(renewed) => renewed.map(Some),
            }
        };
        self.looking.begin_stubbornly(
            context,
            |actor| &mut actor.looking,
            job,
            move |actor, seen, context| match seen {
                Some(_) if daemon != actor.tenure.daemon() => {}
                Some(Some(sighting)) => actor.seen(&sighting, (began, changes), context),
                Some(None) => actor.join_again(context),
                None => {
                    actor.sightings.lose_sight();
                    actor.look(context);
                }
            },
        );
    }

    fn seen(&mut self, sighting: &Sighting, (began, changes): (Instant, u64), context: &mut Context<Self>) {
        self.renewed(began + self.links.lease);
        let dead = self.find_dead(sighting, began);
        if self.changing.is_under_way() {
            // What it leaves to do is seen afterwards.
            self.looks_again = true;
        } else if changes != self.changes {
            self.look(context);
        } else if self.has_session {
            self.act(sighting, dead, context);
        } else {
            // The others may be about to declare this daemon dead.
            self.rest(context);
        }
    }

    /// Without a session the others do not wait for the lease to run out.
    fn renewed(&mut self, holds_until: Instant) {
        let had_run_out = self.has_session && self.tenure.renew(holds_until);
        if self.tenure.holds() {
            self.links.health.database_answers(LEASE);
        }
        if had_run_out {
            log::info!("the lease holds again");
            self.wake_all();
        }
    }

    fn act(&mut self, sighting: &Sighting, dead: Vec<SeenDaemon>, context: &mut Context<Self>) {
        if !dead.is_empty() {
            let ids: Vec<DaemonId> = dead.iter().map(|daemon| daemon.id).collect();
            log::warn!("daemons {ids:?} have ended without leaving: their work is taken over");
            let store = self.store();
            return self.change(async move { store.bury_daemons(dead).await }, context, |actor, (), _| {
                actor.looks_again = true;
            });
        }
        let Shares { claim, release, intake } = self.roster(sighting).shares(self.tenure.daemon());
        self.set_intake(intake == Intake::Take);
        self.release(context);
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

    /// Those whose process has ended, and those that have been silent for too long.
    fn find_dead(&mut self, sighting: &Sighting, began: Instant) -> Vec<SeenDaemon> {
        let me = self.tenure.daemon();
        let mut others: Vec<SeenDaemon> =
            sighting.daemons.iter().filter(|daemon| daemon.id != me).copied().collect();
        self.sightings.look(&others, began);
        others.retain(|daemon| self.sightings.is_dead(daemon.id, self.links.lease));
        others
    }

    /// Changes one thing in the database.
    fn change<T: 'static>(
        &mut self,
        job: impl Future<Output = Result<T, StoreError>> + 'static,
        context: &mut Context<Self>,
        then: impl FnOnce(&mut Self, T, &mut Context<Self>) + 'static,
    ) {
        // Another daemon changes something; the next look tells what is left to do. But not for ever.
        let is_patient = self.blocked_since.is_none_or(|since| since.elapsed() < BLOCKED_MAX);
        let job = async move {
            match job.await {
                Err(error) if error.is_lock_timeout() && is_patient => Ok(Change::Blocked),
                Err(StoreError::Fenced) => Ok(Change::Fenced),
                done => done.map(Change::Made),
            }
        };
        self.changes += 1;
        self.changing.begin(
            context,
            |actor| &mut actor.changing,
            job,
            |actor, ended, context| {
                actor.changes += 1;
                match ended {
                    Ended::Done(Change::Made(value)) => {
                        actor.blocked_since = None;
                        then(actor, value, context);
                    }
                    Ended::Done(Change::Blocked) => {
                        actor.blocked_since.get_or_insert_with(Instant::now);
                    }
                    Ended::Done(Change::Fenced) => {}
                    Ended::Again => actor.looks_again = true,
                    Ended::Failed(error) => log::error!("daemons and partitions can't be changed: {error}"),
                }
                actor.rest(context);
            },
        );
    }

    /// Until the next look, which is due at once if something has happened meanwhile.
    fn rest(&mut self, context: &mut Context<Self>) {
        if std::mem::take(&mut self.looks_again) {
            return self.look(context);
        }
        // Whether those that are missing are really gone is seen soon.
        if self.sightings.are_any_missing() && !std::mem::replace(&mut self.looks_soon, true) {
            context.run_later(SESSION_GRACE, |actor, context| {
                actor.looks_soon = false;
                actor.look(context);
            });
        }
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
    /// still hold can't be written any more. A daemon that drains has left.
    fn join_again(&mut self, context: &mut Context<Self>) {
        if self.links.health.is_draining() {
            return;
        }
        log::warn!("{}", StoreError::Fenced);
        self.tenure.revoke();
        self.join(context);
    }

    fn join(&mut self, context: &mut Context<Self>) {
        let (store, name, lease) = (self.links.store.clone(), self.links.name.clone(), self.links.lease);
        let join = async move { store.join(name, lease).await };
        self.looking.begin_stubbornly(
            context,
            |actor| &mut actor.looking,
            join,
            |actor, joined, context| match joined {
                Some(tenure) => actor.begin_again(tenure, context),
                None => actor.join(context),
            },
        );
    }

    fn begin_again(&mut self, tenure: Tenure, context: &mut Context<Self>) {
        log::warn!("this daemon goes on as number {}", tenure.daemon());
        self.links.current.set(tenure.clone());
        self.tenure = tenure;
        (self.leaving, self.giving) = (Partitions::NONE, Partitions::NONE);
        self.has_session = false;
        self.sightings.lose_sight();
        self.links.queue.send(Stop);
        self.links.flag.send(Stop);
        self.links.events.iter().for_each(|actor| actor.send(Stop));
        self.links.replies.send(Stop);
        self.open_session(context);
        self.rest(context);
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
