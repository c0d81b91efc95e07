//! `[drain]`: how the daemon ends.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `deadline` | `"25s"` | `"0s"` to `"1h"` |

use std::time::Duration;

use super::section::Section;

/// `[drain]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drain {
    /// How long calls in flight may take to end before they are aborted.
    pub(crate) deadline: Duration,
}

impl Drain {
    pub(super) fn read(section: &mut Section) -> Self {
        let (deadline, deadlines) = (Duration::from_secs(25), Duration::ZERO..=Duration::from_secs(3600));
        Self { deadline: section.duration("deadline", deadline, deadlines) }
    }
}
