//! A bot whose services are all closed waits as a whole: however many conversations it has, they cost next to
//! nothing, and what can't wait so long ends in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::support::*;

/// By default.
const CALLS_PER_BOT: f64 = 8.0;

/// An event in this conversation.
fn event(bot: i64, message: i64, conversation: i64) -> Value {
    channel_event(bot, message, conversation, "Kitchen", "soup?")
}

/// Events in conversations of their own.
fn events(bot: i64, messages: impl IntoIterator<Item = i64>) -> Vec<Value> {
    messages.into_iter().map(|message| event(bot, message, message)).collect()
}

/// Two failures close a gate.
fn config(config: Config, [open, max_open, give_up_after]: [&str; 3]) -> Config {
    config
        .set("breaker.failures", "2")
        .text("breaker.open", open)
        .text("breaker.max_open", max_open)
        .text("retry.give_up_after", give_up_after)
        .set("retry.max_retries", "100")
}

/// An endpoint that fails while the flag is set.
async fn failing(fails: &Arc<AtomicBool>) -> Endpoint {
    let fails = Arc::clone(fails);
    let answer = move |request: &Request, _| {
        if fails.load(Ordering::SeqCst) { Answer::status(500) } else { echo(request) }
    };
    Endpoint::start(answer).await
}

async fn dead() -> Endpoint {
    failing(&Arc::new(AtomicBool::new(true))).await
}

async fn count(scene: &Scene, rows: &str) -> i64 {
    scene.db.count(&format!("SELECT count(*) FROM {rows}")).await
}

async fn closings(scene: &Scene) -> f64 {
    scene.outhook.metric("outhook_gate_closings_total{reason=\"breaker\"").await
}

async fn has_closed(scene: &Scene, times: f64) {
    let closed = || async { (closings(scene).await >= times).then_some(()) };
    eventually(&format!("the gate to close {times} times"), PATIENCE, closed).await;
}

/// For each time that the gate closed, at most the events that had begun were put off.
async fn few_were_put_off(scene: &Scene) {
    let put_off = scene.outhook.metric("outhook_calls_total{outcome=\"put_off\"").await;
    let closings = closings(scene).await;
    assert!(put_off <= CALLS_PER_BOT * closings, "{put_off} calls put off by {closings} closings");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_a_dead_bot_costs_a_few_writes_each_time_and_ends_when_it_is_too_old() {
    const BACKLOG: i64 = 500;
    let (dead, alive) = (dead().await, Endpoint::json(json!({})).await);
    let config = config(Config::sqlite(), ["250ms", "250ms", "3s"]);
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &dead.url("/hook")).await;
    let healthy = scene.bot_at("salad", &alive.url("/hook")).await;
    let mut all = events(bot, 1..=BACKLOG);
    all.extend(events(healthy, BACKLOG + 1..=BACKLOG + 20));
    scene.send(&all).await;
    scene.finished(all.len()).await;

    few_were_put_off(&scene).await;
    assert!(dead.count() as f64 <= CALLS_PER_BOT + closings(&scene).await, "{} calls", dead.count());
    assert_eq!(count(&scene, "outhook_call WHERE state = 2").await, BACKLOG);
    let given_up = "SELECT min(ended_at) FROM outhook_call WHERE state = 2 AND attempts = 0";
    let slow = format!("outhook_event WHERE bot_id = {healthy} AND finished_at >= ({given_up})");
    assert_eq!((alive.count(), count(&scene, &slow).await), (20, 0));
    let early = "outhook_call c JOIN outhook_event e ON e.id = c.event_id
        WHERE c.state = 2 AND c.ended_at < e.taken_at + 2600";
    assert_eq!(count(&scene, early).await, 0, "another call could still have been made");
}

/// The gate closes for 0.4, 0.8, 1.6 and 3.2 s. The first events can't wait so long as the last time, and the
/// others can.
async fn what_cant_wait_ends_first(storage: Storage) {
    const EACH: i64 = 100;
    let dead = dead().await;
    let config = config(storage.config().await, ["400ms", "1m", "5300ms"]);
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &dead.url("/hook")).await;
    scene.send(&events(bot, 1..=EACH)).await;
    has_closed(&scene, 3.0).await;
    scene.send(&events(bot, EACH + 1..=2 * EACH)).await;
    scene.finished(2 * EACH as usize).await;
    let first = format!("SELECT min(finished_at) FROM outhook_event WHERE message_id > {EACH}");
    let late = format!("outhook_event WHERE message_id <= {EACH} AND finished_at >= ({first})");
    assert_eq!(count(&scene, &late).await, 0);
    few_were_put_off(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cant_wait_until_a_gate_opens_ends_while_the_rest_of_its_bot_waits_on_sqlite() {
    what_cant_wait_ends_first(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cant_wait_until_a_gate_opens_ends_while_the_rest_of_its_bot_waits_on_postgresql() {
    what_cant_wait_ends_first(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_is_well_again_gets_everything_that_waited_in_order() {
    const CONVERSATIONS: i64 = 40;
    const EVENTS: i64 = 3 * CONVERSATIONS;
    let fails = Arc::new(AtomicBool::new(true));
    let endpoint = failing(&fails).await;
    let config = config(Config::sqlite(), ["250ms", "250ms", "5m"]);
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let all: Vec<Value> = (1..=EVENTS).map(|n| event(bot, n, n % CONVERSATIONS)).collect();
    scene.send(&all).await;
    has_closed(&scene, 3.0).await;
    fails.store(false, Ordering::SeqCst);
    scene.finished(all.len()).await;

    assert_eq!(count(&scene, "outhook_call WHERE state = 1").await, EVENTS);
    let called: Vec<i64> = endpoint.requests().iter().map(message_of).collect();
    for conversation in 0..CONVERSATIONS {
        let its: Vec<_> = called.iter().filter(|message| **message % CONVERSATIONS == conversation).collect();
        assert!(its.is_sorted(), "{its:?}");
    }
    few_were_put_off(&scene).await;
}

/// By itself it would go on after 5 minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_is_held_back_goes_on_at_once_when_a_call_in_flight_is_answered() {
    let (fails, gate) = (Arc::new(AtomicBool::new(true)), Gate::new());
    let (down, held) = (Arc::clone(&fails), gate.clone());
    let endpoint = Endpoint::start(move |request, number| match number {
        0 => echo_behind(&held, request),
        _ if down.load(Ordering::SeqCst) => Answer::status(500),
        _ => echo(request),
    })
    .await;
    let config = config(Config::sqlite(), ["5m", "5m", "1h"]).set("retry.max_retries", "0");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    scene.send(&events(bot, 1..=20)).await;
    scene.outhook.wait_for_log(&format!("bot {bot} is held back")).await;
    fails.store(false, Ordering::SeqCst);
    gate.open();
    scene.finished(20).await;
    assert!(count(&scene, "outhook_call WHERE state = 1").await >= 12);
}
