//! What QueueActor does with the database, in two lines beside each other: deliveries are stored in one, rows
//! are read and claimed in the other. Within a line there is one job at a time, and what came of it is sent
//! before the next begins.
//!
//! Freeing a shard and letting go of partitions need both lines at rest: nothing may be on its way to an
//! EventActor then that was taken before.

use std::time::Instant;

use actix::Context;

use outhook_core::newcomers::Newcomers;

use super::QueueActor;
use crate::{database_job::DatabaseJob, health::Health};

/// The kinds of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Frees a shard's rows.
    Free,
    /// Reads the rows that an EventActor wants.
    Wants,
    /// Claims rows whose time has come.
    Due,
    /// Stores deliveries.
    Store,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Wants => "wants",
            Self::Due => "due",
            Self::Store => "store",
        }
    }
}

/// See the module.
pub(super) struct Lines {
    storing: Line,
    reading: Line,
}

struct Line {
    job: DatabaseJob,
    is_at_rest: bool,
    /// The job that began last, and when.
    last: (Kind, Instant),
}

impl Line {
    fn new(name: &'static str, health: &Health) -> Self {
        Self { job: DatabaseJob::new(name, health), is_at_rest: true, last: (Kind::Due, Instant::now()) }
    }
}

impl Lines {
    pub(super) fn new(health: &Health) -> Self {
        Self { storing: Line::new("storing", health), reading: Line::new("reading", health) }
    }

    fn of(&mut self, kind: Kind) -> &mut Line {
        if kind == Kind::Store { &mut self.storing } else { &mut self.reading }
    }

    /// When the job of this kind that is under way began.
    pub(super) fn began(&mut self, kind: Kind) -> Instant {
        self.of(kind).last.1
    }

    pub(super) fn is_reading(&self) -> bool {
        !self.reading.is_at_rest
    }

    fn are_at_rest(&self) -> bool {
        self.storing.is_at_rest && self.reading.is_at_rest
    }
}

impl QueueActor {
    /// Begins whatever can be begun now.
    pub(super) fn begin_jobs(&mut self, context: &mut Context<Self>) {
        if self.lines.are_at_rest() {
            self.pass_on_leaving();
            if !self.shards_to_free.is_empty() {
                return self.begin(Kind::Free, context);
            }
            if self.is_draining {
                return self.close_session(context);
            }
        }
        // What needs both lines at rest must not wait for ever.
        if self.is_draining || !self.leaving.is_empty() || !self.shards_to_free.is_empty() {
            // It waits for jobs, which are watched themselves.
            return self.pulse.beat();
        }
        if self.lines.storing.is_at_rest && self.may_store() {
            self.begin(Kind::Store, context);
        }
        if self.lines.reading.is_at_rest
            && let Some(kind) = self.next_reading()
        {
            self.begin(kind, context);
        }
        if !self.room.is_free() {
            self.pulse.beat();
            self.await_room(context);
        }
    }

    fn may_store(&self) -> bool {
        let claiming = self.claiming.iter().map(|found| &found.newcomers);
        let are_too_many = claiming.chain([&self.newcomers]).any(Newcomers::are_too_many);
        !self.deliveries.is_empty() && self.room.is_free() && !are_too_many
    }

    /// The kinds of reading take turns, so that none starves.
    fn next_reading(&self) -> Option<Kind> {
        let wants = (!self.wants.is_empty()).then_some(Kind::Wants);
        let may_take_due = self.claiming.is_some() || self.is_due && self.room.is_free();
        let due = may_take_due.then_some(Kind::Due);
        if self.lines.reading.last.0 == Kind::Wants { due.or(wants) } else { wants.or(due) }
    }

    pub(super) fn begin(&mut self, kind: Kind, context: &mut Context<Self>) {
        let line = self.lines.of(kind);
        (line.is_at_rest, line.last) = (false, (kind, Instant::now()));
        match kind {
            Kind::Free => self.free_shard(context),
            Kind::Wants => self.read_rows(context),
            Kind::Due => self.take_due(context),
            Kind::Store => self.store_deliveries(context),
        }
    }

    /// Where deliveries are stored.
    pub(super) fn storing(&mut self) -> &mut DatabaseJob {
        &mut self.lines.storing.job
    }

    /// Where rows are read and claimed.
    pub(super) fn reading(&mut self) -> &mut DatabaseJob {
        &mut self.lines.reading.job
    }

    /// A job is done, and what came of it was sent.
    pub(super) fn done(&mut self, kind: Kind, context: &mut Context<Self>) {
        let took = self.lines.began(kind).elapsed();
        metrics::histogram!("outhook_inbox_job_seconds", "job" => kind.name()).record(took);
        log::debug!("inbox job {} took {took:?}", kind.name());
        self.go_on_after(kind, context);
    }

    /// A job is over, with or without a result.
    pub(super) fn go_on_after(&mut self, kind: Kind, context: &mut Context<Self>) {
        self.lines.of(kind).is_at_rest = true;
        if self.deliveries.is_empty() {
            self.lines.storing.job.rest();
        }
        if kind != Kind::Store {
            self.pulse.beat();
            self.newcomers.forget();
        }
        self.begin_jobs(context);
    }
}
