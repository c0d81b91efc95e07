//! Which events make actors panic.
//!
//! A panic is charged to the event whose turn it was, not to those that waited. The count lives as long as
//! the process: an event that ends the whole process is recognised by its row (see `crate::trial`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use outhook_core::identity::EventId;

/// So many panics make an event poison.
const PANICS_MAX: u32 = 3;

/// The panics of each event. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blame {
    panics: Arc<Mutex<HashMap<EventId, u32>>>,
}

/// While it exists, an actor works on one event.
pub(crate) struct Turn<'a> {
    blame: &'a Blame,
    event: EventId,
}

impl Blame {
    /// The turn of an event, until dropped.
    pub(crate) fn turn(&self, event: EventId) -> Turn<'_> {
        Turn { blame: self, event }
    }

    /// Whether an event has made actors panic too often.
    pub(crate) fn is_poison(&self, event: EventId) -> bool {
        self.panics
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&event)
            .is_some_and(|n| *n >= PANICS_MAX)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut panics = self.blame.panics.lock().unwrap_or_else(PoisonError::into_inner);
            *panics.entry(self.event).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn the_third_panic_in_its_turn_makes_an_event_poison_and_no_other() {
        let blame = Blame::default();
        for _ in 0..3 {
            assert!(!blame.is_poison(7));
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                drop(blame.turn(8));
                let _turn = blame.turn(7);
                panic!("as the test asks");
            }));
            assert!(panicked.is_err());
        }
        assert!(blame.is_poison(7) && !blame.is_poison(8));
    }
}
