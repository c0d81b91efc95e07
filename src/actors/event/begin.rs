//! Beginning an event: which of its calls are made in this turn.

use std::{
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
};

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use outhook_core::{
    completion::Turn,
    identity::{EventId, EventKey},
};

use super::EventActor;
use crate::{
    actors::EVENT_LOG,
    fail_points,
    messages::completion::{EventEnded, EventTurn},
    store::{Bot, DeadLetter, InboxEvent, NotCallable, now},
    trial::{Verdict, work::Part},
};

impl EventActor {
    pub(super) fn begin(&mut self, event: EventId, context: &mut Context<Self>) {
        let Some(held) = self.events.get(&event) else { return };
        let bot = held.event.key.bot;
        let lookup = self.progress.begin_lookup();
        let directory = self.tools.directory.clone();
        let (held, tools) = (Arc::clone(&held.event), Rc::clone(&self.tools));
        let find = async move {
            let found = directory.find(bot).await;
            fail_points::hang("lookup").await;
            drop(lookup);
            let is_poison = match &found {
                Ok(bot) if held.is_suspect => {
                    let part = Part::Requests { payload: held.payload.clone() };
                    tools.try_work(held.key.message, bot, part).await == Verdict::Poison
                }
                _ => false,
            };
            (found, is_poison)
        };
        context.spawn(find.into_actor(self).map(move |(found, is_poison), actor, context| {
            actor.open(event, found, is_poison, context);
        }));
    }

    /// Decides which services an event calls now, if any may be called. The set is fixed the first time;
    /// later only those are called that have not finished.
    fn open(
        &mut self,
        event: EventId,
        found: Result<Arc<Bot>, NotCallable>,
        is_poison: bool,
        context: &mut Context<Self>,
    ) {
        if !self.is_working() {
            return;
        }
        let Some(held) = self.events.get(&event).map(|held| Arc::clone(&held.event)) else { return };
        let key = held.key;
        if is_poison || self.blame.is_poison(event) {
            return self.end_without_call(event, Some(poison(key)));
        }
        let blame = self.blame.clone();
        let _turn = blame.turn(event);
        fail_points::turn(key.message);
        let bot = match found {
            Ok(bot) => bot,
            Err(reason) => {
                let letter = DeadLetter::of_event(key, reason.name(), reason.to_string());
                return self.end_without_call(event, Some(letter));
            }
        };
        self.tools.gates.adopt(&bot);
        self.go_on_after_probes(bot.id);
        if let Some(shut) = self.shut(&held, &bot) {
            return self.hold_bot_back(&held, shut, context);
        }
        self.turns += 1;
        let turn = new_turn(&held, &bot, self.shard, self.turns);
        if turn.turn.under_way().is_empty() {
            return self.end_without_call(event, None);
        }
        self.lanes.opened(event, turn.turn.under_way());
        if let Some(held) = self.events.get_mut(&event) {
            held.turn = Some(Arc::new(turn));
        }
        self.start_calls(context);
    }

    fn end_without_call(&self, event: EventId, dead: Option<DeadLetter>) {
        let Some(held) = self.events.get(&event) else { return };
        let key = held.event.key;
        if let Some(letter) = &dead {
            log::warn!(target: EVENT_LOG, "{key}: dead-lettered: {}", letter.detail);
        }
        self.flag.send(EventEnded { event, key, shard: self.shard, dead });
    }
}

fn poison(key: EventKey) -> DeadLetter {
    DeadLetter::of_event(
        key,
        "poison",
        "three times an actor or a process failed while it worked on this event".into(),
    )
}

fn new_turn(event: &InboxEvent, bot: &Bot, shard: usize, number: u64) -> EventTurn {
    let (turn, fixed) = if event.calls.is_empty() {
        let fixed: Vec<_> = bot.services.iter().map(|service| (service.id, service.name.clone())).collect();
        // A single service needs no note of which others were to be called.
        let noted = if fixed.len() > 1 { fixed.clone() } else { Vec::new() };
        (Turn::new(fixed.iter().map(|(service, _)| *service), []), noted)
    } else {
        (next_turn(event), Vec::new())
    };
    EventTurn {
        event: event.id,
        key: event.key,
        conversation: event.conversation,
        shard,
        number,
        turn,
        fixed,
        panicked: AtomicBool::new(false),
    }
}

/// The calls that are due; all that are left if none is, since somebody found the event due.
fn next_turn(event: &InboxEvent) -> Turn {
    let now = now();
    let left = || event.calls.iter().filter(|call| !call.finished);
    let is_due = |due: Option<i64>| due.is_none_or(|due| due <= now);
    if left().any(|call| is_due(call.due)) {
        let due = left().filter(|call| is_due(call.due)).map(|call| call.service);
        Turn::new(due, left().filter_map(|call| call.due).filter(|due| *due > now))
    } else {
        Turn::new(left().map(|call| call.service), [])
    }
}
