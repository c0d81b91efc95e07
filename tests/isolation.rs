//! A bot can only hurt itself: whatever some do, the others get on. Nothing here is measured in seconds:
//! events of the others that are held up by bots that hang would be so for ever, and a flood is measured in
//! its own calls and rows.

mod cycle;

use std::ops::Range;
use std::slice;
use std::time::Duration;

use serde_json::Value;

use super::support::*;

/// Bots that never answer.
const HUNG: Range<i64> = 2000..2200;
const HUNG_BOTS: usize = 200;
/// Bots that answer at once.
const GOOD: Range<i64> = 1000..1020;
const CONVERSATIONS: i64 = 4;

/// How much a daemon may grow while so many calls of [`HUNG`] hang, in bytes.
const GROWTH_BYTES_MAX: u64 = 120 << 20;

/// Both kinds of bots, and how many events they were sent.
struct Bots {
    /// What the hung ones wait for.
    gate: Gate,
    hung: Endpoint,
    good: Endpoint,
    sent_to_hung: usize,
    sent_to_good: usize,
}

impl Bots {
    async fn on(scene: &Scene) -> Self {
        // Each call that hangs is a connection, of which this process has the other end.
        rlimit::increase_nofile_limit(u64::MAX).unwrap();
        let gate = Gate::new();
        let hung = gated_endpoint(&gate).await;
        let good = Endpoint::start(|request, _| echo(request)).await;
        setup::insert_bots_at(&scene.db, HUNG, &hung.url("/hook")).await;
        setup::insert_bots_at(&scene.db, GOOD, &good.url("/hook")).await;
        Self { gate, hung, good, sent_to_hung: 0, sent_to_good: 0 }
    }

    fn sent(&self) -> usize {
        self.sent_to_hung + self.sent_to_good
    }

    /// The next event for these bots, which take turns, and so do the conversations of each.
    fn event(&mut self, bots: Range<i64>) -> Value {
        let sent = if bots == HUNG { &mut self.sent_to_hung } else { &mut self.sent_to_good };
        let turn = i64::try_from(*sent).unwrap();
        *sent += 1;
        let all = bots.end - bots.start;
        let (bot, conversation) = (bots.start + turn % all, turn / all % CONVERSATIONS);
        channel_event(bot, i64::try_from(self.sent()).unwrap(), conversation, "Kitchen", "soup?")
    }

    fn events(&mut self, bots: Range<i64>, events: usize) -> Vec<Value> {
        (0..events).map(|_| self.event(bots.clone())).collect()
    }

    /// Every second event is for a bot that hangs, from the first to the last.
    fn half_and_half(&mut self, events_each: usize) -> Vec<Value> {
        (0..events_each).flat_map(|_| [self.event(HUNG), self.event(GOOD)]).collect()
    }

    /// Waits until all that was sent to good bots is finished, and everything else is a row. All calls that
    /// hang go on hanging meanwhile, and there are no more of them than there may be.
    async fn only_the_hung_wait(&self, scene: &Scene, hanging_max: usize) {
        reaches("calls of good bots", self.sent_to_good, || async { self.good.count() }).await;
        reaches("stored events", self.sent(), || rows(scene, "outhook_event")).await;
        reaches("finished events", self.sent_to_good, || rows(scene, FINISHED)).await;
        assert_eq!(rows(scene, FINISHED).await, self.sent_to_good);
        let begun = self.hung.count();
        let hanging = self.hung.in_flight();
        assert!(begun > 0, "no call hangs: the test shows nothing");
        assert!(hanging >= begun, "{begun} calls began to hang, and only {hanging} do");
        assert!(hanging <= hanging_max, "{hanging} calls hang, not at most {hanging_max}");
    }

    /// Lets the hung bots answer, and waits until all that was sent is finished, each call made once.
    async fn all_end(&self, scene: &Scene) {
        self.gate.open();
        reaches("finished events", self.sent(), || rows(scene, FINISHED)).await;
        assert_eq!((self.hung.count(), self.good.count()), (self.sent_to_hung, self.sent_to_good));
        assert_eq!(rows(scene, "outhook_call WHERE state = 1").await, self.sent());
        assert_eq!(rows(scene, "outhook_dead_letter").await, 0);
    }
}

const FINISHED: &str = "outhook_event WHERE state = 1";

async fn rows(scene: &Scene, of: &str) -> usize {
    usize::try_from(scene.db.count(&format!("SELECT count(*) FROM {of}")).await).unwrap()
}

/// The daemon with settings as they are written, for calls that hang as long as the test wants.
async fn patient(storage: Storage, settings: &[(&str, &str)]) -> Scene {
    let mut config = storage.config().await.text("http.timeout", "10m").text("log.filter", "warn");
    for (key, value) in settings {
        config = config.set(key, value);
    }
    Scene::start(Inlet::RabbitMq, config).await
}

async fn hung_bots_change_nothing_for_the_others(
    storage: Storage,
    settings: &[(&str, &str)],
    calls_per_bot: usize,
) {
    let scene = patient(storage, settings).await;
    let mut bots = Bots::on(&scene).await;
    let before = scene.outhook.memory();
    scene.send(&bots.half_and_half(1000)).await;
    bots.only_the_hung_wait(&scene, HUNG_BOTS * calls_per_bot).await;
    let growth = scene.outhook.memory().saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "it has grown by {growth} bytes");
    bots.all_end(&scene).await;
}

macro_rules! hung_bots_change_nothing {
    ($($name:ident: $storage:ident, [$($setting:expr),*], $calls_per_bot:literal;)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let settings: &[(&str, &str)] = &[$($setting),*];
            hung_bots_change_nothing_for_the_others(Storage::$storage, settings, $calls_per_bot).await;
        }
    )* };
}

hung_bots_change_nothing! {
    hung_bots_change_nothing_for_the_others_by_default: Postgres, [], 8;
    hung_bots_change_nothing_for_the_others_with_a_small_prefetch: Sqlite, [("queue.prefetch", "10")], 8;
    hung_bots_change_nothing_for_the_others_with_little_memory:
        Postgres, [("actors.in_memory_events", "20"), ("actors.waiting_per_bot", "1")], 8;
    hung_bots_change_nothing_for_the_others_with_one_call_each:
        Sqlite, [("actors.calls_per_bot", "1"), ("actors.in_memory_events", "1")], 1;
}

/// Each hung bot has all the calls in flight and the events in memory that it may have, and rows beyond. When
/// more rows come, nothing else grows, and nobody looks at them again and again.
async fn a_backlog_of_hung_bots_changes_nothing_for_the_others(storage: Storage) {
    const CALLS_PER_BOT: usize = 2;
    const BACKLOG: usize = HUNG_BOTS * 6;
    let settings = [("actors.calls_per_bot", "2"), ("actors.waiting_per_bot", "2")];
    let scene = patient(storage, &settings).await;
    let mut bots = Bots::on(&scene).await;
    scene.send(&bots.events(HUNG, BACKLOG)).await;
    reaches("stored events", BACKLOG, || rows(&scene, "outhook_event")).await;
    let hanging = HUNG_BOTS * CALLS_PER_BOT;
    reaches("calls that hang", hanging, || async { bots.hung.count() }).await;
    scene.send(&bots.events(GOOD, 200)).await;
    bots.only_the_hung_wait(&scene, hanging).await;

    let memory = scene.outhook.memory();
    scene.send(&bots.events(HUNG, BACKLOG)).await;
    scene.send(&bots.events(GOOD, 200)).await;
    bots.only_the_hung_wait(&scene, hanging).await;
    stays_calm(&scene.outhook, memory).await;
    bots.only_the_hung_wait(&scene, hanging).await;
    bots.all_end(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_two_hundred_hung_bots_changes_nothing_for_the_others_on_sqlite() {
    a_backlog_of_hung_bots_changes_nothing_for_the_others(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_two_hundred_hung_bots_changes_nothing_for_the_others_on_postgresql() {
    a_backlog_of_hung_bots_changes_nothing_for_the_others(Storage::Postgres).await;
}

fn count_of(endpoint: &Endpoint, is_it: impl Fn(&Request) -> bool) -> usize {
    endpoint.read_from(0, is_it).into_iter().filter(|is_it| *is_it).count()
}

/// Bots that have failed before are known, and leave half of all calls to the others.
#[tokio::test(flavor = "multi_thread")]
async fn bots_that_failed_leave_half_of_all_calls_to_the_others() {
    const CALLS: usize = 20;
    let gate = Gate::new();
    let endpoint = partly_hung_endpoint(&gate).await;
    let config = Config::sqlite()
        .set("actors.event_pool", "1")
        .set("http.max_calls", &CALLS.to_string())
        .set("breaker.failures", "1000000")
        .text("http.timeout", "2m");
    let scene = Scene::start(Inlet::Stored, config).await;
    setup::insert_bots_at(&scene.db, 1..11, &endpoint.url("/hung")).await;
    setup::insert_bot_at(&scene.db, 11, &endpoint.url("/good")).await;
    // A bot is known for as long as it has something to do.
    let failing: Vec<_> = (1..=100).map(|n| channel_event(n % 10 + 1, n, n, "Kitchen", "soup?")).collect();
    scene.send(&failing).await;
    let again = || count_of(&endpoint, |request| request.header("outhook-attempt") != Some("1"));
    reaches("calls that hang", CALLS / 2, || async { again() }).await;
    let good: Vec<_> = (101..=200).map(|n| channel_event(11, n, n, "Kitchen", "soup?")).collect();
    scene.send(&good).await;
    let of_good = || count_of(&endpoint, |request| request.path == "/good");
    reaches("calls of the good bot", 100, || async { of_good() }).await;
    assert!(again() <= CALLS, "{} calls hang", again());
    gate.open();
    scene.finished(200).await;
}

const FLOODING: i64 = 1;
const OTHER: i64 = 2;
const FLOOD: i64 = 10_000;
/// Events that the other bot gets meanwhile, one behind the other.
const OTHERS: i64 = 50;
/// How many calls of the flood may begin while an event of the other bot is on its way from its sender to its
/// call: mostly, and at worst. First come, first served would be thousands.
const SHARE: usize = 200;
const SHARE_MAX: usize = 1000;

/// Sends an event without a process of its own, which would take longer than the event.
async fn send_quickly(scene: &Scene, event: &Value) {
    if scene.queue.is_some() {
        return scene.send(slice::from_ref(event)).await;
    }
    let authorization = format!("Bearer {}", secrets::secret("admin"));
    let headers = [("authorization", authorization.as_str())];
    let answer = scene.outhook.post("/v1/events", &headers, event.to_string().as_bytes()).await;
    assert_eq!(answer.0, 202, "{answer:?}");
}

/// One EventActor has both bots.
async fn a_flood_delays_others_by_a_fair_share(inlet: Inlet, storage: Storage) {
    const ANSWER: Duration = Duration::from_millis(5);
    let flooded = Endpoint::start(|request, _| Answer::Late(ANSWER, Box::new(echo(request)))).await;
    let other = Endpoint::start(|request, _| echo(request)).await;
    let config = storage
        .config()
        .await
        .admin_token(&secrets::secret("admin"))
        .set("actors.event_pool", "1")
        .set("actors.calls_per_bot", "2")
        .text("log.filter", "warn");
    let scene = Scene::start(inlet, config).await;
    setup::insert_bot_at(&scene.db, FLOODING, &flooded.url("/hook")).await;
    setup::insert_bot_at(&scene.db, OTHER, &other.url("/hook")).await;
    let flood: Vec<Value> =
        (1..=FLOOD).map(|n| channel_event(FLOODING, n, n % 500, "Kitchen", "soup?")).collect();
    scene.send(&flood).await;
    // The broker gives what it has in its order; from now on the order is outhook's.
    reaches("stored events", flood.len(), || rows(&scene, "outhook_event")).await;

    let mut shares = vec![];
    for n in 1..=OTHERS {
        let before = flooded.count();
        send_quickly(&scene, &channel_event(OTHER, FLOOD + n, n, "Kitchen", "soup?")).await;
        other.wait_for(usize::try_from(n).unwrap()).await;
        shares.push(flooded.count() - before);
    }
    assert!(flooded.count() < flood.len(), "the flood is over: the test shows nothing");
    shares.sort_unstable();
    let (median, worst) = (shares[shares.len() / 2], shares[shares.len() - 1]);
    assert!(
        median <= SHARE && worst <= SHARE_MAX,
        "so many calls of the flood come before others: {shares:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_bot_delays_others_by_a_fair_share_from_rabbitmq() {
    a_flood_delays_others_by_a_fair_share(Inlet::RabbitMq, Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_bot_delays_others_by_a_fair_share_without_a_broker() {
    a_flood_delays_others_by_a_fair_share(Inlet::Stored, Storage::Sqlite).await;
}

/// Ten others with an event each, which came after the flood.
const LATER: Range<i64> = 10..20;
/// The same, of which the calls hang.
const HANGING: Range<i64> = 20..30;

async fn flood_rows(scene: &Scene, of: &str) -> usize {
    rows(scene, &format!("outhook_event WHERE bot_id = {FLOODING} AND due IS {of}")).await
}

/// Waits until an endpoint has had so many calls. By then most of the flood, which was there first, is still
/// to be handed out. First come, first served would leave nothing of it.
async fn are_called_before_the_flood(scene: &Scene, endpoint: &Endpoint, calls: usize) {
    endpoint.wait_for(calls).await;
    let left = flood_rows(scene, "NOT NULL").await;
    assert!(left * 4 >= usize::try_from(FLOOD).unwrap(), "of the flood, only {left} were left");
}

/// The flood is in the inbox before a daemon looks at it: when it starts first, and when it starts again and
/// everything that is not finished is due at the same moment.
async fn a_flood_that_came_first_is_handed_out_in_turns(storage: Storage) {
    let gate = Gate::new();
    let (flooded, hanging) = (gated_endpoint(&gate).await, gated_endpoint(&gate).await);
    let other = Endpoint::start(|request, _| echo(request)).await;
    let config = storage
        .config()
        .await
        .set("actors.event_pool", "1")
        .text("http.timeout", "10m")
        .text("drain.deadline", "200ms")
        .text("log.filter", "warn");
    let mut scene = Scene::start(Inlet::Stored, config).await;
    setup::insert_bot_at(&scene.db, FLOODING, &flooded.url("/hook")).await;
    setup::insert_bots_at(&scene.db, LATER, &other.url("/hook")).await;
    setup::insert_bots_at(&scene.db, HANGING, &hanging.url("/hook")).await;
    scene.drain().await;
    let flood: Vec<Value> =
        (1..=FLOOD).map(|n| channel_event(FLOODING, n, n % 500, "Kitchen", "soup?")).collect();
    scene.send(&flood).await;
    let one_each = |bots: Range<i64>| -> Vec<Value> {
        bots.map(|bot| channel_event(bot, FLOOD + bot, 1, "Kitchen", "soup?")).collect()
    };
    scene.send(&one_each(LATER)).await;

    scene.outhook = Outhook::run(&scene.config);
    are_called_before_the_flood(&scene, &other, 10).await;
    reaches("rows of the flood that were handed out", flood.len(), || flood_rows(&scene, "NULL")).await;

    scene.send(&one_each(HANGING)).await;
    hanging.wait_for(10).await;
    scene.drain().await;
    scene.outhook = Outhook::run(&scene.config);
    are_called_before_the_flood(&scene, &hanging, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_came_first_is_handed_out_in_turns_on_sqlite() {
    a_flood_that_came_first_is_handed_out_in_turns(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_came_first_is_handed_out_in_turns_on_postgresql() {
    a_flood_that_came_first_is_handed_out_in_turns(Storage::Postgres).await;
}
