//! `[breaker]`: when a service is left alone because its endpoint fails.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `failures` | 20 failed calls in a row | 1 to 1000000 |
//! | `open` | `"5s"`, or `max_open` if that is shorter | `"1ms"` to `"1day"` |
//! | `max_open` | `"60s"`, or `open` if that is longer | `open` to `"1day"` |

use std::time::Duration;

use super::section::Section;

const OPEN: Duration = Duration::from_secs(5);
const MAX_OPEN: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// `[breaker]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Breaker {
    /// How many calls of a service fail in a row before it is left alone.
    pub(crate) failures: u32,
    /// For how long at first; twice as long after each probe that fails.
    pub(crate) open: Duration,
    /// For how long at most.
    pub(crate) max_open: Duration,
}

impl Breaker {
    pub(super) fn read(section: &mut Section) -> Self {
        let failures = section.integer("failures", 20, 1..=1_000_000);
        let times = Duration::from_millis(1)..=DAY;
        let (open, max_open) = section.ordered(("open", OPEN), ("max_open", MAX_OPEN), times);
        Self { failures, open, max_open }
    }
}
