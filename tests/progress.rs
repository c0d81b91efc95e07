//! Readiness is progress: work that gets lost without an error and without a trace is noticed.

use std::time::Duration;

use serde_json::json;

use super::support::*;

/// A test of 10 s without progress waits as long as that, and somewhat longer on a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(40);

/// Waits until it is not ready for this actor, and returns what it says of it.
async fn complaint(scene: &Scene, actor: &str) -> String {
    eventually(&format!("outhook to name {actor}"), NOTICED_WITHIN, || async {
        let (status, body) = scene.outhook.try_get("/health/ready").await.ok()?;
        let line = body.lines().find(|line| line.contains(actor))?;
        (status == 503).then(|| line.to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_does_not_begin_is_noticed() {
    let endpoint = Endpoint::start(|_, _| Answer::Json(json!({}))).await;
    let config = Config::sqlite().fail_points("lost-lookup=14*return->off").set("actors.event_pool", "1");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/")).await;
    scene.send(&[direct_event(bot, 1, 7, "lost")]).await;
    let said = complaint(&scene, "actor event-0").await;
    assert!(said.contains("has ready events but has begun no call for"), "{said}");
    assert_eq!(endpoint.count(), 0);
    endpoint.wait_for(1).await;
    scene.outhook.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_nobody_looks_at_is_noticed() {
    let config = Config::sqlite().fail_points("lost-look=4*return->off");
    let scene = Scene::start(Inlet::Stored, config).await;
    let said = complaint(&scene, "actor queue").await;
    assert!(said.contains("has not looked for due events for"), "{said}");
    scene.outhook.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_their_limit_are_no_fault() {
    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    let config = Config::sqlite().set("http.max_calls", "2").set("http.timeout", "\"60s\"");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bots =
        [scene.bot_at("soup", &endpoint.url("/")).await, scene.bot_at("stew", &endpoint.url("/")).await];
    let events: Vec<_> = (1..=8_i64).map(|n| direct_event(bots[n as usize % 2], n, n, "x")).collect();
    scene.send(&events).await;
    endpoint.wait_for(2).await;
    scene.outhook.stays_ready().await;
    gate.open();
    scene.finished(8).await;
}
