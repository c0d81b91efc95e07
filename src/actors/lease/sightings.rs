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
/// A process that only lost its session is back within this time.
pub(super) const SESSION_GRACE: Duration = Duration::from_millis(500);
/// A daemon without a session has also stopped renewing its lease if it is dead. It renews it once a second.
const SILENCE: Duration = Duration::from_millis(1_500);
/// After this daemon lost sight of the database, the others probably did too. They get this long to come back, from
/// the first look that succeeds again.
const RETURN_GRACE: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Sightings {
    daemons: HashMap<DaemonId, Seen>,
    looked_at: Option<Instant>,
    sight: Sight,
}

/// Whether this daemon has always seen the others.
#[derive(Debug, Default, Clone, Copy)]
enum Sight {
    #[default]
    Always,
    /// It lost sight of the database at this time.
    LostAt(Instant),
    /// Its first look afterwards began at this time.
    BackAt(Instant),
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    alive_until: Millis,
    silent_for: Duration,
    missing_since: Option<Instant>,
}

impl Sightings {
    /// The own session was lost, or a look has failed.
    pub(super) fn lose_sight(&mut self) {
        self.sight = Sight::LostAt(Instant::now());
        self.daemons.values_mut().for_each(|seen| seen.missing_since = None);
    }

    /// Notes what a look has shown that began at a time. A look that began before a loss shows what was before it.
    pub(super) fn look(&mut self, daemons: &[SeenDaemon], began: Instant) {
        match self.sight {
            Sight::LostAt(lost_at) if began <= lost_at => return,
            Sight::LostAt(_) => self.sight = Sight::BackAt(began),
            Sight::Always | Sight::BackAt(_) => {}
        }
        let gap = self.looked_at.map_or(Duration::ZERO, |at| began.duration_since(at)).min(GAP_MAX);
        self.looked_at = Some(began);
        let seen = daemons.iter().map(|daemon| {
            let before = self.daemons.get(&daemon.id);
            let unchanged = before.filter(|seen| seen.alive_until == daemon.alive_until);
            let missing_since = before.and_then(|seen| seen.missing_since);
            let seen = Seen {
                alive_until: daemon.alive_until,
                silent_for: unchanged.map_or(Duration::ZERO, |seen| seen.silent_for + gap),
                missing_since: (!daemon.has_session).then(|| missing_since.unwrap_or(began)),
            };
            (daemon.id, seen)
        });
        self.daemons = seen.collect();
    }

    /// Whether the last look shows that a daemon's process has ended, or that it was silent for a whole lease.
    pub(super) fn is_dead(&self, daemon: DaemonId, lease: Duration) -> bool {
        let (Some(seen), Some(looked_at)) = (self.daemons.get(&daemon), self.looked_at) else { return false };
        let since = |time: Instant| looked_at.saturating_duration_since(time);
        let can_tell = match self.sight {
            Sight::Always => true,
            Sight::LostAt(_) => false,
            Sight::BackAt(time) => since(time) >= RETURN_GRACE,
        };
        let has_ended = seen.missing_since.map(since) >= Some(SESSION_GRACE) && seen.silent_for >= SILENCE;
        can_tell && (has_ended || seen.silent_for >= lease)
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

    /// How many looks follow the first until one finds the daemon dead.
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
    fn who_renews_is_alive_whatever_the_clock_says() {
        let (mut sightings, mut now) = (Sightings::default(), Instant::now());
        for alive_until in [1_000, 2_000, -500_000, 900_000, 3_000].repeat(8) {
            now += LOOK_EVERY;
            sightings.look(&[daemon(alive_until)], now);
            assert!(!sightings.is_dead(2, LEASE));
        }
    }

    #[test]
    fn a_database_that_stalls_kills_nobody() {
        let (mut sightings, now) = (Sightings::default(), Instant::now());
        sightings.look(&[daemon(1_000)], now);
        let looks = looks_until_dead(&mut sightings, now + Duration::from_secs(60), daemon(1_000));
        assert_eq!(looks, 13, "the minute counts as two looks, and look after look finds it silent");
    }

    #[test]
    fn an_ended_process_is_dead_before_its_lease() {
        let looks = looks_until_dead(&mut Sightings::default(), Instant::now(), without_session(1_000));
        assert_eq!(looks, 2);
    }

    #[test]
    fn after_a_loss_the_others_get_time() {
        let mut sightings = Sightings::default();
        let before = Instant::now();
        sightings.look(&[daemon(1_000)], before);
        sightings.lose_sight();
        sightings.look(&[without_session(1_000)], before);
        let back = Instant::now() + Duration::from_secs(60);
        assert_eq!(looks_until_dead(&mut sightings, back, without_session(1_000)), 3);
        sightings.lose_sight();
        let back = back + Duration::from_secs(600);
        assert_eq!(looks_until_dead(&mut sightings, back, without_session(1_000)), 3, "a second loss, too");
    }
}
