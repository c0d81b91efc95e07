//! `[processed]`: how a message is marked as processed.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `via` | `"database"` | `"database"`, the only way so far |

use super::section::Section;

/// Reads the section, which leaves nothing to choose.
pub(super) fn check(section: &mut Section) {
    section.choice("via", (), &[("database", ())]);
}
