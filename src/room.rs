//! How many events the process may hold in memory (`actors.in_memory_events`).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::Notify;

/// Counts the events that are held. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Room {
    inner: Arc<Inner>,
}

struct Inner {
    held: AtomicUsize,
    max: usize,
    freed: Notify,
}

/// One event's place, given back when dropped: on completion, on a panic and on a restart alike.
pub(crate) struct Place {
    room: Room,
}

impl Room {
    /// Room for this many.
    pub(crate) fn new(max: usize) -> Self {
        Self { inner: Arc::new(Inner { held: AtomicUsize::new(0), max, freed: Notify::new() }) }
    }

    /// Whether there is room for another.
    pub(crate) fn is_free(&self) -> bool {
        self.held() < self.inner.max
    }

    /// How many are held.
    pub(crate) fn held(&self) -> usize {
        self.inner.held.load(Relaxed)
    }

    /// How many more may be held.
    pub(crate) fn left(&self) -> usize {
        self.inner.max.saturating_sub(self.held())
    }

    /// Takes a place, if one is left.
    pub(crate) fn take(&self) -> Option<Place> {
        let take = |held: usize| (held < self.inner.max).then_some(held + 1);
        self.inner.held.fetch_update(Relaxed, Relaxed, take).ok()?;
        Some(Place { room: self.clone() })
    }

    /// Takes as many places as are left, but not more than this.
    pub(crate) fn take_up_to(&self, places: usize) -> Vec<Place> {
        (0..places).map_while(|_| self.take()).collect()
    }

    /// Waits until there is room.
    pub(crate) async fn freed(&self) {
        loop {
            let freed = self.inner.freed.notified();
            tokio::pin!(freed);
            // Registered before looking, so that nothing can come between.
            freed.as_mut().enable();
            if self.is_free() {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let before = self.room.inner.held.fetch_sub(1, Relaxed);
        if before >= self.room.inner.max {
            self.room.inner.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_free_again_when_a_place_is_given_back() {
        let room = Room::new(2);
        let first = room.take();
        assert!(room.is_free());
        let second = room.take_up_to(5);
        assert_eq!((second.len(), room.left()), (1, 0));
        assert!(room.take().is_none());
        let waiting = tokio::spawn({
            let room = room.clone();
            async move { room.freed().await }
        });
        tokio::task::yield_now().await;
        drop(first);
        waiting.await.expect("the wait ends");
        drop(second);
        assert_eq!(room.held(), 0);
    }
}
