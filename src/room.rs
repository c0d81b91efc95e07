//! What the EventActors hold in memory, for those who feed them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use metrics::gauge;
use tokio::sync::Notify;

/// Whether anybody has a use for more events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Room {
    inner: Arc<Inner>,
}

struct Inner {
    /// For each shard: more events would only wait behind those that could run already.
    crowded: Vec<AtomicBool>,
    eased: Notify,
}

impl Room {
    /// Room in this many shards.
    pub(crate) fn new(shards: usize) -> Self {
        let crowded = (0..shards).map(|_| AtomicBool::new(false)).collect();
        Self { inner: Arc::new(Inner { crowded, eased: Notify::new() }) }
    }

    /// What a shard holds now.
    pub(crate) fn report(&self, shard: usize, held: usize, is_crowded: bool) {
        gauge!("outhook_events_in_memory", "shard" => shard.to_string()).set(held as f64);
        let Some(crowded) = self.inner.crowded.get(shard) else { return };
        if crowded.swap(is_crowded, Relaxed) && !is_crowded {
            self.inner.eased.notify_waiters();
        }
    }

    /// Whether there is room for another event in any shard.
    pub(crate) fn is_free(&self) -> bool {
        self.inner.crowded.iter().any(|crowded| !crowded.load(Relaxed))
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
