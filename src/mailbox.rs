//! Mailboxes that can be watched, and that outlive the actor behind them.
//!
//! An actix address says nothing of its queue and is dead once its actor has panicked. A [`Mailbox`]
//! counts what goes in and comes out, and is given the address of each new generation of its actor.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Addr, Context, Handler, Message};

/// Where to send an actor its messages. Cheap to clone.
pub(crate) struct Mailbox<A: Actor> {
    inner: Arc<Inner<A>>,
}

struct Inner<A: Actor> {
    address: RwLock<Option<Addr<A>>>,
    stats: Arc<MailboxStats>,
}

/// What an operator can see of a mailbox.
#[derive(Debug)]
pub(crate) struct MailboxStats {
    name: String,
    born: Instant,
    depth: AtomicUsize,
    peak: AtomicUsize,
    handled: AtomicU64,
    wait_micros: AtomicU64,
    restarts: AtomicU64,
    is_up: AtomicBool,
    /// When the last message was handled, or came into an empty mailbox; in microseconds of the mailbox's life.
    moved_at: AtomicU64,
}

/// A message on its way through a [`Mailbox`].
pub(crate) struct Tracked<M> {
    message: M,
    queued: Queued,
}

/// Counts a message as queued for as long as it exists.
struct Queued {
    stats: Arc<MailboxStats>,
    since: Instant,
}

impl<A: Actor> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<A: Actor<Context = Context<A>>> Mailbox<A> {
    /// A mailbox whose actor is not there yet: what is sent to it is dropped.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        let stats = MailboxStats {
            name: name.into(),
            born: Instant::now(),
            depth: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            handled: AtomicU64::new(0),
            wait_micros: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            is_up: AtomicBool::new(false),
            moved_at: AtomicU64::new(0),
        };
        Self { inner: Arc::new(Inner { address: RwLock::new(None), stats: Arc::new(stats) }) }
    }

    /// Sends a message. There is no answer and no error: whatever an actor was sent and did not get
    /// to is found again in the database.
    ///
    /// The queue is bounded by what may be sent at all (events in memory, calls in flight), not by a
    /// capacity, which actix does not enforce on this path.
    pub(crate) fn send<M>(&self, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        A: Handler<Tracked<M>>,
    {
        self.deliver(message);
    }

    /// Sends a message; `false` if there is no actor at the moment.
    pub(crate) fn deliver<M>(&self, message: M) -> bool
    where
        M: Message<Result = ()> + Send + 'static,
        A: Handler<Tracked<M>>,
    {
        let address = self.inner.address.read().unwrap_or_else(PoisonError::into_inner);
        let Some(address) = address.as_ref() else { return false };
        let queued = Queued::new(&self.inner.stats);
        address.do_send(Tracked { message, queued });
        true
    }

    /// Connects a new generation of the actor.
    pub(crate) fn connect(&self, address: Addr<A>) {
        *self.inner.address.write().unwrap_or_else(PoisonError::into_inner) = Some(address);
        self.inner.stats.is_up.store(true, Relaxed);
    }

    /// Cuts the mailbox off from an actor that has ended; `failed` if it was not meant to.
    pub(crate) fn disconnect(&self, failed: bool) {
        *self.inner.address.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.inner.stats.is_up.store(false, Relaxed);
        self.inner.stats.restarts.fetch_add(u64::from(failed), Relaxed);
    }

    /// Its figures.
    pub(crate) fn stats(&self) -> Arc<MailboxStats> {
        Arc::clone(&self.inner.stats)
    }
}

impl<M: Message> Message for Tracked<M> {
    type Result = M::Result;
}

impl<M> Tracked<M> {
    /// Takes the message out and counts it as handled.
    pub(crate) fn open(self) -> M {
        self.queued.handled();
        self.message
    }
}

impl Queued {
    fn new(stats: &Arc<MailboxStats>) -> Self {
        let depth = stats.depth.fetch_add(1, Relaxed) + 1;
        if depth == 1 {
            stats.moves();
        }
        stats.peak.fetch_max(depth, Relaxed);
        Self { stats: Arc::clone(stats), since: Instant::now() }
    }

    fn handled(&self) {
        self.stats.handled.fetch_add(1, Relaxed);
        self.stats.moves();
        let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stats.wait_micros.fetch_add(waited, Relaxed);
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.stats.depth.fetch_sub(1, Relaxed);
    }
}

impl MailboxStats {
    /// The actor's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether its actor is running.
    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Relaxed)
    }

    /// Messages that wait.
    pub(crate) fn depth(&self) -> usize {
        self.depth.load(Relaxed)
    }

    /// Messages handled since the start.
    pub(crate) fn handled(&self) -> u64 {
        self.handled.load(Relaxed)
    }

    /// For how long messages have waited while none was handled, if any wait.
    pub(crate) fn stalled_for(&self) -> Option<Duration> {
        let moved_at = Duration::from_micros(self.moved_at.load(Relaxed));
        (self.depth() > 0).then(|| self.born.elapsed().saturating_sub(moved_at))
    }

    fn moves(&self) {
        let now = u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.moved_at.store(now, Relaxed);
    }

    /// How often the actor was rebuilt after a failure.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Relaxed)
    }
}

/// Writes one line for each mailbox, with what has happened since the last time.
pub(crate) struct MailboxLog {
    mailboxes: Vec<(Arc<MailboxStats>, u64, u64)>,
    since: Instant,
}

impl MailboxLog {
    /// A log of these mailboxes. Its first period began with them.
    pub(crate) fn new(mailboxes: impl IntoIterator<Item = Arc<MailboxStats>>) -> Self {
        let mailboxes: Vec<_> = mailboxes.into_iter().map(|stats| (stats, 0, 0)).collect();
        let since = mailboxes.iter().map(|(stats, _, _)| stats.born).min().unwrap_or_else(Instant::now);
        Self { mailboxes, since }
    }

    /// The lines of the period that ends now; the next begins.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        let period = self.since.elapsed();
        self.since = Instant::now();
        self.mailboxes
            .iter_mut()
            .map(|(stats, handled, waited)| line(stats, handled, waited, period))
            .collect()
    }
}

fn line(stats: &MailboxStats, handled_before: &mut u64, waited_before: &mut u64, period: Duration) -> String {
    let (handled, waited) = (stats.handled(), stats.wait_micros.load(Relaxed));
    let in_period = handled - *handled_before;
    let wait_ms = (waited - *waited_before) as f64 / in_period.max(1) as f64 / 1000.0;
    let rate = in_period as f64 / period.as_secs_f64().max(f64::EPSILON);
    (*handled_before, *waited_before) = (handled, waited);
    let depth = stats.depth();
    let peak = stats.peak.swap(depth, Relaxed);
    format!(
        "mailbox actor={} depth={depth} peak={peak} handled={handled} rate={rate:.1}/s wait_ms={wait_ms:.2} restarts={}",
        stats.name,
        stats.restarts()
    )
}

/// Lets an actor be sent these messages through a [`Mailbox`].
macro_rules! takes_mail {
    ($actor:ty: $($message:ty),+) => {
        $(impl actix::Handler<crate::mailbox::Tracked<$message>> for $actor {
            type Result = ();

            fn handle(&mut self, tracked: crate::mailbox::Tracked<$message>, context: &mut Self::Context) {
                crate::fail_points::place(concat!(stringify!($actor), ".", stringify!($message)));
                actix::Handler::<$message>::handle(self, tracked.open(), context);
            }
        })+
    };
}
pub(crate) use takes_mail;

#[cfg(test)]
mod tests {
    use super::*;

    struct Sink;

    impl Actor for Sink {
        type Context = Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Ping;

    impl Handler<Ping> for Sink {
        type Result = ();
        fn handle(&mut self, _: Ping, _: &mut Context<Self>) {}
    }
    takes_mail!(Sink: Ping);

    #[actix::test]
    async fn a_mailbox_counts_what_waits_and_what_was_handled() {
        let mailbox: Mailbox<Sink> = Mailbox::new("sink");
        mailbox.send(Ping);
        assert_eq!((mailbox.stats().depth(), mailbox.stats().handled()), (0, 0));
        mailbox.connect(Sink.start());
        mailbox.send(Ping);
        mailbox.send(Ping);
        assert_eq!(mailbox.stats().depth(), 2);
        while mailbox.stats().depth() > 0 {
            tokio::task::yield_now().await;
        }
        let line = MailboxLog::new([mailbox.stats()]).lines().remove(0);
        assert!(line.starts_with("mailbox actor=sink depth=0 peak=2 handled=2 rate="), "{line}");
        assert!(line.ends_with("restarts=0"), "{line}");
    }
}
