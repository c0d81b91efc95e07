//! Rows that may be worked on: reading them, claiming them, and handing them to the EventActors of their
//! bots.

use std::{collections::HashSet, time::Instant};

use actix::Context;
use outhook_core::{
    identity::{BotId, EventId},
    partition::{Partitions, partition_of},
};

use super::{FoundDue, QueueActor, jobs::Kind};
use crate::{
    messages::{
        partitions::LetGo,
        process_event::ProcessEvents,
        rows::{BotsRead, LanesRead, ShardTakenOver, WantRows},
    },
    store::{BotPage, DueEvents, InboxEvent, LanePage, Taken, now},
};

/// The most due rows that are taken at a time. When there are more, bots take turns.
const DUE_ROWS_MAX: usize = 500;

impl QueueActor {
    pub(super) fn free_shard(&mut self, context: &mut Context<Self>) {
        let Some(shard) = self.shards_to_free.first().copied() else { return };
        let store = self.store.clone();
        let partitions = self.tenure.partitions().and(Partitions::of_shard(shard, self.events.len()));
        let job = async move { store.free_events(partitions).await };
        self.reading().begin_stubbornly(context, Self::reading, job, move |actor, freed, context| {
            let Some(rows) = freed else { return actor.go_on_after(Kind::Free, context) };
            if rows > 0 {
                log::info!("{rows} unfinished events of shard {shard} are handed out again");
            }
            actor.shards_to_free.remove(&shard);
            actor.is_due = true;
            actor.events[shard].send(ShardTakenOver);
            actor.done(Kind::Free, context);
        });
    }

    pub(super) fn read_rows(&mut self, context: &mut Context<Self>) {
        let Some(WantRows { shard, wants: mut waiting }) = self.wants.pop_front() else { return };
        let wants = waiting.take_page();
        if !waiting.is_empty() {
            self.wants.push_back(WantRows { shard, wants: waiting });
        }
        let store = self.store.clone();
        let wanted = wants.clone();
        let job = async move {
            let lanes = store.rows_of_lanes(wanted.lanes).await?;
            let bots = store.rows_of_bots(wanted.bots).await?;
            Ok((lanes, bots))
        };
        self.reading().begin_stubbornly(
            context,
            Self::reading,
            job,
            move |actor, read, context| match read {
                Some((lanes, bots)) => {
                    actor.hand_out_pages(shard, lanes, bots);
                    actor.done(Kind::Wants, context);
                }
                None => {
                    // What a predecessor wanted is of no use to its successor.
                    if !actor.shards_to_free.contains(&shard) {
                        actor.wants.push_front(WantRows { shard, wants });
                    }
                    actor.go_on_after(Kind::Wants, context);
                }
            },
        );
    }

    pub(super) fn take_due(&mut self, context: &mut Context<Self>) {
        if self.claiming.is_some() {
            return self.claim(context);
        }
        // Forgotten before looking: what is announced while looking is looked for again.
        self.is_due = false;
        let (store, read_at) = (self.store.clone(), Instant::now());
        let (due_by, after) = (now(), self.due_after);
        let job = async move { store.due_events(due_by, after, DUE_ROWS_MAX).await };
        self.reading().begin_stubbornly(context, Self::reading, job, move |actor, due, context| match due {
            Some(DueEvents { events, next, last }) => {
                actor.due_after = last;
                match next {
                    // There was more than a page of them.
                    Some(next) if next <= due_by => actor.is_due = true,
                    Some(next) => actor.arm_due_timer(next, context),
                    None => {}
                }
                let newcomers = actor.newcomers.clone();
                actor.claiming = Some(FoundDue { events, due_by, read_at, newcomers });
                actor.claim(context);
            }
            None => {
                actor.is_due = true;
                actor.go_on_after(Kind::Due, context);
            }
        });
    }

    /// Claims what was found due, again and again until it is known to be claimed: a claim that was
    /// committed without our hearing of it would leave rows that nobody works on.
    pub(super) fn claim(&mut self, context: &mut Context<Self>) {
        let Some(found) = &self.claiming else { return };
        let (store, due_by) = (self.store.clone(), found.due_by);
        let events = found.events.iter().map(|taken| taken.event.id).collect::<Vec<_>>();
        let job = async move {
            if events.is_empty() { Ok(HashSet::new()) } else { store.claim_events(events, due_by).await }
        };
        self.reading().begin_stubbornly(
            context,
            Self::reading,
            job,
            |actor, claimed, context| match claimed {
                Some(claimed) => {
                    if let Some(found) = actor.claiming.take() {
                        actor.hand_out_due(found, &claimed);
                    }
                    actor.done(Kind::Due, context);
                }
                None => actor.go_on_after(Kind::Due, context),
            },
        );
    }

    /// What was taken before is on its way to the EventActors; from now on nothing more comes.
    pub(super) fn pass_on_leaving(&mut self) {
        let leaving = std::mem::take(&mut self.leaving);
        if leaving.is_empty() {
            return;
        }
        if let Some(found) = &mut self.claiming {
            found.events.retain(|taken| !leaving.hold(taken.event.key.bot));
        }
        for (shard, mailbox) in self.events.iter().enumerate() {
            let partitions = leaving.and(Partitions::of_shard(shard, self.events.len()));
            if !partitions.is_empty() {
                mailbox.send(LetGo { partitions });
            }
        }
    }

    fn hand_out_due(&self, found: FoundDue, claimed: &HashSet<EventId>) {
        let mut due = found.events;
        due.retain(|taken| claimed.contains(&taken.event.id));
        for taken in &mut due {
            taken.neighbours.earlier |= found.newcomers.precede(&taken.event.ticket());
        }
        self.hand_out(due, found.read_at);
    }

    fn hand_out_pages(&self, shard: usize, mut lanes: Vec<LanePage>, mut bots: Vec<BotPage>) {
        for page in &mut lanes {
            page.more |= self.newcomers.cut(&mut page.events, InboxEvent::ticket);
        }
        for page in &mut bots {
            page.more |= self.newcomers.cut(&mut page.events, InboxEvent::ticket);
        }
        if !lanes.is_empty() {
            self.events[shard].send(LanesRead { pages: lanes });
        }
        if !bots.is_empty() {
            self.events[shard].send(BotsRead { pages: bots });
        }
    }

    pub(super) fn hand_out(&self, taken: Vec<Taken>, read_at: Instant) {
        let mut shards: Vec<Vec<Taken>> = self.events.iter().map(|_| Vec::new()).collect();
        for taken in taken {
            let shard = shard_of(taken.event.key.bot, shards.len());
            shards[shard].push(taken);
        }
        for (mailbox, events) in self.events.iter().zip(shards) {
            if !events.is_empty() {
                mailbox.send(ProcessEvents { events, read_at });
            }
        }
    }
}

/// Which EventActor owns a bot.
pub(crate) fn shard_of(bot: BotId, shards: usize) -> usize {
    partition_of(bot) as usize % shards.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bot_has_one_shard_whatever_its_id() {
        for bot in [-7, -1, 0, 1, 58, i64::MAX, i64::MIN] {
            assert!(shard_of(bot, 3) < 3);
            assert_eq!(shard_of(bot, 1), 0);
        }
    }
}
