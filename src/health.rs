//! Whether the parts that outhook depends on are there.

use std::{
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

/// A part outside the process.
#[derive(Default)]
struct Part(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Unknown,
    Answers,
    Away(String),
}

impl Part {
    /// Whether this is news.
    fn answered(&self) -> bool {
        !matches!(self.replace(State::Answers), State::Answers)
    }

    /// Whether this is news.
    fn is_away(&self, complaint: String) -> bool {
        !matches!(self.replace(State::Away(complaint)), State::Away(_))
    }

    fn replace(&self, state: State) -> State {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), state)
    }

    fn fault(&self, name: &str) -> Option<String> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Answers => None,
            State::Unknown => Some(format!("{name}: not connected yet")),
            State::Away(complaint) => Some(format!("{name}: {complaint}")),
        }
    }
}

impl Health {
    /// The database has answered.
    pub(crate) fn database_answers(&self) {
        if self.inner.database.answered() {
            log::info!("the database answers");
        }
    }

    /// The database does not answer.
    pub(crate) fn database_is_away(&self, error: &dyn fmt::Display) {
        if self.inner.database.is_away(error.to_string()) {
            log::warn!("the database is away: {error}");
        }
    }

    /// The broker has answered, or there is none.
    pub(crate) fn broker_answers(&self) {
        if self.inner.broker.answered() {
            log::info!("the queue answers");
        }
    }

    /// The broker does not answer.
    pub(crate) fn broker_is_away(&self, error: &dyn fmt::Display) {
        if self.inner.broker.is_away(error.to_string()) {
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
        health.database_answers();
        health.broker_answers();
        assert!(health.faults().is_empty());
        health.broker_is_away(&"connection refused");
        assert_eq!(health.faults(), ["broker: connection refused"]);
    }
}
