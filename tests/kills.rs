//! The daemon is killed at random moments of its work, again and again: nothing is lost, nothing that was
//! committed is made again, and what is made again was under way at a kill.
//!
//! `make test` has a short run of each kind, and `make test-kill` a long one. A run prints its seed, which
//! decides everything but how processes and threads take turns: `OUTHOOK_KILL_SEED` gives it back.

mod judge;
mod plan;

use std::collections::{HashMap, HashSet};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, Value, json};

use self::judge::{Committed, Judge, Left, Limits, Said};
use self::plan::{Event, Mood, Plan, Size};
use super::support::*;

/// How many events are published together.
const PORTION: usize = 50;
/// How many calls of published events may not have begun when more are published: few, so that events are
/// taken in at every kill.
const CALLS_AHEAD: usize = 400;

const CALLS_PER_BOT: usize = 4;
const REPLIES_IN_FLIGHT: usize = 4;

/// The number of the generic format.
const GENERIC: i16 = 1;
const SIGKILL: i32 = 9;

/// States of a call, and of a reply.
const SUCCEEDED: i64 = 1;
const FAILED: i64 = 2;
const REMOVED: i64 = 3;
const PENDING: i64 = 0;
const POSTED: i64 = 1;

/// Everything of a run but the daemon.
struct Run {
    plan: Plan,
    storage: Storage,
    config: Config,
    db: Db,
    queue: Option<Queue>,
    bots: Endpoint,
    zulip: Endpoint,
    /// The services of each bot.
    services: HashMap<i64, Vec<Service>>,
    begun: Begun,
}

struct Service {
    id: i64,
    mood: Mood,
}

/// The calls of which a request has arrived.
type Begun = Arc<Mutex<HashSet<Call>>>;

/// Answers as the mood of each service is.
async fn bots(seed: u64, begun: Begun) -> Endpoint {
    Endpoint::start(move |request, _| {
        let attempt = Attempt::of(request);
        begun.lock().unwrap().insert(attempt.call);
        Mood::at(&request.path).answer(attempt, seed)
    })
    .await
}

/// Takes every reply, sooner or later.
async fn zulip() -> Endpoint {
    Endpoint::start(|_, number| {
        let taken = Answer::Json(json!({ "result": "success", "msg": "", "id": 1 }));
        Answer::Late(Duration::from_millis(number as u64 % 6), Box::new(taken))
    })
    .await
}

/// Everything that takes its time takes little of it.
fn configured(config: Config, zulip: &Endpoint) -> Config {
    config
        .text("reply.to", "zulip")
        .text("reply.site", &zulip.url(""))
        .text("zulip.external_host", "chat.example.org")
        .set("reply.in_flight", &REPLIES_IN_FLIGHT.to_string())
        .set("actors.calls_per_bot", &CALLS_PER_BOT.to_string())
        .set("queue.prefetch", "50")
        .text("http.timeout", "500ms")
        .set("retry.max_retries", "3")
        .set("breaker.failures", "1000000")
        .text("retry.initial_delay", "20ms")
        .text("retry.max_delay", "100ms")
        .text("log.filter", "info")
}

async fn make_bots(db: &Db, plan: &Plan, endpoint: &Endpoint) -> HashMap<i64, Vec<Service>> {
    for bot in &plan.bots {
        setup::insert_bot(db, bot.id).await;
        for mood in &bot.moods {
            setup::insert_service(db, bot.id, &endpoint.url(mood.path()), GENERIC, setup::TOKEN).await;
        }
    }
    let mut services: HashMap<i64, Vec<Service>> = HashMap::new();
    for row in db.rows("SELECT id, user_profile_id, base_url FROM zerver_service").await {
        let service = Service { id: number(&row, "id"), mood: Mood::at(row["base_url"].as_str().unwrap()) };
        services.entry(number(&row, "user_profile_id")).or_default().push(service);
    }
    services
}

fn number(row: &Map<String, Value>, column: &str) -> i64 {
    row[column].as_i64().unwrap()
}

/// The call of a row with the ids of its bot, message and service.
fn call(row: &Map<String, Value>) -> Call {
    let service = number(row, "service_id");
    Call { bot: number(row, "bot_id"), message: number(row, "message_id"), service }
}

impl Run {
    async fn prepare(inlet: Inlet, storage: Storage, plan: Plan) -> Self {
        let begun = Begun::default();
        let (bots, zulip) = (bots(plan.size.seed, Arc::clone(&begun)).await, zulip().await);
        let mut config = configured(storage.config().await, &zulip);
        if storage == Storage::Postgres {
            // The rows of a daemon that was killed are held until it counts as dead.
            config = config.text("database.lease", "2s");
        }
        let mut queue = None;
        if inlet == Inlet::RabbitMq {
            let fresh = Rabbit::shared().await.queue().await;
            config = config.queue(&fresh.url, &fresh.name);
            queue = Some(fresh);
        }
        let db = setup::tables(&config).await;
        let services = make_bots(&db, &plan, &bots).await;
        Self { plan, storage, config, db, queue, bots, zulip, services, begun }
    }

    /// Publishes the events, a little ahead of their calls, whether or not the daemon lives.
    async fn publish(&self) {
        let mut calls = 0_usize;
        for portion in self.plan.events.chunks(PORTION) {
            reaches("calls begun", calls.saturating_sub(CALLS_AHEAD), || async { self.begun() }).await;
            self.send(&portion.iter().map(Event::body).collect::<Vec<Value>>()).await;
            calls += portion.iter().map(|event| event.calls).sum::<usize>();
        }
    }

    async fn send(&self, events: &[Value]) {
        match &self.queue {
            Some(queue) => {
                let bodies: Vec<Vec<u8>> =
                    events.iter().map(|event| event.to_string().into_bytes()).collect();
                queue.publish_all(&bodies).await;
            }
            None => setup::send(&self.config, events).await,
        }
    }

    /// One life of the daemon after the other; each but the last ends by a kill.
    async fn live(&self) -> Judge {
        let mut judge = Judge::new(self.streams(), self.limits());
        for moment in &self.plan.moments {
            let mut outhook = Outhook::run(&self.config);
            reaches("calls begun", moment.calls, || async { self.begun() }).await;
            // Waits for nothing: any moment is right, and no two are alike.
            tokio::time::sleep(moment.then).await;
            assert_eq!(outhook.kill().await.signal(), Some(SIGKILL), "it had ended by itself");
            self.nothing_is_on_its_way().await;
            self.judge_life(&mut judge).await;
        }
        let mut outhook = Outhook::start(&self.config).await;
        self.all_is_done().await;
        outhook.terminate().await;
        assert_eq!(outhook.wait().await.code(), Some(0));
        self.judge_life(&mut judge).await;
        judge
    }

    /// Waits until all has arrived that the killed daemon has sent: requests, posts, its last commit. What it
    /// had taken and not acknowledged is back in the queue then, where it was.
    async fn nothing_is_on_its_way(&self) {
        self.bots.deserted().await;
        self.zulip.deserted().await;
        if self.storage == Storage::Postgres {
            let sessions = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'outhook'";
            let none = || async { (self.db.count(sessions).await == 0).then_some(()) };
            eventually("PostgreSQL to end the sessions of a killed daemon", PATIENCE, none).await;
        }
        if let Some(queue) = &self.queue {
            let none = || async { (queue.consumers().await == 0).then_some(()) };
            eventually("RabbitMQ to miss a killed daemon", PATIENCE, none).await;
        }
    }

    async fn all_is_done(&self) {
        let finished = || self.count("outhook_event WHERE state = 1");
        reaches("events finished", self.plan.events.len(), finished).await;
        let replies = self.count("outhook_reply").await;
        reaches("replies posted", replies, || self.count("outhook_reply WHERE state = 1")).await;
    }

    async fn judge_life(&self, judge: &mut Judge) {
        let asked = self.bots.read_from(judge.requests, Attempt::of);
        let posted = self.zulip.read_from(judge.posts, Said::of);
        judge.life(&asked, posted, self.left().await);
    }

    async fn left(&self) -> Left {
        let mut left = Left::default();
        let sql = "SELECT e.bot_id, e.message_id, c.service_id,
                CAST(c.attempts AS BIGINT) AS attempts, CAST(c.state AS BIGINT) AS state
            FROM outhook_call c JOIN outhook_event e ON e.id = c.event_id";
        for row in self.db.rows(sql).await {
            let is_final = [SUCCEEDED, FAILED, REMOVED].contains(&number(&row, "state"));
            left.calls.insert(call(&row), Committed { attempts: number(&row, "attempts"), is_final });
        }
        let streams = self.streams();
        let sql = "SELECT e.message_id, r.content, CAST(r.state AS BIGINT) AS state
            FROM outhook_reply r JOIN outhook_event e ON e.id = r.event_id";
        for row in self.db.rows(sql).await {
            let stream = streams[usize::try_from(number(&row, "message_id")).unwrap() - 1];
            let content = row["content"].as_str().unwrap().to_owned();
            let rows = left.replies.entry(Said { stream, content }).or_default();
            match number(&row, "state") {
                PENDING => rows.pending += 1,
                POSTED => rows.posted += 1,
                state => panic!("a reply in state {state}: {row:?}"),
            }
        }
        left
    }

    /// The stream of each message.
    fn streams(&self) -> Vec<i64> {
        self.plan.events.iter().map(|event| event.stream).collect()
    }

    /// A bot has as many events begun as it may have calls in flight; the calls of all of these may not be
    /// committed yet.
    fn limits(&self) -> Limits {
        let services: usize = self.plan.bots.iter().map(|bot| bot.moods.len()).sum();
        Limits { calls: services * CALLS_PER_BOT, posts: REPLIES_IN_FLIGHT }
    }

    /// The calls that are to be made.
    fn calls(&self) -> Vec<Call> {
        let calls_of = |event: &Event| {
            let (bot, message) = (event.bot, event.message);
            self.services[&bot].iter().map(move |service| Call { bot, message, service: service.id })
        };
        self.plan.events.iter().flat_map(calls_of).collect()
    }

    fn mood(&self, call: Call) -> Mood {
        self.services[&call.bot].iter().find(|service| service.id == call.service).unwrap().mood
    }

    /// How many calls have begun.
    fn begun(&self) -> usize {
        self.begun.lock().unwrap().len()
    }

    async fn count(&self, rows: &str) -> usize {
        usize::try_from(self.db.count(&format!("SELECT count(*) FROM {rows}")).await).unwrap()
    }

    /// The calls that did not end as the mood of their service has it, or with another reply than that.
    async fn wrong_replies(&self) -> Vec<String> {
        let sql = "SELECT e.bot_id, e.message_id, c.service_id, CAST(c.state AS BIGINT) AS state, r.content
            FROM outhook_call c JOIN outhook_event e ON e.id = c.event_id
            LEFT JOIN outhook_reply r ON r.event_id = c.event_id AND r.service_id = c.service_id";
        let rows = self.db.rows(sql).await;
        rows.iter().filter(|row| !self.is_right(row)).map(|row| format!("{row:?}")).collect()
    }

    fn is_right(&self, row: &Map<String, Value>) -> bool {
        let (call, reply) = (call(row), row["content"].as_str());
        match (number(row, "state"), self.mood(call)) {
            (SUCCEEDED, Mood::Down | Mood::Refusing) => false,
            (SUCCEEDED, Mood::Silent) => reply.is_none(),
            (SUCCEEDED, _) => reply == Some(call.webhook_id().as_str()),
            (FAILED, _) => reply.is_some_and(|line| line.starts_with("I could not pass this message on: ")),
            _ => false,
        }
    }

    /// What must hold once everything is done, whatever happened before.
    async fn conclude(&self, judge: &Judge) {
        let Size { seed, kills, events } = self.plan.size;
        let calls = self.calls();
        let lost = judge.lost(&calls);
        println!(
            "kills: storage={:?} seed={seed} kills={kills} events={events} lost={lost} \
             repeated={} (bound {}) reordered={} replies_repeated={} (bound {})",
            self.storage,
            judge.repeated,
            judge.repeated_max,
            judge.reordered,
            judge.reposted,
            kills * REPLIES_IN_FLIGHT,
        );
        let shown = &judge.faults[..judge.faults.len().min(20)];
        assert!(shown.is_empty(), "{} faults, such as {shown:#?}", judge.faults.len());
        assert_eq!(lost, 0);
        assert_eq!(self.count("outhook_event").await, events);
        assert_eq!(self.count("outhook_call").await, calls.len());
        assert_eq!(self.count("outhook_dead_letter").await, 0);
        assert_eq!(self.wrong_replies().await, [""; 0]);
        assert!(judge.repeated_max > 0, "nothing was under way at any kill: the run shows nothing");
        if let Some(queue) = &self.queue {
            assert_eq!((queue.consumers().await, queue.depth().await), (0, 0));
        }
    }
}

async fn survives_kills(inlet: Inlet, storage: Storage) {
    let plan = Plan::draw(Size::from_environment());
    println!("kills: storage={storage:?} {:?}", plan.size);
    let run = Run::prepare(inlet, storage, plan).await;
    let ((), judge) = tokio::join!(run.publish(), run.live());
    run.conclude(&judge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_made_again_whenever_it_is_killed_on_rabbitmq_and_postgresql() {
    survives_kills(Inlet::RabbitMq, Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_made_again_whenever_it_is_killed_on_a_stored_queue_and_sqlite() {
    survives_kills(Inlet::Stored, Storage::Sqlite).await;
}
