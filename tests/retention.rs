//! What is kept, and for how long: bodies of events, texts of replies, dead letters.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::support::*;

fn event(bot: i64, message: i64) -> Value {
    channel_event(bot, message, 7, "Kitchen", "soup?")
}

async fn wait_for_count(db: &Db, rows: &str, wanted: i64) {
    let sql = format!("SELECT count(*) FROM {rows}");
    let counted = || async { (db.count(&sql).await == wanted).then_some(()) };
    eventually(&format!("{wanted} rows of {rows}"), PATIENCE, counted).await;
}

async fn count(db: &Db, rows: &str) -> i64 {
    db.count(&format!("SELECT count(*) FROM {rows}")).await
}

/// This many seconds ago, in milliseconds since the epoch.
fn ago(seconds: u64) -> u128 {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    then.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
}

const WITH_BODY: &str = "outhook_event WHERE payload IS NOT NULL";

/// An event succeeds and one fails; both become older than bodies are kept.
async fn bodies_expire(storage: Storage) {
    let endpoint = Endpoint::start(|request, _| match message_of(request) {
        2 => Answer::status(404),
        _ => echo(request),
    })
    .await;
    let config = storage.config().await.text("history.keep_bodies", "1m");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    scene.send(&[event(bot, 1), event(bot, 2), event(bot, 3)]).await;
    scene.finished(3).await;
    scene.posted(3).await;
    assert_eq!(count(&scene.db, WITH_BODY).await, 3, "each keeps its body at first");

    let old = ago(61);
    scene.db.exec(&format!("UPDATE outhook_event SET finished_at = {old} WHERE message_id < 3")).await;
    scene
        .db
        .exec(&format!(
            "UPDATE outhook_reply SET settled_at = {old}, widget = content WHERE event_id IN (
                SELECT id FROM outhook_event WHERE message_id < 3)"
        ))
        .await;
    scene
        .db
        .exec(
            "UPDATE outhook_reply SET state = 2 WHERE event_id IN (
                SELECT id FROM outhook_event WHERE message_id = 2)",
        )
        .await;
    wait_for_count(&scene.db, WITH_BODY, 2).await;
    assert_eq!(count(&scene.db, "outhook_event WHERE message_id = 1 AND payload IS NULL").await, 1);
    wait_for_count(&scene.db, "outhook_reply WHERE length(content) = 0 AND widget IS NULL", 1).await;
    assert_eq!(count(&scene.db, "outhook_reply WHERE length(content) > 0").await, 2, "refused, and new");
    assert_eq!(count(&scene.db, "outhook_event").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_texts_of_what_succeeded_expire_on_sqlite() {
    bodies_expire(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_texts_of_what_succeeded_expire_on_postgresql() {
    bodies_expire(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_succeeded_is_replayed_for_as_long_as_it_has_a_body() {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let scene = Scene::start(Inlet::Stored, Config::sqlite()).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let idle = scene.bot("idle").await;
    scene.send(&[event(bot, 1), event(idle, 2)]).await;
    scene.finished(2).await;
    let id = async |message: i64| {
        let sql = format!("SELECT id FROM outhook_event WHERE message_id = {message} AND replay = 0");
        scene.db.count(&sql).await.to_string()
    };
    let (called, uncalled) = (id(1).await, id(2).await);
    let replay = async |arguments: &[&str]| {
        scene.config.cli(&[&["deliveries", "replay"][..], arguments].concat()).await
    };

    let refused = replay(&[&called]).await;
    assert_eq!(refused.status, 64);
    assert!(refused.stderr.contains("`--all-services` makes those again"), "{refused:?}");
    let refused = replay(&[&uncalled, "--all-services"]).await;
    assert!(refused.stderr.contains(&format!("event {uncalled} made no calls")), "{refused:?}");
    replay(&[&called, "--all-services"]).await.success();
    scene.finished(3).await;
    assert_eq!(endpoint.count(), 2);

    scene.db.exec("UPDATE outhook_event SET payload = NULL").await;
    let refused = replay(&[&called, "--all-services"]).await;
    assert_eq!(refused.status, 64);
    assert!(refused.stderr.contains("was removed after history.keep_bodies"), "{refused:?}");
    assert_eq!(endpoint.count(), 2);
}

async fn old_dead_letters_are_deleted(storage: Storage) {
    let config = storage.config().await.text("history.keep_dead_letters", "1m");
    let scene = Scene::start(Inlet::Stored, config).await;
    scene.send(&[event(501, 1), event(501, 2), event(502, 3)]).await;
    wait_for_count(&scene.db, "outhook_dead_letter", 3).await;
    scene
        .db
        .exec(&format!("UPDATE outhook_dead_letter SET created_at = {} WHERE bot_id = 501", ago(61)))
        .await;
    let line = scene.outhook.wait_for_log("older than history.keep_dead_letters").await;
    assert!(line.contains("WARN") && line.contains("2 dead letters"), "{line}");
    assert_eq!(setup::dead_letters(&scene.config).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_dead_letters_are_deleted_and_counted_on_sqlite() {
    old_dead_letters_are_deleted(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_dead_letters_are_deleted_and_counted_on_postgresql() {
    old_dead_letters_are_deleted(Storage::Postgres).await;
}

/// How many dead letters of a bot, or of none, have their body.
async fn bodies(db: &Db, bot: Option<i64>) -> i64 {
    let bot = bot.map_or("bot_id IS NULL".to_owned(), |bot| format!("bot_id = {bot}"));
    count(db, &format!("outhook_dead_letter WHERE length(payload) > 0 AND {bot}")).await
}

/// A flood of dead letters of two bots, and of what is no event.
async fn bodies_of_dead_letters_are_bounded(storage: Storage) {
    const KEPT: i64 = 3;
    let config = storage.config().await.set("queue.dead_letters_per_bot", &KEPT.to_string());
    let scene = Scene::start(Inlet::RabbitMq, config).await;
    let queue = scene.queue.as_ref().unwrap();
    let body = |bot, message| event(bot, message).to_string().into_bytes();
    let mut flood: Vec<Vec<u8>> = (1..=10).map(|message| body(501, message)).collect();
    flood.extend((0..10).map(|number| format!("no event {number}").into_bytes()));
    flood.extend((21..=22).map(|message| body(502, message)));
    queue.publish_all(&flood).await;
    wait_for_count(&scene.db, "outhook_dead_letter", 22).await;
    for (bot, expected) in [(Some(501), KEPT), (None, KEPT), (Some(502), 2)] {
        assert_eq!(bodies(&scene.db, bot).await, expected, "{bot:?}");
    }

    let letters = setup::dead_letters(&scene.config).await;
    let of_bot: Vec<&Value> = letters.iter().filter(|letter| letter["bot_id"] == 501).collect();
    let has_body: Vec<bool> = of_bot.iter().map(|letter| letter["dropped_bytes"].is_null()).collect();
    assert!(has_body.is_sorted(), "the newest keep theirs: {letters:?}");
    let (lost, kept) = (of_bot[0], of_bot[9]);
    assert_eq!(lost["dropped_bytes"], kept["bytes"].as_u64().unwrap() - 1);

    let (lost, kept) = (lost["id"].to_string(), kept["id"].to_string());
    let letters =
        async |arguments: &[&str]| scene.config.cli(&[&["dead-letters"][..], arguments].concat()).await;
    assert!(letters(&["list"]).await.success().stdout.contains("(dropped)"));
    let shown = letters(&["show", &lost]).await.success().stdout;
    assert!(shown.contains("queue.dead_letters_per_bot"), "{shown}");
    let refused = letters(&["replay", &lost, &kept]).await;
    assert_eq!(refused.status, 64, "{refused:?}");
    assert!(refused.stderr.contains(&format!("dead letter {lost} can't be replayed: its body was dropped")));
    letters(&["drop", &lost]).await.success();
    setup::insert_bot(&scene.db, 501).await;
    letters(&["replay", &kept]).await.success();
    scene.finished(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_dead_letters_of_a_bot_keep_bodies_on_sqlite() {
    bodies_of_dead_letters_are_bounded(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_dead_letters_of_a_bot_keep_bodies_on_postgresql() {
    bodies_of_dead_letters_are_bounded(Storage::Postgres).await;
}
