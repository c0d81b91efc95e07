//! Replays: failed calls are made again, and dead letters put back, when an operator asks; and what is older
//! than `history.keep` is deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::support::*;

/// An endpoint that answers 404 until it is repaired.
struct Broken {
    endpoint: Endpoint,
    works: Arc<AtomicBool>,
}

impl Broken {
    async fn start() -> Self {
        let works = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&works);
        let endpoint =
            Endpoint::start(
                move |request, _| {
                    if asked.load(Ordering::SeqCst) { echo(request) } else { Answer::status(404) }
                },
            )
            .await;
        Self { endpoint, works }
    }

    fn repair(&self) {
        self.works.store(true, Ordering::SeqCst);
    }
}

fn event(bot: i64, message: i64) -> Value {
    channel_event(bot, message, 7, "Kitchen", "soup?")
}

fn webhook_ids(endpoint: &Endpoint) -> Vec<String> {
    endpoint.requests().iter().map(|call| call.header("webhook-id").unwrap().to_owned()).collect()
}

fn messages(endpoint: &Endpoint) -> Vec<i64> {
    endpoint.requests().iter().map(message_of).collect()
}

/// Runs `outhook deliveries replay`.
async fn replay(scene: &Scene, arguments: &[&str]) -> CliOutput {
    scene.config.cli(&[&["deliveries", "replay"][..], arguments].concat()).await
}

/// Runs `outhook dead-letters` with these words.
async fn dead_letters(scene: &Scene, arguments: &[&str]) -> CliOutput {
    scene.config.cli(&[&["dead-letters"][..], arguments].concat()).await
}

/// The id of the event of a message as it arrived.
async fn id_of(scene: &Scene, message: i64) -> String {
    let rows = format!("outhook_event WHERE message_id = {message} AND replay = 0");
    scene.db.count(&format!("SELECT id FROM {rows}")).await.to_string()
}

async fn count(scene: &Scene, rows: &str) -> i64 {
    scene.db.count(&format!("SELECT count(*) FROM {rows}")).await
}

async fn wait_for_count(db: &Db, rows: &str, wanted: i64) {
    let sql = format!("SELECT count(*) FROM {rows}");
    let counted = || async { (db.count(&sql).await == wanted).then_some(()) };
    eventually(&format!("{wanted} rows of {rows}"), PATIENCE, counted).await;
}

/// That a command was refused in one line that holds these words.
fn assert_refused(output: &CliOutput, words: &[&str]) {
    assert_eq!(output.status, 64, "{output:#?}");
    assert_eq!(output.stderr.trim().lines().count(), 1, "{}", output.stderr);
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {}", output.stderr);
    }
}

/// One event fails at one of two services, and the failed call is replayed once the endpoint works.
async fn a_failed_call_is_replayed(storage: Storage) {
    let good = Endpoint::start(|request, _| echo(request)).await;
    let bad = Broken::start().await;
    let mut scene = Scene::start(Inlet::Stored, storage.config().await).await;
    let bot = scene.bot_at("soup", &good.url("/good")).await;
    let service = scene.service(bot, "bad", &bad.endpoint.url("/bad"), &[]).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;

    bad.repair();
    let id = id_of(&scene, 1).await;
    let told = replay(&scene, &[&id]).await.success().stdout;
    assert_eq!(told.trim(), "1 event was replayed");
    scene.finished(2).await;
    scene.posted(3).await;

    assert_eq!(good.requests().len(), 1, "a call that succeeded is not made again");
    let expected = [0, 1].map(|replay| format!("msg_{bot}_1_{replay}_{service}"));
    assert_eq!(webhook_ids(&bad.endpoint), expected);
    let calls = bad.endpoint.requests();
    assert_eq!(calls[0].json()["message"], calls[1].json()["message"]);
    assert_eq!(calls[1].header("outhook-attempt"), Some("1"));
    let ledger = scene.ledger().await;
    let row = ledger.iter().find(|call| call["replay"] == 1).unwrap();
    assert_eq!((&row["replay_of"], &row["state"]), (&json!(id.parse::<i64>().unwrap()), &json!("succeeded")));
    assert_eq!(scene.drain().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_is_replayed_alone_and_with_a_new_webhook_id_on_sqlite() {
    a_failed_call_is_replayed(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_is_replayed_alone_and_with_a_new_webhook_id_on_postgresql() {
    a_failed_call_is_replayed(Storage::Postgres).await;
}

async fn all_services_are_replayed(storage: Storage) {
    let good = Endpoint::start(|request, _| echo(request)).await;
    let gone = Endpoint::start(|request, _| echo(request)).await;
    let bad = Broken::start().await;
    let scene = Scene::start(Inlet::Stored, storage.config().await).await;
    let bot = scene.bot_at("soup", &good.url("/hook")).await;
    scene.service(bot, "bad", &bad.endpoint.url("/hook"), &[]).await;
    let removed = scene.service(bot, "gone", &gone.url("/hook"), &[]).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    scene.db.exec(&format!("UPDATE outhook_call SET state = 3 WHERE service_id = {removed}")).await;

    bad.repair();
    replay(&scene, &[&id_of(&scene, 1).await, "--all-services"]).await.success();
    scene.finished(2).await;
    let calls = [&good, &bad.endpoint, &gone].map(|endpoint| endpoint.requests().len());
    assert_eq!(calls, [2, 2, 1], "a service that was removed is not called");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_services_of_an_event_are_replayed_if_asked_for_on_sqlite() {
    all_services_are_replayed(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_services_of_an_event_are_replayed_if_asked_for_on_postgresql() {
    all_services_are_replayed(Storage::Postgres).await;
}

/// Two bots fail; the failures of one are replayed by bot and age, then what is left.
async fn failures_are_replayed_by_filter(storage: Storage) {
    let broken = Broken::start().await;
    let scene = Scene::start(Inlet::Stored, storage.config().await).await;
    let bot = scene.bot_at("soup", &broken.endpoint.url("/soup")).await;
    let other = scene.bot_at("salad", &broken.endpoint.url("/salad")).await;
    let events: Vec<Value> = (1..=6)
        .map(|message| event(bot, message))
        .chain((11..=12).map(|message| event(other, message)))
        .collect();
    scene.send(&events).await;
    scene.finished(8).await;
    scene.db.exec("UPDATE outhook_event SET taken_at = taken_at - 7200000 WHERE message_id = 1").await;
    broken.repair();
    scene.send(&[event(bot, 7)]).await;
    scene.finished(9).await;

    let id = bot.to_string();
    let filter = ["--failed", "--bot", &id, "--since", "1h", "--rate", "5", "--json"];
    let records = replay(&scene, &filter).await.success().records();
    let replayed: Vec<i64> = records.iter().map(|record| record["message_id"].as_i64().unwrap()).collect();
    assert_eq!(replayed, [2, 3, 4, 5, 6], "oldest first");
    assert!(records.iter().all(|record| record["bot_id"] == bot && record["replay"] == 1), "{records:?}");
    let took = "SELECT max(taken_at) - min(taken_at) FROM outhook_event WHERE replay = 1";
    assert!(scene.db.count(took).await >= 400, "five at five a second take at least 800 ms");
    scene.finished(14).await;

    let told = replay(&scene, &["--failed"]).await.success().stdout;
    assert_eq!(told.trim(), "3 events were replayed", "what is old, and the other bot's");
    scene.finished(17).await;
    let told = replay(&scene, &["--failed"]).await.success().stdout;
    assert_eq!(told.trim(), "0 events were replayed");
    assert_eq!(count(&scene, "outhook_event WHERE replay > 0").await, 8);

    let soup: Vec<i64> =
        broken.endpoint.requests().iter().filter(|call| call.path == "/soup").map(message_of).collect();
    assert_eq!(soup, [1, 2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_replayed_once_by_bot_and_age_and_at_a_rate_on_sqlite() {
    failures_are_replayed_by_filter(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_replayed_once_by_bot_and_age_and_at_a_rate_on_postgresql() {
    failures_are_replayed_by_filter(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_fails_again_is_left_to_the_next_run() {
    let broken = Broken::start().await;
    let scene = Scene::start(Inlet::Stored, Config::sqlite()).await;
    let bot = scene.bot_at("soup", &broken.endpoint.url("/hook")).await;
    scene.send(&[event(bot, 1)]).await;
    for replays in 1..=3 {
        scene.finished(replays).await;
        if replays == 3 {
            broken.repair();
        }
        let told = replay(&scene, &["--failed"]).await.success().stdout;
        assert_eq!(told.trim(), "1 event was replayed");
    }
    scene.finished(4).await;
    let told = replay(&scene, &["--failed"]).await.success().stdout;
    assert_eq!(told.trim(), "0 events were replayed");
    let replays: Vec<String> = webhook_ids(&broken.endpoint);
    let number = |id: &String| id.split('_').nth(3).unwrap().to_owned();
    assert_eq!(replays.iter().map(number).collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

async fn every_replay_has_its_own_number(storage: Storage) {
    let broken = Broken::start().await;
    let scene = Scene::start(Inlet::Stored, storage.config().await).await;
    let bot = scene.bot_at("soup", &broken.endpoint.url("/hook")).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    broken.repair();
    let id = id_of(&scene, 1).await;
    replay(&scene, &[&id]).await.success();
    scene.finished(2).await;
    let named = [id.as_str(), "--json"];
    let together = tokio::join!(replay(&scene, &named), replay(&scene, &named), replay(&scene, &named));
    for output in [together.0, together.1, together.2] {
        let records = output.success().records();
        assert_eq!(records[0]["replay_of"], json!(id.parse::<i64>().unwrap()));
    }
    scene.finished(5).await;
    let mut ids = webhook_ids(&broken.endpoint);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5);
    assert_eq!(count(&scene, "outhook_event WHERE replay BETWEEN 0 AND 4").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_named_is_replayed_again_and_at_the_same_time_on_sqlite() {
    every_replay_has_its_own_number(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_named_is_replayed_again_and_at_the_same_time_on_postgresql() {
    every_replay_has_its_own_number(Storage::Postgres).await;
}

async fn a_redelivery_is_still_recognised(storage: Storage) {
    let broken = Broken::start().await;
    let mut scene = Scene::start(Inlet::RabbitMq, storage.config().await).await;
    let bot = scene.bot_at("soup", &broken.endpoint.url("/hook")).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    broken.repair();
    replay(&scene, &["--failed"]).await.success();
    scene.finished(2).await;
    // The second shows that the first was looked at.
    scene.send(&[event(bot, 1), event(bot, 2)]).await;
    scene.finished(3).await;
    assert_eq!(scene.drain().await, 0);
    assert_eq!(messages(&broken.endpoint), [1, 1, 2]);
    assert_eq!(count(&scene, "outhook_event").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_of_what_was_replayed_is_recognised_and_the_replay_is_not_swallowed_on_sqlite() {
    a_redelivery_is_still_recognised(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_of_what_was_replayed_is_recognised_and_the_replay_is_not_swallowed_on_postgresql() {
    a_redelivery_is_still_recognised(Storage::Postgres).await;
}

async fn what_cannot_be_replayed_is_told(storage: Storage) {
    let (gate, bad) = (Gate::new(), Broken::start().await);
    let slow = gated_endpoint(&gate).await;
    let good = Endpoint::start(|request, _| echo(request)).await;
    let config = storage.config().await.text("http.timeout", "1m");
    let scene = Scene::start(Inlet::Stored, config).await;
    let failing = scene.bot_at("bad", &bad.endpoint.url("/hook")).await;
    let working = scene.bot_at("good", &good.url("/hook")).await;
    let waiting = scene.bot_at("slow", &slow.url("/hook")).await;
    scene.send(&[event(failing, 1), event(working, 2), event(waiting, 3), event(999, 4)]).await;
    scene.finished(2).await;
    slow.wait_for(1).await;
    wait_for_count(&scene.db, "outhook_dead_letter", 1).await;

    let letter = setup::dead_letters(&scene.config).await[0]["id"].to_string();
    let [failed, succeeded, unfinished, dead] =
        [id_of(&scene, 1).await, id_of(&scene, 2).await, id_of(&scene, 3).await, id_of(&scene, 4).await];
    let output = replay(&scene, &[&failed, &succeeded, &unfinished, &dead, "4711"]).await;
    let why = [
        "nothing was replayed".to_owned(),
        format!("none of the calls of event {succeeded} failed"),
        format!("event {unfinished} is not finished yet"),
        format!("event {dead} is dead-lettered: `outhook dead-letters replay {letter}`"),
        "there is no event with the id 4711".to_owned(),
    ];
    assert_refused(&output, &why.each_ref().map(String::as_str));
    assert!(!output.stderr.contains(&format!("event {failed} ")), "{}", output.stderr);

    scene.db.exec(&format!("UPDATE outhook_event SET payload = NULL WHERE id = {failed}")).await;
    assert_refused(&replay(&scene, &[&failed]).await, &["by an older version of outhook"]);
    let told = replay(&scene, &["--failed"]).await.success().stdout;
    let lost = "0 events were replayed; 1 more failed before outhook kept the bodies of failed events";
    assert_eq!(told.trim(), lost);
    assert_eq!(count(&scene, "outhook_event").await, 4, "nothing was replayed");
    gate.open();
    scene.finished(3).await;
    assert_eq!((good.requests().len(), bad.endpoint.requests().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_told_with_its_reason_and_changes_nothing_on_sqlite() {
    what_cannot_be_replayed_is_told(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_told_with_its_reason_and_changes_nothing_on_postgresql() {
    what_cannot_be_replayed_is_told(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_use_of_the_commands_ends_with_64() {
    let config = Config::sqlite();
    config.cli(&["migrate"]).await.success();
    for arguments in [
        &["deliveries", "replay"][..],
        &["deliveries", "replay", "--bot", "1", "7"],
        &["deliveries", "replay", "--since", "1h", "7"],
        &["deliveries", "replay", "7", "--failed"],
        &["deliveries", "replay", "--failed", "--rate", "0"],
        &["deliveries", "replay", "soup"],
        &["deliveries", "--failed", "replay", "7"],
        &["dead-letters", "replay"],
        &["dead-letters", "replay", "7", "--all"],
        &["dead-letters", "replay", "7", "--reason", "overflow"],
        &["dead-letters", "drop"],
        &["dead-letters", "drop", "--all"],
    ] {
        let output = config.cli(arguments).await;
        assert_eq!(output.status, 64, "{arguments:?}: {output:#?}");
        assert!(!output.stderr.trim().is_empty(), "{arguments:?}");
    }
    config.cli(&["deliveries", "--failed", "--bot", "1", "--since", "1h", "--json"]).await.success();
}

/// Makes a callable bot of this id.
async fn insert_bot_at(scene: &Scene, bot: i64, endpoint: &Endpoint) {
    setup::insert_bot(&scene.db, bot).await;
    setup::insert_service(&scene.db, bot, &endpoint.url("/hook"), 1, setup::TOKEN).await;
}

/// The ids of the dead letters that are listed, and their bots.
async fn listed(scene: &Scene) -> Vec<(String, i64)> {
    let letters = setup::dead_letters(&scene.config).await;
    letters.iter().map(|letter| (letter["id"].to_string(), letter["bot_id"].as_i64().unwrap())).collect()
}

async fn a_dead_letter_of_an_unknown_bot_is_replayed(storage: Storage) {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let mut scene = Scene::start(Inlet::Stored, storage.config().await).await;
    scene.send(&[event(501, 1)]).await;
    wait_for_count(&scene.db, "outhook_dead_letter", 1).await;
    let letter = listed(&scene).await[0].0.clone();
    insert_bot_at(&scene, 501, &endpoint).await;

    let records = dead_letters(&scene, &["replay", &letter, "--json"]).await.success().records();
    assert_eq!(records.len(), 1);
    let first = id_of(&scene, 1).await;
    assert_eq!(records[0]["dead_letter_id"].to_string(), letter);
    assert_eq!(records[0]["replay_of"].to_string(), first);
    assert_eq!((&records[0]["bot_id"], &records[0]["replay"]), (&json!(501), &json!(1)));
    scene.finished(1).await;
    scene.posted(1).await;

    assert_eq!(messages(&endpoint), [1]);
    assert!(webhook_ids(&endpoint)[0].starts_with("msg_501_1_1_"), "{:?}", webhook_ids(&endpoint));
    assert!(listed(&scene).await.is_empty(), "a letter that was replayed leaves the list");
    let shown = dead_letters(&scene, &["show", &letter, "--json"]).await.success().records();
    assert_eq!((&shown[0]["payload"], &shown[0]["replayed_by"]), (&json!(""), &records[0]["event_id"]));
    let again = dead_letters(&scene, &["replay", &letter]).await;
    assert_refused(&again, &[&format!("dead letter {letter} was replayed already, as event")]);
    let ledger = scene.ledger().await;
    let states: Value = ledger.iter().map(|call| json!([call["state"], call["reason"]])).collect();
    assert_eq!(states, json!([["dead-lettered", "unknown_bot"], ["succeeded", null]]));
    assert_eq!(scene.drain().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_a_bot_that_exists_now_is_replayed_and_leaves_the_list_on_sqlite() {
    a_dead_letter_of_an_unknown_bot_is_replayed(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_a_bot_that_exists_now_is_replayed_and_leaves_the_list_on_postgresql() {
    a_dead_letter_of_an_unknown_bot_is_replayed(Storage::Postgres).await;
}

/// Three letters of unknown bots, two of a person: by reason, by id, then all and dropped.
async fn dead_letters_are_replayed_and_dropped(storage: Storage) {
    const PERSON: i64 = 601;
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let scene = Scene::start(Inlet::Stored, storage.config().await).await;
    insert_bot_at(&scene, PERSON, &endpoint).await;
    let person =
        |is_bot: &str| format!("UPDATE zerver_userprofile SET is_bot = {is_bot} WHERE id = {PERSON}");
    scene.db.exec(&person("FALSE")).await;
    let events = [event(501, 1), event(502, 2), event(503, 3), event(PERSON, 4), event(PERSON, 5)];
    scene.send(&events).await;
    wait_for_count(&scene.db, "outhook_dead_letter", 5).await;
    for bot in [501, 502, 503] {
        insert_bot_at(&scene, bot, &endpoint).await;
    }

    let told = dead_letters(&scene, &["replay", "--all", "--reason", "unknown_bot"]).await.success().stdout;
    assert_eq!(told.trim(), "3 dead letters were replayed");
    scene.finished(3).await;
    let left = listed(&scene).await;
    assert_eq!(left.iter().map(|(_, bot)| *bot).collect::<Vec<_>>(), [PERSON, PERSON]);

    scene.db.exec(&person("TRUE")).await;
    let [first, second] = [left[0].0.as_str(), left[1].0.as_str()];
    assert_refused(
        &dead_letters(&scene, &["replay", first, "4711"]).await,
        &["no dead letter with the id 4711"],
    );
    assert_refused(&dead_letters(&scene, &["drop", first, "4711"]).await, &["nothing was dropped", "4711"]);
    assert_eq!(listed(&scene).await.len(), 2, "an unknown id changes nothing");
    let told = dead_letters(&scene, &["replay", second, first, "--rate", "1000"]).await.success().stdout;
    assert_eq!(told.trim(), "2 dead letters were replayed");
    scene.finished(5).await;
    let mut called = messages(&endpoint);
    called.sort_unstable();
    assert_eq!(called, [1, 2, 3, 4, 5]);

    scene.send(&[event(999, 6), event(999, 7)]).await;
    wait_for_count(&scene.db, "outhook_dead_letter WHERE replayed_by IS NULL", 2).await;
    let dropped = listed(&scene).await[0].0.clone();
    let told = dead_letters(&scene, &["drop", &dropped]).await.success().stdout;
    assert_eq!(told.trim(), "1 dead letter was dropped");
    let kept = listed(&scene).await;
    assert_eq!(kept.len(), 1);
    // Its bot is still unknown, so it comes back as another one.
    let told = dead_letters(&scene, &["replay", "--all"]).await.success().stdout;
    assert_eq!(told.trim(), "1 dead letter was replayed");
    wait_for_count(&scene.db, "outhook_dead_letter WHERE replayed_by IS NULL", 1).await;
    assert_ne!(listed(&scene).await, kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_by_reason_or_id_or_all_and_dropped_on_sqlite() {
    dead_letters_are_replayed_and_dropped(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_by_reason_or_id_or_all_and_dropped_on_postgresql() {
    dead_letters_are_replayed_and_dropped(Storage::Postgres).await;
}

async fn what_is_no_event_stays(storage: Storage) {
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let config = storage.config().await.set("queue.max_event_bytes", "1024");
    let mut scene = Scene::start(Inlet::RabbitMq, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let queue = scene.queue.as_ref().unwrap();
    queue.publish(b"{}").await;
    wait_for_count(&scene.db, "outhook_dead_letter", 1).await;
    let large = channel_event(bot, 1, 7, "Kitchen", &"soup? ".repeat(500));
    queue.publish(large.to_string().as_bytes()).await;
    wait_for_count(&scene.db, "outhook_dead_letter", 2).await;

    let letters = setup::dead_letters(&scene.config).await;
    let id =
        |reason: &str| letters.iter().find(|letter| letter["reason"] == reason).unwrap()["id"].to_string();
    let (malformed, too_large) = (id("malformed"), id("too_large"));
    let output = dead_letters(&scene, &["replay", &malformed, &too_large]).await;
    assert_refused(&output, &["nothing was replayed", "malformed", "`message`", "too_large"]);
    let output = dead_letters(&scene, &["replay", "--all"]).await.success();
    assert_eq!(output.stdout.trim(), "0 dead letters were replayed; 2 could not be and stay");
    assert!(output.stderr.contains(&format!("dead letter {malformed} stays")), "{}", output.stderr);
    assert_eq!(setup::dead_letters(&scene.config).await, letters);

    scene.config = scene.config.set("queue.max_event_bytes", "1048576");
    let told = dead_letters(&scene, &["replay", "--all"]).await.success().stdout;
    assert_eq!(told.trim(), "1 dead letter was replayed; 1 could not be and stay");
    scene.finished(1).await;
    assert_eq!(messages(&endpoint), [1]);
    let left = setup::dead_letters(&scene.config).await;
    assert_eq!(left.iter().map(|letter| &letter["reason"]).collect::<Vec<_>>(), ["malformed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_still_no_event_stays_on_sqlite() {
    what_is_no_event_stays(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_still_no_event_stays_on_postgresql() {
    what_is_no_event_stays(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overflow_is_replayed_although_its_bot_has_no_room() {
    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    let config = Config::sqlite().set("queue.stored_per_bot", "1").text("http.timeout", "1m");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    scene.send(&[event(bot, 1)]).await;
    endpoint.wait_for(1).await;
    scene.send(&[event(bot, 2)]).await;
    wait_for_count(&scene.db, "outhook_dead_letter WHERE reason = 'overflow'", 1).await;

    let records = dead_letters(&scene, &["replay", "--all", "--json"]).await.success().records();
    assert_eq!((&records[0]["replay"], &records[0]["replay_of"]), (&json!(1), &Value::Null));
    gate.open();
    scene.finished(2).await;
    assert_eq!(messages(&endpoint), [1, 2]);
}

/// So many old events are finished and of no use any more.
const OLD_EVENTS: i64 = 6000;
/// The messages of other old events; those that are needed, by what they are.
const REPLY_PENDING: i64 = 10_001;
const LETTER_OPEN: i64 = 10_002;
const LETTER_REPLAYED: i64 = 10_003;
const LETTER_DROPPED: i64 = 10_004;
/// The message of an event that was finished late enough.
const NEW: i64 = 10_005;
/// The bot of all of them.
const OLD_BOT: i64 = 77;

/// The row of such an event.
fn old_event(message: i64) -> String {
    format!("(SELECT id FROM outhook_event WHERE message_id = {message} AND replay = 0)")
}

/// An hour from now, in milliseconds since the epoch.
fn in_an_hour() -> u128 {
    let then = SystemTime::now() + Duration::from_secs(3600);
    then.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
}

async fn insert_old_events(db: &Db) {
    let insert = "INSERT INTO outhook_event
        (bot_id, message_id, replay, conversation, state, taken_at, finished_at, replay_of)";
    db.exec(&format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {OLD_EVENTS})
         {insert} SELECT {OLD_BOT}, i, 0, 5, 1, i, i, NULL FROM n"
    ))
    .await;
    for (message, state, finished_at) in [
        (REPLY_PENDING, 1, 20_000),
        (LETTER_OPEN, 2, 20_001),
        (LETTER_REPLAYED, 2, 20_002),
        (LETTER_DROPPED, 2, 20_003),
        (NEW, 1, in_an_hour()),
    ] {
        let values = format!("({OLD_BOT}, {message}, 0, 5, {state}, 1, {finished_at}, NULL)");
        db.exec(&format!("{insert} VALUES {values}")).await;
    }
    // It repeats an event that is needed.
    let values = format!("({OLD_BOT}, {LETTER_OPEN}, 1, 5, 1, 1, 20004, {})", old_event(LETTER_OPEN));
    db.exec(&format!("{insert} VALUES {values}")).await;
}

/// A call and a reply of each event that was finished, and letters with and without an event.
async fn insert_what_belongs_to_old_events(db: &Db) {
    db.exec(
        "INSERT INTO outhook_call (event_id, service_id, service_name, state, attempts, duration_ms)
         SELECT id, 1, 'hook', 1, 1, 1 FROM outhook_event WHERE state = 1",
    )
    .await;
    db.exec(
        "INSERT INTO outhook_reply
            (event_id, service_id, bot_id, conversation, destination, content, state, attempts, created_at)
         SELECT id, 1, bot_id, 5, '{}', 'soup', 1, 1, 1 FROM outhook_event WHERE state = 1",
    )
    .await;
    let (pending, later) = (old_event(REPLY_PENDING), in_an_hour());
    db.exec(&format!("UPDATE outhook_reply SET state = 0, due = {later} WHERE event_id = {pending}")).await;
    let none = || "NULL".to_owned();
    for (event, replayed_by) in [
        (old_event(LETTER_OPEN), none()),
        (old_event(LETTER_REPLAYED), old_event(1)),
        (none(), none()),
        (none(), old_event(2)),
    ] {
        db.exec(&format!(
            "INSERT INTO outhook_dead_letter (event_id, reason, detail, payload, created_at, replayed_by)
             VALUES ({event}, 'malformed', 'no event', '{{}}', {later}, {replayed_by})"
        ))
        .await;
    }
}

async fn old_rows_are_deleted(storage: Storage) {
    const WORK: i64 = 50;
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let config = storage.config().await.text("history.keep", "1m");
    let db = setup::tables(&config).await;
    insert_old_events(&db).await;
    insert_what_belongs_to_old_events(&db).await;
    let (bot, _) = setup::one_bot(&config, &endpoint.url("/hook"), "generic").await;

    let mut scene = Scene::start(Inlet::Stored, config).await;
    scene.send(&(1..=WORK).map(|message| event(bot, message)).collect::<Vec<_>>()).await;
    wait_for_count(&db, &format!("outhook_event WHERE bot_id = {bot} AND state = 1"), WORK).await;
    let deleted = (OLD_EVENTS + 2) as f64;
    eventually("the old rows to be deleted", PATIENCE, || async {
        (scene.outhook.metric("outhook_history_pruned_total").await >= deleted).then_some(())
    })
    .await;

    let old = format!("SELECT message_id FROM outhook_event WHERE bot_id = {OLD_BOT} ORDER BY message_id");
    let left = db.rows(&old).await;
    let left: Vec<i64> = left.iter().map(|row| row["message_id"].as_i64().unwrap()).collect();
    assert_eq!(left, [REPLY_PENDING, LETTER_OPEN, LETTER_OPEN, NEW]);
    for table in ["outhook_call", "outhook_reply"] {
        let orphans = format!("{table} WHERE event_id NOT IN (SELECT id FROM outhook_event)");
        assert_eq!(count(&scene, &orphans).await, 0, "{table}");
    }
    let letters = setup::dead_letters(&scene.config).await;
    assert_eq!(letters.len(), 2, "what awaits an operator stays: {letters:?}");
    assert_eq!(count(&scene, "outhook_dead_letter").await, 2, "what was replayed goes");
    assert_eq!(endpoint.requests().len(), usize::try_from(WORK).unwrap());
    assert_eq!(scene.drain().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_it_is_kept_is_deleted_while_work_goes_on_on_sqlite() {
    old_rows_are_deleted(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_it_is_kept_is_deleted_while_work_goes_on_on_postgresql() {
    old_rows_are_deleted(Storage::Postgres).await;
}

async fn tables_of_before_are_upgraded(storage: Storage) {
    let config = storage.config().await;
    let db = setup::tables(&config).await;
    for statement in [
        "DROP INDEX outhook_event_finished",
        "DROP INDEX outhook_event_replay",
        "DROP INDEX outhook_call_failed",
        "DROP INDEX outhook_dead_letter_event",
        "DROP INDEX outhook_dead_letter_replay",
        "DROP INDEX outhook_dead_letter_open",
        "ALTER TABLE outhook_event DROP COLUMN replay_of",
        "ALTER TABLE outhook_dead_letter DROP COLUMN replayed_by",
        "INSERT INTO outhook_event (bot_id, message_id, replay, conversation, state, taken_at, finished_at)
         VALUES (1, 1, 0, 5, 1, 1, 2)",
        "DELETE FROM outhook_migration WHERE version = 'm20261124_000002_replays'",
    ] {
        db.exec(statement).await;
    }
    let told = config.cli(&["migrate"]).await.success().stdout;
    assert_eq!(told.trim(), "1 migrations were applied");
    let ledger = setup::deliveries(&config).await;
    assert_eq!((ledger.len(), &ledger[0]["replay_of"]), (1, &Value::Null));
    assert!(setup::dead_letters(&config).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_were_made_before_there_were_replays_are_upgraded_on_sqlite() {
    tables_of_before_are_upgraded(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_were_made_before_there_were_replays_are_upgraded_on_postgresql() {
    tables_of_before_are_upgraded(Storage::Postgres).await;
}
