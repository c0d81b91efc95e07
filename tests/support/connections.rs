//! The connections that a server has accepted, and their end at a test's word.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::broadcast;

use super::{PATIENCE, eventually};

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// In good order: FIN, over TLS behind `close_notify`.
    Orderly,
    /// FIN alone.
    Bare,
    /// RST.
    Reset,
}

/// Counts connections, and can have them end.
pub(super) struct Connections {
    accepted: AtomicUsize,
    open: AtomicUsize,
    endings: broadcast::Sender<Ending>,
}

impl Connections {
    pub(super) fn new() -> Arc<Self> {
        let (accepted, open) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { accepted, open, endings: broadcast::Sender::new(1) })
    }

    /// Counts a connection as open for as long as what is returned lives, which must be longer than its
    /// stream.
    pub(super) fn enter(self: &Arc<Self>) -> Entered {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        Entered { connections: Arc::clone(self), endings: self.endings.subscribe() }
    }

    /// How many were accepted so far.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Ends all of them in this way, and waits until they are closed.
    pub(super) async fn hang_up(&self, ending: Ending) {
        // Nobody listens if there are none.
        self.endings.send(ending).ok();
        self.left(0).await;
    }

    /// Waits until no more than so many are open.
    pub(super) async fn left(&self, n: usize) {
        let few = || async { (self.open.load(Ordering::SeqCst) <= n).then_some(()) };
        eventually(&format!("all connections but {n} to be closed"), PATIENCE, few).await;
    }
}

/// An open connection.
pub(super) struct Entered {
    connections: Arc<Connections>,
    endings: broadcast::Receiver<Ending>,
}

impl Entered {
    /// Waits until the test has the connection end.
    pub(super) async fn hung_up(&mut self) -> Ending {
        loop {
            if let Ok(ending) = self.endings.recv().await {
                return ending;
            }
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::SeqCst);
    }
}
