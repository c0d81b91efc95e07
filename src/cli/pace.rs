//! Replaying at a rate, with the progress on a terminal.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Events a second unless another rate is asked for: a bot that has just come up again is not run over.
pub(super) const RATE_DEFAULT: u32 = 100;
/// The rates that can be asked for.
pub(super) const RATES: RangeInclusive<i64> = 1..=100_000;

/// So many times a second something is done, at most.
const BATCHES_PER_SECOND: u32 = 10;
/// The most that is done at once.
const BATCH_EVENTS_MAX: usize = 500;

/// How fast things may be done, and how far they are.
pub(super) struct Pace {
    rate: u32,
    began: Instant,
    done: u64,
    bar: ProgressBar,
}

impl Pace {
    /// `rate` a second, until `total` are done. The progress is shown if standard error is a terminal.
    pub(super) fn new(rate: u32, total: u64) -> Self {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style);
        Self { rate, began: Instant::now(), done: 0, bar }
    }

    /// How many may be done at once.
    pub(super) fn batch(&self) -> usize {
        let share = self.rate.div_ceil(BATCHES_PER_SECOND);
        usize::try_from(share).map_or(BATCH_EVENTS_MAX, |share| share.min(BATCH_EVENTS_MAX))
    }

    /// Waits until more may be done.
    pub(super) async fn wait(&self) {
        let due = Duration::from_secs_f64(self.done as f64 / f64::from(self.rate));
        tokio::time::sleep(due.saturating_sub(self.began.elapsed())).await;
    }

    /// Notes that so many are done.
    pub(super) fn advance(&mut self, count: usize) {
        self.done += count as u64;
        self.bar.set_position(self.done);
    }

    /// Prints something without being disturbed by the progress.
    pub(super) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// "1 event was" or "2 events were".
pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one} was") } else { format!("{count} {many} were") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_the_share_of_a_tenth_of_a_second_within_limits() {
        for (rate, batch) in [(1, 1), (10, 1), (11, 2), (100, 10), (5_000, 500), (100_000, 500)] {
            assert_eq!(Pace::new(rate, 0).batch(), batch, "at {rate}");
        }
    }

    #[tokio::test]
    async fn more_waits_until_what_was_done_is_within_the_rate() {
        let began = Instant::now();
        let mut pace = Pace::new(100, 20);
        pace.wait().await;
        pace.advance(10);
        pace.wait().await;
        assert!(began.elapsed() >= Duration::from_millis(100));
    }
}
