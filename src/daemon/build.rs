//! How the actors are built, and built again.

use std::{rc::Rc, sync::Arc};

use actix::Arbiter;
use outhook_core::lanes::Limits;
use tokio::sync::Semaphore;

use super::actors::Actors;
use crate::{
    actors::{
        event::{self, EventActor},
        flag::{self, FlagActor},
        gates::Gates,
        history::HistoryActor,
        lease::{self, LeaseActor},
        queue::{self, QueueActor},
        reply::{self, Outlet, ReplyActor},
        service_call::CallTools,
    },
    blame::Blame,
    broker::{Amqp, Broker},
    config::{self, Config, queue::QueueUrl, reply::ReplyTo},
    directory::Directory,
    health::Health,
    http::{CurrentClient, FileShares, client_config},
    messages::drain::Stop,
    room::Room,
    settings::Live,
    store::Store,
    supervise::{Arbiters, Supervisor},
    tenure::CurrentTenure,
    trial::Trials,
    zulip::{RestClient, Site},
};

/// What actors are built from, by a factory that may run on another thread.
#[derive(Clone)]
pub(super) struct Parts {
    /// As it was at the start; what a reload changes is in `live`.
    config: Arc<Config>,
    live: Live,
    store: Store,
    current: CurrentTenure,
    health: Health,
    directory: Directory,
    site: Arc<Site>,
    room: Room,
    /// Calls of all EventActors in flight.
    calls: usize,
    permits: Arc<Semaphore>,
    trials: Trials,
    blame: Blame,
}

impl Parts {
    /// Everything that the actors share.
    pub(super) fn new(
        config: &Arc<Config>,
        live: Live,
        store: Store,
        current: CurrentTenure,
        health: Health,
        site: Arc<Site>,
        files: FileShares,
    ) -> Self {
        Self {
            directory: Directory::new(store.clone(), health.clone(), config.actors.bots_cached),
            room: Room::new(config.actors.event_pool_size()),
            calls: files.calls(),
            permits: Arc::new(Semaphore::new(files.calls())),
            trials: Trials::default(),
            blame: Blame::default(),
            config: Arc::clone(config),
            live,
            store,
            current,
            health,
            site,
        }
    }

    fn queue_actor(&self, actors: &Actors, supervisor: &Supervisor) -> QueueActor {
        let (queue, tenure) = (&self.config.queue, self.current.get());
        let broker = match &queue.url {
            QueueUrl::Stored => None,
            QueueUrl::Amqp(url) => {
                let takes = tenure.takes_deliveries();
                let is_known = self.health.has_known_broker();
                let amqp = Amqp::new(url.clone(), queue.name.clone(), queue.prefetch, takes, is_known);
                Some(Rc::new(amqp) as Rc<dyn Broker>)
            }
        };
        let links = queue::Links {
            store: self.store.under(tenure.clone()),
            tenure,
            lease: actors.lease.clone(),
            broker,
            events: actors.events.clone(),
            health: self.health.clone(),
            supervisor: supervisor.clone(),
            room: self.room.clone(),
        };
        QueueActor::new(&self.config, links)
    }

    fn event_actor(&self, actors: &Actors, shard: usize, generation: u64) -> EventActor {
        let shards = actors.events.len();
        // All threads together keep no more connections than there may be calls.
        let kept_max = self.calls.div_ceil(shards);
        let tools = CallTools {
            directory: self.directory.clone(),
            trials: self.trials.clone(),
            tenure: self.current.get(),
            client: CurrentClient::new(self.live.clone(), self.site.user_agent(), kept_max),
            live: self.live.clone(),
            gates: self.gates(shard),
            site: Arc::clone(&self.site),
            reply_to: self.config.reply.to.clone(),
        };
        let links = event::Links {
            queue: actors.queue.clone(),
            flag: actors.flag.clone(),
            replies: actors.replies.clone(),
            tenure: self.current.get(),
            room: self.room.clone(),
            permits: Arc::clone(&self.permits),
            blame: self.blame.clone(),
        };
        let (live, calls) = (self.live.clone(), self.calls);
        let limits = move || limits(&live.get().actors, calls, shards);
        EventActor::new(shard, generation, limits, tools, links)
    }

    /// The gates of a shard, all open.
    fn gates(&self, shard: usize) -> Gates {
        let live = self.live.clone();
        Gates::new(format!("event-{shard}"), move || {
            let settings = live.get();
            (settings.gates, settings.rate)
        })
    }

    fn flag_actor(&self, actors: &Actors) -> FlagActor {
        let links = flag::Links {
            events: actors.events.clone(),
            queue: actors.queue.clone(),
            replies: actors.replies.clone(),
            blame: self.blame.clone(),
            letters_per_bot: self.config.queue.dead_letters_per_bot,
        };
        FlagActor::new(self.store.under(self.current.get()), &self.health, &self.config.flag, links)
    }

    fn lease_actor(&self, actors: &Actors) -> LeaseActor {
        LeaseActor::new(lease::Links {
            store: self.store.clone(),
            health: self.health.clone(),
            current: self.current.clone(),
            name: daemon_name(),
            lease: self.config.database.lease,
            has_broker: matches!(self.config.queue.url, QueueUrl::Amqp(_)),
            queue: actors.queue.clone(),
            events: actors.events.clone(),
            flag: actors.flag.clone(),
            replies: actors.replies.clone(),
        })
    }

    fn reply_actor(&self, actors: &Actors) -> ReplyActor {
        let outlet = match &self.config.reply.to {
            ReplyTo::Zulip { site } => Outlet::Zulip {
                rest: Box::new(RestClient::new(site.clone(), client_config())),
                site: Arc::clone(&self.site),
            },
            ReplyTo::Log => Outlet::Log,
            ReplyTo::None => Outlet::Nowhere,
        };
        let tenure = self.current.get();
        ReplyActor::new(reply::Links {
            store: self.store.under(tenure.clone()),
            tenure,
            lease: actors.lease.clone(),
            health: self.health.clone(),
            directory: self.directory.clone(),
            outlet,
            live: self.live.clone(),
        })
    }

    fn history_actor(&self) -> HistoryActor {
        HistoryActor::new(self.store.clone(), self.health.clone(), &self.config.history)
    }
}

/// How much one of so many EventActors may hold and do at a time, of so many calls in all.
fn limits(config: &config::actors::Actors, calls: usize, shards: usize) -> Limits {
    Limits {
        calls_per_bot: config.calls_per_bot,
        waiting_per_bot: config.waiting_per_bot,
        waiting_total: config.in_memory_events / shards,
        // How many calls there may be is for the permits to say, which all share; here is only a bound.
        open_total: calls,
        // Half of all calls.
        failing_total: (calls / 2 / shards).max(1),
    }
}

/// Spawns the actors, last ones of the pipeline first. When QueueActor or FlagActor ends, events may be
/// held that nobody will ever settle, so every EventActor takes its shard over anew.
pub(super) fn keep_actors(supervisor: &Supervisor, actors: &Actors, arbiters: &Arbiters, parts: &Parts) {
    let main = Arbiter::current();
    metrics::gauge!("outhook_partitions").set(parts.current.get().partitions().len() as f64);
    let renew_events = |actors: &Actors| {
        let events = actors.events.clone();
        move || events.iter().for_each(|actor| actor.send(Stop))
    };
    let part = parts.clone();
    supervisor.keep(actors.history.clone(), main.clone(), move |_| part.history_actor(), || {});
    let (part, links) = (parts.clone(), actors.clone());
    supervisor.keep(actors.replies.clone(), main.clone(), move |_| part.reply_actor(&links), || {});
    let (part, links) = (parts.clone(), actors.clone());
    let factory = move |_| part.flag_actor(&links);
    supervisor.keep(actors.flag.clone(), main.clone(), factory, renew_events(actors));
    let (part, links, chief) = (parts.clone(), actors.clone(), supervisor.clone());
    let factory = move |_| part.queue_actor(&links, &chief);
    supervisor.keep(actors.queue.clone(), main.clone(), factory, renew_events(actors));
    for (shard, arbiter) in arbiters.handles().into_iter().enumerate() {
        let (part, links) = (parts.clone(), actors.clone());
        let factory = move |generation| part.event_actor(&links, shard, generation);
        supervisor.keep(actors.events[shard].clone(), arbiter, factory, || {});
    }
    if actors.has_peers {
        let (part, links) = (parts.clone(), actors.clone());
        supervisor.keep(actors.lease.clone(), main, move |_| part.lease_actor(&links), || {});
    }
}

/// What people, and other daemons' logs, call this process.
pub(super) fn daemon_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "host".into());
    format!("{}:{}", host.trim(), std::process::id())
}
