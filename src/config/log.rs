//! `[log]`: what is logged, to standard error.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `filter` | `"info"` | the syntax of `RUST_LOG`, which wins over it |

use super::section::Section;

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    /// Levels by target, as `env_logger` reads them.
    pub(crate) filter: String,
}

impl Log {
    pub(super) fn read(section: &mut Section) -> Self {
        Self { filter: section.text("filter", "info") }
    }
}
