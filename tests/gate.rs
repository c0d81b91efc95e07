//! The gate of a service: an endpoint that fails, asks for it or is gone is left alone, and so is one that an
//! operator pauses. What waits for it loses nothing, and no other service notices.

mod handover;
mod pace;
mod paused;
mod probe;
mod resume;
mod retry_after;
mod visible;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::*;

/// Moments are told in whole milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);

/// An event in a conversation of its own.
fn event(bot: i64, message: i64) -> Value {
    channel_event(bot, message, message, "Kitchen", "soup?")
}

fn events(bot: i64, messages: impl IntoIterator<Item = i64>) -> Vec<Value> {
    messages.into_iter().map(|message| event(bot, message)).collect()
}

/// So few failures close a gate, and a failed call is not tried again.
fn config(config: Config, failures: usize, open: &str) -> Config {
    config
        .set("breaker.failures", &failures.to_string())
        .text("breaker.open", open)
        .set("retry.max_retries", "0")
        .set("actors.event_pool", "1")
}

/// The ledger's lines of a message.
async fn calls(scene: &Scene, message: i64) -> Vec<Value> {
    scene.ledger().await.into_iter().filter(|call| call["message_id"] == message).collect()
}

/// Waits until so many calls wait for this reason.
async fn put_off(scene: &Scene, reason: &str, n: i64) {
    let sql = format!("SELECT count(*) FROM outhook_call WHERE state = 0 AND fault = '{reason}'");
    let enough = || async { (scene.db.count(&sql).await == n).then_some(()) };
    eventually(&format!("{n} calls to be put off by {reason}"), PATIENCE, enough).await;
}

async fn count(scene: &Scene, rows: &str) -> i64 {
    scene.db.count(&format!("SELECT count(*) FROM {rows}")).await
}

/// What `outhook services list` tells of a service.
async fn listed(config: &Config, service: i64) -> Value {
    let services = config.cli(&["services", "list", "--json"]).await.success().records();
    services.into_iter().find(|row| row["id"] == service).unwrap()
}

/// Runs `outhook services` with this word, and returns what it says.
async fn services(scene: &Scene, word: &str, service: i64) -> String {
    scene.config.cli(&["services", word, &service.to_string()]).await.success().stdout.trim().to_owned()
}

/// Sends events one by one, the first with this message, until one succeeds.
async fn send_until_one_succeeds(scene: &Scene, bot: i64, first: i64) {
    let began = Instant::now();
    for message in first.. {
        scene.send(&[event(bot, message)]).await;
        setup::all_finished(&scene.db).await;
        if calls(scene, message).await[0]["state"] == "succeeded" {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "no call is made");
    }
}

/// The last of three failures in a row comes while events of other conversations are stored behind it.
async fn one_probe_decides(storage: Storage) {
    let (failing, probed) = (Gate::new(), Gate::new());
    let gates = [failing.clone(), probed.clone()];
    let endpoint = Endpoint::start(move |request, number| match number {
        0..2 => Answer::status(503),
        2..5 => Answer::Gated(gates[0].clone(), Box::new(Answer::status(503))),
        _ => Answer::Gated(gates[1].clone(), Box::new(echo(request))),
    })
    .await;
    let other = Endpoint::json(json!({})).await;
    let config = config(storage.config().await, 3, "2s").set("actors.calls_per_bot", "3");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot("soup").await;
    let service = scene.service(bot, "main", &endpoint.url("/hook"), &[]).await;
    let healthy = scene.bot_at("salad", &other.url("/hook")).await;
    scene.send(&events(bot, 1..=2)).await;
    scene.finished(2).await;
    // Three of these are called at once; the first that fails closes the gate.
    scene.send(&events(bot, 3..=13)).await;
    endpoint.wait_for(5).await;
    let failed = Instant::now();
    failing.open();
    scene.finished(5).await;

    let closed = listed(&scene.config, service).await;
    assert_eq!(closed["reason"], "breaker", "{closed}");
    assert!(closed["until"].is_string() && closed["since"].is_string(), "{closed}");
    let waiting = &calls(&scene, 13).await[0];
    assert_eq!(
        (&waiting["state"], &waiting["reason"], &waiting["attempts"]),
        (&json!("not started"), &json!("breaker"), &Value::Null)
    );
    let detail = waiting["detail"].as_str().unwrap();
    assert!(detail.contains("3 calls in a row failed, the last with: "), "{detail}");
    assert!(waiting["due"].is_string(), "{waiting}");
    assert_eq!(scene.outhook.metric("outhook_gates_closed").await, 1.0);
    assert_eq!(scene.outhook.metric("outhook_gate_closings_total{reason=\"breaker\"").await, 1.0);
    assert_eq!(scene.outhook.metric("outhook_calls_total{outcome=\"put_off\"").await, 0.0);

    let requests = endpoint.wait_for(6).await;
    assert!(requests[5].at - failed >= Duration::from_secs(2) - ROUNDING);
    // The same actor does this after it has let others of those begin, which wait for the probe.
    scene.send(&[event(healthy, 100)]).await;
    other.wait_for(1).await;
    assert_eq!(endpoint.count(), 6, "there is one probe");

    probed.open();
    scene.finished(14).await;
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 13);
    assert!(requests.iter().all(|request| request.header("outhook-attempt") == Some("1")));
    let succeeded = "outhook_call WHERE state = 1 AND attempts = 1";
    assert_eq!(count(&scene, succeeded).await, 9, "what waited has spent no attempt");
    assert_eq!(listed(&scene.config, service).await["state"], "open");
    assert_eq!(scene.outhook.metric("outhook_gates_closed").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_service_is_left_alone_until_one_probe_decides_for_all_that_waits_on_sqlite() {
    one_probe_decides(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_service_is_left_alone_until_one_probe_decides_for_all_that_waits_on_postgresql() {
    one_probe_decides(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_probe_that_fails_doubles_the_time_until_the_next() {
    let endpoint = Endpoint::start(|_, _| Answer::status(500)).await;
    let config = config(Config::sqlite(), 2, "200ms")
        .text("breaker.max_open", "400ms")
        .text("retry.max_delay", "20ms")
        .text("retry.initial_delay", "20ms")
        .set("retry.max_retries", "4");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    let requests = endpoint.requests();
    let waits: Vec<Duration> = requests.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert_eq!(waits.len(), 4);
    for (wait, least) in waits[1..].iter().zip([200, 400, 400]) {
        assert!(*wait >= Duration::from_millis(least) - ROUNDING, "{waits:?}");
    }
    assert_eq!(calls(&scene, 1).await[0]["reason"], "status");
}

/// An endpoint that asks for a pause with its first answer.
async fn asks_for_a_pause(status: u16, pause: Duration) -> Endpoint {
    Endpoint::start(move |request, number| {
        if number > 0 {
            return echo(request);
        }
        let headers = vec![("retry-after".to_owned(), pause.as_secs().to_string())];
        Answer::Http { status, headers, body: vec![] }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_asks_for_a_pause_holds_back_its_service_and_no_sibling() {
    const PAUSE: Duration = Duration::from_secs(4);
    let sibling = Endpoint::json(json!({})).await;
    let asking = [asks_for_a_pause(429, PAUSE).await, asks_for_a_pause(503, PAUSE).await];
    let scene = Scene::start(Inlet::Stored, Config::sqlite()).await;
    let mut bots = vec![];
    for (name, endpoint) in ["soup", "salad"].into_iter().zip(&asking) {
        let bot = scene.bot_at(name, &endpoint.url("/hook")).await;
        scene.service(bot, "sibling", &sibling.url("/hook"), &[]).await;
        bots.push(bot);
    }
    scene.send(&bots.iter().map(|bot| event(*bot, 1)).collect::<Vec<_>>()).await;
    put_off(&scene, "status", 2).await;
    let more: Vec<Value> = bots.iter().flat_map(|bot| events(*bot, 2..=4)).collect();
    scene.send(&more).await;
    put_off(&scene, "retry_after", 6).await;
    let waiting = calls(&scene, 4).await;
    let waiting = waiting.iter().find(|call| call["reason"] == "retry_after").unwrap();
    assert_eq!((&waiting["state"], &waiting["attempts"]), (&json!("waiting"), &json!(0)), "{waiting}");
    scene.finished(8).await;

    let siblings = sibling.requests();
    assert_eq!(siblings.len(), 8);
    for endpoint in &asking {
        let requests = endpoint.requests();
        assert_eq!(requests.len(), 5);
        assert!(requests[1].at - requests[0].at >= PAUSE - ROUNDING);
        assert!(siblings.iter().all(|call| call.at < requests[1].at), "the sibling was held back");
        let attempts: Vec<_> = requests.iter().filter(|call| message_of(call) > 1).collect();
        assert!(attempts.iter().all(|call| call.header("outhook-attempt") == Some("1")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_pauses_its_service_until_it_is_resumed() {
    let endpoint = Endpoint::start(|request, number| match number {
        0 => Answer::status(410),
        _ => echo(request),
    })
    .await;
    let scene = Scene::start(Inlet::Stored, Config::sqlite()).await;
    let bot = scene.bot("soup").await;
    let service = scene.service(bot, "main", &endpoint.url("/hook"), &[]).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    let paused = listed(&scene.config, service).await;
    assert_eq!((&paused["state"], &paused["reason"]), (&json!("paused"), &json!("gone")), "{paused}");
    assert_eq!(paused["until"], Value::Null);

    scene.send(&events(bot, 2..=3)).await;
    scene.finished(3).await;
    for message in 2..=3 {
        let call = &calls(&scene, message).await[0];
        let seen = (&call["state"], &call["reason"], &call["attempts"]);
        assert_eq!(seen, (&json!("failed"), &json!("paused"), &json!(0)));
    }
    assert_eq!(endpoint.count(), 1);
    let said = setup::outbox(&scene.db).await;
    assert_eq!(said.iter().map(|said| (said.message, said.is_told())).collect::<Vec<_>>(), [(1, true)]);
    assert_eq!(scene.outhook.metric("outhook_calls_total{outcome=\"paused\"").await, 2.0);

    assert_eq!(services(&scene, "resume", service).await, format!("service {service} is called again"));
    send_until_one_succeeds(&scene, bot, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_paused_by_command_is_not_called_until_it_is_resumed() {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let sibling = Endpoint::json(json!({})).await;
    let scene = Scene::start(Inlet::Stored, Config::sqlite()).await;
    let bot = scene.bot("soup").await;
    let service = scene.service(bot, "main", &endpoint.url("/hook"), &[]).await;
    scene.service(bot, "sibling", &sibling.url("/hook"), &[]).await;
    assert_eq!(services(&scene, "pause", service).await, format!("service {service} is paused"));
    assert_eq!(services(&scene, "pause", service).await, format!("service {service} was paused already"));
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    assert_eq!((endpoint.count(), sibling.count()), (0, 1));
    let call = calls(&scene, 1).await.into_iter().find(|call| call["service_id"] == service).unwrap();
    assert_eq!((&call["state"], &call["reason"]), (&json!("failed"), &json!("paused")), "{call}");
    assert!(setup::outbox(&scene.db).await.is_empty());

    assert_eq!(services(&scene, "resume", service).await, format!("service {service} is called again"));
    assert_eq!(services(&scene, "resume", service).await, format!("service {service} was not paused"));
    send_until_one_succeeds(&scene, bot, 2).await;
    for word in ["pause", "resume"] {
        let unknown = scene.config.cli(&["services", word, "4711"]).await;
        assert_eq!(
            (unknown.status, unknown.stderr.trim()),
            (64, "outhook: there is no service with the id 4711")
        );
    }
    services(&scene, "pause", service).await;
    scene.config.cli(&["services", "remove", &service.to_string()]).await.success();
    assert_eq!(count(&scene, "outhook_gate").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlasts_what_the_calls_in_flight_come_to() {
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = Endpoint::start(move |_, number| {
        let status = if number == 0 { 503 } else { 404 };
        Answer::Gated(held.clone(), Box::new(Answer::status(status)))
    })
    .await;
    let scene = Scene::start(Inlet::Stored, config(Config::sqlite(), 1, "1m")).await;
    let bot = scene.bot("soup").await;
    let service = scene.service(bot, "main", &endpoint.url("/hook"), &[]).await;
    scene.send(&events(bot, 1..=2)).await;
    endpoint.wait_for(2).await;
    services(&scene, "pause", service).await;
    gate.let_through(1);
    scene.finished(1).await;
    assert_eq!(listed(&scene.config, service).await["reason"], "paused");
    gate.open();
    scene.finished(2).await;
    assert_eq!(listed(&scene.config, service).await["reason"], "paused");
}

async fn closed_for_a_new_process(storage: Storage) {
    let endpoint = Endpoint::start(|_, _| Answer::status(503)).await;
    let mut scene = Scene::start(Inlet::Stored, config(storage.config().await, 1, "1m")).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    scene.outhook.kill().await;
    scene.start_again().await;
    scene.send(&[event(bot, 2)]).await;
    scene.outhook.wait_for_log(&format!("bot {bot} is held back")).await;
    assert_eq!(scene.outhook.metric("outhook_gates_closed").await, 1.0);
    assert_eq!(endpoint.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_closed_stays_closed_for_a_new_process_on_sqlite() {
    closed_for_a_new_process(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_closed_stays_closed_for_a_new_process_on_postgresql() {
    closed_for_a_new_process(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_given_up_at_once_if_it_would_wait_too_long_and_is_made_if_it_need_not_wait() {
    let endpoint = Endpoint::start(|_, _| Answer::status(503)).await;
    let config = config(Config::sqlite(), 1, "1m").text("retry.give_up_after", "0s");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    assert_eq!(endpoint.count(), 1, "the first attempt is made, however old the event is");
    scene.send(&[event(bot, 2)]).await;
    scene.finished(2).await;
    assert_eq!(endpoint.count(), 1);
    let call = &calls(&scene, 2).await[0];
    let seen = (&call["state"], &call["reason"], &call["attempts"]);
    assert_eq!(seen, (&json!("failed"), &json!("breaker"), &json!(0)));
    let said = setup::outbox(&scene.db).await;
    let told = "I could not pass this message on: its endpoint has been failing for a while.";
    assert_eq!(said[1].content, told);
}

/// More than one transaction deletes.
const REMOVED: i64 = 450;

async fn gates_of_removed_services_go(storage: Storage) {
    let config = storage.config().await.text("history.keep", "1m");
    let db = setup::tables(&config).await;
    let (_, service) = setup::one_bot(&config, "http://127.0.0.1:9/hook", "generic").await;
    config.cli(&["services", "pause", &service.to_string()]).await.success();
    db.exec(&format!(
        "WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < {REMOVED})
         INSERT INTO outhook_gate (service_id, reason, closed_until, since, detail, failures, openings)
         SELECT {service} + n, 0, 1, 1, 'a timeout', 20, 1 FROM i"
    ))
    .await;
    let _outhook = Outhook::start(&config).await;
    eventually("the gates of removed services to be deleted", PATIENCE, || async {
        (db.count("SELECT count(*) FROM outhook_gate").await == 1).then_some(())
    })
    .await;
    assert_eq!(listed(&config, service).await["reason"], "paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gates_of_services_that_were_removed_are_deleted_on_sqlite() {
    gates_of_removed_services_go(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gates_of_services_that_were_removed_are_deleted_on_postgresql() {
    gates_of_removed_services_go(Storage::Postgres).await;
}
