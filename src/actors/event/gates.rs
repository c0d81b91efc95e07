//! Calls that wait in memory, without a permit, for the end of a probe or for their bot's pace; and bots that
//! wait as a whole, with nothing in memory, until a gate of theirs opens. Nothing polls: the end of a call, a
//! resume, or a timer, lets them go on.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use outhook_core::{
    identity::{BotId, EventId, Millis, ServiceId},
    retry::Next,
};

use super::EventActor;
use crate::{
    actors::{due_timer::DueTimer, gates::Wait},
    store::{Bot, InboxEvent, StoredGate},
};

/// How soon after a bot, or a call of it that waits for a probe, is held back, or an event of it has come
/// then, it is read anew whether somebody has resumed a service.
const LOOK_DELAY: Duration = Duration::from_millis(200);

/// Bots are reopened together, so often at most: there may be many, and all are looked at. In milliseconds.
const REOPEN_SLOT_MS: Millis = 50;

type Call = (EventId, ServiceId);

/// See the module. Each call is of an event that has begun, so there are no more than `calls_per_bot` events
/// of a bot.
#[derive(Default)]
pub(super) struct HeldBack {
    probed: HashMap<BotId, Vec<Call>>,
    paced: HashMap<BotId, Paced>,
    pace_timer: DueTimer<Instant>,
    shut: HashMap<BotId, Shut>,
    shut_timer: DueTimer,
    /// Bots that will be looked at.
    looks: HashSet<BotId>,
}

struct Paced {
    due: Instant,
    calls: Vec<Call>,
}

/// All services of a bot are closed.
pub(super) struct Shut {
    /// When the first of them opens.
    until: Millis,
    services: Vec<ServiceId>,
}

impl HeldBack {
    /// Whether a gate of this bot keeps something waiting here.
    fn awaits_gate(&self, bot: BotId) -> bool {
        self.shut.contains_key(&bot) || self.probed.contains_key(&bot)
    }
}

impl EventActor {
    /// A call that was to begin has to wait.
    pub(super) fn hold_back(&mut self, (bot, call): (BotId, Call), wait: Wait, context: &mut Context<Self>) {
        self.lanes.call_ended(bot, None);
        match wait {
            Wait::Probe => {
                self.held_back.probed.entry(bot).or_default().push(call);
                self.look_at_bot_soon(bot, context);
            }
            Wait::Pace(due) => {
                let paced = self.held_back.paced.entry(bot);
                paced.or_insert_with(|| Paced { due, calls: Vec::new() }).calls.push(call);
                self.held_back.pace_timer.arm(due, context, Self::go_on_in_pace);
            }
        }
    }

    /// Whether an event that is to begin has to wait with its whole bot. It need not if it ends without a
    /// call: what it still has to call is paused or gone, or opens too late.
    pub(super) fn shut(&self, event: &InboxEvent, bot: &Bot) -> Option<Shut> {
        let mut gates = bot.services.iter().filter_map(|service| service.gate.as_ref());
        // What has begun of a bot that is being given up goes on, so that its events are parked or done.
        if !self.tenure.owns(bot.id) || gates.any(StoredGate::is_paused) {
            return None;
        }
        let services: Vec<ServiceId> = bot.services.iter().map(|service| service.id).collect();
        let until = self.tools.gates.all_closed_until(&services)?;
        let mut own = services.clone();
        own.retain(|service| event.has_yet_to_call(*service));
        let own_until = self.tools.gates.all_closed_until(&own)?;
        let can_wait = matches!(self.tools.live.get().retry.put_off(event.taken_at, own_until), Next::At(_));
        can_wait.then_some(Shut { until, services })
    }

    /// The bot of an event that was to begin waits as rows until a gate opens, but for what can't wait so
    /// long.
    pub(super) fn hold_bot_back(&mut self, event: &InboxEvent, shut: Shut, context: &mut Context<Self>) {
        let bot = event.key.bot;
        log::debug!("bot {bot} is held back: all its services are closed");
        let taken_before = self.tools.live.get().retry.looked_for_before(shut.until);
        for dropped in self.lanes.shut(event.id, taken_before) {
            self.events.remove(&dropped);
        }
        self.events.remove(&event.id);
        let until = shut.until;
        self.held_back.shut.insert(bot, shut);
        self.arm_shut_timer(until, context);
        // The directory may be older than a resume, whose event is this one.
        self.look_at_bot_soon(bot, context);
        self.pump(context);
    }

    /// A bot that is held back goes on, unless its gates are as they were when that began.
    pub(super) fn reopen_if_open(&mut self, bot: BotId) {
        let Some(shut) = self.held_back.shut.get(&bot) else { return };
        if self.tools.gates.all_closed_until(&shut.services) != Some(shut.until) {
            self.held_back.shut.remove(&bot);
            self.lanes.reopen(bot);
        }
    }

    /// An event of a bot has come, or something of it is held back. A resume makes an event come.
    pub(super) fn look_at_bot_soon(&mut self, id: BotId, context: &mut Context<Self>) {
        if self.held_back.awaits_gate(id) && self.held_back.looks.insert(id) {
            context.run_later(LOOK_DELAY, move |actor, context| actor.look_at_bot(id, context));
        }
    }

    fn look_at_bot(&mut self, id: BotId, context: &mut Context<Self>) {
        self.held_back.looks.remove(&id);
        if !self.held_back.awaits_gate(id) {
            return;
        }
        let directory = self.tools.directory.clone();
        let find = async move { directory.find_anew(id).await };
        context.spawn(find.into_actor(self).map(move |found, actor, context| {
            let Ok(bot) = found else { return };
            actor.tools.gates.adopt(&bot);
            actor.reopen_if_open(id);
            actor.go_on_after_probes(id);
            actor.pump(context);
        }));
    }

    /// Calls of a bot ask again that waited for probes which are over: they have ended, or their services
    /// were resumed.
    pub(super) fn go_on_after_probes(&mut self, bot: BotId) {
        let Some(calls) = self.held_back.probed.get_mut(&bot) else { return };
        let gates = &self.tools.gates;
        let ready: Vec<Call> = calls.extract_if(.., |(_, service)| !gates.is_probing(*service)).collect();
        if calls.is_empty() {
            self.held_back.probed.remove(&bot);
        }
        self.lanes.ready_again(&ready);
    }

    fn go_on_in_pace(&mut self, context: &mut Context<Self>) {
        self.held_back.pace_timer.fired();
        let now = Instant::now();
        for (_, paced) in self.held_back.paced.extract_if(|_, paced| paced.due <= now) {
            self.lanes.ready_again(&paced.calls);
        }
        if let Some(due) = self.held_back.paced.values().map(|paced| paced.due).min() {
            self.held_back.pace_timer.arm(due, context, Self::go_on_in_pace);
        }
        self.pump(context);
    }

    /// All are looked at, also those whose time has not come: a clock that was put back would keep them for
    /// longer.
    fn reopen_bots(&mut self, context: &mut Context<Self>) {
        self.held_back.shut_timer.fired();
        let shut: Vec<BotId> = self.held_back.shut.keys().copied().collect();
        shut.into_iter().for_each(|bot| self.reopen_if_open(bot));
        if let Some(until) = self.held_back.shut.values().map(|shut| shut.until).min() {
            self.arm_shut_timer(until, context);
        }
        self.pump(context);
    }

    fn arm_shut_timer(&mut self, until: Millis, context: &mut Context<Self>) {
        self.held_back.shut_timer.arm_in_slots(until, REOPEN_SLOT_MS, context, Self::reopen_bots);
    }
}
