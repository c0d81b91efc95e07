//! The life of the process: build, run, drain.

mod actors;
mod build;
mod reload;
mod signals;
mod start;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

pub(crate) use self::signals::{Hangups, Signals};
use self::{
    actors::Actors,
    build::{Parts, keep_actors},
    reload::Reloader,
    start::{join, lock_file, open_database, share_files_out, site},
};
use crate::{
    admin,
    config::{Config, ConfigFile},
    exit::{Exit, Failed},
    health::Health,
    http::Interfaces,
    logging,
    mailbox::{MailboxLog, MailboxStats},
    messages::{drain::Stop, settled::DueAt},
    settings::{Live, Settings},
    store::{FileLock, NewEvent, Store, StoreError, now},
    supervise::{Arbiters, Fatal, Supervisor},
    tenure::CurrentTenure,
};

/// The wait before a database that does not answer at the end is asked again.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// How long the last commit may take once the calls were aborted.
const COMMIT_GRACE: Duration = Duration::from_secs(2);

/// Why the daemon stops.
enum Reason {
    Asked,
    Fatal(Fatal),
}

/// Runs until a signal, then drains. SIGHUP reads the file again, also while it starts or drains.
///
/// # Errors
/// Why it could not start or had to end, with the status.
pub(crate) async fn run(
    (mut signals, hangups): (Signals, Hangups),
    (file, config): (ConfigFile, Config),
) -> Result<Exit, Failed> {
    let live = live(&config)?;
    actix::spawn(Reloader::new(file, &config, live.clone()).run(hangups));
    let daemon = tokio::select! {
        started = Daemon::start(config, live) => started?,
        _ = signals.next() => return Ok(Exit::Success),
    };
    daemon.run_until(signals).await
}

/// The settings with which a daemon starts.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn live(config: &Config) -> Result<Live, Failed> {
    let interfaces = Interfaces::for_calls(&config.egress).map_err(Failed::unavailable)?;
    Settings::new(config, interfaces).map(Live::new).map_err(Failed::usage)
}

/// A running daemon.
pub(crate) struct Daemon {
    config: Arc<Config>,
    live: Live,
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

impl Daemon {
    /// Builds everything. A database that does not answer is waited for.
    ///
    /// # Errors
    /// What trying again would not change.
    pub(crate) async fn start(config: Config, live: Live) -> Result<Self, Failed> {
        let files = share_files_out(config.http.max_calls);
        let config = Arc::new(config);
        // First, so that whoever starts a second daemon is told of the first, and not of its port.
        let lock = lock_file(&config)?;
        let health = Health::default();
        let site = Arc::new(site(&config)?);
        let admin = admin::Server::start(&config.admin, health.clone())?;
        let store = open_database(&config, &health).await?;
        let (supervisor, fatal) = Supervisor::new();
        let tenure = CurrentTenure::new(join(&config, &store, &health).await?);
        let pool = config.actors.event_pool_size();
        let actors = Actors::new(pool, lock.is_none());
        health.watch(actors.stats());
        let arbiters = Arbiters::start(pool);
        let parts =
            Parts::new(&config, live.clone(), store.clone(), tenure.clone(), health.clone(), site, files);
        keep_actors(&supervisor, &actors, &arbiters, &parts);
        if let Some(admin) = &admin {
            admin.serve_events(store.clone(), actors.queue.clone(), &config.queue);
        }
        let (stop_log, stopped) = oneshot::channel();
        let log = MailboxLog::new(actors.stats());
        let log = actix::spawn(log_mailboxes(log, live.clone(), stopped));
        log::info!("outhook {} runs with {pool} event actors", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            config,
            live,
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
        let stored = self.store.put_into_inbox(events, self.config.queue.per_bot()).await?;
        // A database says nothing of what its own connection wrote.
        self.actors.queue.send(DueAt(now()));
        Ok(stored)
    }

    /// Runs until a signal or a fault that ends the process.
    pub(crate) async fn run_until(mut self, mut signals: Signals) -> Result<Exit, Failed> {
        let reason = tokio::select! {
            name = signals.next() => {
                log::info!("{name}: draining, for at most {:?}", self.live.get().drain.deadline);
                Reason::Asked
            }
            Some(fatal) = self.fatal.recv() => Reason::Fatal(fatal),
        };
        // A second signal ends the process at once. What was not committed is found again.
        actix::spawn(async move {
            let name = signals.next().await;
            log::warn!("{name} again: ending at once");
            logging::flush();
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
        let patience = self.live.get().drain.deadline;
        let deadline = Instant::now() + patience;
        let drained = tokio::time::timeout(patience, self.actors.drain()).await;
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

async fn log_mailboxes(mut log: MailboxLog, live: Live, stopped: oneshot::Receiver<()>) -> MailboxLog {
    let lines = async {
        loop {
            tokio::time::sleep(live.get().actors.mailbox_log_interval).await;
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
