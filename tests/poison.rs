//! Events that make actors panic, or end processes, are set aside; events that only were there are not.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt as _;

use serde_json::{Value, json};

use super::support::*;

const SIGABRT: i32 = 6;
/// The message that does the harm.
const POISON: i64 = 7;
const EVENTS: i64 = 12;

/// Events of one bot: the poison, others of its conversation before and behind it, and others.
fn events(bot: i64) -> Vec<Value> {
    (1..=EVENTS).map(|n| channel_event(bot, n, n % 3, "topic", "x")).collect()
}

async fn letters(config: &Config) -> Vec<(i64, String)> {
    let letters = setup::dead_letters(config).await;
    letters
        .iter()
        .map(|letter| (letter["message_id"].as_i64().unwrap(), letter["reason"].as_str().unwrap().to_owned()))
        .collect()
}

async fn assert_only_poison_is_set_aside(config: &Config, db: &Db, endpoint: &Endpoint) {
    setup::all_finished(db).await;
    assert_eq!(letters(config).await, [(POISON, "poison".to_owned())]);
    assert_eq!(db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await, EVENTS - 1);
    let called: HashSet<i64> =
        endpoint.requests().iter().map(message_of).filter(|id| *id != POISON).collect();
    assert_eq!(called.len() as i64, EVENTS - 1);
}

async fn sets_aside_what_panics(fail_point: &str) {
    let endpoint = Endpoint::json(json!({})).await;
    let config = Config::sqlite().fail_points(&format!("{fail_point}=return({POISON})"));
    let (bot, _) = setup::one_bot(&config, &endpoint.url("/hook"), "generic").await;
    let outhook = Outhook::start(&config).await;
    let db = Db::of(&config).await;
    setup::send(&config, &events(bot)).await;
    assert_only_poison_is_set_aside(&config, &db, &endpoint).await;
    assert_eq!(outhook.metric("outhook_panics_total").await, 3.0);
    outhook.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_makes_its_actor_panic_three_times_is_set_aside_and_no_other() {
    sets_aside_what_panics("turn").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_outcome_makes_an_actor_panic_three_times_is_set_aside_and_no_other() {
    sets_aside_what_panics("outcome").await;
}

/// Returns after the process that has recognised it is up, with its database.
async fn outlives_what_ends_the_process(
    storage: Storage,
    fail_point: &str,
) -> (Config, Db, Outhook, Endpoint) {
    let endpoint = Endpoint::json(json!({})).await;
    let config = storage.config().await;
    let (bot, _) = setup::one_bot(&config, &endpoint.url("/hook"), "generic").await;
    let db = setup::tables(&config).await;
    setup::send(&config, &events(bot)).await;
    let config = config.fail_points(&format!("{fail_point}=return({POISON})"));
    let mut aborts = 0;
    let last = loop {
        let mut outhook = Outhook::run(&config);
        let lives =
            || async { (outhook.has_ended() || unfinished(&db).await == 0).then(|| outhook.has_ended()) };
        if !eventually("an end", PATIENCE, lives).await {
            break outhook;
        }
        assert_eq!(outhook.wait().await.signal(), Some(SIGABRT));
        aborts += 1;
        assert!(aborts <= 1, "it is not recognised");
    };
    // The daemon dies of it once; after that only processes that try it do.
    assert_eq!(aborts, 1);
    last.ready().await;
    (config, db, last, endpoint)
}

async fn sets_aside_what_ends_the_process(storage: Storage) {
    let (config, db, _outhook, endpoint) = outlives_what_ends_the_process(storage, "own-work").await;
    assert_only_poison_is_set_aside(&config, &db, &endpoint).await;
}

async fn unfinished(db: &Db) -> i64 {
    db.count("SELECT count(*) FROM outhook_event WHERE state = 0").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ends_processes_is_set_aside_and_ends_the_daemon_once_on_sqlite() {
    sets_aside_what_ends_the_process(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ends_processes_is_set_aside_and_ends_the_daemon_once_on_postgresql() {
    sets_aside_what_ends_the_process(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_processes_fails_its_call_and_ends_the_daemon_once() {
    let (config, db, _outhook, _endpoint) = outlives_what_ends_the_process(Storage::Sqlite, "answer").await;
    setup::all_finished(&db).await;
    assert_eq!(letters(&config).await, []);
    let failed = config.cli(&["deliveries", "--failed", "--json"]).await.success().records();
    let told: Vec<(i64, &str)> = failed
        .iter()
        .map(|call| (call["message_id"].as_i64().unwrap(), call["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [(POISON, "panicked")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bots_events_wait_for_nobody_elses_trial() {
    const BACKLOG: i64 = 2000;
    let endpoint = Endpoint::json(json!({})).await;
    let hung = Endpoint::start(|_, _| Answer::Hang).await;
    let config = Config::sqlite();
    let db = setup::tables(&config).await;
    for (bot, url) in [(1, hung.url("/hook")), (2, endpoint.url("/hook"))] {
        setup::insert_bot(&db, bot).await;
        setup::insert_service(&db, bot, &url, 1, setup::TOKEN).await;
    }
    let mut outhook = Outhook::start(&config).await;
    let backlog: Vec<Value> = (1..=BACKLOG).map(|n| channel_event(1, n, n, "t", "x")).collect();
    setup::send(&config, &backlog).await;
    hung.wait_for(4).await;
    outhook.kill().await;
    let outhook = Outhook::start(&config).await;
    setup::send(&config, &[channel_event(2, 1, 1, "t", "x")]).await;
    endpoint.wait_for(1).await;
    // The trials cost a process, once.
    assert_eq!(outhook.metric("outhook_panics_total").await, 0.0);
    assert!(unfinished(&db).await >= BACKLOG);
}

async fn kills_from_outside_convict_nobody(storage: Storage) {
    const KILLS: usize = 20;
    const HUNG: i64 = 12;
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint =
        Endpoint::start(move |_, _| Answer::Gated(held.clone(), Box::new(Answer::Json(json!({}))))).await;
    let config = storage.config().await.text("http.timeout", "5m").set("actors.calls_per_bot", "12");
    let (bot, _) = setup::one_bot(&config, &endpoint.url("/hook"), "generic").await;
    let db = setup::tables(&config).await;
    let events: Vec<Value> = (1..=HUNG).map(|n| channel_event(bot, n, n, "topic", "x")).collect();
    setup::send(&config, &events).await;
    for kill in 0..KILLS {
        let mut outhook = Outhook::run(&config);
        // Some are killed while the suspects begin, at the first request even, some when all hang.
        let begun = if kill % 2 == 0 { HUNG as usize } else { kill / 6 + 1 };
        endpoint.wait_for(endpoint.requests().len() + begun).await;
        outhook.kill().await;
        endpoint.deserted().await;
    }
    gate.open();
    let _outhook = Outhook::start(&config).await;
    setup::all_finished(&db).await;
    assert_eq!(letters(&config).await, []);
    assert_eq!(db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await, HUNG);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_with_hung_endpoints_dead_letter_nothing_on_sqlite() {
    kills_from_outside_convict_nobody(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_with_hung_endpoints_dead_letter_nothing_on_postgresql() {
    kills_from_outside_convict_nobody(Storage::Postgres).await;
}
