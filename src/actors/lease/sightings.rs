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
/// A daemon without a session for so long has ended: one that only lost its connection is back sooner.
pub(super) const SESSION_GRACE: Duration = Duration::from_millis(500);
/// A daemon without a session is dead only if its lease has not moved for so long either, which is renewed at
/// least once a second.
const SILENCE: Duration = Duration::from_millis(1_500);
/// After the own session was lost, the others have probably lost theirs too. They get this long to come back,
/// from the first look that shows the database to answer again.
const RETURN_GRACE: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Sightings {
    daemons: HashMap<DaemonId, Seen>,
    first_look: Option<Instant>,
    looked_at: Option<Instant>,
    /// How long after the first look nobody is found dead for want of a session.
    grace: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    alive_until: Millis,
    silent_for: Duration,
    missing_since: Option<Instant>,
}

impl Sightings {
    /// For a daemon whose own session was lost and is back. What was seen before the loss counts no more.
    pub(super) fn after_loss() -> Self {
        Self { grace: RETURN_GRACE, ..Self::default() }
    }

    /// Notes what a look has shown.
    pub(super) fn look(&mut self, daemons: &[SeenDaemon], now: Instant) {
        let gap = self.looked_at.map_or(Duration::ZERO, |at| now.duration_since(at)).min(GAP_MAX);
        self.first_look.get_or_insert(now);
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

    /// Whether the last look shows that a daemon's process has ended, or that it was silent for a whole lease.
    pub(super) fn is_dead(&self, daemon: DaemonId, lease: Duration) -> bool {
        let Some(seen) = self.daemons.get(&daemon) else { return false };
        let until_last_look =
            |since: Option<Instant>| Some(self.looked_at?.saturating_duration_since(since?));
        let has_ended = until_last_look(seen.missing_since) >= Some(SESSION_GRACE)
            && seen.silent_for >= SILENCE
            && until_last_look(self.first_look) >= Some(self.grace);
        has_ended || seen.silent_for >= lease
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

    fn without_session(alive_until: Millis) -> SeenDaemon {
        SeenDaemon { has_session: false, ..daemon(alive_until) }
    }

    /// How many looks, after the first, find the daemon dead.
    fn looks_until_dead(sightings: &mut Sightings, mut now: Instant, daemon: SeenDaemon) -> u32 {
        for looks in 0..100 {
            sightings.look(&[daemon], now);
            if sightings.is_dead(daemon.id, LEASE) {
                return looks;
            }
            now += LOOK_EVERY;
        }
        panic!("it is never found dead");
    }

    #[test]
    fn a_daemon_that_renews_is_never_dead_whatever_its_clock_says() {
        let (mut sightings, mut now) = (Sightings::default(), Instant::now());
        for alive_until in [1_000, 2_000, -500_000, 900_000, 3_000].repeat(8) {
            now += LOOK_EVERY;
            sightings.look(&[daemon(alive_until)], now);
            assert!(!sightings.is_dead(2, LEASE));
        }
    }

    #[test]
    fn a_database_that_stood_still_for_a_minute_makes_nobody_dead() {
        let (mut sightings, now) = (Sightings::default(), Instant::now());
        sightings.look(&[daemon(1_000)], now);
        let looks = looks_until_dead(&mut sightings, now + Duration::from_secs(60), daemon(1_000));
        assert_eq!(looks, 13, "the minute counts as two looks, and look after look finds it silent");
    }

    #[test]
    fn a_process_that_has_ended_is_found_dead_long_before_its_lease() {
        let looks = looks_until_dead(&mut Sightings::default(), Instant::now(), without_session(1_000));
        assert_eq!(looks, 2);
    }

    #[test]
    fn after_a_loss_the_others_get_time_from_the_first_look() {
        let looks = looks_until_dead(&mut Sightings::after_loss(), Instant::now(), without_session(1_000));
        assert_eq!(looks, 3);
    }
}
