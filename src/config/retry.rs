//! `[retry]`: when a call that failed is made again.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `max_retries` | 5 attempts after the first | 0 to 100 |
//! | `initial_delay` | `"1s"`, or `max_delay` if that is shorter | `"0s"` to `"1day"` |
//! | `multiplier` | 3.0 | 1.0 to 10.0 |
//! | `max_delay` | `"1m"`, or `initial_delay` if that is longer | `initial_delay` to `"1day"` |
//! | `jitter` | 0.5, the share of a wait that is random | 0.0 to 1.0 |
//! | `give_up_after` | `"5m"` | `"0s"` to `"30days"` |

use std::time::Duration;

use outhook_core::retry::RetryPolicy;

use super::section::Section;

const INITIAL_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// `[retry]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Retry {
    /// How many attempts follow the first.
    pub(crate) max_retries: u32,
    /// The wait before the second attempt.
    pub(crate) initial_delay: Duration,
    /// How much longer each wait is than the one before.
    pub(crate) multiplier: f64,
    /// The longest wait.
    pub(crate) max_delay: Duration,
    /// The share of a wait by which it is varied at random.
    pub(crate) jitter: f64,
    /// How long after outhook took the event a call may still wait for another attempt.
    pub(crate) give_up_after: Duration,
}

impl Retry {
    pub(super) fn read(section: &mut Section) -> Self {
        let (initial, max) = (("initial_delay", INITIAL_DELAY), ("max_delay", MAX_DELAY));
        let (initial_delay, max_delay) = section.ordered(initial, max, Duration::ZERO..=DAY);
        Self {
            max_retries: section.integer("max_retries", 5, 0..=100),
            initial_delay,
            multiplier: section.float("multiplier", 3.0, 1.0..=10.0),
            max_delay,
            jitter: section.float("jitter", 0.5, 0.0..=1.0),
            give_up_after: section.duration(
                "give_up_after",
                Duration::from_secs(300),
                Duration::ZERO..=30 * DAY,
            ),
        }
    }
}

impl From<&Retry> for RetryPolicy {
    fn from(retry: &Retry) -> Self {
        Self {
            max_retries: retry.max_retries,
            initial_delay: retry.initial_delay,
            multiplier: retry.multiplier,
            max_delay: retry.max_delay,
            jitter: retry.jitter,
            give_up_after: retry.give_up_after,
        }
    }
}
