//! Whether the parts that outhook depends on are there.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use crate::mailbox::MailboxStats;

/// The health of the process, known to all its parts. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Health {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    database: Part,
    broker: Part,
    is_draining: AtomicBool,
    mailboxes: Mutex<Vec<Arc<MailboxStats>>>,
}

/// A part outside the process, which several actors use: it is away for as long as one of them complains.
#[derive(Default)]
struct Part(Mutex<State>);

#[derive(Default)]
struct State {
    has_answered: bool,
    /// By who complains, or about what.
    complaints: BTreeMap<&'static str, String>,
}

impl Part {
    /// Whether this is news.
    fn answered(&self, to: &'static str) -> bool {
        let mut state = self.state();
        let had_complaint = state.complaints.remove(to).is_some();
        let is_first = !std::mem::replace(&mut state.has_answered, true);
        state.complaints.is_empty() && (had_complaint || is_first)
    }

    /// Whether this is news.
    fn is_away(&self, to: &'static str, complaint: String) -> bool {
        let mut state = self.state();
        let is_news = state.complaints.is_empty();
        state.complaints.insert(to, complaint);
        is_news
    }

    fn fault(&self, name: &str) -> Option<String> {
        let state = self.state();
        match state.complaints.values().next() {
            Some(complaint) => Some(format!("{name}: {complaint}")),
            None if state.has_answered => None,
            None => Some(format!("{name}: not connected yet")),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who alone uses the broker.
const QUEUE: &str = "queue";

impl Health {
    /// The database has done for `whom` what it could not do before, if there was something.
    pub(crate) fn database_answers(&self, whom: &'static str) {
        if self.inner.database.answered(whom) {
            log::info!("the database answers");
        }
    }

    /// The database does not do what `whom` wants of it. The same has to say when it does.
    pub(crate) fn database_is_away(&self, whom: &'static str, error: &dyn fmt::Display) {
        if self.inner.database.is_away(whom, error.to_string()) {
            log::warn!("the database is away: {error}");
        }
    }

    /// `whom` is gone, and with it what it complained of; its successor finds out by itself.
    pub(crate) fn withdraw(&self, whom: &'static str) {
        self.inner.database.state().complaints.remove(whom);
    }

    /// The broker has answered, or there is none.
    pub(crate) fn broker_answers(&self) {
        if self.inner.broker.answered(QUEUE) {
            log::info!("the queue answers");
        }
    }

    /// Whether the broker answers now.
    pub(crate) fn has_broker(&self) -> bool {
        self.inner.broker.fault("").is_none()
    }

    /// Whether the broker has ever answered this process.
    pub(crate) fn has_known_broker(&self) -> bool {
        self.inner.broker.state().has_answered
    }

    /// The broker does not answer.
    pub(crate) fn broker_is_away(&self, error: &dyn fmt::Display) {
        if self.inner.broker.is_away(QUEUE, error.to_string()) {
            log::warn!("the broker is away: {error}");
        }
    }

    /// No new work is taken any more.
    pub(crate) fn drains(&self) {
        self.inner.is_draining.store(true, Relaxed);
    }

    /// Whether no new work is taken any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.inner.is_draining.load(Relaxed)
    }

    /// The actors that have to be up.
    pub(crate) fn watch(&self, mailboxes: Vec<Arc<MailboxStats>>) {
        *self.inner.mailboxes.lock().unwrap_or_else(PoisonError::into_inner) = mailboxes;
    }

    /// The mailboxes of all actors.
    pub(crate) fn mailboxes(&self) -> Vec<Arc<MailboxStats>> {
        self.inner.mailboxes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What keeps the process from working, each named; empty if it is ready.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> =
            [self.inner.database.fault("database"), self.inner.broker.fault("broker")]
                .into_iter()
                .flatten()
                .collect();
        for stats in self.mailboxes() {
            if !stats.is_up() {
                faults.push(format!("actor {}: down", stats.name()));
            }
        }
        if self.is_draining() {
            faults.push("outhook: draining".into());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_away_is_named_with_its_reason() {
        let health = Health::default();
        assert_eq!(health.faults(), ["database: not connected yet", "broker: not connected yet"]);
        health.database_answers("reader");
        health.broker_answers();
        assert!(health.faults().is_empty());
        health.database_is_away("writer", &"it is full");
        health.database_answers("reader");
        assert_eq!(health.faults(), ["database: it is full"]);
        health.database_answers("writer");
        health.broker_is_away(&"connection refused");
        assert_eq!(health.faults(), ["broker: connection refused"]);
    }
}
