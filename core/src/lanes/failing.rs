//! Bots whose last call failed. That is remembered of them also while they hold nothing, as when all their
//! events wait for a retry.

use std::collections::{BTreeMap, HashMap};

use super::{Lanes, UnderWay, bot::Bot};
use crate::identity::BotId;

/// Of how many bots that hold nothing it is remembered.
const FAILED_BOTS_MAX: usize = 10_000;

/// See the module. The one that has held nothing for longest is forgotten first.
#[derive(Debug, Default)]
pub(super) struct Failed {
    order: BTreeMap<u64, BotId>,
    numbers: HashMap<BotId, u64>,
    last: u64,
}

impl Failed {
    fn remember(&mut self, bot: BotId) {
        self.last += 1;
        if let Some(before) = self.numbers.insert(bot, self.last) {
            self.order.remove(&before);
        }
        self.order.insert(self.last, bot);
        if self.order.len() > FAILED_BOTS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.numbers.remove(&oldest);
        }
    }

    /// Whether it was one of them; it is none any more.
    fn take(&mut self, bot: BotId) -> bool {
        let number = self.numbers.remove(&bot);
        number.is_some_and(|number| self.order.remove(&number).is_some())
    }
}

impl Lanes {
    /// A bot, which may hold nothing yet.
    pub(super) fn known(&mut self, id: BotId) -> &mut Bot {
        let failed = &mut self.failed;
        self.bots.entry(id).or_insert_with(|| Bot { is_failing: failed.take(id), ..Bot::default() })
    }

    pub(super) fn forget_if_idle(&mut self, id: BotId) {
        if self.bots.get(&id).is_some_and(Bot::is_idle)
            && self.bots.remove(&id).is_some_and(|bot| bot.is_failing)
        {
            self.failed.remember(id);
        }
    }

    /// How many more events of such bots may begin.
    pub(super) fn failing_spare(&self) -> usize {
        self.limits.failing_total.saturating_sub(self.failing.events)
    }

    pub(super) fn failing_may_call(&self) -> bool {
        self.failing.calls < self.limits.failing_total
    }

    pub(super) fn judge(&mut self, id: BotId, is_failing: bool) {
        let Some(bot) = self.bots.get_mut(&id) else { return };
        if std::mem::replace(&mut bot.is_failing, is_failing) == is_failing {
            return;
        }
        let (events, calls) = (bot.open, bot.calls);
        if is_failing {
            self.failing =
                UnderWay { events: self.failing.events + events, calls: self.failing.calls + calls };
            return;
        }
        self.failing = UnderWay { events: self.failing.events - events, calls: self.failing.calls - calls };
        for turns in [&mut self.event_turns, &mut self.call_turns, &mut self.starving] {
            turns.come_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_are_remembered_until_they_are_asked_for() {
        let mut failed = Failed::default();
        let last = i64::try_from(FAILED_BOTS_MAX).unwrap_or(i64::MAX);
        (0..=last).for_each(|bot| failed.remember(bot));
        failed.remember(1);
        assert_eq!((failed.order.len(), failed.numbers.len()), (FAILED_BOTS_MAX, FAILED_BOTS_MAX));
        assert!(!failed.take(0), "the oldest is forgotten");
        failed.remember(last + 1);
        assert!(failed.take(1) && !failed.take(1) && !failed.take(2) && failed.take(3));
        assert_eq!(failed.order.len(), failed.numbers.len());
    }
}
