//! Bots and their services, as they were at most five seconds ago.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use moka::future::Cache;
use outhook_core::identity::BotId;

use crate::{
    backoff::Backoff,
    health::Health,
    store::{Bot, NotCallable, Service, Store, StoreError, StoredGate},
};

/// An edited URL takes effect within this time, without a restart.
const TIME_TO_LIVE: Duration = Duration::from_secs(5);
/// Under which it complains of the database.
const NAME: &str = "lookup";

/// Counts those whose lookup failed and who wait for the next. When the last one is gone, nobody is left to
/// find out whether the database answers.
struct Waiting<'a>(&'a Directory);

impl<'a> Waiting<'a> {
    fn new(directory: &'a Directory) -> Self {
        directory.waiting.fetch_add(1, SeqCst);
        Self(directory)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, SeqCst) == 1 {
            self.0.health.withdraw(NAME);
        }
    }
}

/// Looks up bots. Cheap to clone; shared by all threads.
#[derive(Clone)]
pub(crate) struct Directory {
    store: Store,
    health: Health,
    bots: Cache<BotId, Result<Arc<Bot>, NotCallable>>,
    waiting: Arc<AtomicUsize>,
}

impl Directory {
    /// A directory that remembers at most `bots_max` bots.
    pub(crate) fn new(store: Store, health: Health, bots_max: u64) -> Self {
        let bots = Cache::builder().max_capacity(bots_max).time_to_live(TIME_TO_LIVE).build();
        Self { store, health, bots, waiting: Arc::default() }
    }

    /// Where to tell of trouble.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// The same as [`Directory::find`], as it is now.
    pub(crate) async fn find_anew(&self, bot: BotId) -> Result<Arc<Bot>, NotCallable> {
        self.bots.invalidate(&bot).await;
        self.find(bot).await
    }

    /// A bot with its services, or why it may not be called. While the database is away, this waits.
    pub(crate) async fn find(&self, bot: BotId) -> Result<Arc<Bot>, NotCallable> {
        let (mut waiting, mut backoff) = (None, Backoff::for_servers());
        loop {
            match self.bots.try_get_with(bot, self.load(bot)).await {
                Ok(found) => {
                    if !found.as_ref().is_ok_and(|bot| is_worth_keeping(bot)) {
                        // Whoever sets up a bot or resumes a service just now should not have to wait.
                        self.bots.invalidate(&bot).await;
                    }
                    return found;
                }
                Err(error) => {
                    waiting.get_or_insert_with(|| Waiting::new(self));
                    self.health.database_is_away(NAME, &error);
                    tokio::time::sleep(backoff.after_failure(Instant::now())).await;
                }
            }
        }
    }

    async fn load(&self, bot: BotId) -> Result<Result<Arc<Bot>, NotCallable>, StoreError> {
        let _running = self.health.database_job(NAME);
        let found = self.store.find_bot(bot).await?;
        self.health.database_answers(NAME);
        Ok(found.map(Arc::new))
    }
}

/// A bot without services is about to get some, and a pause is about to end.
fn is_worth_keeping(bot: &Bot) -> bool {
    let is_paused = |service: &Service| service.gate.as_ref().is_some_and(StoredGate::is_paused);
    !bot.services.is_empty() && !bot.services.iter().any(is_paused)
}
