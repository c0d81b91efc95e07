//! A bot can only hurt itself: whatever some do, the others get on.

use std::time::Duration;

use super::support::*;

/// Bots that never answer, and events for them.
const HUNG_BOTS: i64 = 200;
/// Bots whose endpoint answers at once, and as many events for them.
const GOOD_BOTS: i64 = 20;
const EVENTS_EACH: i64 = 1000;
const CONVERSATIONS: i64 = 4;

/// How much a daemon may grow while so many calls of [`HUNG_BOTS`] hang, in bytes.
const GROWTH_BYTES_MAX: u64 = 120 << 20;

async fn add_bots(scene: &Scene, bots: impl Iterator<Item = i64>, url: &str) {
    for bot in bots {
        setup::insert_bot_at(&scene.db, bot, url).await;
    }
}

fn of_path(endpoint: &Endpoint, path: &str) -> usize {
    endpoint.read_from(0, |request| request.path == path).into_iter().filter(|is_it| *is_it).count()
}

/// Every second event is for a bot that hangs, from the first to the last.
fn half_and_half() -> Vec<serde_json::Value> {
    let mut events = vec![];
    for turn in 0..EVENTS_EACH {
        for (bots, first) in [(HUNG_BOTS, 2000), (GOOD_BOTS, 1000)] {
            let (bot, conversation) = (first + turn % bots, turn / bots % CONVERSATIONS);
            let message = i64::try_from(events.len()).unwrap() + 1;
            events.push(channel_event(bot, message, conversation, "Kitchen", "soup?"));
        }
    }
    events
}

async fn hung_bots_change_nothing_for_the_others(storage: Storage, settings: &[(&str, &str)]) {
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = Endpoint::start(move |request, _| match request.path.as_str() {
        "/hung" => Answer::Gated(held.clone(), Box::new(echo(request))),
        _ => echo(request),
    })
    .await;
    let mut config = storage.config().await.text("http.timeout", "2m").text("log.filter", "warn");
    for (key, value) in settings {
        config = config.set(key, value);
    }
    let scene = Scene::start(Inlet::RabbitMq, config).await;
    add_bots(&scene, 1000..1000 + GOOD_BOTS, &endpoint.url("/good")).await;
    add_bots(&scene, 2000..2000 + HUNG_BOTS, &endpoint.url("/hung")).await;
    let before = scene.outhook.memory();
    scene.send(&half_and_half()).await;

    let events_each = usize::try_from(EVENTS_EACH).unwrap();
    reaches("calls of good bots", events_each, || async { of_path(&endpoint, "/good") }).await;
    let queue = scene.queue.as_ref().unwrap();
    eventually("every event to be taken", PATIENCE, || async { (queue.depth().await == 0).then_some(()) })
        .await;
    let hung = of_path(&endpoint, "/hung");
    assert!(hung > 0 && hung <= usize::try_from(HUNG_BOTS).unwrap() * 8, "{hung} calls hang");
    let growth = scene.outhook.memory().saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "it has grown by {growth} bytes");
    gate.open();
    scene.finished(2 * events_each).await;
}

macro_rules! hung_bots_change_nothing {
    ($($name:ident: $storage:ident, [$($setting:expr),*];)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            hung_bots_change_nothing_for_the_others(Storage::$storage, &[$($setting),*]).await;
        }
    )* };
}

hung_bots_change_nothing! {
    hung_bots_change_nothing_for_the_others_by_default: Postgres, [];
    hung_bots_change_nothing_for_the_others_with_a_small_prefetch: Sqlite, [("queue.prefetch", "10")];
    hung_bots_change_nothing_for_the_others_with_little_memory:
        Postgres, [("actors.in_memory_events", "20"), ("actors.waiting_per_bot", "1")];
    hung_bots_change_nothing_for_the_others_with_one_call_each:
        Sqlite, [("actors.calls_per_bot", "1"), ("actors.in_memory_events", "1")];
}

/// Bots that have failed before are known, and leave half of all calls to the others.
#[tokio::test(flavor = "multi_thread")]
async fn bots_that_failed_leave_half_of_all_calls_to_the_others() {
    const CALLS: usize = 20;
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = Endpoint::start(move |request, _| match request.path.as_str() {
        "/hung" if request.header("outhook-attempt") == Some("1") => Answer::Close,
        "/hung" => Answer::Gated(held.clone(), Box::new(echo(request))),
        _ => echo(request),
    })
    .await;
    let config = Config::sqlite()
        .set("actors.event_pool", "1")
        .set("http.max_calls", &CALLS.to_string())
        .set("breaker.failures", "1000000")
        .text("http.timeout", "2m");
    let scene = Scene::start(Inlet::Stored, config).await;
    add_bots(&scene, 1..=10, &endpoint.url("/hung")).await;
    add_bots(&scene, 11..=11, &endpoint.url("/good")).await;
    // A bot is known for as long as it has something to do.
    let failing: Vec<_> = (1..=100).map(|n| channel_event(n % 10 + 1, n, n, "Kitchen", "soup?")).collect();
    scene.send(&failing).await;
    let again = || {
        let is_again = |request: &Request| request.header("outhook-attempt") != Some("1");
        endpoint.read_from(0, is_again).into_iter().filter(|is_it| *is_it).count()
    };
    reaches("calls that hang", CALLS / 2, || async { again() }).await;
    let good: Vec<_> = (101..=200).map(|n| channel_event(11, n, n, "Kitchen", "soup?")).collect();
    scene.send(&good).await;
    reaches("calls of the good bot", 100, || async { of_path(&endpoint, "/good") }).await;
    assert!(again() <= CALLS, "{} calls hang", again());
    gate.open();
    scene.finished(200).await;
}

async fn a_flood_delays_others_by_a_fair_share(inlet: Inlet, storage: Storage) {
    const FLOOD: i64 = 10_000;
    const OTHERS: i64 = 100;
    let endpoint = Endpoint::start(|request, _| match request.path.as_str() {
        "/flood" => Answer::Late(Duration::from_millis(2), Box::new(echo(request))),
        _ => echo(request),
    })
    .await;
    let config = storage.config().await.set("actors.event_pool", "1").text("log.filter", "warn");
    let scene = Scene::start(inlet, config).await;
    add_bots(&scene, 1..=1, &endpoint.url("/flood")).await;
    add_bots(&scene, 2..=11, &endpoint.url("/other")).await;
    let flood: Vec<_> = (1..=FLOOD).map(|n| channel_event(1, n, n % 500, "Kitchen", "soup?")).collect();
    scene.send(&flood).await;
    let stored = i64::from(inlet == Inlet::RabbitMq) * FLOOD;
    let all = format!("SELECT count(*) FROM outhook_event WHERE id > 0 HAVING count(*) >= {stored}");
    eventually("the flood to be stored", PATIENCE, || async {
        (!scene.db.rows(&all).await.is_empty()).then_some(())
    })
    .await;
    let events: Vec<_> =
        (FLOOD + 1..=FLOOD + OTHERS).map(|n| channel_event(n % 10 + 2, n, n, "Kitchen", "soup?")).collect();
    scene.send(&events).await;
    let before = of_path(&endpoint, "/flood");
    let others = usize::try_from(OTHERS).unwrap();
    reaches("calls of the other bots", others, || async { of_path(&endpoint, "/other") }).await;
    let between = of_path(&endpoint, "/flood") - before;
    // First come, first served would be the whole flood. What is counted here went on while the others were stored.
    assert!(between < usize::try_from(FLOOD).unwrap() / 5, "{between} calls of the flood came in between");
    scene.finished(usize::try_from(FLOOD + OTHERS).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_bot_delays_others_by_a_fair_share_from_rabbitmq() {
    a_flood_delays_others_by_a_fair_share(Inlet::RabbitMq, Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_bot_delays_others_by_a_fair_share_without_a_broker() {
    a_flood_delays_others_by_a_fair_share(Inlet::Stored, Storage::Sqlite).await;
}

/// The database is looked at every 5 s by itself; whoever waited for that would need minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_free_goes_on_at_once_however_little_is_in_memory() {
    for storage in [Storage::Sqlite, Storage::Postgres] {
        let endpoint = Endpoint::start(|request, _| echo(request)).await;
        let config = storage.config().await.set("actors.waiting_per_bot", "1");
        let scene = Scene::start(Inlet::RabbitMq, config.set("actors.in_memory_events", "1")).await;
        add_bots(&scene, 1..=1, &endpoint.url("/hook")).await;
        let events: Vec<_> = (1..=50).map(|n| channel_event(1, n, 7, "Kitchen", "soup?")).collect();
        scene.send(&events).await;
        let called = endpoint.wait_for(50).await;
        assert!(called.iter().map(message_of).is_sorted());
        scene.finished(50).await;
    }
}
