//! `[flag]`: how many outcomes are committed together.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `batch_rows` | 256 outcomes | 1 to 10000 |
//! | `batch_age` | `"5ms"` | `"0s"` to `"10s"` |

use std::time::Duration;

use super::section::Section;

/// `[flag]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    /// How many outcomes cut a batch.
    pub(crate) batch_rows: usize,
    /// The age of its first outcome that cuts a batch.
    pub(crate) batch_age: Duration,
}

impl Flag {
    pub(super) fn read(section: &mut Section) -> Self {
        let (age, ages) = (Duration::from_millis(5), Duration::ZERO..=Duration::from_secs(10));
        Self {
            batch_rows: section.integer("batch_rows", 256, 1..=10_000),
            batch_age: section.duration("batch_age", age, ages),
        }
    }
}
