//! `[log]`: what is logged, to standard error.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `filter` | `"info"` | a level, or levels by target; the variable `RUST_LOG` wins over it |

use ::log::LevelFilter;

use super::section::Section;

/// What a filter must be, as the end of a sentence that begins with "must be".
pub(crate) const FILTER: &str = "a level (off, error, warn, info, debug or trace), or levels by target such as \
    \"warn,outhook=debug\"";

/// Targets that need no level, as they and what is below them exist: all of them is logged.
const OWN_TARGETS: [&str; 3] = ["outhook", "outhook_core", "zerver"];

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    /// Levels by target, as `env_logger` reads them.
    pub(crate) filter: String,
}

impl Log {
    pub(super) fn read(section: &mut Section) -> Self {
        let filter = |text: &str| is_filter(text).then(|| text.to_owned());
        Self { filter: section.parsed("filter", "info".to_owned(), FILTER, filter) }
    }
}

/// Whether `env_logger` takes `text` as it is meant. It would take a misspelled level for a target, and silence
/// everything else.
pub(crate) fn is_filter(text: &str) -> bool {
    let mut directives = text.split(',').map(str::trim).filter(|directive| !directive.is_empty()).peekable();
    directives.peek().is_some() && directives.all(is_directive)
}

fn is_directive(text: &str) -> bool {
    match text.split_once('=') {
        Some((target, level)) => is_target(target) && is_level(level.trim()),
        None => is_level(text) || is_own_target(text),
    }
}

fn is_level(text: &str) -> bool {
    text.parse::<LevelFilter>().is_ok()
}

fn is_target(text: &str) -> bool {
    let is_of_target = |byte: u8| byte.is_ascii_alphanumeric() || b"_:.-".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_target) && !is_level(text)
}

fn is_own_target(text: &str) -> bool {
    let is_below = |own: &str| {
        text.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ':']))
    };
    is_target(text) && OWN_TARGETS.into_iter().any(is_below)
}
