//! A lane that becomes free goes on at once, and one that waits for a retry keeps its order whatever ends the
//! daemon.

mod freed;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::support::*;

/// Less than the 5 s after which the database is looked at even if nobody says that there is something new:
/// whoever waits for that look waits for nearly 5 s each time.
const AT_ONCE: Duration = Duration::from_secs(4);

const BOT: i64 = 1;
const CONVERSATIONS: usize = 12;
const MESSAGES: usize = 3;

fn event(message: usize, stream: usize) -> Value {
    let number = |it: usize| i64::try_from(it).unwrap();
    channel_event(BOT, number(message), number(stream), "Kitchen", "soup?")
}

/// How often it was looked for rows that are due.
async fn looks(scene: &Scene) -> f64 {
    scene.outhook.metric("outhook_inbox_job_seconds_count{job=\"due\"").await
}

/// Asserts that most of so many lanes that became free, one after the other, went on without such a look: who
/// waits for one sees one each time, whatever it is that looks, and however often.
async fn assert_unlooked_for(scene: &Scene, looks_before: f64, lanes: usize) {
    assert!(looks_before > 0.0, "nobody looks when the daemon starts: the test shows nothing");
    let looked = looks(scene).await - looks_before;
    assert!(looked * 4.0 <= lanes as f64, "{looked} looks for {lanes} lanes that became free");
}

/// Lets one call of a bot end after the other. Each time another one begins, and not only when somebody
/// looks: of the same lane if it can, else of another.
async fn goes_on_at_once(inlet: Inlet, storage: Storage, calls: usize, memory: usize) {
    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    let config = storage
        .config()
        .await
        .text("http.timeout", "2m")
        .set("actors.calls_per_bot", &calls.to_string())
        .set("actors.waiting_per_bot", &memory.to_string())
        .set("actors.in_memory_events", &memory.to_string());
    let scene = Scene::start(inlet, config).await;
    setup::insert_bot_at(&scene.db, BOT, &endpoint.url("/hook")).await;
    let events: Vec<Value> =
        (0..CONVERSATIONS * MESSAGES).map(|turn| event(turn + 1, turn % CONVERSATIONS)).collect();
    scene.send(&events).await;
    endpoint.wait_for(calls).await;
    let before = looks(&scene).await;
    for begun in calls + 1..=events.len() {
        gate.let_through(1);
        let begins = || async { (endpoint.count() >= begun).then_some(()) };
        eventually(&format!("call number {begun}"), AT_ONCE, begins).await;
    }
    assert_unlooked_for(&scene, before, events.len() - calls).await;
    gate.open();
    scene.finished(events.len()).await;
}

/// Every lane has a call in flight, and its next event in memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_on_at_once_from_memory() {
    goes_on_at_once(Inlet::RabbitMq, Storage::Postgres, CONVERSATIONS, 100).await;
}

/// The next event of nearly every lane is only a row.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_on_at_once_from_its_rows_on_postgresql() {
    goes_on_at_once(Inlet::RabbitMq, Storage::Postgres, CONVERSATIONS, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_on_at_once_from_its_rows_on_sqlite() {
    goes_on_at_once(Inlet::Stored, Storage::Sqlite, CONVERSATIONS, 1).await;
}

/// The lanes wait for each other, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_lane_of_a_bot_goes_on_at_once_when_one_has_ended() {
    goes_on_at_once(Inlet::RabbitMq, Storage::Sqlite, 1, 1).await;
}

/// How a daemon ends.
#[derive(Clone, Copy)]
enum End {
    Drain,
    Kill,
}

impl End {
    async fn of(self, scene: &mut Scene) {
        match self {
            Self::Drain => assert_eq!(scene.drain().await, 0),
            Self::Kill => assert!(!scene.outhook.kill().await.success()),
        }
    }
}

/// The conversation that waits, and its messages.
const WAITING: usize = 1;
const FIRST: i64 = 1;
const BEHIND: [i64; 2] = [2, 3];

/// The first message fails until it may succeed; meanwhile the daemon ends and starts again.
async fn a_waiting_lane_keeps_its_order(inlet: Inlet, storage: Storage, end: End) {
    let may_succeed = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&may_succeed);
    let endpoint = Endpoint::start(move |request, _| match message_of(request) {
        FIRST if !asked.load(Ordering::SeqCst) => Answer::status(503),
        _ => echo(request),
    })
    .await;
    let config = storage
        .config()
        .await
        .set("retry.max_retries", "100")
        .text("retry.max_delay", "1s")
        .set("breaker.failures", "1000000");
    let mut scene = Scene::start(inlet, config).await;
    setup::insert_bot_at(&scene.db, BOT, &endpoint.url("/hook")).await;
    scene.send(&[event(1, WAITING), event(2, WAITING), event(4, 4)]).await;
    scene.finished(1).await;
    end.of(&mut scene).await;
    // What comes while nobody is there is behind what waits, too.
    scene.send(&[event(3, WAITING), event(5, 5), event(6, 4)]).await;
    let before = endpoint.count();
    scene.start_again().await;
    scene.finished(3).await;
    let tries = || async {
        let of_first = endpoint.read_from(before, |request| message_of(request) == FIRST);
        of_first.into_iter().filter(|is_it| *is_it).count()
    };
    reaches("attempts of the first message", 2, tries).await;
    let called = endpoint.read_from(0, message_of);
    let is_early = BEHIND.iter().any(|message| called.contains(message));
    assert!(!is_early, "a message was called before the one in front of it had ended: {called:?}");

    may_succeed.store(true, Ordering::SeqCst);
    scene.finished(6).await;
    let mut order = endpoint.read_from(0, message_of);
    order.retain(|message| *message == FIRST || BEHIND.contains(message));
    order.dedup();
    assert_eq!(order, [FIRST, BEHIND[0], BEHIND[1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_waits_for_a_retry_keeps_its_order_across_a_drain() {
    a_waiting_lane_keeps_its_order(Inlet::Stored, Storage::Sqlite, End::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_waits_for_a_retry_keeps_its_order_across_a_kill() {
    a_waiting_lane_keeps_its_order(Inlet::RabbitMq, Storage::Postgres, End::Kill).await;
}
