//! How many unfinished events a bot may have.
//!
//! Counting a bot's rows for every delivery would cost more than storing them. So a bot is counted once,
//! and is counted again only when a batch holds more for it than it had left: events that finish in
//! the meantime only make the count too high, never too low.

use std::collections::HashMap;

use crate::identity::BotId;

/// What is left to each bot.
#[derive(Debug)]
pub struct Quota {
    limit: usize,
    bots_max: usize,
    left: HashMap<BotId, usize>,
}

impl Quota {
    /// At most `limit` unfinished events a bot; `bots_max` bots are remembered.
    pub fn new(limit: usize, bots_max: usize) -> Self {
        Self { limit, bots_max, left: HashMap::new() }
    }

    /// Which of the bots of a batch, each named once for every event, have to be counted first: those
    /// that are not known to have room for all of theirs. What was known of others is forgotten here
    /// if it has become too much.
    pub fn uncounted(&mut self, batch: impl IntoIterator<Item = BotId>) -> Vec<BotId> {
        if self.left.len() > self.bots_max {
            self.left.clear();
        }
        let mut wanted: HashMap<BotId, usize> = HashMap::new();
        for bot in batch {
            *wanted.entry(bot).or_default() += 1;
        }
        wanted.retain(|bot, events| self.left.get(bot).is_none_or(|left| left < events));
        let mut uncounted: Vec<BotId> = wanted.into_keys().collect();
        uncounted.sort_unstable();
        uncounted
    }

    /// Notes that a bot has this many unfinished events.
    pub fn counted(&mut self, bot: BotId, unfinished: usize) {
        self.left.insert(bot, self.limit.saturating_sub(unfinished));
    }

    /// Takes one; `false` if nothing is left.
    pub fn take(&mut self, bot: BotId) -> bool {
        match self.left.get_mut(&bot) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bot_may_have_as_many_as_the_limit_and_no_more() {
        let mut quota = Quota::new(3, 10);
        assert_eq!(quota.uncounted([7, 7, 8]), [7, 8]);
        quota.counted(7, 1);
        assert_eq!((quota.take(7), quota.take(7), quota.take(7)), (true, true, false));
        assert_eq!(quota.uncounted([7]), [7]);
        quota.counted(7, 2);
        assert!(quota.take(7));
    }

    #[test]
    fn a_bot_is_counted_again_before_a_batch_that_may_not_fit() {
        let mut quota = Quota::new(3, 10);
        quota.counted(7, 0);
        assert!(quota.uncounted([7, 7, 7]).is_empty());
        assert!(quota.take(7));
        assert!(quota.uncounted([7, 7]).is_empty());
        assert_eq!(quota.uncounted([7, 7, 7]), [7]);
    }

    #[test]
    fn only_so_many_bots_are_remembered_beside_those_of_a_batch() {
        let mut quota = Quota::new(3, 2);
        for batch in 0..50 {
            let bots = [batch * 2, batch * 2 + 1];
            for bot in quota.uncounted(bots) {
                quota.counted(bot, 0);
            }
            assert!(bots.iter().all(|bot| quota.take(*bot)));
            assert!(quota.left.len() <= 4);
        }
    }
}
