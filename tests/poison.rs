//! Events that make actors panic, or end the process, are set aside; events that only were there are not.

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

async fn sets_aside_what_ends_the_process(storage: Storage) {
    let endpoint = Endpoint::json(json!({})).await;
    let config = storage.config().await;
    let (bot, _) = setup::one_bot(&config, &endpoint.url("/hook"), "generic").await;
    let db = setup::tables(&config).await;
    setup::send(&config, &events(bot)).await;
    let config = config.fail_points(&format!("own-work=return({POISON})"));
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
        assert!(aborts <= 4, "it is not recognised");
    };
    // Once among others, and three times alone.
    assert_eq!(aborts, 4);
    last.ready().await;
    assert_only_poison_is_set_aside(&config, &db, &endpoint).await;
}

async fn unfinished(db: &Db) -> i64 {
    db.count("SELECT count(*) FROM outhook_event WHERE state = 0").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ends_the_process_three_times_alone_is_set_aside_on_sqlite() {
    sets_aside_what_ends_the_process(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ends_the_process_three_times_alone_is_set_aside_on_postgresql() {
    sets_aside_what_ends_the_process(Storage::Postgres).await;
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
        // Some are killed while the suspects begin, some when all hang.
        let begun = if kill % 2 == 0 { HUNG as usize } else { kill % HUNG as usize + 1 };
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
