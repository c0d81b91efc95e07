//! How the bots of one database are shared between its daemons.
//!
//! Bots are divided into [`PARTITIONS`] by their id. A partition belongs to one daemon at a time, which alone
//! works on the events of its bots: so the lanes of a bot are never split between daemons.

use crate::identity::{BotId, DaemonId};

/// Into so many parts the bots are divided; more daemons than that have nothing to do.
pub const PARTITIONS: u32 = u64::BITS;

/// The partition of a bot: the lowest six bits of its id, so that SQL can say the same.
pub const fn partition_of(bot: BotId) -> u32 {
    (bot as u64 % PARTITIONS as u64) as u32
}

/// A set of partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Partitions(u64);

impl Partitions {
    /// None.
    pub const NONE: Self = Self(0);
    /// All.
    pub const ALL: Self = Self(u64::MAX);

    /// The set whose members are the bits of a number.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// A number whose bits are the members.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Only the partition of this bot.
    pub const fn of_bot(bot: BotId) -> Self {
        Self(1 << partition_of(bot))
    }

    /// Those that any of these bots is in.
    pub fn of_bots(bots: impl IntoIterator<Item = BotId>) -> Self {
        bots.into_iter().map(partition_of).collect()
    }

    /// Those that one of `shards` actors of a daemon looks after.
    pub fn of_shard(shard: usize, shards: usize) -> Self {
        (0..PARTITIONS).filter(|partition| *partition as usize % shards.max(1) == shard).collect()
    }

    /// Whether this bot is in one of them.
    pub const fn hold(self, bot: BotId) -> bool {
        self.0 & Self::of_bot(bot).0 != 0
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Each of them, lowest first.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..PARTITIONS).filter(move |partition| self.0 & (1 << partition) != 0)
    }

    fn lowest(self, count: usize) -> Self {
        self.iter().take(count).collect()
    }
}

impl FromIterator<u32> for Partitions {
    fn from_iter<T: IntoIterator<Item = u32>>(partitions: T) -> Self {
        Self(
            partitions
                .into_iter()
                .filter(|partition| *partition < PARTITIONS)
                .fold(0, |bits, one| bits | 1 << one),
        )
    }
}

/// Who works on a database, as one daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// The daemons that want to work, this one among them unless it is ending.
    pub daemons: Vec<DaemonId>,
    /// What this daemon owns.
    pub mine: Partitions,
    /// What nobody owns.
    pub free: Partitions,
    /// Who takes deliveries from the broker.
    pub taker: Option<DaemonId>,
    /// Whether this daemon could: it has a broker, and is connected to it.
    pub can_take: bool,
}

/// What a daemon should do for everybody to have a fair share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Take these, which are free.
    pub claim: Partitions,
    /// Let go of these, which others are short of.
    pub release: Partitions,
    /// What to do about the broker's deliveries.
    pub intake: Intake,
}

/// What a daemon should do about the broker's deliveries. One daemon takes them, so that they are stored in
/// the order of the queue; it keeps doing so for as long as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// Take them.
    Take,
    /// Ask to be the one, because nobody is.
    Claim,
    /// Let somebody else be the one.
    Release,
    /// Somebody else is, or nobody can be.
    Leave,
}

impl Roster {
    /// What `daemon` should do. Each daemon decides for itself, and all come to the same shares.
    pub fn shares(&self, daemon: DaemonId) -> Shares {
        let quota = self.quota(daemon);
        let missing = quota.saturating_sub(self.mine.len());
        let surplus = self.mine.len().saturating_sub(quota);
        Shares {
            claim: self.free.lowest(missing),
            release: self.mine.lowest(surplus),
            intake: self.intake(daemon),
        }
    }

    fn intake(&self, daemon: DaemonId) -> Intake {
        let can_take = self.can_take && self.daemons.contains(&daemon);
        match self.taker {
            Some(taker) if taker == daemon && can_take => Intake::Take,
            Some(taker) if taker == daemon => Intake::Release,
            Some(_) => Intake::Leave,
            None if can_take => Intake::Claim,
            None => Intake::Leave,
        }
    }

    /// The first daemons get one more if it does not come out even.
    fn quota(&self, daemon: DaemonId) -> usize {
        if !self.daemons.contains(&daemon) {
            return 0;
        }
        let rank = self.daemons.iter().filter(|other| **other < daemon).count();
        let (all, count) = (PARTITIONS as usize, self.daemons.len());
        all / count + usize::from(rank < all % count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_bot_is_in_one_partition_whatever_its_id() {
        for bot in [-7, -1, 0, 1, 58, 64, i64::MAX, i64::MIN] {
            assert_eq!(Partitions::of_bot(bot).len(), 1);
            assert_eq!(Partitions::of_bots([bot, bot]), Partitions::of_bot(bot));
            assert!(Partitions::ALL.hold(bot) && !Partitions::NONE.hold(bot));
            assert_eq!(i64::from(partition_of(bot)), bot & 63);
        }
    }

    #[test]
    fn the_shards_of_a_daemon_share_all_partitions() {
        for shards in 1..=64 {
            let all = (0..shards).map(|shard| Partitions::of_shard(shard, shards));
            assert_eq!(all.clone().map(Partitions::len).sum::<usize>(), 64);
            assert_eq!(all.fold(Partitions::NONE, Partitions::or), Partitions::ALL);
        }
    }

    #[test]
    fn a_daemon_that_is_ending_claims_nothing_and_lets_go_of_everything() {
        let roster = Roster {
            daemons: vec![2],
            mine: Partitions::from_bits(7),
            free: Partitions::from_bits(8),
            taker: Some(1),
            can_take: true,
        };
        let (claim, release) = (Partitions::NONE, roster.mine);
        assert_eq!(roster.shares(1), Shares { claim, release, intake: Intake::Release });
    }

    #[test]
    fn deliveries_are_taken_by_one_that_can_for_as_long_as_it_can() {
        let seen = |taker, can_take| {
            let (mine, free) = (Partitions::NONE, Partitions::NONE);
            Roster { daemons: vec![1, 2], mine, free, taker, can_take }.shares(2).intake
        };
        assert_eq!(seen(None, true), Intake::Claim);
        assert_eq!(seen(None, false), Intake::Leave);
        assert_eq!(seen(Some(2), true), Intake::Take);
        assert_eq!(seen(Some(2), false), Intake::Release);
        assert_eq!((seen(Some(1), true), seen(Some(3), true)), (Intake::Leave, Intake::Leave));
    }

    /// Daemons that come and go, each acting on what it sees.
    #[derive(Debug, Clone)]
    enum Change {
        Join,
        Leave(usize),
        Act(usize),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            1 => Just(Change::Join),
            1 => (0usize..8).prop_map(Change::Leave),
            6 => (0usize..8).prop_map(Change::Act),
        ]
    }

    fn act(daemons: &[(DaemonId, Partitions)], index: usize) -> Shares {
        let owned = daemons.iter().fold(Partitions::NONE, |all, (_, mine)| all.or(*mine));
        let roster = Roster {
            daemons: daemons.iter().map(|(daemon, _)| *daemon).collect(),
            mine: daemons[index].1,
            free: Partitions::ALL.without(owned),
            taker: None,
            can_take: false,
        };
        roster.shares(daemons[index].0)
    }

    fn carry_out(daemons: &mut [(DaemonId, Partitions)], index: usize) -> bool {
        let shares = act(daemons, index);
        let mine = daemons[index].1.or(shares.claim).without(shares.release);
        std::mem::replace(&mut daemons[index].1, mine) != mine
    }

    proptest! {
        #[test]
        fn shares_become_fair_and_stay_so(changes in proptest::collection::vec(change(), 0..60)) {
            let mut daemons: Vec<(DaemonId, Partitions)> = vec![(1, Partitions::NONE)];
            let mut next = 2;
            for change in changes {
                match change {
                    Change::Join => { daemons.push((next, Partitions::NONE)); next += 1; }
                    Change::Leave(at) if daemons.len() > 1 => { daemons.remove(at % daemons.len()); }
                    Change::Leave(_) => {}
                    Change::Act(at) => { let at = at % daemons.len(); carry_out(&mut daemons, at); }
                }
            }
            let mut rounds = 0;
            while (0..daemons.len()).map(|at| carry_out(&mut daemons, at)).fold(false, |any, one| any | one) {
                rounds += 1;
                prop_assert!(rounds <= 3, "they pass partitions to and fro");
            }
            let owned: usize = daemons.iter().map(|(_, mine)| mine.len()).sum();
            prop_assert_eq!(owned, 64);
            let counts: Vec<usize> = daemons.iter().map(|(_, mine)| mine.len()).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }
    }
}
