//! A daemon that can open no further file makes its calls later, and no bot pays for it.

use std::time::Instant;

use serde_json::{Value, json};

use super::support::*;

const CALLS: i64 = 16;
/// Far fewer than there are calls. A file that something else opens or closes meanwhile changes nothing.
const FILES_LEFT: usize = 4;

/// How often the daemon says at most that no file is left, in seconds.
const TOLD_EVERY: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_find_no_file_left_are_put_off_and_neither_fail_nor_close_a_gate() {
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint =
        Endpoint::start(move |request, _| Answer::Gated(held.clone(), Box::new(echo(request)))).await;
    // An attempt that is spent is the last, and a failure that is held against the endpoint closes its gate for good.
    let config = Config::sqlite()
        .set("actors.event_pool", "1")
        .set("actors.calls_per_bot", &CALLS.to_string())
        .text("http.timeout", "1m")
        .set("retry.max_retries", "0")
        .set("breaker.failures", "1")
        .text("breaker.open", "1d")
        .text("breaker.max_open", "1d");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;

    let began = Instant::now();
    scene.outhook.leave_files(FILES_LEFT);
    let events: Vec<Value> =
        (1..=CALLS).map(|message| channel_event(bot, message, message, "Kitchen", "soup?")).collect();
    scene.send(&events).await;
    let waiting = "SELECT count(*) FROM outhook_call WHERE state = 0 AND fault = 'no_files' AND attempts = 0";
    eventually("calls to be put off", PATIENCE, || async {
        (scene.db.count(waiting).await > 0).then_some(())
    })
    .await;
    let told = scene.outhook.wait_for_log("no file is left").await;
    assert!(
        told.contains("WARN") && told.contains("LimitNOFILE") && told.contains("http.max_calls"),
        "{told}"
    );
    gate.open();
    scene.finished(events.len()).await;

    let calls = scene.ledger().await;
    let ends: Vec<_> = calls.iter().map(|call| (&call["state"], &call["attempts"])).collect();
    assert_eq!(ends, vec![(&json!("succeeded"), &json!(1)); events.len()]);
    assert_eq!(endpoint.count(), events.len(), "each is called once");
    let services = scene.config.cli(&["services", "list", "--json"]).await.success().records();
    assert_eq!(services[0]["state"], "open", "{services:?}");
    let times = scene.outhook.log().iter().filter(|line| line.contains("no file is left")).count() as u64;
    assert!(times <= 1 + began.elapsed().as_secs() / TOLD_EVERY, "told {times} times");
}
