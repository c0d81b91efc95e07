//! ServiceCallActor: makes one call and ends. It owns its request, so it is aborted together with the
//! EventActor that spawned it.

mod record;
mod tried;
mod unmade;

use std::{
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Recipient, WrapFuture};
use futures_util::FutureExt;
use outhook_core::{
    answer::Reply,
    excerpt::without_secrets,
    gate::Signal,
    identity::{MessageId, ServiceId},
    outcome::{Attempt, Failure, Fault, Verdict},
};
use secrecy::ExposeSecret;
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};
use url::Url;

pub(crate) use self::tried::{Tried, read_attempt};
use super::{
    EVENT_LOG,
    flag::FlagActor,
    gates::{Gates, Pass},
};
use crate::{
    clock::wall,
    config::reply::ReplyTo,
    directory::Directory,
    fail_points::{self, Step},
    handlers,
    http::{CurrentClient, Outbound, Signature},
    mailbox::Mailbox,
    messages::completion::{CallEnded, EventTurn, ServiceCallFinished},
    settings::Live,
    store::{Bot, CallOutcome, CallRecord, DatedChange, DeadLetter, InboxEvent, Service},
    tenure::Tenure,
    trial::{
        self, Trials,
        work::{Part, Work, build_request, read_answer},
    },
    zulip::Site,
};

/// What every call of a thread works with.
pub(crate) struct CallTools {
    /// Bots and services.
    pub(crate) directory: Directory,
    /// Where suspects are tried.
    pub(crate) trials: Trials,
    /// What this process may work on.
    pub(crate) tenure: Tenure,
    /// Connections of this thread.
    pub(crate) client: CurrentClient,
    /// Rules for URLs, by which the client checks addresses too; and when to try again.
    pub(crate) live: Live,
    /// What is known of the endpoints of this shard.
    pub(crate) gates: Gates,
    /// What is known of the Zulip server.
    pub(crate) site: Arc<Site>,
    /// Where replies go.
    pub(crate) reply_to: ReplyTo,
}

impl CallTools {
    /// Has own work of a suspect done by a process of its own.
    pub(crate) async fn try_work(&self, message: MessageId, bot: &Bot, part: Part) -> trial::Verdict {
        let (ports, site) = (self.live.get().egress.ports.clone(), Site::clone(&self.site));
        self.trials.judge(Work { message, bot: bot.clone(), ports, site, part }).await
    }
}

/// A call to make.
pub(crate) struct Assignment {
    /// The event.
    pub(crate) event: Arc<InboxEvent>,
    /// Its turn.
    pub(crate) turn: Arc<EventTurn>,
    /// The service to call.
    pub(crate) service: ServiceId,
    /// Its way through the gate of the service.
    pub(crate) pass: Pass,
    /// Counts the call as in flight until dropped.
    pub(crate) _permit: OwnedSemaphorePermit,
    /// The thread's tools.
    pub(crate) tools: Rc<CallTools>,
    /// Where the completion goes.
    pub(crate) flag: Mailbox<FlagActor>,
    /// Who has to know that the call is over.
    pub(crate) owner: Recipient<CallEnded>,
}

/// See the module.
struct ServiceCallActor {
    assignment: Rc<Assignment>,
}

impl Assignment {
    /// Spawns the actor. A panic of the handler's code is caught here and fails this call only.
    pub(crate) fn spawn(self) -> JoinHandle<()> {
        let assignment = Rc::new(self);
        let actor = ServiceCallActor { assignment: Rc::clone(&assignment) };
        let life = Context::new().into_future(actor);
        actix::spawn(async move {
            if AssertUnwindSafe(life).catch_unwind().await.is_err() {
                log::warn!(target: EVENT_LOG, "{}: the handler of service {} panicked", assignment.turn.key, assignment.service);
                assignment.report(assignment.panicked(), true);
            }
        })
    }

    fn report(&self, record: CallRecord, panicked: bool) {
        let panicked = (panicked && !self.turn.panicked.swap(true, Relaxed)).then(|| {
            DeadLetter::of_event(self.turn.key, "panicked", "a handler panicked at this event".into())
        });
        let failed = match record.outcome {
            _ if record.attempts == self.attempts_before() => None,
            CallOutcome::Succeeded => Some(false),
            CallOutcome::Failed | CallOutcome::Waiting { .. } => Some(true),
            CallOutcome::Removed => None,
        };
        // Before its end is told, so that those who waited for a probe find that it is over.
        self.pass.give_back();
        self.flag.send(ServiceCallFinished { turn: Arc::clone(&self.turn), record, panicked });
        self.owner.do_send(CallEnded { event: self.turn.event, service: self.service, failed });
    }

    fn attempts_before(&self) -> u32 {
        let made = self.event.calls.iter().find(|call| call.service == self.service);
        made.map_or(0, |call| call.attempts)
    }

    fn attempt_number(&self) -> u32 {
        self.attempts_before() + 1
    }

    async fn make_call(&self) -> CallRecord {
        let Ok(bot) = self.find_bot().await else { return self.removed() };
        let Some(service) = bot.services.iter().find(|service| service.id == self.service) else {
            return self.removed();
        };
        if let Some(unmade) = self.unmade(service) {
            return unmade;
        }
        let began = Instant::now();
        let result = self.try_once(&bot, service).await;
        if let Verdict::Retry { failure, .. } = &result.verdict
            && failure.fault.spends_no_attempt()
        {
            return self.defer_by_this_machine(service, failure.clone());
        }
        let took = began.elapsed();
        metrics::histogram!("outhook_call_seconds").record(took.as_secs_f64());
        self.look_for_resume(&result.verdict).await;
        let gate = self.change_gate(&result.verdict);
        let record = CallRecord { gate, ..self.conclude(service, result) };
        CallRecord { duration_ms: i32::try_from(took.as_millis()).unwrap_or(i32::MAX), ..record }
    }

    /// One attempt, from the URL to the reply.
    async fn try_once(&self, bot: &Bot, service: &Service) -> Tried {
        let Some(handler) = handlers::of_interface(service.interface) else {
            let detail = format!("no handler for interface number {}", service.interface);
            return Tried::failed(Fault::BadInterface, detail);
        };
        let (url, request) = match self.request(bot, service, handler) {
            Ok(request) => request,
            Err(failure) => return Tried { verdict: Verdict::Final(failure), excerpt: None, reply: None },
        };
        self.tools.tenure.held().await;
        let webhook_id = self.turn.key.webhook_id(service.id);
        let token = service.token.expose_secret();
        let signature = match Signature::new(token, &webhook_id, wall() / 1000, &request.body) {
            Ok(signature) => signature,
            Err(detail) => return Tried::failed(Fault::Unsendable, detail),
        };
        fail_points::before(Step::MakeCall);
        let outbound = self.outbound(url, request, webhook_id, &signature);
        let client = self.tools.client.get();
        let attempt = client.post(outbound).await;
        fail_points::after(Step::MakeCall);
        if self.is_poisonous(bot, service, &attempt).await {
            let detail = "three processes that read this answer have died".to_owned();
            return Tried::failed(Fault::Panicked, detail);
        }
        let sent = [signature.secret()].into_iter().chain(client.secrets());
        let secrets: Vec<&str> = bot.secrets().chain(sent).collect();
        let tried = read_answer(self.turn.key.message, attempt, handler, &secrets);
        let reply = tried.reply.map(|reply| self.for_outbox(reply, &secrets));
        Tried { reply, ..tried }
    }

    /// A reply that is to be logged, without the secrets of its call: who logs it would not know them.
    fn for_outbox(&self, reply: Reply, secrets: &[&str]) -> Reply {
        if self.tools.reply_to != ReplyTo::Log {
            return reply;
        }
        let content = without_secrets(reply.content.as_bytes(), secrets);
        Reply { content: String::from_utf8_lossy(&content).into_owned(), ..reply }
    }

    /// Whether a process of its own dies of reading a suspect's answer.
    async fn is_poisonous(&self, bot: &Bot, service: &Service, attempt: &Attempt) -> bool {
        let Attempt::Answered { status, body, .. } = attempt else { return false };
        if !self.event.is_suspect {
            return false;
        }
        let part = Part::Answer { service: service.id, status: *status, body: body.clone() };
        self.tools.try_work(self.turn.key.message, bot, part).await == trial::Verdict::Poison
    }

    fn request(
        &self,
        bot: &Bot,
        service: &Service,
        handler: &dyn handlers::Handler,
    ) -> Result<(Url, handlers::Request), Failure> {
        let (settings, call) = (self.tools.live.get(), (bot, service, handler));
        build_request(self.turn.key.message, &self.event.payload, call, &settings.egress, &self.tools.site)
    }

    fn outbound<'a>(
        &self,
        url: Url,
        request: handlers::Request,
        webhook_id: String,
        signature: &'a Signature,
    ) -> Outbound<'a> {
        Outbound {
            bot: self.turn.key.bot,
            url,
            content_type: request.content_type,
            body: request.body,
            webhook_id,
            attempt: self.attempt_number(),
            signature,
        }
    }

    /// What the attempt means for the other calls of the service.
    fn change_gate(&self, verdict: &Verdict) -> Option<DatedChange> {
        let signal = Signal::of(verdict);
        match verdict {
            Verdict::Success { .. } => self.pass.ended(signal, ""),
            Verdict::Retry { failure, .. } => self.pass.ended(signal, &failure.detail),
            Verdict::Final(failure) => {
                let change = self.pass.ended(signal, &failure.detail);
                if failure.is_gone() { Some(self.pass.gone(&failure.detail)) } else { change }
            }
        }
    }
}

impl Actor for ServiceCallActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let assignment = Rc::clone(&self.assignment);
        let call = async move {
            let record = assignment.make_call().await;
            assignment.report(record, false);
        };
        context.spawn(call.into_actor(self).map(|(), _, context| context.stop()));
    }
}
