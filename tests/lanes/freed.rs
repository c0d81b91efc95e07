//! What else frees a lane than the end of the call before: a gate that opens, the pace of its bot, a place in
//! the share of bots that fail. Nobody looks for it, and where nothing is freed nobody reads anything.

use std::time::Instant;

use super::*;

/// A call that fails is not tried again.
async fn scene(settings: &[(&str, &str)]) -> Scene {
    let mut config = Storage::Postgres
        .config()
        .await
        .set("retry.max_retries", "0")
        .set("actors.event_pool", "1")
        .text("http.timeout", "2m");
    for (key, value) in settings {
        config = config.set(key, value);
    }
    Scene::start(Inlet::RabbitMq, config).await
}

/// So many events of one conversation.
fn talk(events: usize) -> Vec<Value> {
    (1..=events).map(|message| event(message, 1)).collect()
}

/// Each failure closes a gate, always for the same time.
const OPEN: Duration = Duration::from_millis(100);
const BREAKER: [(&str, &str); 3] =
    [("breaker.failures", "1"), ("breaker.open", r#""100ms""#), ("breaker.max_open", r#""100ms""#)];

/// Each call closes the gate for the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_on_at_once_when_a_gate_opens() {
    const CALLS: usize = 20;
    let endpoint = Endpoint::start(|_, _| Answer::status(503)).await;
    let scene = scene(&BREAKER).await;
    setup::insert_bot_at(&scene.db, BOT, &endpoint.url("/hook")).await;
    scene.send(&talk(CALLS)).await;
    endpoint.wait_for(1).await;
    let before = looks(&scene).await;
    scene.finished(CALLS).await;
    assert_unlooked_for(&scene, before, CALLS - 1).await;
    let requests = endpoint.requests();
    assert_eq!(requests.len(), CALLS);
    assert!(requests.iter().map(message_of).is_sorted());
    for pair in requests.windows(2) {
        let wait = pair[1].at - pair[0].at;
        // Moments are told in whole milliseconds.
        assert!(wait >= OPEN - Duration::from_millis(2), "the gate was open after {wait:?}");
    }
}

/// Another service of the bot can be called. So each event begins, and is then due when the gate opens;
/// whoever waited for the regular look would wait for it each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_on_when_the_gate_of_one_service_opens_and_not_at_the_next_regular_look() {
    const LOOK_EVERY: Duration = Duration::from_secs(5);
    const EVENTS: u32 = 12;
    let endpoint = Endpoint::start(|_, _| Answer::status(503)).await;
    let sibling = Endpoint::start(|request, _| echo(request)).await;
    let scene = scene(&BREAKER).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    scene.service(bot, "sibling", &sibling.url("/hook"), &[]).await;
    let talk = (1..=i64::from(EVENTS)).map(|message| channel_event(bot, message, 1, "Kitchen", "soup?"));
    let began = Instant::now();
    scene.send(&talk.collect::<Vec<_>>()).await;
    scene.finished(EVENTS as usize).await;
    assert!(began.elapsed() < LOOK_EVERY * EVENTS / 2, "it took {:?}", began.elapsed());
    assert_eq!((endpoint.count(), sibling.count()), (EVENTS as usize, EVENTS as usize));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_on_at_once_when_its_bot_may_make_another_call() {
    const RATE: usize = 10;
    const CALLS: usize = 30;
    let endpoint = Endpoint::start(|request, _| echo(request)).await;
    let scene = scene(&[("actors.rate_per_bot", "10")]).await;
    setup::insert_bot_at(&scene.db, BOT, &endpoint.url("/hook")).await;
    scene.send(&talk(CALLS)).await;
    endpoint.wait_for(RATE).await;
    let before = looks(&scene).await;
    scene.finished(CALLS).await;
    assert_unlooked_for(&scene, before, CALLS - RATE).await;
    assert_eq!(endpoint.count(), CALLS);
}

/// Bots that have failed share half of all calls. Each of their calls that fails makes room for another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_on_at_once_when_there_is_a_place_for_a_bot_that_fails() {
    const BOTS: i64 = 12;
    const EACH: i64 = 3;
    const SHARE: usize = 10;
    let known = usize::try_from(BOTS).unwrap();
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = Endpoint::start(move |_, number| {
        let failure = Answer::status(503);
        if number < known { failure } else { Answer::Gated(held.clone(), Box::new(failure)) }
    })
    .await;
    let scene = scene(&[("http.max_calls", "20"), ("breaker.failures", "1000000")]).await;
    setup::insert_bots_at(&scene.db, 1..BOTS + 1, &endpoint.url("/hook")).await;
    let all = (0..BOTS * (EACH + 1)).map(|n| channel_event(n % BOTS + 1, n + 1, n, "Kitchen", "soup?"));
    let all: Vec<Value> = all.collect();
    scene.send(&all[..known]).await;
    scene.finished(known).await;
    scene.send(&all[known..]).await;
    endpoint.wait_for(known + SHARE).await;
    let before = looks(&scene).await;
    for begun in known + SHARE + 1..=all.len() {
        gate.let_through(1);
        let begins = || async { (endpoint.count() >= begun).then_some(()) };
        eventually(&format!("call number {begun}"), AT_ONCE, begins).await;
        assert_eq!(endpoint.count(), begun, "there is one place");
    }
    assert_unlooked_for(&scene, before, all.len() - known - SHARE).await;
    gate.open();
    scene.finished(all.len()).await;
}

/// How often the inbox is read or written in 3 s while nothing can go on, at most: for the regular look, and
/// for what was under way when that began.
const READS_MAX: f64 = 4.0;

const HUNG: i64 = 1;
const ASKING: i64 = 2;
const FAILING: i64 = 3;

/// A bot has calls that hang, and rows behind them; another is held back; the calls of a third wait for a
/// retry.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_rows_while_all_lanes_wait() {
    const EVENTS: i64 = 20;
    let gate = Gate::new();
    let hung = gated_endpoint(&gate).await;
    let asking = Endpoint::start(|_, _| {
        let headers = vec![("retry-after".to_owned(), "1000".to_owned())];
        Answer::Http { status: 429, headers, body: vec![] }
    })
    .await;
    let failing = Endpoint::start(|_, _| Answer::status(503)).await;
    let long = r#""10m""#;
    let settings = [
        ("retry.max_retries", "5"),
        ("retry.initial_delay", long),
        ("retry.max_delay", long),
        ("retry.give_up_after", r#""1h""#),
        ("breaker.failures", "1000000"),
        ("actors.calls_per_bot", "2"),
        ("actors.waiting_per_bot", "2"),
    ];
    let scene = scene(&settings).await;
    for (bot, endpoint) in [(HUNG, &hung), (ASKING, &asking), (FAILING, &failing)] {
        setup::insert_bot_at(&scene.db, bot, &endpoint.url("/hook")).await;
        let events: Vec<Value> =
            (1..=EVENTS).map(|n| channel_event(bot, bot * 100 + n, n, "Kitchen", "soup?")).collect();
        scene.send(&events).await;
    }
    let waiting = || async {
        let calls = scene.db.count("SELECT count(*) FROM outhook_call WHERE state = 0 AND attempts = 1");
        usize::try_from(calls.await).unwrap()
    };
    reaches("calls that wait for a retry", 20, || async { failing.count() }).await;
    reaches("calls that wait", 21, waiting).await;
    hung.wait_for(2).await;

    let (before, memory) = (reads(&scene).await, scene.outhook.memory());
    assert!(before > 0.0, "reads are not counted: the test shows nothing");
    stays_calm(&scene.outhook, memory).await;
    let read = reads(&scene).await - before;
    assert!(read <= READS_MAX, "{read} reads while nothing could go on");
    assert_eq!((hung.count(), failing.count()), (2, 20));
    gate.open();
    hung.wait_for(20).await;
}

async fn reads(scene: &Scene) -> f64 {
    scene.outhook.metric("outhook_inbox_job_seconds_count").await
}
