//! Connections are used again; one that is gone or spoilt costs no attempt and brings no wrong answer.

mod idle;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::setup;
use crate::support::{Answer, Config, Db, Endpoint, Gate, Inlet, Outhook, Request, Scene, channel_event};

const BOT: i64 = 1;
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn calls_behind_each_other_use_one_connection_and_carry_no_cookies() {
    let headers = vec![("set-cookie".to_owned(), "session=1; path=/".to_owned())];
    let answer = move |_: &Request, _: usize| Answer::Http {
        status: 200,
        headers: headers.clone(),
        body: b"{}".to_vec(),
    };
    let endpoint = Endpoint::start(answer).await;
    let mut scene = Scene::start(Inlet::Stored, Config::sqlite()).await;
    let bot = scene.bot_at("bot", &endpoint.url("/")).await;

    let count = 2 * ROUNDS;
    let events: Vec<Value> = (1..=count).map(|message| event(bot, message)).collect();
    scene.send(&events).await;
    scene.finished(count).await;

    assert_eq!(scene.drain().await, 0);
    assert_eq!((endpoint.count(), endpoint.accepted()), (count, 1), "requests and connections");
    assert!(endpoint.requests().iter().all(|request| request.header("cookie").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_while_idle_costs_no_attempt() {
    let leaving = |after: Duration, resets: bool| {
        move |_: &Request, _: usize| Answer::Leave { json: json!({}), after, resets }
    };
    let (at_once, soon) = (Duration::ZERO, Duration::from_millis(30));
    let endpoints = [
        Endpoint::start(leaving(at_once, false)).await,
        Endpoint::start(leaving(soon, false)).await,
        Endpoint::start(leaving(soon, true)).await,
    ];
    let config = Config::sqlite().set("retry.max_retries", "0");
    let db = bots_at(&config, &endpoints).await;
    let mut outhook = Outhook::start(&config).await;

    for round in 1..=ROUNDS {
        let events: Vec<Value> = (BOT..).zip(&endpoints).map(|(bot, _)| event(bot, round)).collect();
        setup::send(&config, &events).await;
        setup::all_finished(&db).await;
        for endpoint in &endpoints {
            endpoint.wait_for(round).await;
            endpoint.closed().await;
        }
    }

    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    let ends: Vec<(Value, Value)> = setup::deliveries(&config)
        .await
        .iter()
        .map(|delivery| (delivery["state"].clone(), delivery["attempts"].clone()))
        .collect();
    assert_eq!(ends, vec![(json!("succeeded"), json!(1)); ROUNDS * endpoints.len()]);
    for endpoint in &endpoints {
        assert_eq!((endpoint.count(), endpoint.accepted()), (ROUNDS, ROUNDS), "requests and connections");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_have_been_received_is_sent_again_only_as_another_attempt() {
    let failing = |closes: bool| {
        move |_: &Request, number: usize| match number {
            1 if closes => Answer::Close,
            1 => Answer::Reset,
            _ => Answer::Json(json!({})),
        }
    };
    let endpoints = [Endpoint::start(failing(true)).await, Endpoint::start(failing(false)).await];
    let config = Config::sqlite();
    let db = bots_at(&config, &endpoints).await;
    let mut outhook = Outhook::start(&config).await;

    for message in 1..=2 {
        let events: Vec<Value> = (BOT..).zip(&endpoints).map(|(bot, _)| event(bot, message)).collect();
        setup::send(&config, &events).await;
        setup::all_finished(&db).await;
    }

    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    for (bot, endpoint) in (BOT..).zip(&endpoints) {
        let attempts: Vec<String> =
            endpoint.read_from(0, |request| request.header("outhook-attempt").unwrap().to_owned());
        assert_eq!(attempts, ["1", "1", "2"], "as the endpoint saw them");
        assert_eq!(endpoint.accepted(), 2, "the second request came on the connection of the first");
        assert_eq!(attempts_in_ledger(&config, bot).await, [1, 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_answer_to_a_request_is_not_the_answer_to_the_next() {
    let answers = |_: &Request, number: usize| {
        let (own, second) = (format!(r#"{{"content":"{number}"}}"#), r#"{"content":"junk"}"#);
        Answer::Bytes([http(&own), http(second)].concat())
    };
    let endpoint = Endpoint::start(answers).await;
    let config = Config::sqlite();
    let db = bots_at(&config, std::slice::from_ref(&endpoint)).await;
    let mut outhook = Outhook::start(&config).await;

    let events: Vec<Value> = (1..=ROUNDS).map(|message| event(BOT, message)).collect();
    setup::send(&config, &events).await;
    setup::all_finished(&db).await;

    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    let said: Vec<String> = setup::outbox(&db).await.into_iter().map(|said| said.content).collect();
    let expected: Vec<String> = (0..ROUNDS).map(|number| number.to_string()).collect();
    assert_eq!(said, expected);
}

/// The second answer is sent while the other bot's call is under way, wherever its request went.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_answer_to_a_bot_is_not_the_answer_to_another_bot_of_the_same_server() {
    const SPITEFUL: i64 = 1;
    const GOOD: i64 = 2;
    let gate = Gate::new();
    let answers = move |request: &Request, _: usize| match request.path.as_str() {
        "/spiteful" => Answer::Unasked {
            bytes: http(r#"{"content":"spite"}"#),
            gate: gate.clone(),
            more: http(r#"{"content":"junk"}"#),
        },
        _ => {
            gate.open();
            Answer::Json(json!({"content": "soup"}))
        }
    };
    let endpoint = Endpoint::start(answers).await;
    // Both bots are in one thread.
    let config = Config::sqlite().set("actors.event_pool", "1");
    let db = setup::tables(&config).await;
    setup::insert_bot_at(&db, SPITEFUL, &endpoint.url("/spiteful")).await;
    setup::insert_bot_at(&db, GOOD, &endpoint.url("/good")).await;
    let mut outhook = Outhook::start(&config).await;

    for (bot, message) in [(SPITEFUL, 1), (GOOD, 2), (GOOD, 3)] {
        setup::send(&config, &[event(bot, message)]).await;
        setup::all_finished(&db).await;
    }

    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    let said: Vec<_> = setup::outbox(&db).await.into_iter().map(|said| (said.bot, said.content)).collect();
    let expected = [(SPITEFUL, "spite"), (GOOD, "soup"), (GOOD, "soup")];
    assert_eq!(said, expected.map(|(bot, content)| (bot, content.to_owned())));
    assert_eq!((endpoint.count(), endpoint.accepted()), (3, 2), "requests and connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_are_passed_over_and_each_request_gets_its_own_answer() {
    let answers = |_: &Request, number: usize| {
        let interim = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n".repeat(number % 3);
        Answer::Bytes([interim, http(&format!(r#"{{"content":"{number}"}}"#))].concat())
    };
    let endpoint = Endpoint::start(answers).await;
    let config = Config::sqlite();
    let db = bots_at(&config, std::slice::from_ref(&endpoint)).await;
    let mut outhook = Outhook::start(&config).await;

    let events: Vec<Value> = (1..=ROUNDS).map(|message| event(BOT, message)).collect();
    setup::send(&config, &events).await;
    setup::all_finished(&db).await;

    outhook.terminate().await;
    assert!(outhook.wait().await.success());
    assert_eq!((endpoint.count(), endpoint.accepted()), (ROUNDS, 1), "requests and connections");
    let said: Vec<String> = setup::outbox(&db).await.into_iter().map(|said| said.content).collect();
    let expected: Vec<String> = (0..ROUNDS).map(|number| number.to_string()).collect();
    assert_eq!(said, expected);
}

/// The tables, with a bot for each endpoint; the first is [`BOT`].
async fn bots_at(config: &Config, endpoints: &[Endpoint]) -> Db {
    let db = setup::tables(config).await;
    for (bot, endpoint) in (BOT..).zip(endpoints) {
        setup::insert_bot(&db, bot).await;
        setup::insert_service(&db, bot, &endpoint.url("/"), 1, setup::TOKEN).await;
    }
    db
}

/// A message of the bot's one conversation.
fn event(bot: i64, message: usize) -> Value {
    channel_event(bot, i64::try_from(message).unwrap(), 7, "soup", "Hi!")
}

/// The attempts that a bot's messages took, in their order.
async fn attempts_in_ledger(config: &Config, bot: i64) -> Vec<u64> {
    let mut deliveries = setup::deliveries(config).await;
    deliveries.retain(|delivery| delivery["bot_id"] == bot);
    deliveries.sort_by_key(|delivery| delivery["message_id"].as_i64());
    deliveries.iter().map(|delivery| delivery["attempts"].as_u64().unwrap()).collect()
}

fn http(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()
}
