//! Posting a reply, and what comes of it.

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use outhook_core::{identity::Millis, retry::delay};

use super::ReplyActor;
use crate::{
    actors::EVENT_LOG,
    fail_points::{self, Step},
    store::{Outgoing, PostResult, now},
    zulip::Posted,
};

impl ReplyActor {
    pub(super) fn post(&mut self, reply: Outgoing, context: &mut Context<Self>) {
        if let Some(until) = self.waiting_bots.get(&reply.bot_id) {
            self.posted.push((reply, PostResult::PutBack { due: *until }));
            return;
        }
        self.in_flight.push(reply.bot_id);
        let links = self.links.clone();
        let post = async move {
            links.tenure.held().await;
            fail_points::before(Step::PostReply);
            let posted = links.outlet.post(&links, &reply).await;
            fail_points::after(Step::PostReply);
            (reply, posted)
        };
        context.spawn(post.into_actor(self).map(|(reply, posted), actor, context| {
            if let Some(at) = actor.in_flight.iter().position(|bot| *bot == reply.bot_id) {
                actor.in_flight.swap_remove(at);
            }
            let result = actor.conclude(&reply, posted);
            actor.posted.push((reply, result));
            actor.next_step(context);
        }));
    }

    fn conclude(&mut self, reply: &Outgoing, posted: Posted) -> PostResult {
        let (detail, not_before) = match posted {
            Posted::Done => {
                count("posted");
                return PostResult::Posted;
            }
            Posted::Refused { detail } | Posted::Unauthorized { detail } => return give_up(reply, detail),
            Posted::Dropped => {
                count("dropped");
                return PostResult::GivenUp("standard error did not take it".into());
            }
            Posted::NotDone { detail, not_before } => (detail, not_before),
            Posted::Unknown { detail } => {
                count("outcome_unknown");
                (detail, None)
            }
        };
        let settings = self.links.live.get();
        let attempt = reply.attempts.unsigned_abs().saturating_add(1);
        let wait = Millis::try_from(delay(&settings.retry, attempt).as_millis()).unwrap_or(Millis::MAX);
        let due = now().saturating_add(wait).max(not_before.unwrap_or(Millis::MIN));
        let patience = Millis::try_from(settings.reply.give_up_after.as_millis()).unwrap_or(Millis::MAX);
        if due > reply.created_at.saturating_add(patience) {
            return give_up(reply, format!("{detail}; reply.give_up_after has passed"));
        }
        count("retried");
        log::info!(target: EVENT_LOG, "a reply of bot {} is tried again: {detail}", reply.bot_id);
        // A post beside this one may have been told to wait longer.
        let until = self.waiting_bots.entry(reply.bot_id).or_insert(due);
        *until = due.max(*until);
        PostResult::Again { due, detail }
    }
}

fn give_up(reply: &Outgoing, detail: String) -> PostResult {
    count("given_up");
    log::warn!(target: EVENT_LOG, "a reply of bot {} is given up: {detail}", reply.bot_id);
    PostResult::GivenUp(detail)
}

fn count(outcome: &'static str) {
    metrics::counter!("outhook_replies_total", "outcome" => outcome).increment(1);
}
