//! The broker stops, is killed, cuts connections, blocks or loses the queue, under load: no event is lost or
//! called twice, what needs no broker goes on without it, and work resumes by itself.

use serde_json::Value;

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_cuts_connections_stops_or_is_killed_is_consumed_from_again() {
    let rabbit = Rabbit::private().await;
    let config = Config::sqlite().set("retry.max_retries", "100").text("retry.give_up_after", "3s");
    let scene = Scene::on_queue(rabbit.queue().await, config).await;
    let load = Load::on(&scene).await;
    let writer = load.begin(&scene);
    load.goes_on(&scene).await;

    rabbit.ctl(&["close_all_connections", "the operator wants it"]).await;
    scene.outhook.wait_for_log("the broker is away").await;
    load.goes_on(&scene).await;

    let bytes = scene.outhook.memory();
    rabbit.stop().await;
    setup::all_finished(&scene.db).await;
    endures(&scene.outhook, "broker", bytes).await;
    rabbit.start_again().await;
    load.goes_on(&scene).await;

    is_away_for_longer_than_every_retry(&rabbit, &scene).await;
    rabbit.start_again().await;
    load.goes_on(&scene).await;

    load.is_done(&scene, &writer.stop().await).await;
    scene.outhook.ready().await;
    let warned = scene.outhook.log().into_iter().find(|line| line.contains("another consumer"));
    assert_eq!(warned, None, "there was only outhook");
}

/// Kills the broker while a call is being retried, and waits until the call has been given up.
async fn is_away_for_longer_than_every_retry(rabbit: &Rabbit, scene: &Scene) {
    let endpoint = Endpoint::start(|_, _| Answer::status(503)).await;
    let bot = scene.bot_at("unheard", &endpoint.url("/hook")).await;
    scene.send(&[channel_event(bot, 1_000_000, 1, "Kitchen", "soup?")]).await;
    endpoint.wait_for(1).await;
    rabbit.kill().await;
    scene.outhook.misses("broker").await;
    let attempts = endpoint.count();
    setup::all_finished(&scene.db).await;
    assert!(endpoint.count() > attempts, "no retry was made without the broker");
    let gave_up = "SELECT count(*) FROM outhook_call WHERE state = 2 AND status = 503";
    assert_eq!(scene.db.count(gave_up).await, 1);
    scene.outhook.misses("broker").await;
}

/// The URL of a broker that is reached through a relay, on a connection without heartbeats.
fn through(relay: &Relay, rabbit: &Rabbit) -> String {
    let direct = rabbit.url().replace(&rabbit.address().to_string(), &relay.address().to_string());
    format!("{direct}?heartbeat=0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_is_replaced() {
    let rabbit = Rabbit::shared().await;
    let relay = Relay::to(rabbit.address()).await;
    let queue = rabbit.queue().await;
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let scene = Scene::on_queue(Queue::new(&through(&relay, rabbit), &queue.name), Config::sqlite()).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let body = |message| channel_event(bot, message, message, "Kitchen", "soup?").to_string().into_bytes();
    queue.publish(&body(1)).await;
    scene.finished(1).await;

    relay.silence();
    scene.outhook.misses("broker").await;
    scene.outhook.ready().await;
    eventually("the queue to have both consumers", RESUMES_WITHIN, || async {
        (queue.consumers().await == 2).then_some(())
    })
    .await;
    // Some are dealt to the consumer of the silent connection, for as long as the broker believes in it.
    queue.publish_all(&(2..=11).map(body).collect::<Vec<_>>()).await;
    scene.finished(2).await;
    relay.hang_up();
    scene.finished(11).await;
    assert_eq!(endpoint.count(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_freezes_is_missed_and_consumed_from_again() {
    let rabbit = Rabbit::private().await;
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let queue = rabbit.queue().await;
    let url = format!("{}?heartbeat=0", queue.url);
    let scene = Scene::on_queue(Queue::new(&url, &queue.name), Config::sqlite()).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let bytes = scene.outhook.memory();

    rabbit.freeze();
    endures(&scene.outhook, "broker", bytes).await;
    let checked = scene.config.cli(&["check"]).await;
    assert_eq!(checked.status, 69, "{checked:?}");
    assert!(checked.stdout.contains("no answer within"), "{checked:?}");
    rabbit.thaw();
    scene.outhook.ready().await;
    queue.publish(channel_event(bot, 1, 1, "Kitchen", "soup?").to_string().as_bytes()).await;
    scene.finished(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_deleted_under_its_consumer_is_declared_and_consumed_from_again() {
    let scene = Scene::start(Inlet::RabbitMq, Config::sqlite()).await;
    let queue = scene.queue.as_ref().unwrap();
    let load = Load::on(&scene).await;
    let writer = load.begin(&scene);
    load.goes_on(&scene).await;

    queue.delete().await;
    scene.outhook.wait_for_log("cancelled the consumer").await;
    eventually("the queue to have a consumer again", RESUMES_WITHIN, || async {
        (queue.consumers().await == 1).then_some(())
    })
    .await;
    load.goes_on(&scene).await;
    writer.stop().await;

    // What was on the queue when it was deleted is gone with it, so only what came afterwards is missed.
    let writer = load.begin(&scene);
    load.goes_on(&scene).await;
    load.is_done(&scene, &writer.stop().await).await;
    scene.outhook.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_memory_alarm_the_queue_is_worked_off_and_send_says_why_it_ends() {
    let rabbit = Rabbit::private().await;
    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    // With so few calls and so little room for what waits for one, most events stay on the queue.
    let config = Config::sqlite()
        .set("actors.event_pool", "1")
        .set("actors.in_memory_events", "4")
        .set("http.max_calls", "1")
        .set("queue.prefetch", "1");
    let scene = Scene::on_queue(rabbit.queue().await, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let event = |message| channel_event(bot, message, message, "Kitchen", "soup?");
    let events: Vec<Value> = (1..=100).map(event).collect();
    scene.send(&events).await;
    endpoint.wait_for(1).await;

    rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await;
    assert!(scene.queue.as_ref().unwrap().depth().await > 0, "nothing is left to be worked off");
    gate.open();
    let bot = bot.to_string();
    let send = ["send", "--bot", &bot, "--content", "salad?"];
    let (sent, ()) = tokio::join!(scene.config.cli(&send), scene.finished(events.len()));
    assert_eq!(sent.status, 69, "{sent:?}");
    assert!(sent.stderr.contains("has not confirmed the events"), "{sent:?}");
    assert!(sent.stderr.contains("blocked by an alarm"), "{sent:?}");
    scene.outhook.ready().await;

    rabbit.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await;
    scene.config.cli(&send).await.success();
    scene.finished(events.len() + 1).await;
    setup::all_finished(&scene.db).await;
    let mut called = endpoint.webhook_ids();
    called.sort_unstable();
    let calls = called.len();
    called.dedup();
    assert_eq!(called.len(), calls, "a call was made again");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_consumer_of_the_queue_is_warned_of_when_the_database_is_a_file() {
    let queue = Rabbit::shared().await.queue().await;
    let _other = queue.consume().await;
    let config = Config::sqlite().queue(&queue.url, &queue.name);
    let outhook = Outhook::start(&config).await;
    let line = outhook.wait_for_log("another consumer").await;
    assert!(line.contains("WARN"), "{line}");
}
