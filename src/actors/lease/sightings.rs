//! What is known of the other daemons from one look to the next.
//!
//! No clock of another machine is believed. A daemon is silent for as long as looks find its row unchanged; a gap
//! between two looks, in which the database may have stood still for all, counts as the time of one look at most.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use outhook_core::identity::{DaemonId, Millis};

use super::LOOK_EVERY;
use crate::store::SeenDaemon;

/// The most that the time between two looks counts.
const GAP_MAX: Duration = LOOK_EVERY.saturating_mul(2);

#[derive(Debug, Default)]
pub(super) struct Sightings {
    daemons: HashMap<DaemonId, Seen>,
    looked_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    alive_until: Millis,
    silent_for: Duration,
    missing_since: Option<Instant>,
}

impl Sightings {
    /// Notes what a look has shown.
    pub(super) fn look(&mut self, daemons: &[SeenDaemon], now: Instant) {
        let gap = self.looked_at.map_or(Duration::ZERO, |at| now.duration_since(at)).min(GAP_MAX);
        self.looked_at = Some(now);
        let seen = daemons.iter().map(|daemon| {
            let before = self.daemons.get(&daemon.id);
            let unchanged = before.filter(|seen| seen.alive_until == daemon.alive_until);
            let missing_since = before.and_then(|seen| seen.missing_since);
            let seen = Seen {
                alive_until: daemon.alive_until,
                silent_for: unchanged.map_or(Duration::ZERO, |seen| seen.silent_for + gap),
                missing_since: (!daemon.has_session).then(|| missing_since.unwrap_or(now)),
            };
            (daemon.id, seen)
        });
        self.daemons = seen.collect();
    }

    /// For how long a daemon has not renewed its lease.
    pub(super) fn silent_for(&self, daemon: DaemonId) -> Duration {
        self.daemons.get(&daemon).map_or(Duration::ZERO, |seen| seen.silent_for)
    }

    /// For how long a daemon has had no session, if it has none.
    pub(super) fn missing_for(&self, daemon: DaemonId) -> Option<Duration> {
        self.daemons.get(&daemon)?.missing_since.map(|since| since.elapsed())
    }

    /// Whether some daemon has no session.
    pub(super) fn are_any_missing(&self) -> bool {
        self.daemons.values().any(|seen| seen.missing_since.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn daemon(alive_until: Millis) -> SeenDaemon {
        SeenDaemon { id: 2, is_leaving: false, takes_deliveries: false, alive_until, has_session: true }
    }

    #[test]
    fn a_daemon_that_renews_is_never_silent_whatever_its_clock_says() {
        let (mut sightings, mut now) = (Sightings::default(), Instant::now());
        for alive_until in [1_000, 2_000, -500_000, 900_000, 3_000] {
            now += LOOK_EVERY;
            sightings.look(&[daemon(alive_until)], now);
            assert_eq!(sightings.silent_for(2), Duration::ZERO);
        }
    }

    #[test]
    fn a_database_that_stood_still_for_a_minute_makes_nobody_silent() {
        let (mut sightings, mut now) = (Sightings::default(), Instant::now());
        sightings.look(&[daemon(1_000)], now);
        now += Duration::from_secs(60);
        sightings.look(&[daemon(1_000)], now);
        assert!(sightings.silent_for(2) < LEASE);
        for _ in 0..14 {
            now += LOOK_EVERY;
            sightings.look(&[daemon(1_000)], now);
        }
        assert!(sightings.silent_for(2) >= LEASE, "but look after look finds it so");
    }
}
