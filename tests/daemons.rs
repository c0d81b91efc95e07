//! Several daemons on one queue and one PostgreSQL: they share the work, and take over from each other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::*;

const LEASE: Duration = Duration::from_secs(3);

/// Daemons on one queue and one database.
struct Fleet {
    config: Config,
    queue: Queue,
    db: Db,
}

impl Fleet {
    /// One whose bots 1 to `bots` call this endpoint.
    async fn new(endpoint: &Endpoint, bots: i64) -> Self {
        Self::on(&Postgres::shared().await.database().await, endpoint, bots).await
    }

    /// The same on this database.
    async fn on(database: &str, endpoint: &Endpoint, bots: i64) -> Self {
        let queue = Rabbit::shared().await.queue().await;
        queue.declare().await;
        let config = Config::postgres(database).queue(&queue.url, &queue.name);
        let config = config.set("database.lease", &format!("\"{}s\"", LEASE.as_secs()));
        let db = setup::tables(&config).await;
        for bot in 1..=bots {
            setup::insert_bot_at(&db, bot, &endpoint.url("/hook")).await;
        }
        Self { config, queue, db }
    }

    async fn publish(&self, events: &[Value]) {
        let bodies: Vec<Vec<u8>> = events.iter().map(|event| event.to_string().into_bytes()).collect();
        self.queue.publish_all(&bodies).await;
    }

    /// Waits until so many daemons own all partitions, each its share.
    async fn share(&self, daemons: usize) {
        eventually("the daemons to have their shares", PATIENCE, || async {
            let sql =
                "SELECT owner, count(*) AS n FROM outhook_partition WHERE owner IS NOT NULL GROUP BY owner";
            let counts: Vec<i64> =
                self.db.rows(sql).await.iter().map(|row| row["n"].as_i64().unwrap()).collect();
            let is_fair = counts.iter().max()? - counts.iter().min()? <= 1;
            (counts.len() == daemons && counts.iter().sum::<i64>() == 64 && is_fair).then_some(())
        })
        .await;
    }

    async fn finished(&self, events: usize) {
        eventually("all events to be finished", PATIENCE * 3, || async {
            let done = self.db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await;
            (done == events as i64).then_some(())
        })
        .await;
        assert_eq!(self.db.count("SELECT count(*) FROM outhook_dead_letter").await, 0);
    }

    /// The owner of a bot.
    async fn owner(&self, bot: i64) -> Option<i64> {
        let sql = format!("SELECT owner FROM outhook_partition WHERE id = {bot} % 64");
        self.db.rows(&sql).await[0]["owner"].as_i64()
    }

    /// The calls whose outcome is committed for good.
    async fn committed(&self) -> HashSet<String> {
        let sql = "SELECT e.bot_id, e.message_id, e.replay, c.service_id FROM outhook_call c
            JOIN outhook_event e ON e.id = c.event_id WHERE c.state <> 0";
        let name = |row: &serde_json::Map<String, Value>| {
            format!("msg_{}_{}_{}_{}", row["bot_id"], row["message_id"], row["replay"], row["service_id"])
        };
        self.db.rows(sql).await.iter().map(name).collect()
    }
}

fn webhook_id(request: &Request) -> String {
    request.header("webhook-id").unwrap().to_owned()
}

async fn calls_made(outhook: &Outhook) -> f64 {
    outhook.metric("outhook_calls_total").await
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_share_the_bots_and_each_event_is_called_once() {
    const BOTS: i64 = 64;
    let endpoint = Endpoint::json(json!({})).await;
    let fleet = Fleet::new(&endpoint, BOTS).await;
    let beside = fleet.config.sibling();
    let (first, second) = (Outhook::start(&fleet.config).await, Outhook::start(&beside).await);
    fleet.share(2).await;
    let events: Vec<Value> =
        (0..400).map(|n| channel_event(n % BOTS + 1, n + 1, n % BOTS, "topic", "soup?")).collect();
    fleet.publish(&events).await;
    fleet.finished(events.len()).await;
    let ids: HashSet<String> = endpoint.requests().iter().map(webhook_id).collect();
    assert_eq!((ids.len(), endpoint.requests().len()), (400, 400));
    let (one, other) = (calls_made(&first).await, calls_made(&second).await);
    assert!(one > 100.0 && other > 100.0, "{one} and {other} calls");
    assert_eq!(fleet.queue.consumers().await, 1, "one of them keeps the order of the queue");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_a_broker_leaves_the_deliveries_to_one_that_has_it() {
    let endpoint = Endpoint::json(json!({})).await;
    let fleet = Fleet::new(&endpoint, 2).await;
    let without = fleet.config.sibling().text("queue.url", "stored:");
    let _first = Outhook::start(&without).await;
    let _second = Outhook::start(&fleet.config).await;
    fleet.share(2).await;
    fleet.publish(&[channel_event(1, 1, 1, "t", "x"), channel_event(2, 2, 1, "t", "x")]).await;
    fleet.finished(2).await;
    assert_eq!(endpoint.requests().len(), 2);
}

/// What decides which daemon is killed, and when: `OUTHOOK_KILL_SEED`, or chance.
fn cast_dice() -> Dice {
    let given = std::env::var("OUTHOOK_KILL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| getrandom::u64().unwrap());
    println!("seed={seed}");
    Dice::of_seed(seed)
}

/// What the endpoint and the database held at each kill.
#[derive(Default)]
struct Kills {
    /// Calls that were under way.
    open: Vec<HashSet<String>>,
    /// Calls that were finished, and how many requests there had been.
    finished: Vec<(HashSet<String>, usize)>,
}

impl Kills {
    async fn note(&mut self, fleet: &Fleet, endpoint: &Endpoint) {
        let finished = fleet.committed().await;
        let requests = endpoint.requests();
        self.open.push(requests.iter().map(webhook_id).filter(|id| !finished.contains(id)).collect());
        self.finished.push((finished, requests.len()));
    }

    fn judge(&self, requests: &[Request]) -> usize {
        let mut times: HashMap<String, usize> = HashMap::new();
        requests.iter().for_each(|request| *times.entry(webhook_id(request)).or_default() += 1);
        for (id, times) in &times {
            let open = self.open.iter().filter(|open| open.contains(id)).count();
            assert!(times - 1 <= open, "{id} was called {times} times, and under way at {open} kills");
        }
        for (finished, seen) in &self.finished {
            let again = requests[*seen..].iter().map(webhook_id).find(|id| finished.contains(id));
            assert_eq!(again, None, "its outcome had been committed");
        }
        times.values().map(|times| times - 1).sum()
    }
}

fn assert_in_order(requests: &[Request]) {
    let mut last: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    let mut seen = HashSet::new();
    for request in requests.iter().filter(|request| seen.insert(webhook_id(request))) {
        let body = request.json();
        let bot: i64 = webhook_id(request).split('_').nth(1).unwrap().parse().unwrap();
        let lane = (bot, body["message"]["stream_id"].as_i64().unwrap());
        let before = last.insert(lane, message_of(request)).unwrap_or(0);
        assert!(before < message_of(request), "{lane:?}: {before} was called before {}", message_of(request));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_that_are_killed_at_random_lose_nothing_and_keep_the_order() {
    const BOTS: i64 = 30;
    const EVENTS: i64 = 1500;
    const KILLS: usize = 6;
    let endpoint = Endpoint::start(|request, _| {
        let slow = Duration::from_millis(message_of(request).unsigned_abs() % 7 * 10);
        Answer::Late(slow, Box::new(Answer::Json(json!({}))))
    })
    .await;
    let fleet = Fleet::new(&endpoint, BOTS).await;
    let configs = [fleet.config.sibling(), fleet.config.sibling(), fleet.config.sibling()];
    let mut daemons: Vec<Outhook> = configs.iter().map(Outhook::run).collect();
    fleet.share(3).await;
    // Neighbours on the queue are of one conversation, so that two consumers would store them in either
    // order.
    let events: Vec<Value> =
        (1..=EVENTS).map(|n| channel_event(n / 5 % BOTS + 1, n, 1, "topic", "x")).collect();
    let mut dice = cast_dice();
    let mut kills = Kills::default();
    for (kill, portion) in events.chunks(events.len() / KILLS).enumerate() {
        fleet.publish(portion).await;
        endpoint.wait_for(kill * portion.len() + 20 + dice.below(portion.len() - 40)).await;
        let victim = dice.below(daemons.len());
        daemons[victim].kill().await;
        eventually("its sessions to end", PATIENCE, || async {
            // Its last transaction is decided once the server has noticed.
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND application_name = 'outhook' AND state <> 'idle' AND state_change < now() - interval '1 s'";
            (fleet.db.count(sql).await == 0).then_some(())
        })
        .await;
        kills.note(&fleet, &endpoint).await;
        daemons[victim] = Outhook::run(&configs[victim]);
    }
    fleet.finished(events.len()).await;
    // One that was killed with nothing under way may be noticed only after all is finished.
    fleet.share(3).await;
    let buried = || async { fleet.db.count("SELECT count(*) FROM outhook_daemon").await == 3 };
    eventually("the dead to be buried", PATIENCE, || async { buried().await.then_some(()) }).await;
    for daemon in &daemons {
        daemon.terminate().await;
    }
    for daemon in &mut daemons {
        assert_eq!(daemon.wait().await.code(), Some(0));
    }
    let requests = endpoint.requests();
    let ids: HashSet<String> = requests.iter().map(webhook_id).collect();
    assert_eq!(ids.len(), events.len(), "an event was lost");
    let repeated = kills.judge(&requests);
    println!("{repeated} of {EVENTS} calls were repeated after {KILLS} kills");
    assert_in_order(&requests);
    assert_eq!(fleet.queue.depth().await, 0);
    assert_eq!(fleet.db.count("SELECT count(*) FROM outhook_daemon").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_a_killed_daemon_goes_on_at_once() {
    let endpoint = Endpoint::start(|_, number| match number {
        0 => Answer::Hang,
        _ => Answer::Json(json!({})),
    })
    .await;
    let fleet = Fleet::new(&endpoint, 1).await;
    let mut first = Outhook::start(&fleet.config).await;
    fleet.publish(&[channel_event(1, 1, 1, "t", "x"), channel_event(1, 2, 1, "t", "x")]).await;
    endpoint.wait_for(1).await;
    let owner = fleet.owner(1).await;
    let beside = fleet.config.sibling();
    let _second = Outhook::start(&beside).await;
    first.kill().await;
    let killed = Instant::now();
    endpoint.wait_for(3).await;
    assert!(killed.elapsed() < LEASE, "it took {:?}", killed.elapsed());
    fleet.finished(2).await;
    assert_ne!(fleet.owner(1).await, owner);
    // Also what is new: somebody else takes the deliveries now.
    fleet.publish(&[channel_event(1, 3, 1, "t", "x")]).await;
    fleet.finished(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_frozen_can_not_settle_what_others_took_over() {
    let (of_frozen, of_other) = (Gate::new(), Gate::new());
    let gates = [of_frozen.clone(), of_other.clone()];
    let endpoint = Endpoint::start(move |_, number| match number {
        0 | 1 => {
            let said = ["of the frozen one", "of the other"][number];
            Answer::Gated(gates[number].clone(), Box::new(Answer::Json(json!({ "content": said }))))
        }
        _ => Answer::Json(json!({})),
    })
    .await;
    let fleet = Fleet::new(&endpoint, 2).await;
    let frozen = Outhook::start(&fleet.config).await;
    fleet.publish(&[channel_event(1, 1, 1, "t", "x")]).await;
    endpoint.wait_for(1).await;
    frozen.signal("STOP").await;
    let beside = fleet.config.sibling();
    let _other = Outhook::start(&beside).await;
    endpoint.wait_for(2).await;
    // Its answer comes first, while the other still waits for its own.
    of_frozen.open();
    frozen.signal("CONT").await;
    frozen.wait_for_log("goes on as number").await;
    frozen.ready().await;
    assert_eq!(fleet.db.count("SELECT count(*) FROM outhook_call WHERE state <> 0").await, 0);
    of_other.open();
    fleet.finished(1).await;
    let said = setup::outbox(&fleet.db).await;
    assert_eq!(said.iter().map(|said| said.content.as_str()).collect::<Vec<_>>(), ["of the other"]);
    assert_eq!(endpoint.requests().len(), 2);
    // It works again, under another number.
    fleet.share(2).await;
    fleet.publish(&[channel_event(1, 2, 1, "t", "x"), channel_event(2, 3, 1, "t", "x")]).await;
    fleet.finished(3).await;
    assert_eq!(endpoint.requests().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_frozen_begins_nothing_that_others_took_over() {
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = Endpoint::start(move |_, number| match number {
        0 => Answer::Gated(held.clone(), Box::new(Answer::Json(json!({})))),
        _ => Answer::Json(json!({})),
    })
    .await;
    let fleet = Fleet::new(&endpoint, 2).await;
    // The second event has begun and waits for the one call that may be in flight.
    let config = fleet.config.sibling().set("http.max_calls", "1");
    let frozen = Outhook::start(&config).await;
    fleet.publish(&[channel_event(1, 1, 1, "t", "x")]).await;
    endpoint.wait_for(1).await;
    fleet.publish(&[channel_event(2, 2, 1, "t", "x")]).await;
    eventually("the second event to be held", PATIENCE, || async {
        let sql = "SELECT count(*) FROM outhook_event WHERE due IS NULL AND state = 0";
        (fleet.db.count(sql).await == 2).then_some(())
    })
    .await;
    frozen.signal("STOP").await;
    let beside = fleet.config.sibling();
    let _other = Outhook::start(&beside).await;
    fleet.finished(2).await;
    gate.open();
    frozen.signal("CONT").await;
    frozen.wait_for_log("goes on as number").await;
    frozen.ready().await;
    fleet.share(2).await;
    assert_eq!(endpoint.requests().len(), 3, "only the call that was in flight was made twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_restarts_makes_daemons_neither_bury_each_other_nor_repeat_a_call() {
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint =
        Endpoint::start(move |_, _| Answer::Gated(held.clone(), Box::new(Answer::Json(json!({}))))).await;
    let postgres = Postgres::private().await;
    let fleet = Fleet::on(&postgres.database().await, &endpoint, 16).await;
    let beside = fleet.config.sibling();
    let daemons = [Outhook::start(&fleet.config).await, Outhook::start(&beside).await];
    fleet.share(2).await;
    let events: Vec<Value> = (1..=16).map(|n| channel_event(n, n, 1, "t", "x")).collect();
    fleet.publish(&events).await;
    endpoint.wait_for(16).await;
    let ids = "SELECT min(id) * 1000 + max(id) FROM outhook_daemon";
    let before = fleet.db.count(ids).await;
    postgres.kill().await;
    gate.open();
    for daemon in &daemons {
        daemon.misses("database").await;
    }
    // How long the outage lasts is what is tried here: all leases run out, and one of the two comes back
    // later than the other.
    daemons[1].signal("STOP").await;
    tokio::time::sleep(LEASE).await;
    postgres.start_again().await;
    daemons[0].wait_for_log("the lease holds again").await;
    tokio::time::sleep(LEASE / 4).await;
    daemons[1].signal("CONT").await;
    let db = Db::of(&fleet.config).await;
    let fleet = Fleet { db, ..fleet };
    fleet.finished(16).await;
    fleet.share(2).await;
    assert_eq!(fleet.db.count(ids).await, before, "one was declared dead");
    assert_eq!(endpoint.requests().len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_by_half_a_minute_do_no_harm() {
    let endpoint = Endpoint::start(|request, _| match request.header("outhook-attempt") {
        Some("1") => Answer::status(503),
        _ => Answer::Json(json!({})),
    })
    .await;
    let fleet = Fleet::new(&endpoint, 64).await;
    let behind = fleet.config.sibling().fail_points("clock=return(-30000)");
    let ahead = fleet.config.sibling().fail_points("clock=return(30000)");
    let _daemons = [Outhook::start(&behind).await, Outhook::start(&ahead).await];
    fleet.share(2).await;
    let began = Instant::now();
    let events: Vec<Value> = (1..=64).map(|n| channel_event(n, n, 1, "t", "x")).collect();
    fleet.publish(&events).await;
    fleet.finished(64).await;
    assert!(began.elapsed() < Duration::from_secs(10), "retries took {:?}", began.elapsed());
    assert_eq!(endpoint.requests().len(), 128);
    // What a command writes is due at once, wherever it runs.
    let file_queue = fleet.config.sibling().text("queue.url", "stored:").fail_points("clock=return(30000)");
    file_queue.cli(&["send", "--bot", "1", "--content", "x"]).await.success();
    let sent = Instant::now();
    fleet.finished(65).await;
    assert!(sent.elapsed() < Duration::from_secs(5), "it took {:?}", sent.elapsed());
    let skew =
        "SELECT CAST(max(abs(taken_at - extract(epoch FROM now()) * 1000)) AS bigint) FROM outhook_event";
    assert!(fleet.db.count(skew).await < 25_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_told_the_machines_time_and_the_operator_that_it_differs() {
    const AHEAD_SECONDS: i64 = 600;
    let endpoint = Endpoint::start(|_, _| Answer::Json(json!({}))).await;
    let fleet = Fleet::new(&endpoint, 1).await;
    let config = fleet.config.sibling().fail_points(&format!("clock=return({})", AHEAD_SECONDS * 1000));
    let outhook = Outhook::start(&config).await;
    fleet.publish(&[channel_event(1, 1, 1, "t", "x")]).await;
    fleet.finished(1).await;
    let told: i64 = endpoint.requests()[0].header("webhook-timestamp").unwrap().parse().unwrap();
    let now = fleet.db.count("SELECT CAST(extract(epoch FROM now()) AS bigint)").await;
    assert!((told - now - AHEAD_SECONDS).abs() < 60, "{told} at {now}");
    outhook.wait_for_log("the clocks of this machine and of PostgreSQL differ by -600 s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_drains_hands_over_bots_whose_calls_have_ended() {
    let hung: Arc<Mutex<Option<i64>>> = Arc::default();
    let hangs = Arc::clone(&hung);
    let endpoint = Endpoint::start(move |request, _| {
        let bot: i64 = webhook_id(request).split('_').nth(1).unwrap().parse().unwrap();
        match *hangs.lock().unwrap() {
            Some(hung) if hung == bot => Answer::Hang,
            _ => Answer::Json(json!({})),
        }
    })
    .await;
    let fleet = Fleet::new(&endpoint, 64).await;
    let config = fleet.config.sibling().text("http.timeout", "1m").text("drain.deadline", "20s");
    let mut ending = Outhook::start(&config).await;
    let beside = fleet.config.sibling();
    let staying = Outhook::start(&beside).await;
    fleet.share(2).await;
    let mine = fleet
        .db
        .rows("SELECT p.id FROM outhook_partition p WHERE owner = (SELECT min(id) FROM outhook_daemon)");
    let bots: Vec<i64> =
        mine.await.iter().map(|row| row["id"].as_i64().unwrap()).filter(|id| *id > 0).collect();
    *hung.lock().unwrap() = Some(bots[0]);
    fleet.publish(&[channel_event(bots[0], 1, 1, "t", "x")]).await;
    endpoint.wait_for(1).await;

    ending.terminate().await;
    eventually("all its other bots to be handed over", PATIENCE, || async {
        let sql = "SELECT count(*) FROM outhook_partition WHERE owner = (SELECT max(id) FROM outhook_daemon)";
        (fleet.db.count(sql).await == 63).then_some(())
    })
    .await;
    let events: Vec<Value> =
        bots[1..].iter().map(|bot| channel_event(*bot, 100 + bot, 1, "t", "x")).collect();
    fleet.publish(&events).await;
    fleet.finished(events.len()).await;
    assert!(staying.metric("outhook_calls_total").await >= events.len() as f64);
    *hung.lock().unwrap() = None;
    assert_eq!(ending.wait().await.code(), Some(0));
    fleet.finished(events.len() + 1).await;
    let times = endpoint.requests().iter().filter(|request| message_of(request) == 1).count();
    assert_eq!(times, 2, "the call that was aborted at the deadline is made again");
}
