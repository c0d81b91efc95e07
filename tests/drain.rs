//! Stopping: in order, within a deadline, and again after a hard stop.

use std::time::Duration;

use super::support::*;

/// A bot with one endpoint, and events for it in as many conversations.
async fn bot(config: &Config, endpoint: &Endpoint, events: i64) -> (i64, String) {
    config.cli(&["migrate"]).await.success();
    let added = config.cli(&["bots", "add", "--email", "b@x.org", "--name", "B", "--json"]).await.success();
    let bot = added.records()[0]["id"].as_i64().unwrap();
    let (id, url) = (bot.to_string(), endpoint.url("/hook"));
    config.cli(&["services", "add", "--bot", &id, "--name", "s", "--url", &url]).await.success();
    let lines: Vec<String> = (1..=events)
        .map(|message| channel_event(bot, message, message, "topic", "soup?").to_string())
        .collect();
    (bot, lines.join("\n"))
}

async fn send(config: &Config, lines: &str) {
    config.cli_with_input(&["send", "--file", "-"], lines.as_bytes()).await.success();
}

async fn finished(db: &Db, events: i64) {
    eventually("all events are finished", PATIENCE, || async {
        let done = db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await;
        (done == events).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_calls_in_flight_and_begins_no_others() {
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = Endpoint::start(move |_, _| {
        Answer::Gated(held.clone(), Box::new(Answer::Json(serde_json::json!({}))))
    })
    .await;
    let config = Config::sqlite().set("actors.calls_per_bot", "2");
    let (_, lines) = bot(&config, &endpoint, 6).await;
    let mut outhook = Outhook::start(&config).await;
    send(&config, &lines).await;
    endpoint.wait_for(2).await;

    outhook.terminate().await;
    eventually("it says that it drains", PATIENCE, || async {
        let (status, body) = outhook.try_get("/health/ready").await.ok()?;
        (status == 503 && body.contains("draining")).then_some(())
    })
    .await;
    gate.open();
    assert_eq!(outhook.wait().await.code(), Some(0));
    assert_eq!(endpoint.requests().len(), 2);
    let db = Db::of(&config).await;
    assert_eq!(db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await, 2);
    assert_eq!(db.count("SELECT count(*) FROM outhook_event WHERE state = 0 AND due IS NULL").await, 0);

    let _outhook = Outhook::start(&config).await;
    finished(&db, 6).await;
    assert_eq!(endpoint.requests().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_deadline_hung_calls_are_aborted_and_the_next_start_makes_them_again() {
    let endpoint = Endpoint::start(|_, number| match number {
        0 => Answer::Hang,
        _ => Answer::Json(serde_json::json!({})),
    })
    .await;
    let config = Config::sqlite().set("drain.deadline", "\"200ms\"").set("http.timeout", "\"5m\"");
    let (_, lines) = bot(&config, &endpoint, 1).await;
    let mut outhook = Outhook::start(&config).await;
    send(&config, &lines).await;
    endpoint.wait_for(1).await;
    outhook.terminate().await;
    assert_eq!(outhook.wait().await.code(), Some(0));

    let _outhook = Outhook::start(&config).await;
    finished(&Db::of(&config).await, 1).await;
    let ids: Vec<String> =
        endpoint.requests().iter().map(|request| request.header("webhook-id").unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_with_its_number() {
    let endpoint = Endpoint::start(|_, _| Answer::Hang).await;
    let config = Config::sqlite().set("drain.deadline", "\"5m\"").set("http.timeout", "\"5m\"");
    let (_, lines) = bot(&config, &endpoint, 1).await;
    let mut outhook = Outhook::start(&config).await;
    send(&config, &lines).await;
    endpoint.wait_for(1).await;
    outhook.terminate().await;
    outhook.wait_for_log("draining").await;
    outhook.signal("INT").await;
    assert_eq!(outhook.wait().await.code(), Some(130));
}

/// Kills the daemon while batches are being committed; judged by each call's `webhook-id`.
async fn survives_hard_stops(config: Config) {
    const EVENTS: i64 = 400;
    let endpoint = Endpoint::json(serde_json::json!({})).await;
    let (_, lines) = bot(&config, &endpoint, EVENTS).await;
    let db = Db::of(&config).await;
    send(&config, &lines).await;
    let mut kills = 0;
    for calls in [40, 120, 250] {
        let mut outhook = Outhook::run(&config);
        endpoint.wait_for(calls).await;
        outhook.kill().await;
        kills += 1;
    }
    let mut outhook = Outhook::start(&config).await;
    finished(&db, EVENTS).await;
    outhook.terminate().await;
    assert_eq!(outhook.wait().await.code(), Some(0));

    let mut calls = std::collections::HashMap::new();
    for request in endpoint.requests() {
        *calls.entry(request.header("webhook-id").unwrap().to_owned()).or_insert(0_usize) += 1;
    }
    assert_eq!(calls.len() as i64, EVENTS, "an event was lost");
    let repeated = calls.values().filter(|count| **count > 1).count();
    // Only calls that were in flight, or whose outcome was not committed yet, may be repeated.
    println!("{repeated} of {EVENTS} calls were repeated after {kills} kills");
    assert!(repeated < EVENTS as usize / 2);
    assert_eq!(db.count("SELECT count(*) FROM outhook_dead_letter").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_by_a_hard_stop_in_the_middle_of_a_batch_on_sqlite() {
    survives_hard_stops(Config::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_by_a_hard_stop_in_the_middle_of_a_batch_on_postgresql() {
    let url = Postgres::shared().await.database().await;
    survives_hard_stops(Config::postgres(&url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rabbitmq_delivered_and_was_not_stored_is_delivered_again_after_a_kill() {
    const EVENTS: i64 = 300;
    let rabbit = Rabbit::shared().await;
    let queue = rabbit.queue().await;
    let url = Postgres::shared().await.database().await;
    let config = Config::postgres(&url).queue(&queue.url, &queue.name).set("queue.prefetch", "20");
    let endpoint = Endpoint::json(serde_json::json!({})).await;
    let (_, lines) = bot(&config, &endpoint, EVENTS).await;
    let bodies: Vec<Vec<u8>> = lines.lines().map(|line| line.as_bytes().to_vec()).collect();
    queue.publish_all(&bodies).await;
    for calls in [30, 100] {
        let mut outhook = Outhook::run(&config);
        endpoint.wait_for(calls).await;
        outhook.kill().await;
    }
    let mut outhook = Outhook::start(&config).await;
    finished(&Db::of(&config).await, EVENTS).await;
    outhook.terminate().await;
    assert_eq!(outhook.wait().await.code(), Some(0));
    assert_eq!(queue.depth().await, 0);
    let ids: std::collections::HashSet<String> =
        endpoint.requests().iter().map(|request| request.header("webhook-id").unwrap().to_owned()).collect();
    assert_eq!(ids.len() as i64, EVENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_sqlite_file_is_refused() {
    let config = Config::sqlite();
    let _first = Outhook::start(&config).await;
    let config = config.set("admin.listen", "\"\"");
    let second = tokio::time::timeout(Duration::from_secs(20), config.cli(&["run"])).await;
    let second = second.expect("it ends by itself");
    assert_eq!(second.status, 69, "{}", second.stderr);
    assert!(second.stderr.contains("another outhook daemon"), "{}", second.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_full_load_ends_within_its_deadline_and_the_next_start_goes_on() {
    const EVENTS: i64 = 600;
    const DEADLINE: Duration = Duration::from_secs(2);
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = Endpoint::start(move |request, _| match message_of(request) % 4 {
        0 => Answer::Gated(held.clone(), Box::new(Answer::Json(serde_json::json!({})))),
        _ => Answer::Late(Duration::from_millis(20), Box::new(Answer::Json(serde_json::json!({})))),
    })
    .await;
    let queue = Rabbit::shared().await.queue().await;
    let url = Postgres::shared().await.database().await;
    let config = Config::postgres(&url)
        .queue(&queue.url, &queue.name)
        .text("drain.deadline", "2s")
        .text("http.timeout", "5m")
        .set("actors.calls_per_bot", "100");
    let (_, lines) = bot(&config, &endpoint, EVENTS).await;
    let bodies: Vec<Vec<u8>> = lines.lines().map(|line| line.as_bytes().to_vec()).collect();
    let mut outhook = Outhook::start(&config).await;
    let publish = queue.publish_all(&bodies);
    let stop = async {
        endpoint.wait_for(60).await;
        outhook.terminate().await;
        let asked = std::time::Instant::now();
        let code = outhook.wait().await.code();
        (code, asked.elapsed())
    };
    let ((), (code, took)) = tokio::join!(publish, stop);
    assert_eq!(code, Some(0));
    // The deadline, and 2 s for what is known when the calls were aborted.
    assert!(took < DEADLINE + Duration::from_secs(4), "it took {took:?}");
    let db = Db::of(&config).await;
    assert_eq!(db.count("SELECT count(*) FROM outhook_event WHERE state = 0 AND due IS NULL").await, 0);
    assert_eq!(db.count("SELECT count(*) FROM outhook_daemon").await, 0);
    let before = endpoint.requests().len();
    let done = db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await;
    assert!(done < EVENTS, "there was nothing left to go on with");

    gate.open();
    let _outhook = Outhook::start(&config).await;
    finished(&db, EVENTS).await;
    // Only the calls that were aborted were made again.
    let ids: std::collections::HashSet<String> = endpoint.webhook_ids().into_iter().collect();
    assert_eq!(ids.len() as i64, EVENTS);
    let again = endpoint.requests().len() - ids.len();
    assert!(again <= before - usize::try_from(done).unwrap(), "{again} calls were repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_under_load_loses_nothing() {
    const EVENTS: i64 = 200;
    let endpoint = Endpoint::start(|request, number| match message_of(request) % 4 {
        0 if number < 200 => Answer::Hang,
        _ => Answer::Json(serde_json::json!({})),
    })
    .await;
    let config = Config::sqlite().set("drain.deadline", "\"5m\"").set("http.timeout", "\"5m\"");
    let (_, lines) = bot(&config, &endpoint, EVENTS).await;
    let mut outhook = Outhook::start(&config).await;
    send(&config, &lines).await;
    endpoint.wait_for(10).await;
    outhook.terminate().await;
    outhook.wait_for_log("draining").await;
    outhook.terminate().await;
    assert_eq!(outhook.wait().await.code(), Some(128 + 15));
    let config = config.set("http.timeout", "\"1s\"");
    let _outhook = Outhook::start(&config).await;
    let db = Db::of(&config).await;
    finished(&db, EVENTS).await;
    assert_eq!(db.count("SELECT count(*) FROM outhook_dead_letter").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_can_not_commit_ends_with_75_and_the_next_start_goes_on() {
    let postgres = Postgres::private().await;
    let url = postgres.database().await;
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = Endpoint::start(move |_, _| {
        Answer::Gated(held.clone(), Box::new(Answer::Json(serde_json::json!({}))))
    })
    .await;
    let config = Config::postgres(&url).text("drain.deadline", "1s");
    let (_, lines) = bot(&config, &endpoint, 3).await;
    let mut outhook = Outhook::start(&config).await;
    send(&config, &lines).await;
    endpoint.wait_for(3).await;
    postgres.kill().await;
    gate.open();
    outhook.terminate().await;
    assert_eq!(outhook.wait().await.code(), Some(75));
    postgres.start_again().await;
    let _outhook = Outhook::start(&config).await;
    finished(&Db::of(&config).await, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_can_not_record_a_post_ends_with_75_and_the_next_start_may_post_it_again() {
    let postgres = Postgres::private().await;
    let gate = Gate::new();
    let held = gate.clone();
    let taken = || Answer::Json(serde_json::json!({ "result": "success", "msg": "", "id": 1 }));
    let zulip = Endpoint::start(move |_, _| Answer::Gated(held.clone(), Box::new(taken()))).await;
    let endpoint = Endpoint::json(serde_json::json!({ "content": "soup" })).await;
    let config = Config::postgres(&postgres.database().await)
        .text("drain.deadline", "1s")
        .text("reply.to", "zulip")
        .text("reply.site", &zulip.url(""))
        .text("zulip.external_host", "chat.example.org");
    let (_, lines) = bot(&config, &endpoint, 1).await;
    let mut outhook = Outhook::start(&config).await;
    send(&config, &lines).await;
    zulip.wait_for(1).await;
    finished(&Db::of(&config).await, 1).await;
    postgres.kill().await;
    gate.open();
    outhook.terminate().await;
    assert_eq!(outhook.wait().await.code(), Some(75));
    postgres.start_again().await;
    let _outhook = Outhook::start(&config).await;
    let db = Db::of(&config).await;
    eventually("the reply to be recorded", PATIENCE, || async {
        (db.count("SELECT count(*) FROM outhook_reply WHERE state = 1").await == 1).then_some(())
    })
    .await;
    assert_eq!(zulip.requests().len(), 2);
}
