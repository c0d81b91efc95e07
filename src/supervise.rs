//! Keeps actors alive.
//!
//! `actix::Supervisor` does not restart an actor after a panic, and nobody would hear of it. So each
//! actor's context is spawned as a task whose end is watched, and the actor is built anew, from nothing,
//! by its factory. What it was doing is found again in the database.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Arbiter, ArbiterHandle, AsyncContext, Context};
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::mailbox::Mailbox;

/// The wait before the first restart; it doubles with each further one.
const RESTART_DELAY: Duration = Duration::from_millis(100);
/// The longest wait before a restart.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(5);
/// This many failures …
const FAILURES_MAX: usize = 10;
/// … within this time end the process.
const FAILURES_WINDOW: Duration = Duration::from_secs(60);

/// Why the process has to end.
#[derive(Debug, Error)]
pub(crate) enum Fatal {
    /// Restarting does not help.
    #[error("actor {actor} failed: that was the tenth failure of an actor within a minute, so outhook ends")]
    TooManyFailures {
        /// The last that failed.
        actor: String,
    },
    /// The broker does not let us in, or not so.
    #[error("the broker refuses outhook: {0}")]
    Denied(String),
}

/// How an actor's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// It stopped itself.
    Stopped,
    /// It panicked.
    Panicked,
    /// Its arbiter was stopped.
    Cancelled,
}

/// Watches all actors of a process.
#[derive(Clone)]
pub(crate) struct Supervisor {
    failures: Arc<Mutex<VecDeque<Instant>>>,
    is_over: Arc<AtomicBool>,
    fatal: mpsc::UnboundedSender<Fatal>,
}

impl Supervisor {
    /// A supervisor, and where it reports that the process has to end.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Fatal>) {
        let (fatal, reports) = mpsc::unbounded_channel();
        (Self { failures: Arc::default(), is_over: Arc::default(), fatal }, reports)
    }

    /// Builds an actor on `arbiter`, connects its mailbox, and does so again whenever it ends, until
    /// [`Supervisor::finish`]. `factory` is given the generation, counted from 0. `before_next` runs before
    /// each generation but the first.
    pub(crate) fn keep<A>(
        &self,
        mailbox: Mailbox<A>,
        arbiter: ArbiterHandle,
        factory: impl Fn(u64) -> A + Send + Sync + 'static,
        before_next: impl Fn() + 'static,
    ) -> JoinHandle<()>
    where
        A: Actor<Context = Context<A>>,
    {
        let supervisor = self.clone();
        let factory = Arc::new(factory);
        actix::spawn(async move {
            let mut delay = RESTART_DELAY;
            for generation in 0.. {
                let born = Instant::now();
                let ended = live(&arbiter, &factory, generation, &mailbox).await;
                mailbox.disconnect(ended == Ended::Panicked);
                if ended == Ended::Cancelled || supervisor.is_over.load(Relaxed) {
                    return;
                }
                if ended == Ended::Panicked && supervisor.is_too_much(mailbox.stats().name()) {
                    return;
                }
                if ended == Ended::Stopped || born.elapsed() > FAILURES_WINDOW {
                    delay = RESTART_DELAY;
                }
                let level = if ended == Ended::Panicked { log::Level::Error } else { log::Level::Warn };
                log::log!(
                    level,
                    "actor {} has {ended} and is built again in {delay:?}",
                    mailbox.stats().name()
                );
                actix::clock::sleep(delay).await;
                delay = (delay * 2).min(RESTART_DELAY_MAX);
                before_next();
            }
        })
    }

    /// From now on, actors that end are not built again.
    pub(crate) fn finish(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// Reports that the process has to end.
    pub(crate) fn report(&self, fatal: Fatal) {
        // The receiver is gone only when the process is ending already.
        let _ = self.fatal.send(fatal);
    }

    fn is_too_much(&self, actor: &str) -> bool {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.push_back(Instant::now());
        while failures.front().is_some_and(|failure| failure.elapsed() > FAILURES_WINDOW) {
            failures.pop_front();
        }
        let is_too_much = failures.len() >= FAILURES_MAX;
        if is_too_much {
            self.report(Fatal::TooManyFailures { actor: actor.to_owned() });
        }
        is_too_much
    }
}

/// One generation of an actor, from its factory to its end. The mailbox is connected before its first
/// message can be handled.
async fn live<A>(
    arbiter: &ArbiterHandle,
    factory: &Arc<impl Fn(u64) -> A + Send + Sync + 'static>,
    generation: u64,
    mailbox: &Mailbox<A>,
) -> Ended
where
    A: Actor<Context = Context<A>>,
{
    let (factory, mailbox) = (Arc::clone(factory), mailbox.clone());
    let (spawned, life) = oneshot::channel();
    let is_sent = arbiter.spawn_fn(move || {
        let context = Context::new();
        let actor = factory(generation);
        mailbox.connect(context.address());
        // Nobody waits for it only if the process is ending.
        let _ = spawned.send(actix::spawn(context.into_future(actor)));
    });
    if !is_sent {
        return Ended::Cancelled;
    }
    // Without an answer, the factory itself has panicked.
    let Ok(life) = life.await else { return Ended::Panicked };
    match life.await {
        Ok(()) => Ended::Stopped,
        Err(error) if error.is_panic() => Ended::Panicked,
        Err(_) => Ended::Cancelled,
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Panicked => "panicked",
            Self::Cancelled => "been cancelled",
        })
    }
}

/// The arbiters on which the EventActors live. They must be stopped and joined by hand: dropping an
/// arbiter does neither.
pub(crate) struct Arbiters(Vec<Arbiter>);

impl Arbiters {
    /// Starts this many threads.
    pub(crate) fn start(count: usize) -> Self {
        Self((0..count).map(|_| Arbiter::new()).collect())
    }

    /// Their handles.
    pub(crate) fn handles(&self) -> Vec<ArbiterHandle> {
        self.0.iter().map(Arbiter::handle).collect()
    }

    /// Stops the threads and waits for them.
    pub(crate) fn join(self) {
        for arbiter in &self.0 {
            arbiter.stop();
        }
        for arbiter in self.0 {
            if arbiter.join().is_err() {
                log::error!("an arbiter's thread panicked");
            }
        }
    }
}

/// Logs a panic with its place and nothing of its message, which may hold a payload or a token.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        metrics::counter!("outhook_panics_total").increment(1);
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        log::error!("panic at {place} in thread {}", std::thread::current().name().unwrap_or("?"));
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use actix::{ActorContext, Handler, Message};

    use super::*;
    use crate::mailbox::takes_mail;

    struct Fragile {
        generation: u64,
        seen: mpsc::UnboundedSender<(u64, &'static str)>,
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Say(&'static str);

    impl Actor for Fragile {
        type Context = Context<Self>;
    }

    impl Handler<Say> for Fragile {
        type Result = ();
        fn handle(&mut self, Say(word): Say, context: &mut Context<Self>) {
            let _ = self.seen.send((self.generation, word));
            match word {
                "panic" => panic!("as asked"),
                "stop" => context.stop(),
                _ => {}
            }
        }
    }
    takes_mail!(Fragile: Say);

    async fn when_up(mailbox: &Mailbox<Fragile>, word: &'static str) {
        while !mailbox.stats().is_up() {
            actix::clock::sleep(Duration::from_millis(1)).await;
        }
        mailbox.send(Say(word));
    }

    #[actix::test]
    async fn an_actor_that_panics_or_stops_is_built_anew() {
        tokio::time::pause();
        let (supervisor, _reports) = Supervisor::new();
        let (seen, mut heard) = mpsc::unbounded_channel();
        let mailbox = Mailbox::new("fragile");
        let rebuilds = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&rebuilds);
        supervisor.keep(
            mailbox.clone(),
            Arbiter::current(),
            move |generation| Fragile { generation, seen: seen.clone() },
            move || {
                counted.fetch_add(1, Relaxed);
            },
        );
        for word in ["panic", "stop", "hello"] {
            when_up(&mailbox, word).await;
            let generation = ["panic", "stop", "hello"].iter().position(|other| *other == word);
            assert_eq!(heard.recv().await, generation.map(|at| (at as u64, word)));
            if word != "hello" {
                while mailbox.stats().is_up() {
                    actix::clock::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        assert_eq!((mailbox.stats().restarts(), rebuilds.load(Relaxed)), (1, 2));
    }

    #[actix::test]
    async fn the_tenth_failure_within_a_minute_ends_the_process() {
        tokio::time::pause();
        let (supervisor, mut reports) = Supervisor::new();
        let (seen, mut heard) = mpsc::unbounded_channel();
        let mailbox = Mailbox::new("fragile");
        let factory = move |generation| Fragile { generation, seen: seen.clone() };
        supervisor.keep(mailbox.clone(), Arbiter::current(), factory, || {});
        for generation in 0..10 {
            assert!(reports.try_recv().is_err(), "too early");
            when_up(&mailbox, "panic").await;
            assert_eq!(heard.recv().await, Some((generation, "panic")));
            while mailbox.stats().is_up() {
                actix::clock::sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(matches!(reports.recv().await, Some(Fatal::TooManyFailures { .. })));
    }
}
