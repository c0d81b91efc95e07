//! Whose turn it is: bots are served one after the other, again and again.

use std::collections::VecDeque;

use crate::identity::BotId;

/// Bots in line. Those that may not go yet stand aside, in order.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    line: VecDeque<BotId>,
    aside: VecDeque<BotId>,
}

impl RoundRobin {
    pub(super) fn line_up(&mut self, bot: BotId) {
        self.line.push_back(bot);
    }

    /// Whose turn it is; those that stood aside come first, if they may go now.
    pub(super) fn next(&mut self, aside_may_go: bool) -> Option<BotId> {
        let aside = if aside_may_go { self.aside.pop_front() } else { None };
        aside.or_else(|| self.line.pop_front())
    }

    pub(super) fn has_next(&self, aside_may_go: bool) -> bool {
        !self.line.is_empty() || aside_may_go && !self.aside.is_empty()
    }

    pub(super) fn step_aside(&mut self, bot: BotId) {
        self.aside.push_back(bot);
    }

    pub(super) fn has_aside(&self) -> bool {
        !self.aside.is_empty()
    }

    /// The first that stands aside, if any, is the last in line now.
    pub(super) fn let_one_back(&mut self) -> Option<BotId> {
        let bot = self.aside.pop_front()?;
        self.line.push_back(bot);
        Some(bot)
    }

    /// A bot has no reason to stand aside any more.
    pub(super) fn come_back(&mut self, bot: BotId) {
        if let Some(at) = self.aside.iter().position(|other| *other == bot) {
            self.aside.remove(at);
            self.line.push_back(bot);
        }
    }

    pub(super) fn retain(&mut self, stays: impl Fn(BotId) -> bool) {
        self.line.retain(|bot| stays(*bot));
        self.aside.retain(|bot| stays(*bot));
    }
}
