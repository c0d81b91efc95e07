//! What time it is.
//!
//! Daemons of one database compare the times that they write, so they go by the clock of PostgreSQL. Between two
//! looks at it the monotonic clock carries its time on: a step of this machine's clock changes nothing.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outhook_core::identity::Millis;
use parking_lot::RwLock;

use crate::fail_points;

/// A difference between the two clocks that an operator hears of: receivers of Standard Webhooks refuse
/// timestamps that are some minutes off.
const DIFFERENCE_MAX: Millis = 30_000;

/// What the database's clock said last.
static FOLLOWED: RwLock<Option<Reading>> = RwLock::new(None);

#[derive(Debug, Clone, Copy)]
struct Reading {
    time: Millis,
    read_at: Instant,
    is_far_off: bool,
}

/// The time by which rows are due: the database's, if it has a clock, else this machine's.
pub(crate) fn now() -> Millis {
    let followed = *FOLLOWED.read();
    followed.map_or_else(wall, |reading| reading.time.saturating_add(millis(reading.read_at.elapsed())))
}

/// The time by this machine's clock, for whoever is told the time.
pub(crate) fn wall() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    millis(since).saturating_add(fail_points::clock_error())
}

/// Follows the database's clock, which said `time` just now.
pub(crate) fn follow(time: Millis) {
    let difference = time - wall();
    let is_far_off = difference.abs() > DIFFERENCE_MAX;
    let before = FOLLOWED.write().replace(Reading { time, read_at: Instant::now(), is_far_off });
    if is_far_off && !before.is_some_and(|reading| reading.is_far_off) {
        log::warn!(
            "the clocks of this machine and of PostgreSQL differ by {} s: set both by NTP, as webhook-timestamp is this machine's time",
            difference / 1000
        );
    }
}

/// A duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
