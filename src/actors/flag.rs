//! FlagActor: collects completions and commits them in batches; marks a message processed only when
//! each of its service calls has finished.
//!
//! A batch is cut by size or by age. When the pipeline is idle nobody waits for a timer: a completion
//! that arrives while nothing is being committed, and that does not follow on the heels of another, is
//! committed at once.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, SpawnHandle};
use outhook_core::{
    batch::batch_len,
    completion::{CallState, Completions, Progress},
    identity::{EventId, EventKey},
};
use tokio::sync::oneshot;

use super::{count_letter, event::EventActor, queue::QueueActor, reply::ReplyActor};
use crate::{
    blame::Blame,
    database_job::{DatabaseJob, Ended},
    fail_points,
    health::Health,
    mailbox::{Mailbox, takes_mail},
    messages::{
        completion::{EventEnded, Flush, ServiceCallFinished},
        drain::Stop,
        settled::{DueAt, EventsSettled, RepliesCommitted},
    },
    store::{CallOutcome, CallRecord, DeadLetter, EventEnd, Settled, Settlement, Store, StoreError},
};

/// The wait before an event is tried again whose message row was locked by somebody else.
const LOCKED_DELAY: Duration = Duration::from_millis(200);

/// See the module.
pub(crate) struct FlagActor {
    store: Store,
    job: DatabaseJob,
    batch_rows: usize,
    batch_age: Duration,
    letters_per_bot: usize,
    events: Vec<Mailbox<EventActor>>,
    queue: Mailbox<QueueActor>,
    replies: Mailbox<ReplyActor>,
    completions: Completions,
    waiting: VecDeque<Entry>,
    /// When the oldest of `waiting` came.
    oldest: Instant,
    /// Completions arrived while the last batch was being committed: more are to be expected.
    is_busy: bool,
    age_timer: Option<SpawnHandle>,
    /// Entries that wait for somebody else's lock.
    put_off: usize,
    flushes: Vec<oneshot::Sender<()>>,
    blame: Blame,
}

/// Where FlagActor's work comes from and goes to.
pub(crate) struct Links {
    /// The pool.
    pub(crate) events: Vec<Mailbox<EventActor>>,
    /// The inbox.
    pub(crate) queue: Mailbox<QueueActor>,
    /// The outbox.
    pub(crate) replies: Mailbox<ReplyActor>,
    /// Who makes actors panic.
    pub(crate) blame: Blame,
    /// `queue.dead_letters_per_bot`.
    pub(crate) letters_per_bot: usize,
}

/// What one completion adds to a batch.
#[derive(Debug, Clone)]
struct Entry {
    event: EventId,
    key: EventKey,
    shard: usize,
    begun: Vec<(i64, String)>,
    call: Option<CallRecord>,
    /// Set aside without ending the event.
    letter: Option<DeadLetter>,
    end: Option<EventEnd>,
}

impl Entry {
    /// Roughly what it adds to a transaction; the body of a dead letter is in the database already.
    fn bytes(&self) -> usize {
        self.call.as_ref().map_or(0, CallRecord::bytes)
    }
}

/// Why a batch was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Idle,
    Size,
    Age,
    Flush,
}

impl Cut {
    const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Size => "size",
            Self::Age => "age",
            Self::Flush => "flush",
        }
    }
}

impl FlagActor {
    /// A new generation.
    pub(crate) fn new(
        store: Store,
        health: &Health,
        config: &crate::config::flag::Flag,
        links: Links,
    ) -> Self {
        Self {
            store,
            job: DatabaseJob::new("flag", health),
            batch_rows: config.batch_rows,
            batch_age: config.batch_age,
            letters_per_bot: links.letters_per_bot,
            events: links.events,
            queue: links.queue,
            replies: links.replies,
            completions: Completions::default(),
            waiting: VecDeque::new(),
            oldest: Instant::now(),
            is_busy: false,
            age_timer: None,
            put_off: 0,
            flushes: Vec::new(),
            blame: links.blame,
        }
    }

    fn accept(&mut self, entry: Entry, context: &mut Context<Self>) {
        if self.waiting.is_empty() {
            self.oldest = Instant::now();
        }
        self.waiting.push_back(entry);
        self.commit_if_cut(context);
    }

    fn cut(&self) -> Option<Cut> {
        match () {
            () if self.waiting.is_empty() => None,
            () if !self.flushes.is_empty() => Some(Cut::Flush),
            () if self.waiting.len() >= self.batch_rows => Some(Cut::Size),
            () if !self.is_busy => Some(Cut::Idle),
            () if self.oldest.elapsed() >= self.batch_age => Some(Cut::Age),
            () => None,
        }
    }

    /// Looks at the age on every message too, because a full mailbox keeps timers from running.
    fn commit_if_cut(&mut self, context: &mut Context<Self>) {
        if self.job.is_under_way() {
            return;
        }
        match self.cut() {
            Some(cut) => {
                metrics::counter!("outhook_batches_total", "cut" => cut.name()).increment(1);
                let rows = batch_len(self.waiting.iter().map(Entry::bytes), self.batch_rows);
                let batch = self.waiting.drain(..rows).collect();
                self.oldest = Instant::now();
                self.commit(batch, context);
            }
            None if self.waiting.is_empty() && self.put_off == 0 => self.answer_flushes(),
            None if self.waiting.is_empty() => {}
            None => self.arm_age_timer(context),
        }
    }

    fn arm_age_timer(&mut self, context: &mut Context<Self>) {
        if self.age_timer.is_none() {
            let left = self.batch_age.saturating_sub(self.oldest.elapsed());
            self.age_timer = Some(context.run_later(left, |actor, context| {
                fail_points::place("FlagActor.timer");
                actor.age_timer = None;
                actor.commit_if_cut(context);
            }));
        }
    }

    fn commit(&mut self, batch: Vec<Entry>, context: &mut Context<Self>) {
        let (settlement, letters_per_bot) = (settlement(&batch), self.letters_per_bot);
        let (store, rows) = (self.store.clone(), batch.len());
        let job = async move { store.settle(settlement, letters_per_bot).await };
        self.job.begin_batch(context, (|actor| &mut actor.job, rows), job, |actor, ended, context| {
            actor.committed(batch, ended, context);
        });
    }

    fn committed(&mut self, batch: Vec<Entry>, ended: Ended<Settled>, context: &mut Context<Self>) {
        match ended {
            Ended::Done(settled) if settled.locked.is_empty() => {
                self.report(&batch, &settled);
                self.is_busy = !self.waiting.is_empty();
                self.commit_if_cut(context);
            }
            Ended::Done(settled) => self.put_off(batch, &settled.locked, context),
            Ended::Again => self.commit(batch, context),
            Ended::Failed(error) => self.isolate(batch, &error, context),
        }
    }

    /// Tells everybody what is now certain.
    fn report(&self, batch: &[Entry], settled: &Settled) {
        metrics::histogram!("outhook_batch_rows").record(batch.len() as f64);
        metrics::counter!("outhook_outcomes_dropped_total").increment(settled.dropped as u64);
        let mut shards: Vec<EventsSettled> = self.events.iter().map(|_| EventsSettled::default()).collect();
        for entry in batch {
            count(entry);
            let Some(end) = &entry.end else { continue };
            let Some(shard) = shards.get_mut(entry.shard) else { continue };
            match end {
                EventEnd::Parked(_) => shard.parked.push(entry.event),
                EventEnd::Finished | EventEnd::Dead { .. } => shard.finished.push(entry.event),
            }
        }
        for (mailbox, settled) in self.events.iter().zip(shards) {
            if !(settled.finished.is_empty() && settled.parked.is_empty()) {
                mailbox.send(settled);
            }
        }
        if let Some(due) = settled.due {
            self.queue.send(DueAt(due));
        }
        // Also if this was the second commit, which has found them there.
        if batch.iter().filter_map(|entry| entry.call.as_ref()).any(|call| call.reply.is_some()) {
            self.replies.send(RepliesCommitted);
        }
    }

    /// Commits the others now, and those whose message row is locked later. What they do to gates is
    /// committed already.
    fn put_off(&mut self, mut batch: Vec<Entry>, locked: &[EventId], context: &mut Context<Self>) {
        metrics::counter!("outhook_flags_put_off_total").increment(locked.len() as u64);
        for call in batch.iter_mut().filter_map(|entry| entry.call.as_mut()) {
            call.gate = None;
        }
        let (late, now): (Vec<Entry>, Vec<Entry>) =
            batch.into_iter().partition(|entry| locked.contains(&entry.event));
        self.put_off += late.len();
        context.run_later(LOCKED_DELAY, move |actor, context| {
            actor.put_off -= late.len();
            actor.waiting.extend(late);
            actor.commit_if_cut(context);
        });
        if now.is_empty() { self.commit_if_cut(context) } else { self.commit(now, context) }
    }

    /// Halves a batch that the database refuses until the guilty event stands alone.
    fn isolate(&mut self, mut batch: Vec<Entry>, error: &StoreError, context: &mut Context<Self>) {
        if batch.len() > 1 {
            let second = batch.split_off(batch.len() / 2);
            for entry in second.into_iter().rev() {
                self.waiting.push_front(entry);
            }
            return self.commit(batch, context);
        }
        let Some(entry) = batch.pop() else { return };
        if matches!(entry.end, Some(EventEnd::Dead { .. })) && entry.call.is_none() {
            log::error!("{}: can't even be dead-lettered and stays unfinished: {error}", entry.key);
            return self.commit_if_cut(context);
        }
        log::error!("{}: its outcome can't be stored, so it is dead-lettered: {error}", entry.key);
        let letter =
            DeadLetter::of_event(entry.key, "poison", format!("its outcome can't be stored: {error}"));
        let end = Some(EventEnd::Dead { letter });
        self.commit(vec![Entry { begun: Vec::new(), call: None, letter: None, end, ..entry }], context);
    }

    fn answer_flushes(&mut self) {
        for done in self.flushes.drain(..) {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }
}

fn settlement(batch: &[Entry]) -> Settlement {
    let mut settlement = Settlement::default();
    for entry in batch {
        settlement
            .begun
            .extend(entry.begun.iter().map(|(service, name)| (entry.event, *service, name.clone())));
        if let Some(call) = entry.call.clone() {
            settlement.add_call(call);
        }
        settlement.letters.extend(entry.letter.clone().map(|letter| (entry.event, letter)));
        settlement.events.extend(entry.end.clone().map(|end| (entry.event, entry.key, end)));
    }
    settlement
}

fn count(entry: &Entry) {
    match &entry.end {
        Some(EventEnd::Finished) => metrics::counter!("outhook_events_finished_total").increment(1),
        Some(EventEnd::Parked(_)) => metrics::counter!("outhook_events_parked_total").increment(1),
        Some(EventEnd::Dead { letter }) => count_letter(letter.reason),
        None => {}
    }
    if let Some(letter) = &entry.letter {
        count_letter(letter.reason);
    }
}

impl Actor for FlagActor {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        fail_points::place("FlagActor.started");
    }
}

impl Handler<ServiceCallFinished> for FlagActor {
    type Result = ();

    fn handle(&mut self, finished: ServiceCallFinished, context: &mut Context<Self>) {
        let ServiceCallFinished { turn, record, panicked } = finished;
        let blame = self.blame.clone();
        let _turn = blame.turn(turn.event);
        fail_points::outcome(turn.key.message);
        let state = match record.outcome {
            CallOutcome::Waiting { due } => CallState::Waiting(due),
            CallOutcome::Succeeded | CallOutcome::Failed | CallOutcome::Removed => CallState::Finished,
        };
        let progress = self.completions.record(turn.event, (turn.number, &turn.turn), record.service, state);
        let end = match progress {
            Progress::Open => None,
            Progress::Parked(due) => Some(EventEnd::Parked(due)),
            Progress::Finished => Some(EventEnd::Finished),
        };
        // A single call that has finished needs no note of what else was to be called.
        let begun = if matches!(end, Some(EventEnd::Finished)) { Vec::new() } else { turn.fixed.clone() };
        let (event, key, shard) = (turn.event, turn.key, turn.shard);
        self.accept(Entry { event, key, shard, begun, call: Some(record), letter: panicked, end }, context);
    }
}

impl Handler<EventEnded> for FlagActor {
    type Result = ();

    fn handle(&mut self, ended: EventEnded, context: &mut Context<Self>) {
        let EventEnded { event, key, shard, dead } = ended;
        let end = Some(dead.map_or(EventEnd::Finished, |letter| EventEnd::Dead { letter }));
        self.accept(Entry { event, key, shard, begun: Vec::new(), call: None, letter: None, end }, context);
    }
}

impl Handler<Flush> for FlagActor {
    type Result = ();

    fn handle(&mut self, Flush { done }: Flush, context: &mut Context<Self>) {
        self.flushes.push(done);
        self.commit_if_cut(context);
    }
}

impl Handler<Stop> for FlagActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

takes_mail!(FlagActor: ServiceCallFinished, EventEnded, Flush, Stop);
