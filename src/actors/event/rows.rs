//! Rows that come into memory and leave it.

use std::{sync::Arc, time::Duration};

use actix::{AsyncContext, Context};
use outhook_core::{identity::EventId, partition::Partitions};

use super::{EventActor, Held, Phase};
use crate::{
    messages::{partitions::LetGo, rows::WantRows},
    store::InboxEvent,
};

/// How long bots whose last call failed wait to ask for rows, so that they ask together.
const PATIENCE: Duration = Duration::from_millis(100);

impl EventActor {
    pub(super) fn hold(&mut self, event: InboxEvent) {
        let held = Held { event: Arc::new(event), turn: None };
        self.events.insert(held.event.id, held);
    }

    pub(super) fn ask_for_rows(&mut self, context: &mut Context<Self>) {
        let wants = self.lanes.take_wants();
        if !wants.is_empty() {
            self.queue.send(WantRows { shard: self.shard, wants });
        }
        if self.lanes.has_patient() && !std::mem::replace(&mut self.awaits_patient, true) {
            context.run_later(PATIENCE, |actor, context| {
                actor.awaits_patient = false;
                actor.lanes.let_patient_ask();
                actor.pump(context);
            });
        }
    }

    /// Keeps of the rows that were read those that the lanes have taken.
    pub(super) fn hold_taken(&mut self, rows: Vec<InboxEvent>, taken: &[EventId]) {
        for row in rows.into_iter().filter(|row| taken.contains(&row.id)) {
            self.hold(row);
        }
    }

    /// An event that was stored after a later one of its conversation had begun can't come before it any
    /// more.
    pub(super) fn count_if_late(&self, event: &InboxEvent) {
        let ticket = event.ticket();
        let is_new = event.key.replay == 0 && event.calls.is_empty();
        if is_new && (self.lanes.runs_later(&ticket) || self.recent.has_later(&ticket)) {
            metrics::counter!("outhook_events_late_total").increment(1);
        }
    }

    /// Passes on what is leaving and has nothing under way.
    pub(super) fn pass_on_leaving(&mut self) {
        // A new generation speaks for its predecessor's events only when these are settled.
        if self.leaving.is_empty() || matches!(self.phase, Phase::TakingOver(_)) {
            return;
        }
        let bots = self.events.values().map(|held| held.event.key.bot);
        let clear = self.leaving.without(Partitions::of_bots(bots));
        self.leaving = self.leaving.without(clear);
        if !clear.is_empty() {
            self.tools.gates.forget(clear);
            self.replies.send(LetGo { partitions: clear });
        }
    }
}
