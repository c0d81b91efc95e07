//! Work goes on by itself: when others have written, and with what the database would not give or take at
//! first.

use std::{collections::HashSet, time::Duration};

use super::support::*;

async fn bot(config: &Config, endpoint: &Endpoint) -> i64 {
    config.cli(&["migrate"]).await.success();
    let added = config.cli(&["bots", "add", "--email", "b@x.org", "--name", "B", "--json"]).await.success();
    let bot = added.records()[0]["id"].as_i64().unwrap();
    let (id, url) = (bot.to_string(), endpoint.url("/hook"));
    config.cli(&["services", "add", "--bot", &id, "--name", "s", "--url", &url]).await.success();
    bot
}

fn bodies(bot: i64, messages: std::ops::Range<i64>) -> Vec<Vec<u8>> {
    messages.map(|message| channel_event(bot, message, message, "t", "x").to_string().into_bytes()).collect()
}

async fn calls(endpoint: &Endpoint, events: usize) {
    eventually(&format!("{events} events are called"), PATIENCE, || async {
        let ids: HashSet<String> = endpoint
            .requests()
            .iter()
            .map(|request| request.header("webhook-id").unwrap().to_owned())
            .collect();
        (ids.len() >= events).then_some(())
    })
    .await;
}

/// Shorter than the regular look every five seconds, so what is seen is being woken.
const SOON: Duration = Duration::from_secs(3);

async fn hears_of_sent_events(config: Config) {
    let endpoint = Endpoint::json(serde_json::json!({})).await;
    let bot = bot(&config, &endpoint).await.to_string();
    let _outhook = Outhook::start(&config).await;
    for sent in 1..=5 {
        config.cli(&["send", "--bot", &bot, "--content", "x"]).await.success();
        eventually("the event is begun", SOON, || async {
            (endpoint.requests().len() == sent).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sent_event_wakes_the_daemon_on_sqlite() {
    hears_of_sent_events(Config::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sent_event_wakes_the_daemon_on_postgresql() {
    hears_of_sent_events(Config::postgres(&Postgres::shared().await.database().await)).await;
}

/// Takes a table away from a daemon that is about to read an event whose time has come.
async fn reads_due_events_again(config: Config) {
    let endpoint = Endpoint::start(|_, number| match number {
        0..3 => Answer::status(503),
        _ => Answer::Json(serde_json::json!({})),
    })
    .await;
    let config = config.set("retry.initial_delay", "\"1s\"").set("retry.max_delay", "\"1s\"");
    let bot = bot(&config, &endpoint).await;
    let outhook = Outhook::start(&config).await;
    let events: Vec<String> =
        bodies(bot, 1..4).into_iter().map(|body| String::from_utf8(body).unwrap()).collect();
    config.cli_with_input(&["send", "--file", "-"], events.join("\n").as_bytes()).await.success();
    let db = Db::of(&config).await;
    eventually("all events wait for their retry", PATIENCE, || async {
        (db.count("SELECT count(*) FROM outhook_event WHERE due IS NOT NULL").await == 3).then_some(())
    })
    .await;
    db.exec("ALTER TABLE outhook_call RENAME TO outhook_call_away").await;
    outhook.wait_for_log("the database is away").await;
    db.exec("ALTER TABLE outhook_call_away RENAME TO outhook_call").await;
    eventually("all events are finished", PATIENCE, || async {
        (db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await == 3).then_some(())
    })
    .await;
    assert_eq!(endpoint.requests().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_could_not_be_read_when_due_are_read_again_on_sqlite() {
    reads_due_events_again(Config::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_could_not_be_read_when_due_are_read_again_on_postgresql() {
    reads_due_events_again(Config::postgres(&Postgres::shared().await.database().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_can_not_even_be_set_aside_is_not_acknowledged_with_a_later_one() {
    let queue = Rabbit::shared().await.queue().await;
    let config = Config::sqlite().queue(&queue.url, &queue.name);
    let endpoint = Endpoint::json(serde_json::json!({})).await;
    let bot = bot(&config, &endpoint).await;
    let db = Db::of(&config).await;
    let refuse = "BEGIN SELECT RAISE(ABORT, 'refused by the test'); END";
    let when = "BEFORE INSERT ON outhook_event WHEN NEW.message_id = 1";
    db.exec(&format!("CREATE TRIGGER refuse_event {when} {refuse}")).await;
    db.exec(&format!("CREATE TRIGGER refuse_letter BEFORE INSERT ON outhook_dead_letter {refuse}")).await;
    let mut outhook = Outhook::start(&config).await;
    queue.publish_all(&bodies(bot, 1..3)).await;
    eventually("it has tried several times", PATIENCE, || async {
        let refusals = outhook.log().iter().filter(|line| line.contains("refuses a batch")).count();
        (refusals >= 5).then_some(())
    })
    .await;
    outhook.kill().await;
    db.exec("DROP TRIGGER refuse_event").await;
    db.exec("DROP TRIGGER refuse_letter").await;
    let _outhook = Outhook::start(&config).await;
    calls(&endpoint, 2).await;
}
