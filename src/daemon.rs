//! The life of the process: build, run, drain.

mod build;
mod signals;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use self::build::{Parts, daemon_name, keep_actors};
pub(crate) use self::signals::Signals;
use crate::{
    actors::{
        event::EventActor, flag::FlagActor, history::HistoryActor, lease::LeaseActor, queue::QueueActor,
        reply::ReplyActor,
    },
    admin,
    config::{Config, database::DatabaseUrl},
    exit::{Exit, Failed},
    health::Health,
    http::{FileShares, Route},
    mailbox::{Mailbox, MailboxLog, MailboxStats},
    messages::{
        completion::Flush,
        drain::{Drain, Stop},
        settled::DueAt,
    },
    store::{self, FileLock, NewEvent, OpenError, Store, StoreError, now},
    supervise::{Arbiters, Fatal, Supervisor},
    tenure::{CurrentTenure, Tenure},
    zulip::Site,
};

/// The first wait for a database that does not answer at the start; it doubles.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// The longest wait for a database that does not answer at the start.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(3);
/// How long the last commit may take once the calls were aborted.
const COMMIT_GRACE: Duration = Duration::from_secs(2);

/// Whose complaint it is if the database does not answer at the start.
const START: &str = "start";

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
    tenure: CurrentTenure,
    health: Health,
    supervisor: Supervisor,
    fatal: mpsc::UnboundedReceiver<Fatal>,
    arbiters: Arbiters,
    actors: Actors,
    admin: Option<admin::Server>,
    log: JoinHandle<MailboxLog>,
    stop_log: oneshot::Sender<()>,
    _lock: Option<FileLock>,
}

/// The mailboxes of all actors.
#[derive(Clone)]
struct Actors {
    queue: Mailbox<QueueActor>,
    events: Vec<Mailbox<EventActor>>,
    flag: Mailbox<FlagActor>,
    replies: Mailbox<ReplyActor>,
    history: Mailbox<HistoryActor>,
    lease: Mailbox<LeaseActor>,
    /// Whether there may be other daemons, so that there is a LeaseActor.
    has_peers: bool,
}

impl Daemon {
    /// Builds everything. A database that does not answer is waited for.
    ///
    /// # Errors
    /// What trying again would not change.
    pub(crate) async fn start(config: Config) -> Result<Self, Failed> {
        let files = share_files_out(config.http.max_calls);
        let config = Arc::new(config);
        // First, so that whoever starts a second daemon is told of the first, and not of its port.
        let lock = lock_file(&config)?;
        let health = Health::default();
        let site = Arc::new(site(&config)?);
        let route = Route::new(&config.egress).map_err(Failed::usage)?;
        let admin = admin::Server::start(&config.admin, health.clone())?;
        let store = open_database(&config, &health).await?;
        let (supervisor, fatal) = Supervisor::new();
        let tenure = CurrentTenure::new(join(&config, &store, &health).await?);
        let pool = config.actors.event_pool_size();
        let actors = Actors::new(pool, lock.is_none());
        health.watch(actors.stats());
        let arbiters = Arbiters::start(pool);
        let parts = Parts::new(&config, store.clone(), tenure.clone(), health.clone(), site, route, files);
        keep_actors(&supervisor, &actors, &arbiters, &parts);
        if let Some(admin) = &admin {
            admin.serve_events(store.clone(), actors.queue.clone(), &config.queue);
        }
        let (stop_log, stopped) = oneshot::channel();
        let log = MailboxLog::new(actors.stats());
        let log = actix::spawn(log_mailboxes(log, config.actors.mailbox_log_interval, stopped));
        log::info!("outhook {} runs with {pool} event actors", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            config,
            store,
            tenure,
            health,
            supervisor,
            fatal,
            arbiters,
            actors,
            admin,
            log,
            stop_log,
            _lock: lock,
        })
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
        let stored = self.store.put_into_inbox(events, self.config.queue.stored_per_bot).await?;
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
    /// 1. QueueActor takes nothing more, and the broker gets back what was not stored; LeaseActor gives
    ///    partitions to other daemons as their calls end;
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
        let drained = tokio::time::timeout(self.config.drain.deadline, self.actors.drain()).await;
        self.supervisor.finish();
        let is_committed = match drained {
            Ok(is_committed) => is_committed,
            Err(_) => {
                log::warn!("drain.deadline has passed: the calls in flight are aborted");
                self.actors.events.iter().for_each(|actor| actor.send(Stop));
                tokio::time::timeout(COMMIT_GRACE, self.actors.flush()).await.unwrap_or(false)
            }
        };
        self.hand_back(deadline).await;
        let exit = if is_committed { Exit::Success } else { Exit::Unfinished };
        self.end().await;
        match exit {
            Exit::Success => log::info!("drained"),
            _ => log::warn!("not everything could be committed; the next start goes on with it"),
        }
        exit
    }

    /// A row that stays held is found again at the next start, so failing here loses only time.
    async fn hand_back(&self, deadline: Instant) {
        let patience = deadline.saturating_duration_since(Instant::now()).max(COMMIT_GRACE);
        let tenure = self.tenure.get();
        let store = self.store.under(tenure.clone());
        let leave = async {
            loop {
                match store.leave(tenure.daemon()).await {
                    // The others have taken it all already.
                    Err(StoreError::Fenced) => return Ok(()),
                    Err(error) if error.is_transient() => tokio::time::sleep(RETRY_DELAY).await,
                    left => return left,
                }
            }
        };
        match tokio::time::timeout(patience, leave).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => log::warn!("what was held is not handed back before the next start: {error}"),
            Err(_) => log::warn!("what was held is not handed back before the next start"),
        }
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
    fn new(pool: usize, has_peers: bool) -> Self {
        Self {
            lease: Mailbox::new("lease"),
            has_peers,
            queue: Mailbox::new("queue"),
            events: (0..pool).map(|index| Mailbox::new(format!("event-{index}"))).collect(),
            flag: Mailbox::new("flag"),
            replies: Mailbox::new("reply"),
            history: Mailbox::new("history"),
        }
    }

    fn stats(&self) -> Vec<Arc<MailboxStats>> {
        let mut stats = vec![self.queue.stats()];
        stats.extend(self.events.iter().map(Mailbox::stats));
        stats.extend([self.flag.stats(), self.replies.stats(), self.history.stats()]);
        stats.extend(self.has_peers.then(|| self.lease.stats()));
        stats
    }

    /// Whether everything that was known is committed.
    async fn drain(&self) -> bool {
        ask(|done| self.queue.send(Drain { done })).await;
        ask(|done| self.lease.send(Drain { done })).await;
        let drained = self.events.iter().map(|actor| ask(|done| actor.send(Drain { done })));
        futures_util::future::join_all(drained).await;
        let is_committed = self.flush().await;
        ask(|done| self.replies.send(Drain { done })).await && is_committed
    }

    /// Whether outcomes and posts that are known are committed.
    async fn flush(&self) -> bool {
        let is_committed = ask(|done| self.flag.send(Flush { done })).await;
        ask(|done| self.replies.send(Flush { done })).await && is_committed
    }

    fn stop(&self) {
        self.queue.send(Stop);
        self.events.iter().for_each(|actor| actor.send(Stop));
        self.flag.send(Stop);
        self.replies.send(Stop);
        self.history.send(Stop);
        self.lease.send(Stop);
    }
}

/// Asks an actor to answer when it is done; `false` if it ended instead.
async fn ask(send: impl FnOnce(oneshot::Sender<()>)) -> bool {
    let (done, answer) = oneshot::channel();
    send(done);
    answer.await.is_ok()
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
                health.database_answers(START);
                return Ok(store);
            }
            Err(OpenError::Store(error)) if error.is_away() => {
                health.database_is_away(START, &error);
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_DELAY_MAX);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// An SQLite file serves one daemon.
fn lock_file(config: &Config) -> Result<Option<FileLock>, Failed> {
    match &config.database.url {
        DatabaseUrl::Sqlite(path) => FileLock::take(path).map(Some).map_err(Failed::unavailable),
        DatabaseUrl::Postgres(_) => Ok(None),
    }
}

/// Enters this process among the daemons of the database, which is waited for.
async fn join(config: &Config, store: &Store, health: &Health) -> Result<Tenure, Failed> {
    loop {
        match store.join(daemon_name(), config.database.lease).await {
            Ok(tenure) => {
                health.database_answers(START);
                return Ok(tenure);
            }
            Err(error) if error.is_away() => {
                health.database_is_away(START, &error);
                tokio::time::sleep(RETRY_DELAY_MAX).await;
            }
            Err(error) => return Err(Failed::unavailable(error)),
        }
    }
}

/// Every call in flight needs open files: there are to be as many as may be, and no more calls than they allow.
fn share_files_out(max_calls: usize) -> FileShares {
    let limit = rlimit::increase_nofile_limit(u64::MAX).or_else(|error| {
        log::warn!("the limit on open files can't be raised: {error}");
        rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(soft, _)| soft)
    });
    let shares = FileShares::new(limit.unwrap_or(u64::MAX), max_calls);
    if let Some(shortage) = shares.shortage() {
        log::warn!("{shortage}");
    }
    shares.apply();
    shares
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

#[cfg(test)]
mod tests;
