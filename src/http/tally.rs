//! How many of something there are in a thread.

use std::{cell::Cell, rc::Rc};

/// A count; its clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally(Rc<Cell<usize>>);

/// Is counted until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Tally);

impl Tally {
    /// Counts one more.
    pub(super) fn add(&self) -> Counted {
        self.0.set(self.0.get() + 1);
        Counted(self.clone())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.get()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Tally(count) = &self.0;
        count.set(count.get() - 1);
    }
}
