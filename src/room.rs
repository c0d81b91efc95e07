//! What the EventActors hold in memory, for those who feed them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use metrics::{Gauge, gauge};
use tokio::sync::Notify;

/// Whether anybody has a use for more events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Room {
    inner: Arc<Inner>,
}

struct Inner {
    shards: Vec<Shard>,
    eased: Notify,
}

struct Shard {
    held: Gauge,
    /// More events would only wait behind those that could run already.
    is_crowded: AtomicBool,
}

impl Room {
    /// Room in this many shards.
    pub(crate) fn new(shards: usize) -> Self {
        let shard = |shard: usize| Shard {
            held: gauge!("outhook_events_in_memory", "shard" => shard.to_string()),
            is_crowded: AtomicBool::new(false),
        };
        Self { inner: Arc::new(Inner { shards: (0..shards).map(shard).collect(), eased: Notify::new() }) }
    }

    /// What a shard holds now.
    pub(crate) fn report(&self, shard: usize, held: usize, is_crowded: bool) {
        let Some(shard) = self.inner.shards.get(shard) else { return };
        shard.held.set(held as f64);
        if shard.is_crowded.swap(is_crowded, Relaxed) && !is_crowded {
            self.inner.eased.notify_waiters();
        }
    }

    /// Whether there is room for another event in any shard.
    pub(crate) fn is_free(&self) -> bool {
        self.inner.shards.iter().any(|shard| !shard.is_crowded.load(Relaxed))
    }

    /// Waits until there is room.
    pub(crate) async fn freed(&self) {
        loop {
            let eased = self.inner.eased.notified();
            tokio::pin!(eased);
            // Registered before looking, so that nothing can come between.
            eased.as_mut().enable();
            if self.is_free() {
                return;
            }
            eased.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_room_until_every_shard_is_crowded() {
        let room = Room::new(2);
        room.report(0, 5, true);
        assert!(room.is_free());
        room.report(1, 5, true);
        assert!(!room.is_free());
        let waiting = tokio::spawn({
            let room = room.clone();
            async move { room.freed().await }
        });
        tokio::task::yield_now().await;
        room.report(0, 4, false);
        waiting.await.expect("the wait ends");
    }
}
