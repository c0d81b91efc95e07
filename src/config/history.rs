//! `[history]`: how long what is done stays.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `keep` | `"30days"` | `"1m"` to `"10years"` |
//! | `keep_bodies` | `"1day"` | `"0s"` to `"10years"` |
//! | `keep_dead_letters` | `"90days"` | `"1m"` to `"10years"` |

use std::time::Duration;

use super::section::Section;

const DAY: Duration = Duration::from_secs(86_400);
const KEEP_MIN: Duration = Duration::from_secs(60);
/// Ten years of 365.25 days, as durations are written.
const KEEP_MAX: Duration = Duration::from_secs(10 * 31_557_600);

/// `[history]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    /// How long after its end an event stays, with its calls and replies: it can be replayed, and a
    /// redelivery of it is recognised.
    pub(crate) keep: Duration,
    /// How long an event without a failed call keeps its body, and a posted reply its text.
    pub(crate) keep_bodies: Duration,
    /// How long a dead letter waits for an operator.
    pub(crate) keep_dead_letters: Duration,
}

impl History {
    pub(super) fn read(section: &mut Section) -> Self {
        Self {
            keep: section.duration("keep", 30 * DAY, KEEP_MIN..=KEEP_MAX),
            keep_bodies: section.duration("keep_bodies", DAY, Duration::ZERO..=KEEP_MAX),
            keep_dead_letters: section.duration("keep_dead_letters", 90 * DAY, KEEP_MIN..=KEEP_MAX),
        }
    }
}
