//! Conversations with endpoints that answer sooner or later and now and then fail, and how their order is
//! judged.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::support::*;

/// A message, and the number of an attempt of its one call.
type Tried = (i64, i64);

fn tried(request: &Request) -> Tried {
    let Attempt { call, number } = Attempt::of(request);
    (call.message, number)
}

/// What an endpoint does about an attempt: it looks random, and is always the same.
struct Fate {
    latency: Duration,
    mood: Mood,
}

#[derive(PartialEq, Eq)]
enum Mood {
    Good,
    Busy,
    Broken,
}

impl Fate {
    fn of(tried: Tried) -> Self {
        let mut dice = Dice::of(&tried);
        let mood = match dice.below(20) {
            0 => Mood::Busy,
            1 => Mood::Broken,
            _ => Mood::Good,
        };
        Self { latency: dice.millis(0..15), mood }
    }
}

/// All attempts of a message: up to the first that succeeds.
fn attempts_of(message: i64) -> impl Iterator<Item = Tried> {
    let last = (1..).find(|number| Fate::of((message, *number)).mood == Mood::Good).unwrap();
    (1..=last).map(move |number| (message, number))
}

/// Sooner or later, now and then with a failure that is tried again.
pub(crate) fn moody(request: &Request) -> Answer {
    let Fate { latency, mood } = Fate::of(tried(request));
    let answer = match mood {
        Mood::Good => echo(request),
        Mood::Busy => Answer::status(503),
        Mood::Broken => Answer::Reset,
    };
    Answer::Late(latency, Box::new(answer))
}

/// No attempt fails but as its endpoint wants, and none is the last before one succeeds.
pub(crate) fn persistent(config: Config) -> Config {
    config
        .text("http.timeout", "1m")
        .text("http.connect_timeout", "1m")
        .set("retry.max_retries", "100")
        .text("retry.give_up_after", "1h")
}

/// Bots, each with as many conversations of as many messages.
#[derive(Clone, Copy)]
pub(crate) struct Talk {
    pub(crate) bots: usize,
    pub(crate) conversations: usize,
    pub(crate) messages: usize,
}

impl Talk {
    pub(crate) fn events(self) -> usize {
        self.bots * self.conversations * self.messages
    }

    /// The events in order of their messages, as Zulip publishes them: conversation by conversation in
    /// turn, each named by what it says.
    pub(crate) fn of_bots(self, bots: &[i64]) -> Vec<Value> {
        let mut events = vec![];
        for _ in 0..self.messages {
            for bot in bots {
                for stream in 1..=i64::try_from(self.conversations).unwrap() {
                    let message = i64::try_from(events.len()).unwrap() + 1;
                    let name = format!("bot {bot}, channel {stream}");
                    events.push(channel_event(*bot, message, stream, "Kitchen", &name));
                }
            }
        }
        events
    }
}

fn conversation_of(event: &Value) -> String {
    event["message"]["content"].as_str().unwrap().to_owned()
}

/// In each conversation an attempt begins only after the one before it has ended, and each message is tried
/// until it succeeds, one behind the other; and none is left out, or tried again. The ledger tells of as many
/// attempts.
pub(crate) async fn assert_in_order(scene: &Scene, requests: &[Request], events: &[Value]) {
    let mut expected: BTreeMap<String, Vec<Tried>> = BTreeMap::new();
    for event in events {
        let message = event["message"]["id"].as_i64().unwrap();
        expected.entry(conversation_of(event)).or_default().extend(attempts_of(message));
    }
    let mut made: BTreeMap<String, Vec<&Request>> = BTreeMap::new();
    for call in requests {
        made.entry(call.json()["data"].as_str().unwrap().to_owned()).or_default().push(call);
    }
    for (conversation, expected) in expected {
        let mut calls = made.remove(&conversation).unwrap_or_default();
        calls.sort_by_key(|call| call.at);
        for pair in calls.windows(2) {
            let ended = pair[0].at + Fate::of(tried(pair[0])).latency;
            assert!(ended <= pair[1].at, "{conversation}: {:?} began early", tried(pair[1]));
        }
        let calls: Vec<Tried> = calls.into_iter().map(tried).collect();
        assert_eq!(calls, expected, "{conversation}");
    }
    assert!(made.is_empty(), "nobody wrote in {:?}", made.keys());
    let told = scene.db.count("SELECT sum(attempts) FROM outhook_call WHERE state = 1").await;
    assert_eq!(usize::try_from(told), Ok(requests.len()), "attempts in the ledger");
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_dead_letter").await, 0);
}
