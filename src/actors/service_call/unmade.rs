//! Calls that are not made: the service is gone or paused, its gate is closed, or this machine can't open a
//! connection. They spend no attempt.

use std::sync::Arc;

use outhook_core::{
    gate::Reason,
    identity::Millis,
    outcome::{Failure, Fault, Verdict},
    retry::Next,
};

use super::{
    Assignment,
    record::{WAITS_TOO_LONG, count, shown, with_failure},
};
use crate::{
    actors::{EVENT_LOG, gates::Refusal},
    http::NO_FILES_PAUSE,
    store::{Bot, CallOutcome, CallRecord, NotCallable, Service, StoredGate, now},
};

/// How soon the database is asked again whether a service is paused, in milliseconds.
const GONE_DELAY_MS: Millis = 1000;
/// How soon a call that found no file left looks for one again, in milliseconds: as soon as others may.
const NO_FILES_DELAY_MS: Millis = NO_FILES_PAUSE.as_millis() as Millis;

impl Assignment {
    /// The bot that the call is for. Nothing is put off before it is certain that nobody has resumed the
    /// service.
    pub(super) async fn find_bot(&self) -> Result<Arc<Bot>, NotCallable> {
        let (tools, bot) = (&self.tools, self.turn.key.bot);
        if self.pass.refusal().is_none() && !tools.gates.is_gone(self.service) {
            return tools.directory.find(bot).await;
        }
        let bot = tools.directory.find_anew(bot).await?;
        tools.gates.adopt(&bot);
        Ok(bot)
    }

    /// A call that has failed has to wait for its gate too, if that is closed: as those that meet it, not
    /// before it is certain that nobody has resumed the service.
    pub(super) async fn look_for_resume(&self, verdict: &Verdict) {
        if matches!(verdict, Verdict::Retry { .. })
            && self.pass.closed_until().is_some()
            && let Ok(bot) = self.tools.directory.find_anew(self.turn.key.bot).await
        {
            self.tools.gates.adopt(&bot);
        }
    }

    pub(super) fn removed(&self) -> CallRecord {
        CallRecord {
            detail: Some("the service is gone".into()),
            ..self.without_attempt("", CallOutcome::Removed)
        }
    }

    /// What comes of the call if it is not to be made now.
    pub(super) fn unmade(&self, service: &Service) -> Option<CallRecord> {
        let is_paused = service.gate.as_ref().is_some_and(StoredGate::is_paused);
        if is_paused {
            return Some(self.paused(service));
        }
        if self.tools.gates.is_gone(service.id) {
            return Some(self.put_off_while_gone(service));
        }
        let refusal = self.pass.refusal()?;
        Some(match self.pass.closed_until() {
            Some(_) => self.refused(service, refusal),
            None => self.put_off_no_longer(service, refusal.closed.reason),
        })
    }

    /// An operator knows of the pause, and the conversation need not.
    fn paused(&self, service: &Service) -> CallRecord {
        count("paused");
        let detail = "the service is paused until it is resumed".to_owned();
        log::info!(target: EVENT_LOG, "{}: {} is not called: {detail}", self.turn.key, shown(service));
        self.unattempted(service, CallOutcome::Failed, Fault::Paused, detail)
    }

    /// That the endpoint is gone is being written down, or the service was resumed since: the database will
    /// tell.
    fn put_off_while_gone(&self, service: &Service) -> CallRecord {
        count("put_off");
        let detail = "the endpoint has just said that it is gone".to_owned();
        let due = now().saturating_add(GONE_DELAY_MS);
        self.unattempted(service, CallOutcome::Waiting { due }, Fault::Paused, detail)
    }

    /// The gate was opened, or its time has come, since the call came to it: it comes again, at once.
    fn put_off_no_longer(&self, service: &Service, reason: Reason) -> CallRecord {
        count("put_off");
        let detail = "the service may be called again".to_owned();
        self.unattempted(service, CallOutcome::Waiting { due: now() }, reason.fault(), detail)
    }

    fn refused(&self, service: &Service, refusal: &Refusal) -> CallRecord {
        self.put_off(service, refusal.closed.until, refusal.closed.reason.fault(), refusal.detail.clone())
    }

    /// The endpoint was not reached for, and has no part in it.
    pub(super) fn defer_by_this_machine(&self, service: &Service, failure: Failure) -> CallRecord {
        let (client, now) = (self.tools.client.get(), now());
        let until = if failure.fault == Fault::NoFiles {
            client.ran_out_of_files();
            now.saturating_add(NO_FILES_DELAY_MS)
        } else {
            client.could_not_connect(&failure.detail);
            self.tools.live.get().retry.deferred_until(self.event.taken_at, now)
        };
        self.put_off(service, until, failure.fault, failure.detail)
    }

    fn put_off(&self, service: &Service, until: Millis, fault: Fault, detail: String) -> CallRecord {
        match self.tools.live.get().retry.put_off(self.event.taken_at, until) {
            Next::At(due) => {
                count("put_off");
                log::debug!(target: EVENT_LOG, "{}: {} is put off: {detail}", self.turn.key, shown(service));
                self.unattempted(service, CallOutcome::Waiting { due }, fault, detail)
            }
            Next::TooLate | Next::Exhausted => self.given_up(service, fault, detail),
        }
    }

    /// The wait would be too long.
    fn given_up(&self, service: &Service, fault: Fault, detail: String) -> CallRecord {
        count("failed");
        let attempts = self.attempts_before();
        let failure = Failure { fault, status: None, detail: format!("{detail}; {WAITS_TOO_LONG}") };
        self.warn(service, &failure, attempts);
        let reply = self.told(&failure, attempts);
        CallRecord { reply, ..self.unattempted(service, CallOutcome::Failed, fault, failure.detail) }
    }

    fn unattempted(
        &self,
        service: &Service,
        outcome: CallOutcome,
        fault: Fault,
        detail: String,
    ) -> CallRecord {
        let failure = Failure { fault, status: None, detail };
        with_failure(self.without_attempt(&service.name, outcome), failure, None)
    }

    fn without_attempt(&self, service_name: &str, outcome: CallOutcome) -> CallRecord {
        CallRecord { attempts: self.attempts_before(), ..self.record(service_name, outcome) }
    }
}
