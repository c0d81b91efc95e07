//! Moments as people read them.

use std::time::{Duration, UNIX_EPOCH};

use outhook_core::identity::Millis;

/// A moment before the year 10000, to the second, in UTC.
pub(crate) fn moment(millis: Millis) -> String {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}
