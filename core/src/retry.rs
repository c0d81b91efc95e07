//! When a call is made again, and when it is given up.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};

use crate::identity::Millis;

/// The retry policy (`[retry]`).
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub max_retries: u32,
    /// Wait before the first retry.
    pub initial_delay: Duration,
    /// By how much each wait is longer than the one before.
    pub multiplier: f64,
    /// Longest wait, before jitter.
    pub max_delay: Duration,
    /// Share of a wait by which it is spread, up and down (0 to 1).
    pub jitter: f64,
    /// How long after taking the event a call may still wait for another attempt.
    pub give_up_after: Duration,
}

/// Shortest and longest wait for a connection of this machine, in milliseconds.
const DEFERRAL_MIN: Millis = 1000;
const DEFERRAL_MAX: Millis = 30_000;

/// What to do after an attempt that may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Make the call again at this moment.
    At(Millis),
    /// All attempts are used up.
    Exhausted,
    /// The next attempt would come later than the event may wait.
    TooLate,
}

impl RetryPolicy {
    /// What follows after attempt number `attempt` (counted from 1) failed at `now`, for an event
    /// taken at `taken`. An endpoint's wish (`not_before`, from `Retry-After`) lengthens the wait
    /// and is never jittered to before it.
    pub fn next(&self, attempt: u32, taken: Millis, now: Millis, not_before: Option<Millis>) -> Next {
        if attempt > self.max_retries {
            return Next::Exhausted;
        }
        let delay = millis(delay(self, attempt));
        self.put_off(taken, now.saturating_add(delay).max(not_before.unwrap_or(Millis::MIN)))
    }

    /// What becomes of a call, for an event taken at `taken`, that may not be made before `due`. It spends no
    /// attempt.
    pub fn put_off(&self, taken: Millis, due: Millis) -> Next {
        if taken < self.given_up_before(due) { Next::TooLate } else { Next::At(due) }
    }

    /// When a call is tried again for which this machine had no connection, for an event taken at `taken`. The
    /// wait grows with the event's age, so that a long outage costs few tries, and the last one comes when
    /// `give_up_after` is over.
    pub fn deferred_until(&self, taken: Millis, now: Millis) -> Millis {
        let wait = (now.saturating_sub(taken) / 2).clamp(DEFERRAL_MIN, DEFERRAL_MAX);
        let (due, last) = (now.saturating_add(wait), taken.saturating_add(millis(self.give_up_after)));
        if now < last { due.min(last) } else { due }
    }

    /// Events that were taken before this moment are given up instead of being put off until `due`.
    pub fn given_up_before(&self, due: Millis) -> Millis {
        due.saturating_sub(millis(self.give_up_after))
    }

    /// The same, rounded down to a sixteenth of `give_up_after`. Whoever looks through many events for those
    /// that are to be given up need not look again before this moves; so they end so much later at most.
    pub fn looked_for_before(&self, due: Millis) -> Millis {
        let moment = self.given_up_before(due);
        moment - moment.rem_euclid((millis(self.give_up_after) / 16).max(1))
    }

    /// Why a call that failed is not made again ([`Next::Exhausted`]), in words.
    pub fn exhausted(&self) -> &'static str {
        match self.max_retries {
            0 => "no retries are made (retry.max_retries = 0)",
            _ => "all retries are used up",
        }
    }

    fn interval(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let longest = self.max_delay.as_secs_f64();
        let interval = self.initial_delay.as_secs_f64() * self.multiplier.powi(exponent);
        Duration::try_from_secs_f64(interval.min(longest)).unwrap_or(self.max_delay)
    }
}

/// A jittered wait before the retry that follows attempt number `attempt`.
///
/// The `backoff` crate's policy type is used for this one step only: its own clock
/// and its limit on elapsed time are left out, because time here is a row's, not a process's.
pub fn delay(policy: &RetryPolicy, attempt: u32) -> Duration {
    let mut step = ExponentialBackoff {
        current_interval: policy.interval(attempt),
        randomization_factor: policy.jitter,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    step.next_backoff().unwrap_or(policy.max_delay)
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            max_retries: 5,
            initial_delay: Duration::from_secs(1),
            multiplier: 3.0,
            max_delay: Duration::from_secs(60),
            jitter: 0.0,
            give_up_after: Duration::from_secs(300),
        }
    }

    #[test]
    fn waits_grow_up_to_their_longest() {
        let waits: Vec<u128> = (1..=6).map(|attempt| delay(&policy(), attempt).as_millis()).collect();
        assert_eq!(waits, [1000, 3000, 9000, 27000, 60000, 60000]);
    }

    #[test]
    fn retries_that_are_not_made_are_not_called_used_up() {
        assert_eq!(RetryPolicy { max_retries: 1, ..policy() }.exhausted(), "all retries are used up");
        let none = RetryPolicy { max_retries: 0, ..policy() };
        assert_eq!(none.next(1, 0, 0, None), Next::Exhausted);
        assert_eq!(none.exhausted(), "no retries are made (retry.max_retries = 0)");
    }

    #[test]
    fn the_last_retry_is_made_and_no_other() {
        assert!(matches!(policy().next(5, 0, 0, None), Next::At(_)));
        assert_eq!(policy().next(6, 0, 0, None), Next::Exhausted);
    }

    #[test]
    fn a_wait_that_ends_after_the_events_time_is_given_up_at_once() {
        assert_eq!(policy().next(1, 0, 299_000, None), Next::At(300_000));
        assert_eq!(policy().next(1, 0, 299_001, None), Next::TooLate);
        assert_eq!(policy().next(1, 0, 0, Some(300_000)), Next::At(300_000));
        assert_eq!(policy().next(1, 0, 0, Some(300_001)), Next::TooLate);
    }

    #[test]
    fn a_call_that_is_put_off_spends_no_attempt_and_is_given_up_only_instead_of_a_wait_that_is_too_long() {
        assert_eq!(policy().put_off(0, 300_000), Next::At(300_000));
        assert_eq!(policy().put_off(0, 300_001), Next::TooLate);
        assert_eq!(policy().next(5, 0, 250_000, None), Next::TooLate, "its own wait is a minute");
        assert_eq!(policy().put_off(0, 251_000), Next::At(251_000));
        assert_eq!(policy().given_up_before(300_001), 1);
    }

    #[test]
    fn a_deferred_call_is_tried_until_give_up_after() {
        let (mut now, mut tries) = (0, Vec::new());
        while let Next::At(due) = policy().put_off(0, policy().deferred_until(0, now)) {
            assert!(due > now);
            (now, _) = (due, tries.push(due));
        }
        assert_eq!((tries[..4].to_vec(), tries.last()), (vec![1000, 2000, 3000, 4500], Some(&300_000)));
        assert!(tries.len() < 25, "{tries:?}");
    }

    #[test]
    fn events_to_be_given_up_are_looked_for_sixteen_times_within_their_time() {
        let looked_for =
            [300_000, 318_749, 318_750, 337_499, 337_500].map(|due| policy().looked_for_before(due));
        assert_eq!(looked_for, [0, 0, 18_750, 18_750, 37_500]);
        let at_once = RetryPolicy { give_up_after: Duration::ZERO, ..policy() };
        assert_eq!(at_once.looked_for_before(7), 7);
    }

    proptest! {
        #[test]
        fn a_wait_stays_within_its_jitter(
            attempt in 1u32..1000,
            initial in 1u64..100_000,
            max in 1u64..1_000_000,
            multiplier in 1.0f64..10.0,
            jitter in 0.0f64..=1.0,
        ) {
            let policy = RetryPolicy {
                initial_delay: Duration::from_millis(initial),
                max_delay: Duration::from_millis(max.max(initial)),
                multiplier,
                jitter,
                ..policy()
            };
            let base = policy.interval(attempt).as_secs_f64();
            let wait = delay(&policy, attempt).as_secs_f64();
            prop_assert!(wait >= base * (1.0 - jitter) - 1e-6);
            prop_assert!(wait <= base * (1.0 + jitter) + 1e-6);
            prop_assert!(policy.interval(attempt) <= policy.max_delay);
        }

        #[test]
        fn a_retry_is_never_earlier_than_asked_nor_later_than_the_event_may_wait(
            attempt in 1u32..8,
            taken in 0i64..1_000_000,
            age in 0i64..400_000,
            wish in proptest::option::of(0i64..2_000_000),
        ) {
            let now = taken + age;
            match policy().next(attempt, taken, now, wish) {
                Next::At(at) => {
                    prop_assert!(attempt <= 5);
                    prop_assert!(at > now);
                    prop_assert!(at >= wish.unwrap_or(at));
                    prop_assert!(at <= taken + 300_000);
                }
                Next::Exhausted => prop_assert!(attempt > 5),
                Next::TooLate => prop_assert!(
                    wish.unwrap_or(0).max(now + 60_000) > taken + 300_000
                ),
            }
        }
    }
}
