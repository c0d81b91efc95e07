//! Order where much else happens: bots of two services, of which one has outages that close its gate again
//! and again, and a daemon that is killed in the midst of its work.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::talk::{Talk, persistent};
use crate::support::*;

const TALK: Talk = Talk { bots: 5, conversations: 10, messages: 40 };

const STEADY: &str = "/steady";
const BRITTLE: &str = "/brittle";

/// Of so many requests that a bot's brittle endpoint gets, the last few fail, which is more than its gate
/// bears.
const PERIOD: usize = 40;
const OUTAGE: usize = 6;
const FAILURES: usize = 3;

/// The requests, by their numbers, that were answered with a failure.
type Failed = Arc<Mutex<HashSet<usize>>>;

/// Answers sooner or later; an attempt always takes the same time.
fn latency(request: &Request) -> Duration {
    Dice::of(&Attempt::of(request)).millis(0..10)
}

async fn with_outages(failed: &Failed) -> Endpoint {
    let failed = Arc::clone(failed);
    let asked: Mutex<HashMap<i64, usize>> = Mutex::default();
    Endpoint::start(move |request, number| {
        let answer = if request.path == BRITTLE && is_out(&asked, Attempt::of(request).call.bot) {
            failed.lock().unwrap().insert(number);
            Answer::status(503)
        } else {
            echo(request)
        };
        Answer::Late(latency(request), Box::new(answer))
    })
    .await
}

fn is_out(asked: &Mutex<HashMap<i64, usize>>, bot: i64) -> bool {
    let mut asked = asked.lock().unwrap();
    let number = asked.entry(bot).or_default();
    *number += 1;
    *number % PERIOD >= PERIOD - OUTAGE
}

fn configured() -> Config {
    persistent(Config::sqlite())
        .set("breaker.failures", &FAILURES.to_string())
        .text("breaker.open", "50ms")
        .text("breaker.max_open", "200ms")
        .set("actors.calls_per_bot", "4")
        // Lanes are served from rows, too.
        .set("actors.waiting_per_bot", "4")
        .text("log.filter", "error")
        .text("reply.to", "none")
}

async fn closings(scene: &Scene) -> f64 {
    scene.outhook.metric("outhook_gate_closings_total{reason=\"breaker\"").await
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_that_close_gates_and_a_kill_in_their_midst_reorder_no_conversation() {
    let failed = Failed::default();
    let endpoint = with_outages(&failed).await;
    let mut scene = Scene::start(Inlet::Stored, configured()).await;
    let mut bots = vec![];
    for number in 0..TALK.bots {
        let bot = scene.bot_at(&format!("bot-{number}"), &endpoint.url(STEADY)).await;
        scene.service(bot, "brittle", &endpoint.url(BRITTLE), &[]).await;
        bots.push(bot);
    }
    let events = TALK.of_bots(&bots);
    let (before, after) = events.split_at(TALK.events() / 4 * 3);
    for part in before.chunks(TALK.events() / 4) {
        scene.send(part).await;
    }
    reaches("calls", TALK.events() / 2, || async { endpoint.count() }).await;
    assert!(closings(&scene).await > 0.0, "no gate was closed: the test shows nothing");
    assert!(!scene.outhook.kill().await.success());
    let killed_at = Instant::now();
    endpoint.deserted().await;
    let unfinished = scene.db.count("SELECT count(*) FROM outhook_event WHERE state = 0").await;
    assert!(unfinished > 0, "it was killed too late: the test shows nothing");
    let cut = Cut { number: endpoint.count(), at: killed_at };
    scene.send(after).await;
    scene.start_again().await;
    let finished = || async {
        let count = scene.db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await;
        usize::try_from(count).unwrap()
    };
    reaches("finished events", TALK.events(), finished).await;
    assert!(closings(&scene).await > 0.0, "no gate was closed after the kill");
    assert_eq!(scene.drain().await, 0);

    let (requests, failed) = (endpoint.requests(), failed.lock().unwrap().clone());
    let judged = Judged { requests: &requests, failed: &failed, cut };
    judged.conversations_are_in_order();
    let attempts = judged.each_call_goes_on_to_its_success();
    let told = scene.db.count("SELECT sum(attempts) FROM outhook_call WHERE state = 1").await;
    assert_eq!(usize::try_from(told), Ok(attempts), "attempts in the ledger");
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_dead_letter").await, 0);
}

/// The kill: the number of the first request after it, and a moment at which the daemon was gone.
struct Cut {
    number: usize,
    at: Instant,
}

struct Judged<'a> {
    requests: &'a [Request],
    failed: &'a HashSet<usize>,
    cut: Cut,
}

impl Judged<'_> {
    /// In each conversation a message is called only after every call of the one before it has ended,
    /// whichever service it is for.
    fn conversations_are_in_order(&self) {
        let mut conversations: HashMap<String, (i64, Vec<usize>)> = HashMap::new();
        for (number, request) in self.requests.iter().enumerate() {
            let body = request.json();
            let name = body["data"].as_str().unwrap();
            let message = body["message"]["id"].as_i64().unwrap();
            let (last, calls) = conversations.entry(name.to_owned()).or_default();
            assert!(message >= *last, "{name}: message {message} was called after {last}");
            if message > *last {
                let ended = calls.iter().map(|call| self.end(*call)).max();
                assert!(
                    ended.is_none_or(|ended| ended <= request.at),
                    "{name}: message {message} began while {last} was being called"
                );
                (*last, *calls) = (message, vec![]);
            }
            calls.push(number);
        }
        assert_eq!(conversations.len(), TALK.bots * TALK.conversations);
    }

    /// The moment before which the request was certainly not over.
    fn end(&self, number: usize) -> Instant {
        let request = &self.requests[number];
        let end = request.at + latency(request);
        if number < self.cut.number { end.min(self.cut.at) } else { end }
    }

    /// Each attempt is made once, in order, up to the first that succeeds; only the one that was the last of
    /// its call at the kill may be made again. Returns how many there are.
    fn each_call_goes_on_to_its_success(&self) -> usize {
        let mut calls: BTreeMap<(i64, i64), Vec<(usize, i64)>> = BTreeMap::new();
        for (number, request) in self.requests.iter().enumerate() {
            let Attempt { call, number: attempt } = Attempt::of(request);
            calls.entry((call.message, call.service)).or_default().push((number, attempt));
        }
        assert_eq!(calls.len(), TALK.events() * 2);
        calls.iter().map(|(call, attempts)| self.attempts(*call, attempts)).sum()
    }

    fn attempts(&self, call: (i64, i64), made: &[(usize, i64)]) -> usize {
        assert_eq!(made[0].1, 1, "{call:?}: {made:?}");
        for pair in made.windows(2) {
            let [(before, first), (after, second)] = [pair[0], pair[1]];
            let is_repeated = second == first && (before < self.cut.number && self.cut.number <= after);
            let is_next = second == first + 1 && self.failed.contains(&before);
            assert!(is_repeated || is_next, "{call:?}: {made:?}");
        }
        let (last, attempts) = made[made.len() - 1];
        assert!(!self.failed.contains(&last), "{call:?} has not succeeded: {made:?}");
        usize::try_from(attempts).unwrap()
    }
}
