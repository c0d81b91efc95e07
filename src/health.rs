//! Whether the parts that outhook depends on are there, and whether work moves.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::mailbox::MailboxStats;

/// Work that has not moved for so long stands still.
const STALL: Duration = Duration::from_secs(10);

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
    pulses: Mutex<BTreeMap<String, Pulse>>,
}

/// Heartbeat of an actor: beats on progress and when idle.
#[derive(Clone)]
pub(crate) struct Pulse {
    last_beat: Arc<Mutex<Instant>>,
    without: &'static str,
}

impl Pulse {
    /// The actor has made progress, or is idle.
    pub(crate) fn beat(&self) {
        self.beat_at(Instant::now());
    }

    /// The actor made no progress after this time.
    pub(crate) fn beat_at(&self, time: Instant) {
        *self.last_beat.lock() = time;
    }

    fn fault(&self, actor: &str) -> Option<String> {
        let silent_for = self.last_beat.lock().elapsed();
        (silent_for >= STALL)
            .then(|| format!("actor {actor}: {} for {} s", self.without, silent_for.as_secs()))
    }
}

/// A part outside the process, which several actors use: it is away for as long as one of them complains.
#[derive(Default)]
struct Part {
    state: Mutex<State>,
    jobs: UnderWay,
}

#[derive(Default)]
struct State {
    has_answered: bool,
    /// By who complains, or about what.
    complaints: BTreeMap<&'static str, Complaint>,
}

struct Complaint {
    reason: String,
    /// Whoever complained is gone: whatever works next shows that the part is there.
    is_orphan: bool,
}

/// Jobs under way, each since it began. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct UnderWay {
    jobs: Arc<Mutex<Jobs>>,
}

#[derive(Default)]
struct Jobs {
    next: u64,
    /// By the numbers of the jobs, which rise with time.
    began: BTreeMap<u64, (&'static str, Instant)>,
}

impl UnderWay {
    /// A job of this name is under way, until what this returns is dropped.
    pub(crate) fn begin(&self, name: &'static str) -> Running {
        let mut jobs = self.jobs.lock();
        let number = jobs.next;
        jobs.next += 1;
        jobs.began.insert(number, (name, Instant::now()));
        Running { under_way: self.clone(), number }
    }

    /// The job that began first, with its name.
    pub(crate) fn oldest(&self) -> Option<(&'static str, Instant)> {
        self.jobs.lock().began.values().next().copied()
    }
}

/// A job under way, until dropped.
pub(crate) struct Running {
    under_way: UnderWay,
    number: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.under_way.jobs.lock().began.remove(&self.number);
    }
}

impl Part {
    /// Whether this is news.
    fn answered(&self, to: &'static str) -> bool {
        let mut state = self.state.lock();
        let before = state.complaints.len();
        state.complaints.retain(|by, complaint| *by != to && !complaint.is_orphan);
        let had_complaint = state.complaints.len() < before;
        let is_first = !std::mem::replace(&mut state.has_answered, true);
        state.complaints.is_empty() && (had_complaint || is_first)
    }

    /// Whether this is news.
    fn is_away(&self, to: &'static str, reason: String) -> bool {
        let mut state = self.state.lock();
        let is_news = state.complaints.is_empty();
        state.complaints.insert(to, Complaint { reason, is_orphan: false });
        is_news
    }

    fn withdraw(&self, by: &'static str) {
        if let Some(complaint) = self.state.lock().complaints.get_mut(by) {
            complaint.is_orphan = true;
        }
    }

    fn fault(&self, part: &str) -> Option<String> {
        let state = self.state.lock();
        let stalled = self.jobs.oldest().filter(|(_, since)| since.elapsed() >= STALL);
        match (state.complaints.values().next(), stalled) {
            (Some(complaint), _) => Some(format!("{part}: {}", complaint.reason)),
            (None, Some((name, since))) => {
                Some(format!("{part}: job {name} has not ended for {} s", since.elapsed().as_secs()))
            }
            (None, None) if state.has_answered => None,
            (None, None) => Some(format!("{part}: not connected yet")),
        }
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

    /// The database does not do what `whom` wants of it. The process is not ready until it does.
    pub(crate) fn database_is_away(&self, whom: &'static str, error: &dyn fmt::Display) {
        if self.inner.database.is_away(whom, error.to_string()) {
            log::warn!("the database is away: {error}");
        }
    }

    /// Something is asked of the database, until what this returns is dropped.
    pub(crate) fn database_job(&self, name: &'static str) -> Running {
        self.inner.database.jobs.begin(name)
    }

    /// `whom` is gone. What it complained of stands until anybody is answered.
    pub(crate) fn withdraw(&self, whom: &'static str) {
        self.inner.database.withdraw(whom);
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
        self.inner.broker.state.lock().has_answered
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
        *self.inner.mailboxes.lock() = mailboxes;
    }

    /// The mailboxes of all actors.
    pub(crate) fn mailboxes(&self) -> Vec<Arc<MailboxStats>> {
        self.inner.mailboxes.lock().clone()
    }

    /// The pulse of a new generation of an actor; `without` says what it has not done once the pulse stops.
    pub(crate) fn pulse(&self, actor: String, without: &'static str) -> Pulse {
        let pulse = Pulse { last_beat: Arc::new(Mutex::new(Instant::now())), without };
        self.inner.pulses.lock().insert(actor, pulse.clone());
        pulse
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
            } else if let Some(stalled) = stats.stalled_for().filter(|stalled| *stalled >= STALL) {
                let (name, depth, seconds) = (stats.name(), stats.depth(), stalled.as_secs());
                faults.push(format!("actor {name}: has handled none of {depth} messages for {seconds} s"));
            }
        }
        if self.is_draining() {
            faults.push("outhook: draining".into());
        } else {
            faults.extend(self.inner.pulses.lock().iter().filter_map(|(actor, pulse)| pulse.fault(actor)));
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
        health.withdraw("writer");
        assert_eq!(health.faults(), ["database: it is full"], "nothing has moved yet");
        health.database_answers("reader");
        health.broker_is_away(&"connection refused");
        assert_eq!(health.faults(), ["broker: connection refused"]);
    }

    #[test]
    fn a_job_that_does_not_end_is_named() {
        let health = Health::default();
        health.database_answers("reader");
        health.broker_answers();
        let running = health.database_job("settle");
        assert!(health.faults().is_empty());
        let began = Instant::now().checked_sub(STALL).expect("a time before");
        health.inner.database.jobs.jobs.lock().began.insert(0, ("settle", began));
        assert_eq!(health.faults(), ["database: job settle has not ended for 10 s"]);
        drop(running);
        assert!(health.faults().is_empty());
    }

    #[test]
    fn an_actor_without_pulse_is_named() {
        let health = Health::default();
        health.database_answers("reader");
        health.broker_answers();
        let pulse = health.pulse("event-0".into(), "has begun no call");
        assert!(health.faults().is_empty());
        *pulse.last_beat.lock() = Instant::now().checked_sub(STALL).expect("a time before");
        assert_eq!(health.faults(), ["actor event-0: has begun no call for 10 s"]);
        pulse.beat();
        assert!(health.faults().is_empty());
    }
}
