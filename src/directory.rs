//! Bots and their services, as they were at most five seconds ago.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use outhook_core::identity::BotId;

use crate::{
    health::Health,
    store::{Bot, NotCallable, Service, Store, StoredGate},
};

/// An edited URL takes effect within this time, without a restart.
const TIME_TO_LIVE: Duration = Duration::from_secs(5);
/// How long to wait for a database that is away.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Under which it complains of the database.
const NAME: &str = "directory";

/// Stands until the bot was found, or nobody wants it any more.
struct Complaint<'a>(&'a Health);

impl Drop for Complaint<'_> {
    fn drop(&mut self) {
        self.0.withdraw(NAME);
    }
}

/// Looks up bots. Cheap to clone; shared by all threads.
#[derive(Clone)]
pub(crate) struct Directory {
    store: Store,
    health: Health,
    bots: Cache<BotId, Result<Arc<Bot>, NotCallable>>,
}

impl Directory {
    /// A directory that remembers at most `bots_max` bots.
    pub(crate) fn new(store: Store, health: Health, bots_max: u64) -> Self {
        let bots = Cache::builder().max_capacity(bots_max).time_to_live(TIME_TO_LIVE).build();
        Self { store, health, bots }
    }

    /// The same as [`Directory::find`], as it is now.
    pub(crate) async fn find_anew(&self, bot: BotId) -> Result<Arc<Bot>, NotCallable> {
        self.bots.invalidate(&bot).await;
        self.find(bot).await
    }

    /// A bot with its services, or why it may not be called. While the database is away, this waits.
    pub(crate) async fn find(&self, bot: BotId) -> Result<Arc<Bot>, NotCallable> {
        let mut complaint = None;
        loop {
            let load = async { self.store.find_bot(bot).await.map(|found| found.map(Arc::new)) };
            match self.bots.try_get_with(bot, load).await {
                Ok(found) => {
                    if !found.as_ref().is_ok_and(|bot| is_worth_keeping(bot)) {
                        // Whoever sets up a bot or resumes a service just now should not have to wait.
                        self.bots.invalidate(&bot).await;
                    }
                    return found;
                }
                Err(error) => {
                    self.health.database_is_away(NAME, &error);
                    complaint.get_or_insert(Complaint(&self.health));
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }
}

/// A bot without services is about to get some, and a pause is about to end.
fn is_worth_keeping(bot: &Bot) -> bool {
    let is_paused = |service: &Service| service.gate.as_ref().is_some_and(StoredGate::is_paused);
    !bot.services.is_empty() && !bot.services.iter().any(is_paused)
}
