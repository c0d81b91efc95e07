//! What this process may work on: its partitions, for as long as its lease holds.
//!
//! A daemon that is declared dead by the others gets a new tenure, with new actors. The old one never
//! becomes valid again, so whatever still goes by it can change nothing.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use outhook_core::{
    identity::{BotId, DaemonId},
    partition::Partitions,
};
use tokio::sync::watch;

/// How often a call that may not be made yet looks again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The right of a daemon to work. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Tenure {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    daemon: DaemonId,
    partitions: AtomicU64,
    holds_until: Mutex<Until>,
    takes_deliveries: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy)]
enum Until {
    /// Nobody else can take over.
    Always,
    Moment(Instant),
    Revoked,
}

impl Tenure {
    /// The only daemon that a database can have.
    pub(crate) fn sole(daemon: DaemonId) -> Self {
        Self::new(daemon, Partitions::ALL, Until::Always, true)
    }

    /// One of several daemons, which can be sure of its lease until this moment. It has no partitions yet.
    pub(crate) fn leased(daemon: DaemonId, holds_until: Instant) -> Self {
        Self::new(daemon, Partitions::NONE, Until::Moment(holds_until), false)
    }

    fn new(daemon: DaemonId, partitions: Partitions, until: Until, takes_deliveries: bool) -> Self {
        let inner = Inner {
            daemon,
            partitions: AtomicU64::new(partitions.bits()),
            holds_until: Mutex::new(until),
            takes_deliveries: watch::Sender::new(takes_deliveries),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The daemon.
    pub(crate) fn daemon(&self) -> DaemonId {
        self.inner.daemon
    }

    /// Whose bots' events it works on.
    pub(crate) fn partitions(&self) -> Partitions {
        Partitions::from_bits(self.inner.partitions.load(SeqCst))
    }

    /// Whether it works on this bot's events.
    pub(crate) fn owns(&self, bot: BotId) -> bool {
        self.partitions().hold(bot)
    }

    /// These are its own now.
    pub(crate) fn gain(&self, partitions: Partitions) {
        let before = self.inner.partitions.fetch_or(partitions.bits(), SeqCst);
        count(Partitions::from_bits(before).or(partitions));
    }

    /// Nothing new of these is begun any more.
    pub(crate) fn give_up(&self, partitions: Partitions) {
        let before = self.inner.partitions.fetch_and(!partitions.bits(), SeqCst);
        count(Partitions::from_bits(before).without(partitions));
    }

    /// Whether nobody can have taken over. Asked before each call and post: a process that was frozen does
    /// not know for how long.
    pub(crate) fn holds(&self) -> bool {
        match *self.until() {
            Until::Always => true,
            Until::Moment(moment) => Instant::now() < moment,
            Until::Revoked => false,
        }
    }

    /// Waits until nobody can have taken over; for ever, if others have.
    pub(crate) async fn held(&self) {
        while !self.holds() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The lease was renewed. Says whether it had run out.
    pub(crate) fn renew(&self, holds_until: Instant) -> bool {
        let had_run_out = !self.holds();
        let mut until = self.until();
        if matches!(*until, Until::Moment(_)) {
            *until = Until::Moment(holds_until);
        }
        had_run_out
    }

    /// The others may take over after this moment, unless the lease is renewed.
    pub(crate) fn holds_no_longer_than(&self, moment: Instant) {
        let mut until = self.until();
        if let Until::Moment(holds_until) = *until {
            *until = Until::Moment(holds_until.min(moment));
        }
    }

    /// The others have declared this daemon dead.
    pub(crate) fn revoke(&self) {
        *self.until() = Until::Revoked;
        self.give_up(Partitions::ALL);
        self.take_deliveries(false);
    }

    /// Whether this daemon is the one that takes deliveries from the broker.
    pub(crate) fn takes_deliveries(&self) -> watch::Receiver<bool> {
        self.inner.takes_deliveries.subscribe()
    }

    /// Begins or ends to take deliveries.
    pub(crate) fn take_deliveries(&self, yes: bool) {
        if self.inner.takes_deliveries.send_if_modified(|takes| std::mem::replace(takes, yes) != yes) {
            let word = if yes { "now" } else { "no longer" };
            log::info!("this daemon {word} takes the broker's deliveries");
        }
    }

    fn until(&self) -> std::sync::MutexGuard<'_, Until> {
        self.inner.holds_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(partitions: Partitions) {
    metrics::gauge!("outhook_partitions").set(partitions.len() as f64);
}

/// The tenure that new actors work under. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CurrentTenure(Arc<Mutex<Tenure>>);

impl CurrentTenure {
    /// The first.
    pub(crate) fn new(tenure: Tenure) -> Self {
        Self(Arc::new(Mutex::new(tenure)))
    }

    /// The one there is now.
    pub(crate) fn get(&self) -> Tenure {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next.
    pub(crate) fn set(&self, tenure: Tenure) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = tenure;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_ran_out_holds_again_when_renewed_and_never_after_it_was_revoked() {
        let now = Instant::now();
        let tenure = Tenure::leased(1, now);
        assert!(!tenure.holds());
        assert!(tenure.renew(now + Duration::from_secs(60)), "it had run out");
        assert!(!tenure.renew(now + Duration::from_secs(60)));
        assert!(tenure.holds());
        tenure.gain(Partitions::ALL);
        tenure.revoke();
        tenure.renew(now + Duration::from_secs(60));
        assert!(!tenure.holds() && tenure.partitions().is_empty());
    }
}
