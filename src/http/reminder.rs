//! Something that is said once in a while, however often it happens.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_secs(10);

/// When it was last said.
#[derive(Debug, Default)]
pub(super) struct Reminder(Cell<Option<Instant>>);

impl Reminder {
    /// Whether to say it now.
    pub(super) fn is_due(&self) -> bool {
        let is_due = self.0.get().is_none_or(|at| at.elapsed() >= INTERVAL);
        if is_due {
            self.0.set(Some(Instant::now()));
        }
        is_due
    }
}
