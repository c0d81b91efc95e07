//! A steady load: people go on writing whatever happens to the parts around, and how that is judged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::scene::LONG_PATIENCE;
use super::{
    Answer, Db, Endpoint, Outhook, Queue, Request, Scene, channel_event, echo, eventually, setup, within,
};

/// How soon work goes on once a part is back: a promise, and so the one deadline that is no patience.
pub const RESUMES_WITHIN: Duration = Duration::from_secs(5);

/// The share of a core that a daemon may use while it can only wait.
const CPU_SHARE_MAX: f64 = 0.05;
/// How much a daemon may grow while it can only wait, in bytes.
const GROWTH_BYTES_MAX: u64 = 30 << 20;

/// The bots, and where they are called: the last one takes its time.
const BOTS: [(i64, &str); 3] = [(101, "/quick"), (102, "/quick"), (103, "/slow")];
/// How long that one takes.
const SLOW: Duration = Duration::from_millis(300);

/// Messages that are written at once; one of them is for the slow bot.
const BATCH: i64 = 5;
/// Between two batches.
const PACE: Duration = Duration::from_millis(100);
/// Before a batch is published again that was not confirmed.
const REPUBLISH_DELAY: Duration = Duration::from_millis(200);

/// Bots whose endpoints always answer well, so that none of them may ever see a call again.
pub struct Load {
    endpoint: Endpoint,
    last_message: Arc<AtomicI64>,
}

/// Somebody who goes on writing to the bots of a load.
pub struct Writer {
    is_over: Arc<AtomicBool>,
    task: JoinHandle<Vec<i64>>,
}

impl Load {
    /// Gives a scene these bots.
    pub async fn on(scene: &Scene) -> Self {
        let endpoint = Endpoint::start(|request, _| answer(request)).await;
        for (bot, path) in BOTS {
            setup::insert_bot_at(&scene.db, bot, &endpoint.url(path)).await;
        }
        Self { endpoint, last_message: Arc::default() }
    }

    /// The first bot.
    pub fn bot(&self) -> i64 {
        BOTS[0].0
    }

    /// Has somebody write to the bots by way of the scene's queue of RabbitMQ.
    pub fn begin(&self, scene: &Scene) -> Writer {
        let queue = scene.queue.as_ref().expect("a queue of RabbitMQ");
        let queue = Queue::new(&queue.url, &queue.name);
        let is_over = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write(queue, Arc::clone(&self.last_message), Arc::clone(&is_over)));
        Writer { is_over, task }
    }

    /// Waits, and not for long, for a call to be made and an event to be finished.
    pub async fn goes_on(&self, scene: &Scene) {
        let (calls, events) = (self.endpoint.count(), finished_events(&scene.db).await);
        let goes_on = || async {
            let is_calling = self.endpoint.count() > calls;
            (is_calling && finished_events(&scene.db).await > events).then_some(())
        };
        eventually("work to go on", RESUMES_WITHIN, goes_on).await;
    }

    /// Waits until each of these messages is called and everything is finished. Nothing was called twice,
    /// and nothing set aside.
    pub async fn is_done(&self, scene: &Scene, messages: &[i64]) {
        let all = || async { self.uncalled(messages).is_empty().then_some(()) };
        if within(LONG_PATIENCE, all).await.is_none() {
            panic!("of {} messages these are not called: {:?}", messages.len(), self.uncalled(messages));
        }
        setup::all_finished(&scene.db).await;
        let repeated = self.touched_twice();
        assert!(repeated.is_empty(), "{} calls were made again: {repeated:?}", repeated.len());
        assert_eq!(scene.db.count("SELECT count(*) FROM outhook_dead_letter").await, 0);
    }

    /// The calls that were made more than once, by their `webhook-id`.
    pub fn touched_twice(&self) -> Vec<String> {
        let mut calls: HashMap<String, usize> = HashMap::new();
        for id in self.endpoint.webhook_ids() {
            *calls.entry(id).or_default() += 1;
        }
        calls.into_iter().filter(|(_, times)| *times > 1).map(|(id, _)| id).collect()
    }

    fn uncalled(&self, messages: &[i64]) -> Vec<i64> {
        let called: HashSet<i64> =
            self.endpoint.webhook_ids().iter().map(|id| message_of_webhook(id)).collect();
        messages.iter().copied().filter(|message| !called.contains(message)).collect()
    }
}

impl Writer {
    /// Waits until what was begun is on the queue, and returns all messages that were written.
    pub async fn stop(self) -> Vec<i64> {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Watches a daemon that has to wait for a part, `broker` or `database`: it says so, and stays calm.
pub async fn endures(outhook: &Outhook, part: &str, bytes_before: u64) {
    outhook.misses(part).await;
    stays_calm(outhook, bytes_before).await;
    outhook.misses(part).await;
}

/// Watches a daemon that can only wait: it neither spins nor has grown much since it used so many bytes.
pub async fn stays_calm(outhook: &Outhook, bytes_before: u64) {
    let share = outhook.cpu_share().await;
    assert!(share < CPU_SHARE_MAX, "it uses {share:.3} of a core");
    let growth = outhook.memory().saturating_sub(bytes_before);
    assert!(growth < GROWTH_BYTES_MAX, "it has grown by {growth} bytes");
}

fn answer(request: &Request) -> Answer {
    match request.path.as_str() {
        "/slow" => Answer::Late(SLOW, Box::new(echo(request))),
        _ => echo(request),
    }
}

async fn write(queue: Queue, last_message: Arc<AtomicI64>, is_over: Arc<AtomicBool>) -> Vec<i64> {
    let mut pace = interval(PACE);
    // After a pause the load is what it was before, and no flood.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = vec![];
    while !is_over.load(Ordering::Relaxed) {
        pace.tick().await;
        let first = last_message.fetch_add(BATCH, Ordering::Relaxed) + 1;
        let messages = first..first + BATCH;
        let bodies: Vec<Vec<u8>> = messages.clone().map(body).collect();
        // As with every publisher, what was not confirmed may be on the queue, and comes again.
        while !queue.try_publish_all(&bodies).await {
            sleep(REPUBLISH_DELAY).await;
        }
        written.extend(messages);
    }
    written
}

/// A message in one of twenty channels.
fn body(message: i64) -> Vec<u8> {
    let turn = usize::try_from(message % BATCH).unwrap();
    let (bot, _) = BOTS[turn % BOTS.len()];
    channel_event(bot, message, message % 20, "Kitchen", "soup?").to_string().into_bytes()
}

/// The message in a `webhook-id`: `msg_<bot>_<message>_<replay>_<service>`.
fn message_of_webhook(id: &str) -> i64 {
    id.split('_').nth(2).unwrap().parse().unwrap()
}

async fn finished_events(db: &Db) -> i64 {
    db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await
}
