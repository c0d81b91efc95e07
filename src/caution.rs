//! Care with events that may have ended a process.
//!
//! Everything that a daemon held when it ended uncleanly is suspected. A suspect does its own work (building its
//! request, reading its answer) with no other event's own work beside it, and is written down as the
//! one that does: so an event that ends the process again is known. Waiting for the endpoint is nobody's own work,
//! which is why kills from outside convict nobody, however long endpoints hang.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::RwLock;

use crate::{
    fail_points,
    store::{InboxEvent, Store},
};

/// A suspect, which has been alone at work this many times when the process died, is poison.
const ALONE_MAX: i16 = 3;
/// The wait before a database that is away is asked again.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// The order in which events do their own work. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caution {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    order: RwLock<()>,
    /// Suspects that work or wait to.
    suspects: AtomicUsize,
}

/// Counts a suspect for as long as it exists.
struct Suspect<'a>(&'a AtomicUsize);

impl Drop for Suspect<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Whether an event has ended the process too often.
pub(crate) fn is_poison(event: &InboxEvent) -> bool {
    // The first is for having been held at all.
    event.suspicion > ALONE_MAX
}

impl Caution {
    /// Does an event's own work, a suspect's alone. `store` is under the tenure of the daemon.
    pub(crate) async fn work<T>(&self, store: &Store, event: &InboxEvent, work: impl FnOnce() -> T) -> T {
        if event.suspicion == 0 {
            let _beside_others = self.inner.order.read().await;
            fail_points::own_work(event.key.message);
            return work();
        }
        self.inner.suspects.fetch_add(1, SeqCst);
        let suspect = Suspect(&self.inner.suspects);
        let _alone = self.inner.order.write().await;
        while let Err(error) = store.note_alone(Some(event.id)).await {
            log::debug!("noting the suspect {}: {error}", event.key);
            tokio::time::sleep(RETRY_DELAY).await;
        }
        let done = catch_unwind(AssertUnwindSafe(|| {
            fail_points::own_work(event.key.message);
            work()
        }));
        drop(suspect);
        // The next one takes its place in the note.
        if self.inner.suspects.load(SeqCst) == 0
            && let Err(error) = store.note_alone(None).await
        {
            log::debug!("the suspect {} is past its own work: {error}", event.key);
        }
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }
}
