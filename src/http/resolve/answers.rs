//! What a thread remembers of look-ups, bounded in time and in bytes: how many names there are and how many
//! addresses each has is for those to say who own the names.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use hickory_resolver::{
    lookup_ip::LookupIp,
    net::{DnsError, NetError},
    proto::rr::Name,
};
use moka::{policy::EvictionPolicy, sync::Cache};

use super::{LookupError, fault};

/// How long an answer is remembered at most, whatever it says itself.
const KEPT_MAX: Duration = Duration::from_secs(3600);
/// The same for the answer that there is nothing.
const KEPT_NOTHING_MAX: Duration = Duration::from_secs(10);
/// When a name with addresses of one kind is asked for again: those of the other may just not have been
/// found.
const HALF_FRESH_MAX: Duration = Duration::from_secs(10);
/// What a name holds beside its letters and addresses, in round figures.
const NAME_BYTES: usize = 512;

/// The addresses of a name, at least one, or why there are none.
pub(super) type Answer = Result<Vec<IpAddr>, LookupError>;

/// The answers that are remembered, each with all its addresses: which of them may be dialled is not for a
/// cache to know. If there is no more room, those that were not asked for the longest are forgotten.
pub(super) struct Answers(Cache<Name, Kept>);

#[derive(Clone)]
struct Kept {
    answer: Answer,
    fresh_until: Instant,
    valid_until: Instant,
}

impl Answers {
    /// Nothing is known, and at most so many bytes ever will be.
    pub(super) fn new(bytes_max: u64) -> Self {
        let cache = Cache::builder().max_capacity(bytes_max).weigher(bytes);
        Self(cache.eviction_policy(EvictionPolicy::lru()).build())
    }

    /// What is known of a name, unless it is to be asked for again.
    pub(super) fn fresh(&self, name: &Name, now: Instant) -> Option<Answer> {
        self.0.get(name).filter(|kept| kept.fresh_until > now).map(|kept| kept.answer)
    }

    /// What is known of a name, if nobody says anything else.
    pub(super) fn valid(&self, name: &Name, now: Instant) -> Option<Answer> {
        self.0.get(name).filter(|kept| kept.valid_until > now).map(|kept| kept.answer)
    }

    /// Remembers an answer that is valid for so long from now on, instead of an earlier one.
    pub(super) fn put(&self, name: Name, answer: &Answer, valid: Duration, now: Instant) {
        let valid = valid.min(if answer.is_ok() { KEPT_MAX } else { KEPT_NOTHING_MAX });
        if valid == Duration::ZERO {
            return self.0.invalidate(&name);
        }
        let fresh = if has_both_kinds(answer) { valid } else { valid.min(HALF_FRESH_MAX) };
        let kept = Kept { answer: answer.clone(), fresh_until: now + fresh, valid_until: now + valid };
        self.0.insert(name, kept);
        // At once, or else there would be more than there may be until the cache finds the time.
        self.0.run_pending_tasks();
    }
}

fn has_both_kinds(answer: &Answer) -> bool {
    answer.as_ref().is_ok_and(|found| found.iter().any(IpAddr::is_ipv4) && found.iter().any(IpAddr::is_ipv6))
}

/// What the name servers have said, and for how long that is valid.
pub(super) fn read(found: Result<LookupIp, NetError>, now: Instant) -> (Answer, Duration) {
    match found {
        Ok(found) => {
            let addresses: Vec<IpAddr> = found.iter().collect();
            let answer = if addresses.is_empty() { Err(LookupError::NoAddress) } else { Ok(addresses) };
            (answer, found.valid_until().saturating_duration_since(now))
        }
        Err(error) => {
            let valid = nothing_is_valid_for(&error);
            (Err(fault(error)), valid)
        }
    }
}

/// Only that there is nothing is an answer; that nobody answered is not remembered.
fn nothing_is_valid_for(error: &NetError) -> Duration {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(nothing)) => {
            Duration::from_secs(nothing.negative_ttl.unwrap_or(0).into())
        }
        _ => Duration::ZERO,
    }
}

fn bytes(name: &Name, kept: &Kept) -> u32 {
    let addresses = kept.answer.as_ref().map_or(0, Vec::len);
    u32::try_from(NAME_BYTES + name.len() + addresses * size_of::<IpAddr>()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const VALID: Duration = Duration::from_secs(60);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    fn addresses(count: u32) -> Answer {
        Ok((0..count).map(|number| Ipv4Addr::from_bits(number).into()).collect())
    }

    /// What a name of one letter with so many addresses holds.
    fn bytes_of(count: u32) -> u64 {
        let now = Instant::now();
        let kept = Kept { answer: addresses(count), fresh_until: now, valid_until: now };
        bytes(&name("a"), &kept).into()
    }

    #[test]
    fn an_answer_is_kept_for_as_long_as_it_is_valid_but_not_for_longer_than_it_may_be() {
        let nothing: Answer = Err(LookupError::NoSuchName);
        for (answer, valid, kept) in [
            (addresses(1), VALID, VALID),
            (addresses(1), KEPT_MAX * 2, KEPT_MAX),
            (nothing.clone(), VALID / 12, VALID / 12),
            (nothing, VALID, KEPT_NOTHING_MAX),
        ] {
            let (answers, now) = (Answers::new(10_000), Instant::now());
            answers.put(name("a"), &answer, valid, now);
            assert_eq!(answers.valid(&name("A"), now + kept - MILLISECOND), Some(answer), "{valid:?}");
            assert_eq!(answers.valid(&name("a"), now + kept), None, "{valid:?}");
        }
    }

    #[test]
    fn a_name_with_addresses_of_one_kind_is_soon_asked_for_again() {
        let (four, six) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]));
        for (found, fresh) in
            [(vec![four, six], VALID), (vec![four, four], HALF_FRESH_MAX), (vec![six], HALF_FRESH_MAX)]
        {
            let (answers, now, answer) = (Answers::new(10_000), Instant::now(), Ok(found));
            answers.put(name("a"), &answer, VALID, now);
            assert_eq!(answers.fresh(&name("a"), now + fresh - MILLISECOND), Some(answer.clone()));
            assert_eq!(answers.fresh(&name("a"), now + fresh), None, "{answer:?}");
        }
    }

    #[test]
    fn what_is_valid_for_no_time_is_not_kept() {
        let (answers, now) = (Answers::new(10_000), Instant::now());
        answers.put(name("a"), &addresses(1), VALID, now);
        answers.put(name("a"), &addresses(2), Duration::ZERO, now);
        assert_eq!(answers.valid(&name("a"), now), None, "neither this nor what was known before");
    }

    #[test]
    fn a_name_is_kept_with_as_many_addresses_as_there_is_room_for_and_no_more() {
        let (answers, now) = (Answers::new(bytes_of(4000)), Instant::now());
        answers.put(name("a"), &addresses(4000), VALID, now);
        assert_eq!(answers.valid(&name("a"), now), Some(addresses(4000)));
        let answers = Answers::new(bytes_of(4000));
        answers.put(name("a"), &addresses(4001), VALID, now);
        assert_eq!(answers.valid(&name("a"), now), None);
    }

    #[test]
    fn names_that_were_not_asked_for_make_room_for_others() {
        let (answers, now) = (Answers::new(bytes_of(1) * 2), Instant::now());
        for known in ["a", "b"] {
            answers.put(name(known), &addresses(1), VALID, now);
        }
        assert_eq!(["a", "b"].map(|known| answers.valid(&name(known), now).is_some()), [true, true]);
        assert!(answers.valid(&name("a"), now).is_some());
        answers.put(name("c"), &addresses(1), VALID, now);
        let kept = ["a", "b", "c"].map(|known| answers.valid(&name(known), now).is_some());
        assert_eq!(kept, [true, false, true]);
    }

    #[test]
    fn however_many_names_there_are_they_hold_no_more_than_they_may() {
        let bytes_max = bytes_of(1000) * 3;
        let (answers, now) = (Answers::new(bytes_max), Instant::now());
        for number in 0..200 {
            answers.put(name(&format!("bot{number}.example")), &addresses(number * 5), VALID, now);
            assert!(answers.0.weighted_size() <= bytes_max, "{number}");
        }
        assert!(answers.0.weighted_size() > bytes_max / 2, "{}", answers.0.weighted_size());
    }
}
