//! `[actors]`: how much is worked on at once, and kept in memory.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `event_pool` | 0 event actors | 0 to 64; 0 = one per core |
//! | `in_memory_events` | 20000 events | 1 to 1000000 |
//! | `calls_per_bot` | 8 calls | 1 to 1000 |
//! | `rate_per_bot` | 0 calls a second | 0 to 100000; 0 = no limit |
//! | `waiting_per_bot` | 64 events | 1 to 100000 |
//! | `bots_cached` | 10000 bots | 1 to 1000000 |
//! | `mailbox_log_interval` | `"10s"` | `"100ms"` to `"1h"` |

use std::num::NonZero;
use std::thread;
use std::time::Duration;

use super::section::Section;

const EVENT_POOL_MAX: usize = 64;
const HOUR: Duration = Duration::from_secs(3600);

/// `[actors]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actors {
    /// How many event actors there are; 0 = one per core ([`Actors::event_pool_size`]).
    pub(crate) event_pool: usize,
    /// How many events wait in memory, of all bots; beyond it an event is only a row.
    pub(crate) in_memory_events: usize,
    /// How many calls of one bot are in flight at once.
    pub(crate) calls_per_bot: usize,
    /// How many calls of one bot are made in a second; 0 = no limit.
    pub(crate) rate_per_bot: u32,
    /// How many events of one bot wait in memory; beyond it an event is only a row.
    pub(crate) waiting_per_bot: usize,
    /// How many bots are kept with their services, each for at most 5 s.
    pub(crate) bots_cached: u64,
    /// How often the lengths of mailboxes are logged.
    pub(crate) mailbox_log_interval: Duration,
}

impl Actors {
    pub(super) fn read(section: &mut Section) -> Self {
        let (interval, intervals) = (Duration::from_secs(10), Duration::from_millis(100)..=HOUR);
        Self {
            event_pool: section.integer("event_pool", 0, 0..=EVENT_POOL_MAX),
            in_memory_events: section.integer("in_memory_events", 20_000, 1..=1_000_000),
            calls_per_bot: section.integer("calls_per_bot", 8, 1..=1000),
            rate_per_bot: section.integer("rate_per_bot", 0, 0..=100_000),
            waiting_per_bot: section.integer("waiting_per_bot", 64, 1..=100_000),
            bots_cached: section.integer("bots_cached", 10_000, 1..=1_000_000),
            mailbox_log_interval: section.duration("mailbox_log_interval", interval, intervals),
        }
    }

    /// How many event actors to start: as configured, or one per core.
    pub(crate) fn event_pool_size(&self) -> usize {
        match self.event_pool {
            0 => thread::available_parallelism().map_or(1, NonZero::get).min(EVENT_POOL_MAX),
            size => size,
        }
    }
}
