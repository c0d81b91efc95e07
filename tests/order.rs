//! In order within a conversation, beside each other across conversations and bots, and never more at once
//! than the limits allow.

mod outages;
pub(crate) mod talk;

use std::time::Duration;

use serde_json::Value;

use self::talk::{Talk, assert_in_order, moody, persistent};
use super::support::*;

/// Every answer of a test about limits takes so long at least, so that calls overlap if they may.
const ANSWER: Duration = Duration::from_millis(20);

/// Sends everything while outhook is at work, and judges by what the endpoint was asked.
async fn stays_in_order(inlet: Inlet, config: Config, talk: Talk) {
    let endpoint = Endpoint::start(|request, _| moody(request)).await;
    let mut scene = Scene::start(inlet, persistent(config)).await;
    let mut bots = vec![];
    for number in 0..talk.bots {
        bots.push(scene.bot_at(&format!("bot-{number}"), &endpoint.url("/hook")).await);
    }
    let events = talk.of_bots(&bots);
    for part in events.chunks(talk.events().div_ceil(3)) {
        scene.send(part).await;
    }
    scene.finished(talk.events()).await;
    assert_eq!(scene.drain().await, 0);
    assert_in_order(&scene, &endpoint.requests(), &events).await;
}

const FIFTY: Talk = Talk { bots: 5, conversations: 10, messages: 20 };

#[tokio::test(flavor = "multi_thread")]
async fn fifty_conversations_are_each_called_in_order_without_a_broker() {
    let config = Config::sqlite().set("actors.calls_per_bot", "10");
    stays_in_order(Inlet::Stored, config, FIFTY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_conversations_are_each_called_in_order_from_rabbitmq() {
    let config = Storage::Postgres.config().await.set("actors.calls_per_bot", "10");
    stays_in_order(Inlet::RabbitMq, config, FIFTY).await;
}

const ONE_BOT: Talk = Talk { bots: 1, conversations: 30, messages: 10 };
const THREE_BOTS: Talk = Talk { bots: 3, conversations: 10, messages: 10 };

async fn with_little_memory(inlet: Inlet, storage: Storage, pool: usize, limit: (&str, &str), talk: Talk) {
    let config = storage.config().await.set("actors.event_pool", &pool.to_string());
    stays_in_order(inlet, config.set(limit.0, limit.1), talk).await;
}

macro_rules! in_order_with {
    ($($name:ident: $inlet:ident, $storage:ident, $pool:literal, $limit:expr, $talk:ident;)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            with_little_memory(Inlet::$inlet, Storage::$storage, $pool, $limit, $talk).await;
        }
    )* };
}

const FOUR_OF_A_BOT: (&str, &str) = ("actors.waiting_per_bot", "4");
const TEN_OF_ALL: (&str, &str) = ("actors.in_memory_events", "10");

in_order_with! {
    rows_beyond_a_bots_room_stay_in_order_with_one_actor: Stored, Sqlite, 1, FOUR_OF_A_BOT, ONE_BOT;
    rows_beyond_a_bots_room_stay_in_order_with_three_actors: Stored, Postgres, 3, FOUR_OF_A_BOT, ONE_BOT;
    deliveries_beyond_a_bots_room_stay_in_order_with_one_actor: RabbitMq, Postgres, 1, FOUR_OF_A_BOT, ONE_BOT;
    deliveries_beyond_a_bots_room_stay_in_order_with_three_actors:
        RabbitMq, Sqlite, 3, FOUR_OF_A_BOT, ONE_BOT;
    rows_beyond_all_room_stay_in_order_with_one_actor: Stored, Postgres, 1, TEN_OF_ALL, THREE_BOTS;
    rows_beyond_all_room_stay_in_order_with_three_actors: Stored, Sqlite, 3, TEN_OF_ALL, THREE_BOTS;
    deliveries_beyond_all_room_stay_in_order_with_one_actor: RabbitMq, Sqlite, 1, TEN_OF_ALL, THREE_BOTS;
    deliveries_beyond_all_room_stay_in_order_with_three_actors:
        RabbitMq, Postgres, 3, TEN_OF_ALL, THREE_BOTS;
}

/// The messages of requests, sorted.
fn messages(requests: &[Request]) -> Vec<i64> {
    let mut messages: Vec<i64> = requests.iter().map(message_of).collect();
    messages.sort_unstable();
    messages
}

/// Answers once the gate lets it through, and after a while.
async fn behind(gate: &Gate) -> Endpoint {
    let gate = gate.clone();
    Endpoint::start(move |request, _| {
        Answer::Gated(gate.clone(), Box::new(Answer::Late(ANSWER, Box::new(echo(request)))))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_called_beside_each_other_and_messages_of_one_are_not() {
    let gate = Gate::new();
    let endpoint = behind(&gate).await;
    let scene = Scene::start(Inlet::Stored, Config::sqlite().set("actors.event_pool", "1")).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let other = scene.bot_at("salad", &endpoint.url("/hook")).await;
    let first = [
        channel_event(bot, 1, 7, "Soup", "a conversation"),
        channel_event(bot, 2, 7, "soup", "the same"),
        channel_event(bot, 3, 7, "Salad", "another topic"),
        channel_event(bot, 4, 8, "Soup", "another channel"),
        direct_event(bot, 5, 31, "a direct message"),
        direct_event(bot, 6, 31, "to the same people"),
        channel_event(other, 7, 7, "Soup", "another bot"),
    ];
    scene.send(&first).await;
    endpoint.wait_for(5).await;
    // What is sent later, and called, comes after everything that could have been called before.
    scene.send(&[channel_event(bot, 8, 9, "Soup", "later")]).await;
    let waiting = endpoint.wait_for(6).await;
    assert_eq!(messages(&waiting), [1, 3, 4, 5, 7, 8]);
    assert_eq!(endpoint.in_flight(), 6);

    gate.open();
    scene.finished(8).await;
    assert_eq!(messages(&endpoint.requests()), [1, 2, 3, 4, 5, 6, 7, 8]);
}

/// An endpoint fails once, and the wait for the retry is longer than everything else takes.
async fn a_retry_holds_back_only_its_conversation(inlet: Inlet, storage: Storage) {
    const PAUSE: Duration = Duration::from_secs(5);
    let endpoint = Endpoint::start(|request, _| {
        if message_of(request) == 1 && request.header("outhook-attempt") == Some("1") {
            return Answer::status(503);
        }
        echo(request)
    })
    .await;
    let pause = format!("{}s", PAUSE.as_secs());
    let config = storage.config().await.text("retry.initial_delay", &pause).text("retry.max_delay", &pause);
    let scene = Scene::start(inlet, config.set("retry.jitter", "0.0")).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let other = scene.bot_at("salad", &endpoint.url("/hook")).await;
    let of_bot = |message, stream| channel_event(bot, message, stream, "Kitchen", "soup?");
    let mut events = vec![of_bot(1, 1), of_bot(2, 1)];
    events.extend((3..9).map(|message| of_bot(message, message)));
    // The same channel and topic is another conversation with another bot.
    events.extend((9..12).map(|message| channel_event(other, message, 1, "Kitchen", "salad?")));
    scene.send(&events).await;
    scene.finished(9).await;
    // One more for the conversation that waits, and for one that does not.
    scene.send(&[of_bot(12, 1), of_bot(13, 3)]).await;
    scene.finished(10).await;
    scene.finished(13).await;

    let requests = endpoint.requests();
    let attempts: Vec<_> = requests.iter().filter(|call| message_of(call) == 1).collect();
    assert_eq!(attempts.len(), 2);
    // Moments are told in whole milliseconds.
    assert!(attempts[1].at - attempts[0].at >= PAUSE - Duration::from_millis(2));
    for call in &requests {
        let is_behind = [2, 12].contains(&message_of(call));
        let is_before = call.at < attempts[1].at;
        assert!(message_of(call) == 1 || is_behind != is_before, "message {}", message_of(call));
    }
    let order: Vec<i64> = requests.iter().map(message_of).filter(|id| [1, 2, 12].contains(id)).collect();
    assert_eq!(order, [1, 1, 2, 12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_for_a_retry_holds_back_only_its_conversation_without_a_broker() {
    a_retry_holds_back_only_its_conversation(Inlet::Stored, Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_for_a_retry_holds_back_only_its_conversation_from_rabbitmq() {
    a_retry_holds_back_only_its_conversation(Inlet::RabbitMq, Storage::Postgres).await;
}

/// Gives a bot more calls to make than `calls_per_bot`, each event one for every service.
async fn keeps_to_calls_per_bot(services: usize) {
    const LIMIT: usize = 3;
    const EVENTS: i64 = 12;
    let gate = Gate::new();
    let (slow, quick) = (behind(&gate).await, Endpoint::start(|request, _| echo(request)).await);
    // One actor for both bots, so that what the other bot is sent later is also done later.
    let config = Config::sqlite().set("actors.calls_per_bot", "3").set("actors.event_pool", "1");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot("soup").await;
    for number in 0..services {
        scene.service(bot, &format!("service {number}"), &slow.url("/hook"), &[]).await;
    }
    let other = scene.bot_at("salad", &quick.url("/hook")).await;
    let events: Vec<Value> =
        (1..=EVENTS).map(|message| channel_event(bot, message, message, "Kitchen", "soup?")).collect();
    scene.send(&events).await;
    slow.wait_for(LIMIT).await;
    scene.send(&[direct_event(other, 99, 31, "salad?")]).await;
    quick.wait_for(1).await;
    assert_eq!((slow.requests().len(), slow.in_flight()), (LIMIT, LIMIT));

    for ended in 1..=LIMIT {
        gate.let_through(1);
        slow.wait_for(LIMIT + ended).await;
    }
    gate.open();
    scene.finished(events.len() + 1).await;
    let requests = slow.requests();
    assert_eq!(requests.len(), events.len() * services);
    assert!(peak_overlap(&requests, ANSWER) <= LIMIT, "{}", peak_overlap(&requests, ANSWER));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_has_as_many_calls_in_flight_as_it_may_and_no_more() {
    keeps_to_calls_per_bot(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_of_two_services_has_as_many_calls_in_flight_as_it_may_and_no_more() {
    keeps_to_calls_per_bot(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bots_together_have_as_many_calls_in_flight_as_they_may_and_no_more() {
    const LIMIT: usize = 4;
    let gate = Gate::new();
    let endpoint = behind(&gate).await;
    let config = Config::sqlite().set("http.max_calls", "4").set("actors.event_pool", "3");
    let scene = Scene::start(Inlet::Stored, config).await;
    let mut bots = vec![];
    for number in 0..5 {
        bots.push(scene.bot_at(&format!("bot-{number}"), &endpoint.url("/hook")).await);
    }
    let events = Talk { bots: 5, conversations: 5, messages: 2 }.of_bots(&bots);
    scene.send(&events).await;
    for ended in 0..5 {
        endpoint.wait_for(LIMIT + ended).await;
        gate.let_through(1);
    }
    endpoint.wait_for(LIMIT + 5).await;
    gate.open();
    scene.finished(events.len()).await;
    let requests = endpoint.requests();
    assert_eq!(messages(&requests), (1..=50).collect::<Vec<i64>>());
    assert!(peak_overlap(&requests, ANSWER) <= LIMIT, "{}", peak_overlap(&requests, ANSWER));
}

async fn as_many_events_are_in_memory_as_may_be(inlet: Inlet, pool: usize) {
    const WAITING: usize = 6;
    const CALLS: usize = 4;
    let gate = Gate::new();
    let endpoint = behind(&gate).await;
    let config = Config::sqlite()
        .set("actors.in_memory_events", &WAITING.to_string())
        .set("http.max_calls", &CALLS.to_string())
        .set("actors.event_pool", &pool.to_string());
    let scene = Scene::start(inlet, config).await;
    let mut bots = vec![];
    for number in 0..5 {
        bots.push(scene.bot_at(&format!("bot-{number}"), &endpoint.url("/hook")).await);
    }
    let events = Talk { bots: 5, conversations: 5, messages: 2 }.of_bots(&bots);
    scene.send(&events).await;
    for ended in 0..5 {
        // Whatever else is held waits behind one of these.
        endpoint.wait_for(1 + ended).await;
        let mut held = 0.0;
        for shard in 0..pool {
            let gauge = format!("outhook_events_in_memory{{shard=\"{shard}\"}}");
            held += scene.outhook.metric(&gauge).await;
        }
        assert!(held >= 1.0 && held <= (WAITING + pool * CALLS) as f64, "{held}");
        gate.let_through(1);
    }
    gate.open();
    scene.finished(events.len()).await;
    let requests = endpoint.requests();
    assert_eq!(messages(&requests), (1..=50).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_deliveries_are_in_memory_than_may_be() {
    as_many_events_are_in_memory_as_may_be(Inlet::RabbitMq, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_rows_are_in_memory_than_may_be() {
    as_many_events_are_in_memory_as_may_be(Inlet::Stored, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_after_a_later_one_has_begun_is_run_next_and_counted() {
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = Endpoint::start(move |request, _| match message_of(request) {
        5 => Answer::Gated(held.clone(), Box::new(Answer::Json(serde_json::json!({})))),
        _ => Answer::Json(serde_json::json!({})),
    })
    .await;
    let scene = Scene::start(Inlet::RabbitMq, Storage::Sqlite.config().await).await;
    let bot = scene.bot_at("late", &endpoint.url("/hook")).await;
    scene.send(&[channel_event(bot, 5, 1, "t", "x"), channel_event(bot, 6, 1, "t", "x")]).await;
    endpoint.wait_for(1).await;
    assert_eq!(scene.outhook.metric("outhook_events_late_total").await, 0.0);
    scene.send(&[channel_event(bot, 3, 1, "t", "x")]).await;
    eventually("it to be counted", PATIENCE, || async {
        (scene.outhook.metric("outhook_events_late_total").await == 1.0).then_some(())
    })
    .await;
    gate.open();
    scene.finished(3).await;
    assert_eq!(endpoint.requests().iter().map(message_of).collect::<Vec<_>>(), [5, 3, 6]);
    scene.send(&[channel_event(bot, 4, 1, "t", "x")]).await;
    scene.finished(4).await;
    assert_eq!(scene.outhook.metric("outhook_events_late_total").await, 2.0);
}
