//! Panics: at every handler of every actor, in timers, at a start, in a drain and in a webhook handler's
//! code, with nothing waiting and with much. A panic costs a restart; it loses nothing and repeats nothing
//! that was finished.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::support::*;

/// So many cases run beside each other.
const BESIDE: usize = 3;

/// What must not be in any line about a panic.
const SECRETS: [&str; 2] = ["tomato soup", setup::TOKEN];

/// Bots, by what they are for.
const PLAIN: i64 = 1;
/// One conversation with more events than may wait in memory, and several of them.
const CROWDED: i64 = 2;
/// Its first attempts fail, so that its events wait for another.
const FLAKY: i64 = 3;
/// It has no services.
const BARE: i64 = 4;

/// One line of the matrix.
#[derive(Debug, Clone)]
struct Case {
    place: String,
    /// At its how many-th time.
    nth: usize,
}

/// What can't be reached here, with the reason.
const ELSEWHERE: [&str; 7] = [
    // Sent when a drain has missed its deadline only.
    "ReplyActor.Flush",
    // An actor that is told to stop ends anyway, and is built anew if it should not have.
    "QueueActor.Stop",
    "EventActor.Stop",
    "FlagActor.Stop",
    "ReplyActor.Stop",
    "LeaseActor.Stop",
    "HistoryActor.Stop",
];

/// Every message of every actor, from the lines that let them be sent.
fn handlers() -> BTreeSet<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/actors");
    let mut places = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        for invocation in text.split("\ntakes_mail!(").skip(1) {
            let (inside, _) = invocation.split_once(");").unwrap();
            let (actor, messages) = inside.split_once(':').unwrap();
            for message in messages.split(',').map(str::trim).filter(|message| !message.is_empty()) {
                places.insert(format!("{}.{message}", actor.trim()));
            }
        }
    }
    assert!(places.len() > 20, "{places:?}");
    places
}

/// Where else a panic may come from.
const OTHERS: [&str; 15] = [
    "handler.request",
    "handler.reply",
    "QueueActor.started",
    "EventActor.started",
    "FlagActor.started",
    "ReplyActor.started",
    "LeaseActor.started",
    "HistoryActor.started",
    "QueueActor.timer",
    "EventActor.timer",
    "FlagActor.timer",
    "ReplyActor.timer",
    "LeaseActor.timer",
    "EventActor.CallEnded",
    "QueueActor.Pump",
];

/// Met so often that they can also be met in the middle of much work: at this time.
const FREQUENT: [(&str, usize); 9] = [
    ("EventActor.ProcessEvents", 4),
    ("EventActor.EventsSettled", 8),
    ("EventActor.CallEnded", 8),
    ("FlagActor.ServiceCallFinished", 8),
    ("QueueActor.DueAt", 3),
    ("QueueActor.WantRows", 4),
    ("ReplyActor.RepliesCommitted", 8),
    ("handler.request", 8),
    ("handler.reply", 8),
];

impl Case {
    fn all() -> Vec<Self> {
        let first =
            handlers().into_iter().chain(OTHERS.map(str::to_owned)).map(|place| Self { place, nth: 1 });
        let later = FREQUENT.map(|(place, nth)| Self { place: place.to_owned(), nth });
        let is_here = |case: &Self| !ELSEWHERE.contains(&&*case.place);
        first.chain(later).filter(is_here).collect()
    }

    fn fail_point(&self) -> String {
        format!("{}={}*off->1*panic", self.place, self.nth - 1)
    }

    async fn run(self) {
        let stage = Stage::set().await;
        let mut config = stage.config.sibling().fail_points(&self.fail_point());
        if self.place == "FlagActor.timer" {
            // It waits for the age of what came during a commit, which must be younger than that when the
            // commit ends.
            config = config.text("flag.batch_age", "1s");
        }
        let mut outhook = Outhook::run(&config);
        stage.publish(&events(1)).await;
        stage.finished(events(1).len(), &self).await;
        stage.publish(&events(100)).await;
        stage.finished(2 * events(1).len(), &self).await;
        self.wait_for_timer(&outhook).await;
        assert_eq!(
            outhook.metric("outhook_outcomes_dropped_total").await,
            0.0,
            "{self:?}: a call was finished twice"
        );
        outhook.terminate().await;
        let code = outhook.wait().await.code();
        // If one of these fails in the end, nobody knows whether all is recorded.
        let is_unsure = ["FlagActor.Flush", "ReplyActor.Drain", "ReplyActor.LetGo"].contains(&&*self.place);
        assert!(code == Some(0) || is_unsure && code == Some(75), "{self:?}: {code:?}");
        self.judge_log(&outhook);
        stage.judge(&self).await;
    }

    /// A timer may be slower than the work.
    async fn wait_for_timer(&self, outhook: &Outhook) {
        if self.place.ends_with(".timer") {
            eventually("the timer's panic", PATIENCE * 2, || async {
                // Until this line, the actor is not yet known to be down.
                outhook.log().iter().any(|line| line.contains("is built again")).then_some(())
            })
            .await;
            outhook.ready().await;
        }
    }

    fn judge_log(&self, outhook: &Outhook) {
        let log = outhook.log();
        let panics: Vec<&String> = log.iter().filter(|line| line.contains("panic at")).collect();
        assert_eq!(panics.len(), 1, "{self:?}: {panics:#?}");
        assert!(panics[0].contains("src/"), "its place is named: {}", panics[0]);
        for secret in SECRETS {
            let line = log.iter().find(|line| line.contains(secret));
            assert_eq!(line, None, "{self:?}");
        }
    }
}

/// A queue, a database, bots and their endpoint.
struct Stage {
    config: Config,
    queue: Queue,
    db: Db,
    endpoint: Endpoint,
    zulip: Endpoint,
}

impl Stage {
    async fn set() -> Self {
        let endpoint = Endpoint::start(|request, _| {
            let is_first = request.header("outhook-attempt") == Some("1");
            match request.path.as_str() {
                "/flaky" if is_first => Answer::status(503),
                _ => Answer::Json(json!({ "content": webhook_id(request) })),
            }
        })
        .await;
        let zulip =
            Endpoint::start(|_, _| Answer::Json(json!({ "result": "success", "msg": "", "id": 1 }))).await;
        let queue = Rabbit::shared().await.queue().await;
        queue.declare().await;
        let config = Storage::Postgres.config().await.queue(&queue.url, &queue.name);
        let config = config
            .text("reply.to", "zulip")
            .text("reply.site", &zulip.url(""))
            .text("zulip.external_host", "chat.example.org")
            .set("actors.event_pool", "2")
            .set("actors.calls_per_bot", "1")
            .set("actors.waiting_per_bot", "2")
            .text("flag.batch_age", "20ms");
        let db = setup::tables(&config).await;
        for (bot, path) in [(PLAIN, "/plain"), (CROWDED, "/crowded"), (FLAKY, "/flaky")] {
            setup::insert_bot(&db, bot).await;
            setup::insert_service(&db, bot, &endpoint.url(path), 1, SECRETS[1]).await;
        }
        setup::insert_bot(&db, BARE).await;
        Self { config, queue, db, endpoint, zulip }
    }

    async fn publish(&self, events: &[Value]) {
        let bodies: Vec<Vec<u8>> = events.iter().map(|event| event.to_string().into_bytes()).collect();
        self.queue.publish_all(&bodies).await;
    }

    async fn finished(&self, events: usize, case: &Case) {
        let sql = "SELECT (SELECT count(*) FROM outhook_event WHERE state = 1)
            - (SELECT count(*) FROM outhook_reply WHERE state = 0)";
        let what = format!("{events} events to be finished with {case:?}");
        eventually(&what, PATIENCE, || async { (self.db.count(sql).await == events as i64).then_some(()) })
            .await;
    }

    async fn judge(&self, case: &Case) {
        let mut times: HashMap<(String, String), usize> = HashMap::new();
        for request in self.endpoint.requests() {
            let attempt = request.header("outhook-attempt").unwrap().to_owned();
            *times.entry((webhook_id(&request), attempt)).or_default() += 1;
        }
        let repeated = times.values().filter(|times| **times > 1).count();
        // At most a call for each bot is under way at a time, and the outcome of another may not be
        // committed.
        assert!(repeated <= 6, "{case:?}: {repeated} calls were repeated");
        let calls: BTreeSet<&String> = times.keys().map(|(id, _)| id).collect();
        let with_services = |event: &&Value| event["user_profile_id"] != BARE;
        let expected = 2 * events(1).iter().filter(with_services).count();
        let panicked =
            self.db.count("SELECT count(*) FROM outhook_call WHERE fault = 'panicked'").await as usize;
        let letters = self.db.count("SELECT count(*) FROM outhook_dead_letter").await as usize;
        assert_eq!(letters, panicked, "{case:?}");
        assert_eq!(panicked, usize::from(case.place.starts_with("handler.")), "{case:?}");
        assert!(calls.len() + panicked >= expected, "{case:?}: {} of {expected} calls", calls.len());
        self.judge_posts(case);
    }

    fn judge_posts(&self, case: &Case) {
        let mut posts: BTreeMap<String, usize> = BTreeMap::new();
        for post in self.zulip.requests() {
            *posts.entry(form_field(&post, "content").unwrap()).or_default() += 1;
        }
        let repeated = posts.values().filter(|times| **times > 1).count();
        assert!(repeated <= 4, "{case:?}: {repeated} replies were posted again");
    }
}

fn webhook_id(request: &Request) -> String {
    request.header("webhook-id").unwrap().to_owned()
}

/// One event that begins at once, some that wait, one that will wait for another attempt, one without a call.
fn events(first: i64) -> Vec<Value> {
    let mut events = vec![
        channel_event(PLAIN, first, 1, "topic", SECRETS[0]),
        channel_event(FLAKY, first, 1, "topic", SECRETS[0]),
        channel_event(BARE, first, 1, "topic", SECRETS[0]),
    ];
    for n in 0..6 {
        events.push(channel_event(CROWDED, first + n, 1, "one conversation", SECRETS[0]));
        events.push(channel_event(CROWDED, first + 10 + n, n, "several", SECRETS[0]));
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_anywhere_costs_a_restart_and_nothing_else() {
    let cases = Case::all();
    println!("{} cases", cases.len());
    futures_util::stream::iter(cases).for_each_concurrent(BESIDE, Case::run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_panics_in_a_minute_end_the_process_with_70() {
    let config = Config::sqlite().fail_points("EventActor.started=panic").set("actors.event_pool", "3");
    let mut outhook = Outhook::run(&config);
    assert_eq!(outhook.wait().await.code(), Some(70));
    let log = outhook.log();
    let panics = log.iter().filter(|line| line.contains("panic at")).count();
    // The two other actors may have been built once more while it ended.
    assert!((10..=12).contains(&panics), "{panics}");
    assert!(log.iter().any(|line| line.contains("tenth failure")), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_an_event_actor_that_panicked_are_aborted_and_made_again() {
    let endpoint = Endpoint::start(|_, number| match number {
        0 => Answer::Hang,
        _ => Answer::Json(json!({})),
    })
    .await;
    let config = Config::sqlite()
        .text("http.timeout", "5m")
        .set("actors.event_pool", "1")
        .fail_points("EventActor.ProcessEvents=1*off->1*panic");
    let (bot, _) = setup::one_bot(&config, &endpoint.url("/hook"), "generic").await;
    let outhook = Outhook::start(&config).await;
    // What comes before is offered twice: the actor takes nothing in until its shard is free.
    outhook.wait_for_log("inbox job free").await;
    let db = Db::of(&config).await;
    setup::send(&config, &[channel_event(bot, 1, 1, "t", "x")]).await;
    endpoint.wait_for(1).await;
    setup::send(&config, &[channel_event(bot, 2, 2, "t", "x")]).await;
    outhook.wait_for_log("panic at").await;
    let panicked = Instant::now();
    endpoint.wait_for(3).await;
    setup::all_finished(&db).await;
    assert!(panicked.elapsed() < Duration::from_secs(10));
    assert_eq!(endpoint.in_flight(), 0, "the hung call was aborted");
    assert_eq!(outhook.metric("outhook_panics_total").await, 1.0);
    assert_eq!(outhook.metric("outhook_restarts").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_is_built_anew_during_a_drain_begins_nothing() {
    let endpoint = Endpoint::start(|_, _| Answer::Hang).await;
    let config = Config::sqlite()
        .text("http.timeout", "5m")
        .text("drain.deadline", "3s")
        .set("actors.event_pool", "2")
        .fail_points("EventActor.Drain=1*panic");
    let db = setup::tables(&config).await;
    for bot in [1, 2] {
        setup::insert_bot(&db, bot).await;
        setup::insert_service(&db, bot, &endpoint.url("/hook"), 1, setup::TOKEN).await;
    }
    let mut outhook = Outhook::start(&config).await;
    setup::send(&config, &[channel_event(1, 1, 1, "t", "x"), channel_event(2, 2, 1, "t", "x")]).await;
    endpoint.wait_for(2).await;
    outhook.terminate().await;
    // One actor panics, and the call of the other keeps the drain going until its deadline.
    outhook.wait_for_log("unfinished events of shard").await;
    assert_eq!(outhook.wait().await.code(), Some(0));
    assert_eq!(endpoint.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_which_two_calls_panic_is_one_dead_letter() {
    let config = Config::sqlite().fail_points("handler.request=2*panic");
    let (bot, _) = setup::one_bot(&config, "http://127.0.0.1:1/", "generic").await;
    let db = Db::of(&config).await;
    setup::insert_service(&db, bot, "http://127.0.0.1:1/", 1, setup::TOKEN).await;
    let outhook = Outhook::start(&config).await;
    setup::send(&config, &[channel_event(bot, 1, 1, "t", "x")]).await;
    eventually("the event to be finished", PATIENCE, || async {
        (outhook.metric("outhook_events_finished_total").await == 1.0).then_some(())
    })
    .await;
    let panicked = "SELECT count(*) FROM outhook_call WHERE fault = 'panicked'";
    assert_eq!(db.count(panicked).await, 2);
    assert_eq!(setup::dead_letters(&config).await.len(), 1);
    assert_eq!(outhook.metric("outhook_dead_letters_total").await, 1.0);
}
