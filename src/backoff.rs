//! How long to wait before something that failed is tried again.

use std::time::{Duration, Instant};

/// A wait that doubles with each failure up to a limit. It begins again when nothing has failed for twice the
/// longest wait, and not with the first success: a database that can be read need not be one that can be written.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    last: Option<(Instant, Duration)>,
}

impl Backoff {
    /// The waits for a database or a broker: it is used again within 3 s of its return.
    pub(crate) const fn for_servers() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(3))
    }

    /// Waits from `first` to `max`.
    pub(crate) const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, last: None }
    }

    /// The wait after a failure at this time.
    pub(crate) fn after_failure(&mut self, now: Instant) -> Duration {
        let recent = self.last.filter(|(at, _)| now.duration_since(*at) < self.max * 2);
        let wait = recent.map_or(self.first, |(_, wait)| (wait * 2).min(self.max));
        self.last = Some((now, wait));
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for pause in [0, 200, 400, 800, 1000, 2000, 1999] {
            now += Duration::from_millis(pause);
            waits.push(backoff.after_failure(now).as_millis());
        }
        assert_eq!(waits, [200, 400, 800, 1000, 1000, 200, 400]);
    }
}
