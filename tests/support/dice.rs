//! Chance that can be repeated: numbers drawn from a seed.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::ops::Range;
use std::time::Duration;

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    /// Dice that fall as their seed has it.
    pub fn of_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice that always fall alike for the same thing.
    pub fn of(thing: &impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        thing.hash(&mut hasher);
        Self(hasher.finish())
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 on, below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(end).unwrap()).unwrap()
    }

    /// A time of so many milliseconds.
    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.roll() % (range.end - range.start))
    }
}
