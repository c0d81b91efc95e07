//! How many calls of a bot may be made in a second (`actors.rate_per_bot`).
//!
//! The generic cell rate algorithm: each call reserves its share of a second, and the reservations of a bot
//! run ahead of the present by less than a second. So one second's worth may come at once, and what follows
//! is spread evenly.

use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// So many calls a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    share: Duration,
}

/// How far a bot has reserved; moments are counted from any one that stays the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    reserved: Duration,
}

impl RateLimit {
    /// A limit of so many calls a second; 0 is none.
    pub fn per_second(calls: u32) -> Option<Self> {
        Some(Self { share: SECOND.checked_div(calls)? })
    }
}

impl Pace {
    /// Reserves a call at `now`.
    ///
    /// # Errors
    /// The moment from which on one may be made. Nothing is reserved then.
    pub fn reserve(&mut self, now: Duration, limit: RateLimit) -> Result<(), Duration> {
        let reserved = self.reserved.max(now) + limit.share;
        let earliest = reserved.saturating_sub(SECOND);
        if earliest > now {
            return Err(earliest);
        }
        self.reserved = reserved;
        Ok(())
    }

    /// Whether it is as good as a new one.
    pub fn is_idle(&self, now: Duration) -> bool {
        self.reserved <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(calls: u32) -> RateLimit {
        RateLimit::per_second(calls).unwrap_or(RateLimit { share: Duration::ZERO })
    }

    #[test]
    fn no_calls_a_second_is_no_limit() {
        assert_eq!(RateLimit::per_second(0), None);
    }

    #[test]
    fn a_seconds_worth_may_come_at_once_and_the_rest_follows_evenly() {
        let (mut pace, mut made) = (Pace::default(), Vec::new());
        let mut now = Duration::from_secs(60);
        while made.len() < 8 {
            match pace.reserve(now, limit(4)) {
                Ok(()) => made.push((now - Duration::from_secs(60)).as_millis()),
                Err(moment) => now = moment,
            }
        }
        assert_eq!(made, [0, 0, 0, 0, 250, 500, 750, 1000]);
        assert!(!pace.is_idle(now) && pace.is_idle(now + SECOND));
    }

    proptest! {
        /// However the calls come, any second has at most twice its number, and a call that waits as it is
        /// told is made.
        #[test]
        fn no_time_has_more_calls_than_its_share_and_one_second_more(
            calls in 1u32..50,
            waits in proptest::collection::vec(0u64..400, 1..200),
        ) {
            let (limit, mut pace) = (limit(calls), Pace::default());
            let (mut now, mut made) = (Duration::ZERO, Vec::new());
            for wait in waits {
                now += Duration::from_millis(wait);
                if let Err(moment) = pace.reserve(now, limit) {
                    prop_assert!(moment > now && moment <= now + limit.share);
                    now = moment;
                    prop_assert_eq!(pace.reserve(now, limit), Ok(()));
                }
                made.push(now);
            }
            for (first, from) in made.iter().enumerate() {
                for (last, to) in made.iter().enumerate().skip(first) {
                    let share = (*to - *from).as_secs_f64() * f64::from(calls) + f64::from(calls);
                    prop_assert!((last - first + 1) as f64 <= share + 0.001);
                }
            }
        }
    }
}
