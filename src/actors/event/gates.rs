//! Calls that wait in memory, without a permit: for the end of a probe, or for their bot's pace. Nothing polls: the end
//! of a call, or one timer, lets them go on.

use std::collections::HashMap;

use actix::Context;
use outhook_core::identity::{BotId, EventId, Millis, ServiceId};

use super::EventActor;
use crate::{
    actors::{due_timer::DueTimer, gates::Wait},
    store::now,
};

type Call = (EventId, ServiceId);

/// See the module. Each call is of an event that has begun, so there are no more than `calls_per_bot` events of a bot.
#[derive(Default)]
pub(super) struct HeldBack {
    probed: HashMap<ServiceId, Vec<Call>>,
    paced: HashMap<BotId, Paced>,
    timer: DueTimer,
}

struct Paced {
    due: Millis,
    calls: Vec<Call>,
}

impl EventActor {
    /// A call that was to begin has to wait.
    pub(super) fn hold_back(&mut self, (bot, call): (BotId, Call), wait: Wait, context: &mut Context<Self>) {
        self.lanes.call_ended(bot, None);
        match wait {
            Wait::Probe => self.held_back.probed.entry(call.1).or_default().push(call),
            Wait::Pace(due) => {
                let paced = self.held_back.paced.entry(bot);
                paced.or_insert_with(|| Paced { due, calls: Vec::new() }).calls.push(call);
                self.held_back.timer.arm(due, context, Self::go_on_in_pace);
            }
        }
    }

    /// A call of the service has ended: unless another one is its probe, those that waited ask again.
    pub(super) fn go_on_after_call(&mut self, service: ServiceId) {
        if self.tools.gates.is_probing(service) {
            return;
        }
        if let Some(calls) = self.held_back.probed.remove(&service) {
            self.lanes.ready_again(&calls);
        }
    }

    fn go_on_in_pace(&mut self, context: &mut Context<Self>) {
        self.held_back.timer.fired();
        let now = now();
        let due: Vec<BotId> =
            self.held_back.paced.iter().filter(|(_, paced)| paced.due <= now).map(|(bot, _)| *bot).collect();
        for bot in due {
            if let Some(paced) = self.held_back.paced.remove(&bot) {
                self.lanes.ready_again(&paced.calls);
            }
        }
        if let Some(due) = self.held_back.paced.values().map(|paced| paced.due).min() {
            self.held_back.timer.arm(due, context, Self::go_on_in_pace);
        }
        self.pump(context);
    }
}
