//! The life of the process: build, run, drain.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::Arbiter;
use outhook_core::{egress::Egress, lanes::Limits, retry::RetryPolicy};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    actors::{
        event::{self, EventActor},
        flag::{self, FlagActor},
        queue::{self, QueueActor},
        reply::{self, Outlet, ReplyActor},
        service_call::CallTools,
    },
    admin,
    broker::{Amqp, Broker},
    config::{Config, queue::QueueUrl, reply::ReplyTo},
    directory::Directory,
    exit::{Exit, Failed},
    health::Health,
    http::{WebhookClient, client_config},
    mailbox::{Mailbox, MailboxLog, MailboxStats},
    messages::{
        completion::Flush,
        drain::{Drain, Stop},
        settled::DueAt,
    },
    room::Room,
    store::{self, DatabaseLock, LockError, NewEvent, OpenError, Store, StoreError, now},
    supervise::{Arbiters, Fatal, Supervisor},
    zulip::{RestClient, Site},
};

/// The first wait for a database that does not answer at the start; it doubles.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// The longest wait for a database that does not answer at the start.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(3);
/// How long the last commit may take once the calls were aborted.
const COMMIT_GRACE: Duration = Duration::from_secs(2);

/// Why the daemon stops.
enum Reason {
    Asked,
    Fatal(Fatal),
}

/// Runs until a signal, then drains.
///
/// # Errors
/// Why it could not start or had to end, with the status.
pub(crate) async fn run(config: Config) -> Result<Exit, Failed> {
    let mut signals = Signals::listen()?;
    let daemon = tokio::select! {
        started = Daemon::start(config) => started?,
        _ = signals.next() => return Ok(Exit::Success),
    };
    daemon.run_until(signals).await
}

/// A running daemon.
pub(crate) struct Daemon {
    config: Arc<Config>,
    store: Store,
    health: Health,
    supervisor: Supervisor,
    fatal: mpsc::UnboundedReceiver<Fatal>,
    arbiters: Arbiters,
    actors: Actors,
    admin: Option<admin::Server>,
    log: JoinHandle<MailboxLog>,
    stop_log: oneshot::Sender<()>,
}

/// The mailboxes of all actors.
#[derive(Clone)]
struct Actors {
    queue: Mailbox<QueueActor>,
    events: Vec<Mailbox<EventActor>>,
    flag: Mailbox<FlagActor>,
    replies: Mailbox<ReplyActor>,
}

impl Daemon {
    /// Builds everything. A database that does not answer is waited for.
    ///
    /// # Errors
    /// What trying again would not change.
    pub(crate) async fn start(config: Config) -> Result<Self, Failed> {
        raise_file_limit();
        let config = Arc::new(config);
        let health = Health::default();
        let site = Arc::new(site(&config)?);
        let admin = admin::Server::start(&config.admin, health.clone())?;
        let store = open_database(&config, &health).await?;
        let (supervisor, fatal) = Supervisor::new();
        hold_lock(&config, &store, &supervisor).await?;
        let pool = config.actors.event_pool_size();
        let actors = Actors::new(pool);
        health.watch(actors.stats());
        let arbiters = Arbiters::start(pool);
        let parts = Parts::new(&config, store.clone(), health.clone(), site);
        keep_actors(&supervisor, &actors, &arbiters, &parts);
        if let Some(admin) = &admin {
            admin.serve_events(store.clone(), actors.queue.clone(), &config.queue);
        }
        let (stop_log, stopped) = oneshot::channel();
        let log = MailboxLog::new(actors.stats());
        let log = actix::spawn(log_mailboxes(log, config.actors.mailbox_log_interval, stopped));
        log::info!("outhook {} runs with {pool} event actors", env!("CARGO_PKG_VERSION"));
        Ok(Self { config, store, health, supervisor, fatal, arbiters, actors, admin, log, stop_log })
    }

    /// The database.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The figures of all actors.
    pub(crate) fn mailboxes(&self) -> Vec<Arc<MailboxStats>> {
        self.actors.stats()
    }

    /// Where the admin server listens.
    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(admin::Server::address)
    }

    /// Puts events into the inbox.
    ///
    /// # Errors
    /// If they could not be stored.
    pub(crate) async fn submit(&self, events: Vec<NewEvent>) -> Result<usize, StoreError> {
        let stored = self.store.put_into_inbox(events).await?;
        // A database says nothing of what its own connection wrote.
        self.actors.queue.send(DueAt(now()));
        Ok(stored)
    }

    /// Runs until a signal or a fault that ends the process.
    pub(crate) async fn run_until(mut self, mut signals: Signals) -> Result<Exit, Failed> {
        let reason = tokio::select! {
            name = signals.next() => {
                log::info!("{name}: draining, for at most {:?}", self.config.drain.deadline);
                Reason::Asked
            }
            Some(fatal) = self.fatal.recv() => Reason::Fatal(fatal),
        };
        // A second signal ends the process at once. What was not committed is found again.
        actix::spawn(async move {
            let name = signals.next().await;
            log::warn!("{name} again: ending at once");
            std::process::exit(128 + signals.last);
        });
        let drained = self.drain().await;
        match reason {
            Reason::Asked => Ok(drained),
            Reason::Fatal(fatal @ Fatal::TooManyFailures { .. }) => Err(Failed::new(Exit::Internal, fatal)),
            Reason::Fatal(fatal) => Err(Failed::unavailable(fatal)),
        }
    }

    /// Ends in order, within `drain.deadline`:
    ///
    /// 1. QueueActor takes nothing more, and the broker gets back what was not stored;
    /// 2. EventActors begin nothing more, and wait for the calls in flight;
    /// 3. FlagActor commits what they came to;
    /// 4. ReplyActor waits for the posts in flight;
    /// 5. the rows that were held are free for whoever comes next;
    /// 6. actors, threads and connections end.
    ///
    /// At the deadline the calls are aborted, and what is known is committed.
    pub(crate) async fn drain(self) -> Exit {
        self.health.drains();
        let deadline = Instant::now() + self.config.drain.deadline;
        let in_time = tokio::time::timeout(self.config.drain.deadline, self.actors.drain()).await.is_ok();
        self.supervisor.finish();
        let is_committed = in_time || {
            log::warn!("drain.deadline has passed: the calls in flight are aborted");
            self.actors.events.iter().for_each(|actor| actor.send(Stop));
            tokio::time::timeout(COMMIT_GRACE, self.actors.flush()).await.is_ok_and(|flushed| flushed)
        };
        let exit =
            if is_committed && self.hand_back(deadline).await { Exit::Success } else { Exit::Unfinished };
        self.end().await;
        match exit {
            Exit::Success => log::info!("drained"),
            _ => log::warn!("not everything could be committed; the next start goes on with it"),
        }
        exit
    }

    /// A row that stays held is found again at the next start, so failing here loses only time.
    async fn hand_back(&self, deadline: Instant) -> bool {
        let patience = deadline.saturating_duration_since(Instant::now()).max(COMMIT_GRACE);
        let free = async {
            self.store.free_events(None).await?;
            self.store.free_replies().await
        };
        matches!(tokio::time::timeout(patience, free).await, Ok(Ok(_)))
    }

    async fn end(self) {
        self.actors.stop();
        let _ = self.stop_log.send(());
        if let Ok(mut log) = self.log.await {
            log.lines().iter().for_each(|line| log::info!("{line}"));
        }
        self.arbiters.join();
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
        self.store.close().await;
    }
}

impl Actors {
    fn new(pool: usize) -> Self {
        Self {
            queue: Mailbox::new("queue"),
            events: (0..pool).map(|index| Mailbox::new(format!("event-{index}"))).collect(),
            flag: Mailbox::new("flag"),
            replies: Mailbox::new("reply"),
        }
    }

    fn stats(&self) -> Vec<Arc<MailboxStats>> {
        let mut stats = vec![self.queue.stats()];
        stats.extend(self.events.iter().map(Mailbox::stats));
        stats.extend([self.flag.stats(), self.replies.stats()]);
        stats
    }

    async fn drain(&self) {
        ask(|done| self.queue.send(Drain { done })).await;
        futures_util::future::join_all(
            self.events.iter().map(|actor| ask(|done| actor.send(Drain { done }))),
        )
        .await;
        self.flush().await;
        ask(|done| self.replies.send(Drain { done })).await;
    }

    async fn flush(&self) -> bool {
        ask(|done| self.flag.send(Flush { done })).await
    }

    fn stop(&self) {
        self.queue.send(Stop);
        self.events.iter().for_each(|actor| actor.send(Stop));
        self.flag.send(Stop);
        self.replies.send(Stop);
    }
}

/// Asks an actor to answer when it is done; `false` if it ended instead.
async fn ask(send: impl FnOnce(oneshot::Sender<()>)) -> bool {
    let (done, answer) = oneshot::channel();
    send(done);
    answer.await.is_ok()
}

/// What actors are built from, by a factory that may run on another thread.
#[derive(Clone)]
struct Parts {
    config: Arc<Config>,
    store: Store,
    health: Health,
    directory: Directory,
    site: Arc<Site>,
    egress: Arc<Egress>,
    tls: Arc<rustls::ClientConfig>,
    retry: RetryPolicy,
    room: Room,
    permits: Arc<Semaphore>,
}

impl Parts {
    fn new(config: &Arc<Config>, store: Store, health: Health, site: Arc<Site>) -> Self {
        Self {
            directory: Directory::new(store.clone(), health.clone(), config.actors.bots_cached),
            egress: Arc::new(Egress::from(&config.egress)),
            tls: client_config(),
            retry: RetryPolicy::from(&config.retry),
            room: Room::new(config.actors.in_memory_events),
            permits: Arc::new(Semaphore::new(config.http.max_calls)),
            config: Arc::clone(config),
            store,
            health,
            site,
        }
    }

    fn queue_actor(&self, actors: &Actors, supervisor: &Supervisor) -> QueueActor {
        let queue = &self.config.queue;
        let broker = match &queue.url {
            QueueUrl::Stored => None,
            QueueUrl::Amqp(url) => {
                let amqp = Amqp::new(url.clone(), queue.name.clone(), queue.prefetch);
                Some(Rc::new(amqp) as Rc<dyn Broker>)
            }
        };
        let links = queue::Links {
            store: self.store.clone(),
            broker,
            events: actors.events.clone(),
            health: self.health.clone(),
            supervisor: supervisor.clone(),
            room: self.room.clone(),
        };
        QueueActor::new(&self.config, links)
    }

    fn event_actor(&self, actors: &Actors, shard: usize, generation: u64) -> EventActor {
        let config = &self.config.actors;
        let limits = Limits {
            calls_per_bot: config.calls_per_bot,
            waiting_per_bot: config.waiting_per_bot,
            // The other half is for events whose calls have begun.
            waiting_total: (config.in_memory_events / 2 / actors.events.len()).max(1),
        };
        let (egress, tls) = (Arc::clone(&self.egress), Arc::clone(&self.tls));
        let tools = CallTools {
            directory: self.directory.clone(),
            client: WebhookClient::new(&self.config.http, egress, tls, self.site.user_agent()),
            egress: Arc::clone(&self.egress),
            retry: self.retry.clone(),
            site: Arc::clone(&self.site),
            has_outbox: !matches!(self.config.reply.to, ReplyTo::None),
        };
        let links = event::Links {
            queue: actors.queue.clone(),
            flag: actors.flag.clone(),
            room: self.room.clone(),
            permits: Arc::clone(&self.permits),
        };
        EventActor::new(shard, generation, limits, tools, links)
    }

    fn flag_actor(&self, actors: &Actors) -> FlagActor {
        let links = flag::Links {
            events: actors.events.clone(),
            queue: actors.queue.clone(),
            replies: actors.replies.clone(),
        };
        FlagActor::new(self.store.clone(), self.health.clone(), &self.config.flag, links)
    }

    fn reply_actor(&self) -> ReplyActor {
        let outlet = match &self.config.reply.to {
            ReplyTo::Zulip { site } => Outlet::Zulip {
                rest: Box::new(RestClient::new(site.clone(), Arc::clone(&self.tls))),
                site: Arc::clone(&self.site),
            },
            ReplyTo::Log | ReplyTo::None => Outlet::Log,
        };
        ReplyActor::new(reply::Links {
            store: self.store.clone(),
            health: self.health.clone(),
            directory: self.directory.clone(),
            outlet,
            retry: self.retry.clone(),
            in_flight_max: self.config.reply.in_flight,
            give_up_after: self.config.reply.give_up_after,
        })
    }
}

/// Spawns the actors, last ones of the pipeline first. When QueueActor or FlagActor ends, events may be
/// held that nobody will ever settle, so every EventActor takes its shard over anew.
fn keep_actors(supervisor: &Supervisor, actors: &Actors, arbiters: &Arbiters, parts: &Parts) {
    let main = Arbiter::current();
    let renew_events = |actors: &Actors| {
        let events = actors.events.clone();
        move || events.iter().for_each(|actor| actor.send(Stop))
    };
    let part = parts.clone();
    supervisor.keep(actors.replies.clone(), main.clone(), move |_| part.reply_actor(), || {});
    let (part, links) = (parts.clone(), actors.clone());
    let factory = move |_| part.flag_actor(&links);
    supervisor.keep(actors.flag.clone(), main.clone(), factory, renew_events(actors));
    let (part, links, chief) = (parts.clone(), actors.clone(), supervisor.clone());
    let factory = move |_| part.queue_actor(&links, &chief);
    supervisor.keep(actors.queue.clone(), main, factory, renew_events(actors));
    for (shard, arbiter) in arbiters.handles().into_iter().enumerate() {
        let (part, links) = (parts.clone(), actors.clone());
        let factory = move |generation| part.event_actor(&links, shard, generation);
        supervisor.keep(actors.events[shard].clone(), arbiter, factory, || {});
    }
}

fn site(config: &Config) -> Result<Site, Failed> {
    Site::new(&config.zulip)
        .map_err(|error| Failed::usage(format!("zulip.avatar_salt_file can't be read: {error}")))
}

/// Waits for the database and brings its tables up to date.
async fn open_database(config: &Config, health: &Health) -> Result<Store, Failed> {
    let mut delay = RETRY_DELAY;
    loop {
        let opened = async {
            let store = store::open(&config.database).await?;
            let applied = store.prepare_tables(&config.database).await?;
            Ok((store, applied))
        };
        match opened.await {
            Ok((store, applied)) => {
                if applied > 0 {
                    log::info!("{applied} migrations were applied to the database");
                }
                health.database_answers();
                return Ok(store);
            }
            Err(OpenError::Store(error)) if error.is_away() => {
                health.database_is_away(&error);
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_DELAY_MAX);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the database's lock and holds it for as long as the process lives.
async fn hold_lock(config: &Config, store: &Store, supervisor: &Supervisor) -> Result<(), Failed> {
    let lock = match DatabaseLock::take(store, &config.database.url).await {
        Ok(lock) => lock,
        Err(error @ (LockError::Taken | LockError::File(_) | LockError::Store(_))) => {
            return Err(Failed::unavailable(error));
        }
    };
    let (store, supervisor) = (store.clone(), supervisor.clone());
    actix::spawn(async move {
        lock.hold(store).await;
        supervisor.report(Fatal::LostDatabase);
    });
    Ok(())
}

/// Every call in flight is an open file.
fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!("the limit on open files can't be raised: {error}");
    }
}

async fn log_mailboxes(mut log: MailboxLog, every: Duration, stopped: oneshot::Receiver<()>) -> MailboxLog {
    let lines = async {
        loop {
            tokio::time::sleep(every).await;
            log.lines().iter().for_each(|line| log::info!("{line}"));
        }
    };
    tokio::select! {
        () = lines => {}
        _ = stopped => {}
    }
    log
}

/// The signals that ask the daemon to end.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    last: i32,
}

impl Signals {
    /// Begins to listen; from now on these signals no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Self, Failed> {
        let listen = |kind| signal(kind).map_err(|error| Failed::new(Exit::Internal, error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            last: 0,
        })
    }

    /// Waits for the next one and gives its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        let (name, kind) = tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate()),
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
        };
        self.last = kind.as_raw_value();
        name
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use actix_web::{App, HttpResponse, HttpServer, web};
    use outhook_core::event::Header;
    use tokio::sync::Notify;

    use super::*;
    use crate::store::{NewBot, NewService};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A daemon on a database of its own, with one bot whose endpoint waits until it is told to answer.
    struct Scene {
        daemon: Daemon,
        bot: i64,
        calls: Arc<AtomicUsize>,
        gate: Arc<Notify>,
        _folder: tempfile::TempDir,
    }

    impl Scene {
        async fn new() -> Self {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let folder = tempfile::tempdir().expect("a folder");
            let (calls, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
            let url = endpoint(Arc::clone(&calls), Arc::clone(&gate));
            let toml = format!(
                "[database]\nurl = \"sqlite://{}\"\n[egress]\nallow = [\"127.0.0.1/32\"]\n\
                 [admin]\nlisten = \"\"\n[actors]\nevent_pool = 1\n",
                folder.path().join("db").display()
            );
            let source = ::config::Config::builder()
                .add_source(::config::File::from_str(&toml, ::config::FileFormat::Toml))
                .build()
                .expect("TOML");
            let daemon = Daemon::start(Config::read(source).expect("valid")).await.expect("it starts");
            let new = NewBot {
                email: "b@x.org".into(),
                name: "B".into(),
                owner_email: None,
                api_keys: ["k".into(), "o".into()],
            };
            let bot = daemon.store().add_bot(new).await.expect("a bot");
            let service = NewService { bot, name: "s".into(), url, interface: 1, token: "t".into() };
            daemon.store().add_service(service).await.expect("a service");
            Self { daemon, bot, calls, gate, _folder: folder }
        }

        async fn submit(&self, message: i64) {
            let payload =
                format!(r#"{{"message":{{"id":{message},"content":"x"}},"user_profile_id":{}}}"#, self.bot)
                    .into_bytes();
            let header = Header::read(&payload).expect("an event");
            let event = NewEvent { header, replay: 0, payload };
            self.daemon.submit(vec![event]).await.expect("stored");
        }

        async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
            let wait = async {
                while !is_so().await {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited in vain for {what}");
        }

        async fn until_calls(&self, calls: usize) {
            self.until(&format!("{calls} calls"), async || self.calls.load(SeqCst) >= calls).await;
        }

        async fn until_finished(&self, events: i64) {
            self.until(&format!("{events} finished events"), async || {
                // Whoever was not yet at the gate gets through now.
                self.gate.notify_waiters();
                let bots = self.daemon.store().summarise_bots().await.expect("a summary");
                bots.iter().map(|bot| bot.finished).sum::<i64>() == events
            })
            .await;
        }
    }

    fn endpoint(calls: Arc<AtomicUsize>, gate: Arc<Notify>) -> String {
        let server = HttpServer::new(move || {
            let (calls, gate) = (Arc::clone(&calls), Arc::clone(&gate));
            App::new().default_service(web::to(move || {
                let (calls, gate) = (Arc::clone(&calls), Arc::clone(&gate));
                async move {
                    calls.fetch_add(1, SeqCst);
                    gate.notified().await;
                    HttpResponse::Ok().finish()
                }
            }))
        })
        .workers(1)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .expect("a port");
        let url = format!("http://{}/", server.addrs()[0]);
        actix::spawn(server.run());
        url
    }

    #[actix::test]
    async fn a_new_event_actor_takes_over_what_its_predecessor_held() {
        let scene = Scene::new().await;
        scene.submit(1).await;
        scene.until_calls(1).await;
        scene.daemon.actors.events[0].send(Stop);
        scene.until_calls(2).await;
        scene.until_finished(1).await;
        assert_eq!(scene.calls.load(SeqCst), 2);
        assert_eq!(scene.daemon.drain().await, Exit::Success);
    }

    #[actix::test]
    async fn a_new_flag_actor_or_queue_actor_is_followed_by_new_event_actors() {
        let scene = Scene::new().await;
        scene.submit(1).await;
        scene.until_calls(1).await;
        scene.daemon.actors.flag.send(Stop);
        scene.until_calls(2).await;
        scene.daemon.actors.queue.send(Stop);
        scene.until_calls(3).await;
        scene.submit(2).await;
        scene.until_finished(2).await;
        assert_eq!(scene.daemon.drain().await, Exit::Success);
    }
}
