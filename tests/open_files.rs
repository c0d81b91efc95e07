//! Calls are as many as the open files allow, and leave some to everything else. A daemon that can open no
//! further file all the same makes its calls later, and no bot pays for it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::*;

const CALLS: i64 = 16;
/// Far fewer than there are calls. A file that something else opens or closes meanwhile changes nothing.
const FILES_LEFT: usize = 4;

/// How often the daemon says at most that no file is left, in seconds.
const TOLD_EVERY: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_find_no_file_left_are_put_off_and_neither_fail_nor_close_a_gate() {
    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    // An attempt that is spent is the last, and a failure that is held against the endpoint closes its gate
    // for good.
    let config = Config::sqlite()
        .set("actors.event_pool", "1")
        .set("actors.calls_per_bot", &CALLS.to_string())
        .text("http.timeout", "1m")
        .set("retry.max_retries", "0")
        .set("breaker.failures", "1")
        .text("breaker.open", "1d")
        .text("breaker.max_open", "1d");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;

    let began = Instant::now();
    scene.outhook.leave_files(FILES_LEFT);
    let events: Vec<Value> =
        (1..=CALLS).map(|message| channel_event(bot, message, message, "Kitchen", "soup?")).collect();
    scene.send(&events).await;
    let waiting = "SELECT count(*) FROM outhook_call WHERE state = 0 AND fault = 'no_files' AND attempts = 0";
    eventually("calls to be put off", PATIENCE, || async {
        (scene.db.count(waiting).await > 0).then_some(())
    })
    .await;
    let told = scene.outhook.wait_for_log("no file is left").await;
    assert!(
        told.contains("WARN") && told.contains("LimitNOFILE") && told.contains("http.max_calls"),
        "{told}"
    );
    gate.open();
    scene.finished(events.len()).await;

    let calls = scene.ledger().await;
    let ends: Vec<_> = calls.iter().map(|call| (&call["state"], &call["attempts"])).collect();
    assert_eq!(ends, vec![(&json!("succeeded"), &json!(1)); events.len()]);
    assert_eq!(endpoint.count(), events.len(), "each is called once");
    let services = scene.config.cli(&["services", "list", "--json"]).await.success().records();
    assert_eq!(services[0]["state"], "open", "{services:?}");
    let times = scene.outhook.log().iter().filter(|line| line.contains("no file is left")).count() as u64;
    assert!(times <= 1 + began.elapsed().as_secs() / TOLD_EVERY, "told {times} times");
}

const HUNG_BOTS: i64 = 59;
const EVENTS_PER_BOT: i64 = 8;
const GOOD_BOT: i64 = HUNG_BOTS + 1;
const GOOD_EVENTS: i64 = 100;
/// What a limit of 256 allows, and the half of it that bots whose last call failed may have.
const CALLS_AT_256: usize = 78;
const HANGING: usize = CALLS_AT_256 / 2;
/// For a busy machine. The calls hang much longer.
const AT_ONCE: Duration = Duration::from_secs(10);

async fn answers_at_once(scene: &Scene, path: &str) {
    let answer = tokio::time::timeout(AT_ONCE, scene.outhook.get(path)).await;
    assert_eq!(answer.expect("an answer at once").0, 200, "{path}");
}

async fn no_call_has_lacked_a_file(scene: &Scene) {
    let log = scene.outhook.log();
    let told: Vec<_> = log.iter().filter(|line| line.contains("no file is left")).collect();
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_call WHERE fault = 'no_files'").await, 0);
}

fn hangs(request: &Request) -> bool {
    request.path == "/hung" && request.header("outhook-attempt") != Some("1")
}

fn is_good(request: &Request) -> bool {
    request.path == "/good"
}

/// The hung bots want more files than there are. Their first calls fail, so that they are known as failing.
#[tokio::test(flavor = "multi_thread")]
async fn hung_bots_take_no_files_from_the_others_nor_from_the_admin_server() {
    let gate = Gate::new();
    let endpoint = partly_hung_endpoint(&gate).await;
    let config = Config::sqlite()
        .set("actors.event_pool", "1")
        .set("breaker.failures", "1000000")
        .text("http.timeout", "2m")
        .shell_first("ulimit -n 256");
    let scene = Scene::start(Inlet::Stored, config).await;
    let told = scene.outhook.wait_for_log("only 256 files may be open").await;
    let parts = ["WARN", "at most 78 calls", "http.max_calls = 10000", "LimitNOFILE"];
    assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    setup::insert_bots_at(&scene.db, 1..GOOD_BOT, &endpoint.url("/hung")).await;
    setup::insert_bot_at(&scene.db, GOOD_BOT, &endpoint.url("/good")).await;
    let event = |bot, n| channel_event(bot, n, n, "Kitchen", "soup?");
    let hung: Vec<Value> = (0..HUNG_BOTS * EVENTS_PER_BOT).map(|n| event(n % HUNG_BOTS + 1, n + 1)).collect();
    scene.send(&hung).await;
    let count =
        |is_it: fn(&Request) -> bool| endpoint.read_from(0, is_it).into_iter().filter(|it| *it).count();
    reaches("calls that hang", HANGING, || async { count(hangs) }).await;

    let first = HUNG_BOTS * EVENTS_PER_BOT + 1;
    let good: Vec<Value> = (first..first + GOOD_EVENTS).map(|n| event(GOOD_BOT, n)).collect();
    scene.send(&good).await;
    reaches("calls of the good bot", good.len(), || async { count(is_good) }).await;
    for path in ["/health/live", "/metrics"] {
        answers_at_once(&scene, path).await;
    }
    assert!(count(hangs) <= CALLS_AT_256, "{} calls hang", count(hangs));
    gate.open();
    scene.finished(hung.len() + good.len()).await;
    no_call_has_lacked_a_file(&scene).await;
}

/// Each bot has a host of its own, so its connection is of no use to the others.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_kept_make_way_before_the_files_are_used_up() {
    const BOTS: i64 = 120;
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let config = Config::sqlite().set("actors.event_pool", "1").shell_first("ulimit -n 128");
    let scene = Scene::start(Inlet::Stored, config).await;
    let port = endpoint.address().port();
    for bot in 1..=BOTS {
        setup::insert_bot_at(&scene.db, bot, &format!("http://bot{bot}.localhost:{port}/hook")).await;
    }
    let events: Vec<Value> = (1..=BOTS).map(|n| channel_event(n, n, n, "Kitchen", "soup?")).collect();
    scene.send(&events).await;
    scene.finished(events.len()).await;
    assert_eq!(endpoint.count(), events.len(), "each is called once");
    no_call_has_lacked_a_file(&scene).await;
    for path in ["/health/live", "/metrics"] {
        answers_at_once(&scene, path).await;
    }
}
