//! What is written down, logged and told of a call.

use std::fmt::Display;

use outhook_core::{
    answer::Reply,
    identity::Millis,
    message_text::within_limit,
    outcome::{Failure, Fault, Verdict},
    retry::Next,
};

use super::{Assignment, Tried};
use crate::{
    actors::EVENT_LOG,
    config::reply::ReplyTo,
    store::{CallOutcome, CallRecord, NewReply, Service, now},
    zulip::Destination,
};

pub(super) const WAITS_TOO_LONG: &str = "it could be called again only when retry.give_up_after has passed";

impl Assignment {
    pub(super) fn record(&self, service_name: &str, outcome: CallOutcome) -> CallRecord {
        CallRecord {
            event: self.turn.event,
            service: self.service,
            service_name: service_name.to_owned(),
            outcome,
            attempts: self.attempt_number(),
            fault: None,
            status: None,
            detail: None,
            excerpt: None,
            duration_ms: 0,
            ended_at: now(),
            reply: None,
            gate: None,
        }
    }

    pub(super) fn panicked(&self) -> CallRecord {
        CallRecord {
            fault: Some(Fault::Panicked.name()),
            detail: Some("the handler panicked; the log names the place".into()),
            ..self.record("", CallOutcome::Failed)
        }
    }

    pub(super) fn conclude(&self, service: &Service, tried: Tried) -> CallRecord {
        let Tried { verdict, excerpt, reply } = tried;
        let key = self.turn.key;
        match verdict {
            Verdict::Success { .. } => {
                count("succeeded");
                log::info!(target: EVENT_LOG, "{key}: {} succeeded (attempt {})", shown(service), self.attempt_number());
                let reply = reply.and_then(|reply| self.outgoing(reply));
                CallRecord { reply, ..self.record(&service.name, CallOutcome::Succeeded) }
            }
            Verdict::Retry { failure, not_before } => match self.next(not_before) {
                Next::At(due) => {
                    count("retried");
                    log::info!(target: EVENT_LOG, "{key}: {} failed and is tried again: {}", shown(service), failure.detail);
                    let record = self.record(&service.name, CallOutcome::Waiting { due });
                    with_failure(record, failure, excerpt)
                }
                Next::Exhausted => {
                    self.fail(service, failure, excerpt, self.tools.live.get().retry.exhausted())
                }
                Next::TooLate => self.fail(service, failure, excerpt, WAITS_TOO_LONG),
            },
            Verdict::Final(failure) if failure.is_gone() => {
                self.fail(service, failure, excerpt, "the service is paused until it is resumed")
            }
            Verdict::Final(failure) => self.fail(service, failure, excerpt, ""),
        }
    }

    /// Its gate may be closed for longer than the call would wait by itself.
    fn next(&self, not_before: Option<Millis>) -> Next {
        let not_before = not_before.max(self.pass.closed_until());
        self.tools.live.get().retry.next(self.attempt_number(), self.event.taken_at, now(), not_before)
    }

    /// A failure for good of the attempt that was just made.
    fn fail(
        &self,
        service: &Service,
        mut failure: Failure,
        excerpt: Option<Vec<u8>>,
        why_now: &str,
    ) -> CallRecord {
        count("failed");
        let attempts = self.attempt_number();
        let reply = self.told(&failure, attempts);
        if !why_now.is_empty() {
            failure.detail = format!("{}; {why_now}", failure.detail);
        }
        self.warn(service, &failure, attempts);
        CallRecord {
            reply,
            ..with_failure(self.record(&service.name, CallOutcome::Failed), failure, excerpt)
        }
    }

    /// The line of the bot that tells of it in the conversation.
    pub(super) fn told(&self, failure: &Failure, attempts: u32) -> Option<NewReply> {
        self.outgoing(Reply { content: told_line(failure, attempts), widget: None })
    }

    pub(super) fn warn(&self, service: &Service, failure: &Failure, attempts: u32) {
        let key = self.turn.key;
        log::warn!(
            target: EVENT_LOG,
            "{key}: {} failed for good after {attempts} attempt(s): {}",
            shown(service), failure.detail
        );
    }

    fn outgoing(&self, reply: Reply) -> Option<NewReply> {
        (self.tools.reply_to != ReplyTo::None).then(|| NewReply {
            bot: self.turn.key.bot,
            conversation: self.turn.conversation,
            destination: Destination::of_event(&self.event.payload).to_json(),
            content: within_limit(reply.content),
            widget: reply.widget,
        })
    }
}

/// A service's name, which must not make lines of its own in the log.
pub(super) fn shown(service: &Service) -> impl Display {
    service.name.escape_debug()
}

/// What the bot says when a call has failed for good.
fn told_line(failure: &Failure, attempts: u32) -> String {
    let tries = if attempts > 1 && failure.fault.may_count_attempts() {
        format!(" ({attempts} attempts)")
    } else {
        String::new()
    };
    format!("I could not pass this message on: {}{tries}.", failure.told())
}

pub(super) fn with_failure(record: CallRecord, failure: Failure, excerpt: Option<Vec<u8>>) -> CallRecord {
    CallRecord {
        fault: Some(failure.fault.name()),
        status: failure.status,
        detail: Some(failure.detail),
        excerpt,
        ..record
    }
}

pub(super) fn count(outcome: &'static str) {
    metrics::counter!("outhook_calls_total", "outcome" => outcome).increment(1);
}
