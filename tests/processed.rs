//! Marking messages processed: somebody else's lock on a row holds up nobody but its own event, and outcomes
//! are committed in batches of any size.

use serde_json::{Value, json};

use super::support::*;

const READ: i64 = 1;
const STARRED: i64 = 2;
const MENTIONED: i64 = 8;

fn star(account: i64, message: i64) -> String {
    format!(
        "UPDATE zerver_usermessage SET flags = flags | {STARRED}
         WHERE user_profile_id = {account} AND message_id = {message}"
    )
}

async fn state_of(scene: &Scene, message: i64) -> i64 {
    scene.db.count(&format!("SELECT state FROM outhook_event WHERE message_id = {message}")).await
}

/// Waits until a metric has reached a value.
async fn metric_reaches(scene: &Scene, name: &str, value: f64) {
    let what = format!("{name} to reach {value}");
    eventually(&what, PATIENCE, || async { (scene.outhook.metric(name).await >= value).then_some(()) }).await;
}

/// How many batches were cut for this reason.
async fn cuts(scene: &Scene, reason: &str) -> f64 {
    scene.outhook.metric(&format!("outhook_batches_total{{cut=\"{reason}\"")).await
}

/// One of ten messages is locked, and others of the same bot and of another one end with it.
async fn a_locked_row_holds_back_only_its_event(config: Config) {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let mut scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let other = scene.bot_at("salad", &endpoint.url("/hook")).await;
    for message in 1..=10 {
        scene.give_message(bot, message, MENTIONED).await;
        scene.give_message(4_711, message, 0).await;
    }
    let theirs = scene.uncommitted(&format!("{}; {}", star(bot, 3), star(4_711, 5))).await;
    let mut events: Vec<Value> =
        (1..=10).map(|message| channel_event(bot, message, message, "Kitchen", "soup?")).collect();
    events.push(channel_event(bot, 11, 3, "Kitchen", "behind the third"));
    events.extend((20..30).map(|message| channel_event(other, message, message, "Kitchen", "salad?")));
    scene.send(&events).await;

    // All but the locked one and the one behind it. The lock is met more than once.
    scene.finished(events.len() - 2).await;
    metric_reaches(&scene, "outhook_flags_put_off_total", 2.0).await;
    for message in (1..=10).filter(|message| *message != 3) {
        assert_eq!(scene.flags(bot, message).await, MENTIONED | READ, "message {message}");
    }
    assert_eq!((state_of(&scene, 3).await, state_of(&scene, 11).await), (0, 0));
    assert_eq!(scene.flags(bot, 3).await, MENTIONED);
    let third = "c.event_id = e.id AND e.message_id = 3 AND c.state = 1";
    let outcomes = format!("SELECT count(*) FROM outhook_call c JOIN outhook_event e ON {third}");
    assert_eq!(scene.db.count(&outcomes).await, 0, "an outcome without its flag");
    assert!(endpoint.requests().iter().all(|call| message_of(call) != 11));

    theirs.commit().await.unwrap();
    scene.finished(events.len()).await;
    assert_eq!(scene.flags(bot, 3).await, MENTIONED | STARRED | READ);
    assert_eq!((scene.flags(4_711, 3).await, scene.flags(4_711, 5).await), (0, STARRED));
    scene.posted(events.len()).await;
    assert_eq!(scene.drain().await, 0);
    let mut called: Vec<i64> = endpoint.requests().iter().map(message_of).collect();
    called.sort_unstable();
    assert_eq!(called, (1..=11).chain(20..30).collect::<Vec<i64>>(), "each is called once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_holds_back_only_its_event_in_large_batches() {
    let config = Storage::Postgres.config().await.set("flag.batch_rows", "10000");
    a_locked_row_holds_back_only_its_event(config.text("flag.batch_age", "200ms")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_holds_back_only_its_event_in_batches_of_one() {
    let config = Storage::Postgres.config().await.set("flag.batch_rows", "1");
    a_locked_row_holds_back_only_its_event(config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_holds_back_only_its_event_by_default() {
    a_locked_row_holds_back_only_its_event(Storage::Postgres.config().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_whose_messages_are_all_locked_holds_back_no_other() {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let config = Storage::Postgres.config().await.set("actors.event_pool", "1");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let other = scene.bot_at("salad", &endpoint.url("/hook")).await;
    let messages = 1..=30;
    for message in messages.clone() {
        scene.give_message(bot, message, MENTIONED).await;
        scene.give_message(other, message, MENTIONED).await;
    }
    let lock = format!("SELECT 1 FROM zerver_usermessage WHERE user_profile_id = {bot} FOR UPDATE");
    let theirs = scene.uncommitted(&lock).await;
    let events_of = |bot: i64| messages.clone().map(move |id| channel_event(bot, id, id, "Kitchen", "soup?"));
    scene.send(&events_of(bot).chain(events_of(other)).collect::<Vec<_>>()).await;
    scene.finished(30).await;
    let finished =
        |bot: i64| format!("SELECT count(*) FROM outhook_event WHERE state = 1 AND bot_id = {bot}");
    assert_eq!(scene.db.count(&finished(other)).await, 30);
    assert_eq!(scene.db.count(&finished(bot)).await, 0);

    theirs.rollback().await.unwrap();
    scene.finished(60).await;
    let unread = format!("SELECT count(*) FROM zerver_usermessage WHERE flags <> {}", MENTIONED | READ);
    assert_eq!(scene.db.count(&unread).await, 0);
    assert_eq!(endpoint.requests().len(), 60);
}

/// One failure closes a gate for a moment. Messages are sent one after the other and answered so, and the row
/// of one of them is locked until all others are finished. Returns how many gates are written down as closed
/// then and later.
async fn gates_around_a_late_outcome(succeeds: &'static [bool], locked: i64) -> [i64; 2] {
    let endpoint = Endpoint::start(move |_, number| match succeeds[number] {
        true => Answer::Json(json!({})),
        false => Answer::status(503),
    })
    .await;
    let config = Storage::Postgres.config().await.set("breaker.failures", "1").text("breaker.open", "100ms");
    let scene = Scene::start(Inlet::Stored, config.set("retry.max_retries", "0")).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    scene.give_message(bot, locked, MENTIONED).await;
    let theirs = scene.uncommitted(&star(bot, locked)).await;
    let mut finished = 0;
    for message in (1..).take(succeeds.len()) {
        scene.send(&[channel_event(bot, message, message, "Kitchen", "soup?")]).await;
        if message == locked {
            metric_reaches(&scene, "outhook_flags_put_off_total", 1.0).await;
        } else {
            finished += 1;
            scene.finished(finished).await;
        }
    }
    let closed = "SELECT count(*) FROM outhook_gate";
    let before = scene.db.count(closed).await;
    theirs.commit().await.unwrap();
    scene.finished(succeeds.len()).await;
    [before, scene.db.count(closed).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_has_opened_is_not_closed_by_an_outcome_that_waited_for_a_lock() {
    assert_eq!(gates_around_a_late_outcome(&[false, true], 1).await, [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_has_closed_is_not_opened_by_an_outcome_that_waited_for_a_lock() {
    assert_eq!(gates_around_a_late_outcome(&[false, true, false], 2).await, [1, 1]);
}

/// Bots with and without rows for their messages, one of them with two services.
async fn all_are_finished(config: Config) -> Scene {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let scene = Scene::start(Inlet::Stored, config).await;
    let one = scene.bot_at("soup", &endpoint.url("/one")).await;
    let two = scene.bot_at("salad", &endpoint.url("/two")).await;
    scene.service(two, "second", &endpoint.url("/two"), &[]).await;
    let event = |message: i64| {
        let bot = if message % 2 == 0 { one } else { two };
        channel_event(bot, message, message % 20, "Kitchen", "soup?")
    };
    for message in 1..=20 {
        scene.give_message(one, message, MENTIONED).await;
    }
    scene.send(&(1..=100).map(event).collect::<Vec<_>>()).await;
    scene.finished(100).await;
    assert_eq!(endpoint.requests().len(), 150);
    let read = format!("SELECT count(*) FROM zerver_usermessage WHERE flags = {}", MENTIONED | READ);
    assert_eq!(scene.db.count(&read).await, 10);
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_call WHERE state = 1").await, 150);
    // A batch is counted once what it holds is committed.
    metric_reaches(&scene, "outhook_batch_rows_sum", 150.0).await;
    scene
}

/// Every batch is counted under one of the reasons for which one is cut.
async fn all_cuts(scene: &Scene) -> f64 {
    let mut sum = 0.0;
    for reason in ["size", "age", "idle", "flush"] {
        sum += cuts(scene, reason).await;
    }
    sum
}

async fn in_batches_of_one(storage: Storage) {
    let scene = all_are_finished(storage.config().await.set("flag.batch_rows", "1")).await;
    let batches = scene.outhook.metric("outhook_batches_total").await;
    assert_eq!((batches, cuts(&scene, "size").await), (150.0, 150.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_finished_in_batches_of_one_on_sqlite() {
    in_batches_of_one(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_finished_in_batches_of_one_on_postgresql() {
    in_batches_of_one(Storage::Postgres).await;
}

async fn in_large_batches(storage: Storage) {
    let config = storage.config().await.set("flag.batch_rows", "10000").text("flag.batch_age", "50ms");
    let scene = all_are_finished(config).await;
    let batches = scene.outhook.metric("outhook_batches_total").await;
    assert_eq!(cuts(&scene, "size").await, 0.0);
    assert_eq!(batches, all_cuts(&scene).await);
    assert!(batches < 150.0, "{batches}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_finished_in_large_batches_on_sqlite() {
    in_large_batches(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_finished_in_large_batches_on_postgresql() {
    in_large_batches(Storage::Postgres).await;
}

/// Has one batch wait for a lock while 19 more outcomes come in, and tells how the batches were cut.
async fn cuts_behind_a_slow_batch(batch_rows: &str) -> [f64; 3] {
    const EVENTS: i64 = 20;
    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    let config = Storage::Postgres.config().await.set("actors.calls_per_bot", "20");
    let scene = Scene::start(Inlet::Stored, config.set("flag.batch_rows", batch_rows)).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let event = |message| channel_event(bot, message, message, "Kitchen", "soup?");
    scene.send(&(1..=EVENTS).map(event).collect::<Vec<_>>()).await;
    endpoint.wait_for(20).await;

    let theirs = scene.uncommitted("LOCK TABLE outhook_call IN EXCLUSIVE MODE").await;
    gate.open();
    metric_reaches(&scene, "outhook_calls_total{outcome=\"succeeded\"", 20.0).await;
    theirs.rollback().await.unwrap();
    scene.finished(20).await;
    metric_reaches(&scene, "outhook_batch_rows_sum", 20.0).await;
    let batches = scene.outhook.metric("outhook_batches_total").await;
    assert_eq!(batches, scene.outhook.metric("outhook_batch_rows_count").await);
    assert_eq!(batches, all_cuts(&scene).await);
    [cuts(&scene, "idle").await, cuts(&scene, "size").await, cuts(&scene, "age").await]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_during_a_commit_is_cut_by_size() {
    let [idle, size, _] = cuts_behind_a_slow_batch("5").await;
    assert!(idle >= 1.0 && size >= 3.0, "{idle} idle, {size} by size");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_during_a_commit_is_cut_by_age_if_it_is_little() {
    let [idle, size, age] = cuts_behind_a_slow_batch("10000").await;
    assert!(idle >= 1.0 && size == 0.0 && age >= 1.0, "{idle} idle, {size} by size, {age} by age");
}
