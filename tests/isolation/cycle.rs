//! Bots that never answer go through all that becomes of such: their calls time out and are tried again,
//! their gates close and are probed, and in the end their events are given up, while more keep coming. The
//! others get on all the while.

use std::time::Instant;

use super::*;

/// Bots that never answer, and bots that answer at once.
const HUNG: Range<i64> = 3000..3040;
const GOOD: Range<i64> = 4000..4010;

/// How many events may wait in memory, and how many the hung bots have before the others come.
const IN_MEMORY: usize = 20;
const BACKLOG: usize = 240;

/// The least events that the good bots get, one behind the other.
const ROUNDS_MIN: usize = 60;

/// How many attempts of hung bots may begin while an event for a good one is on its way from its sender to
/// its call: mostly, and at worst.
const MEANWHILE: usize = 50;
const MEANWHILE_MAX: usize = 160;

const GIVEN_UP: &str = "outhook_call WHERE state = 2";

struct Traffic {
    hung: Endpoint,
    good: Endpoint,
    sent_to_hung: usize,
    sent_to_good: usize,
}

impl Traffic {
    async fn on(scene: &Scene) -> Self {
        let hung = Endpoint::start(|_, _| Answer::Hang).await;
        let good = Endpoint::start(|request, _| echo(request)).await;
        setup::insert_bots_at(&scene.db, HUNG, &hung.url("/hook")).await;
        setup::insert_bots_at(&scene.db, GOOD, &good.url("/hook")).await;
        Self { hung, good, sent_to_hung: 0, sent_to_good: 0 }
    }

    fn sent(&self) -> usize {
        self.sent_to_hung + self.sent_to_good
    }

    fn for_hung(&mut self) -> Value {
        self.sent_to_hung += 1;
        self.event(HUNG, self.sent_to_hung)
    }

    fn for_good(&mut self) -> Value {
        self.sent_to_good += 1;
        self.event(GOOD, self.sent_to_good)
    }

    /// The bots take turns, and so do the conversations of each.
    fn event(&self, bots: Range<i64>, turn: usize) -> Value {
        let (turn, message) = (i64::try_from(turn).unwrap(), i64::try_from(self.sent()).unwrap());
        let all = bots.end - bots.start;
        channel_event(bots.start + turn % all, message, turn / all % CONVERSATIONS, "Kitchen", "soup?")
    }

    /// Sends an event to a good bot and another to a hung one, again and again, until hung ones have been
    /// given up; the one for the good bot must be called before the next two come. Returns how many attempts
    /// of hung bots began meanwhile, each time.
    async fn goes_on_until_hung_bots_are_given_up(&mut self, scene: &Scene) -> Vec<usize> {
        let (began, mut meanwhile) = (Instant::now(), vec![]);
        while meanwhile.len() < ROUNDS_MIN || rows(scene, GIVEN_UP).await == 0 {
            assert!(began.elapsed() < PATIENCE, "no hung call is given up");
            let before = self.hung.count();
            let events = [self.for_hung(), self.for_good()];
            scene.send(&events).await;
            self.good.wait_for(self.sent_to_good).await;
            meanwhile.push(self.hung.count() - before);
        }
        meanwhile
    }

    async fn only_hung_ones_are_unfinished(&self, scene: &Scene) {
        let of_good = format!("{FINISHED} AND bot_id >= {}", GOOD.start);
        reaches("finished events of good bots", self.sent_to_good, || rows(scene, &of_good)).await;
        let unfinished = rows(scene, "outhook_event WHERE state = 0").await;
        assert!(unfinished > 0, "the hung bots have nothing left: the test shows nothing");
    }

    /// Waits until all hung calls have failed for good, for the reasons there are, and nothing of them is
    /// left.
    async fn all_ends(&self, scene: &Scene) {
        reaches("finished events", self.sent(), || rows(scene, FINISHED)).await;
        let passed = "detail LIKE '%only when retry.give_up_after has passed'";
        let tried = format!("{GIVEN_UP} AND {passed} AND fault = 'timeout' AND attempts > 0");
        let untried = format!("{GIVEN_UP} AND {passed} AND fault = 'breaker'");
        let (tried, untried) = (rows(scene, &tried).await, rows(scene, &untried).await);
        assert!(tried > 0 && untried > 0, "{tried} ended with an attempt, {untried} at a closed gate");
        assert_eq!(tried + untried, self.sent_to_hung);
        assert_eq!(rows(scene, "outhook_call WHERE state = 1").await, self.sent_to_good);
        assert_eq!(rows(scene, "outhook_call").await, self.sent());
        assert_eq!(rows(scene, "outhook_event").await, self.sent());
        assert_eq!(rows(scene, "outhook_dead_letter").await, 0);
        eventually("nothing to be left in memory", PATIENCE, || async {
            let held = scene.outhook.metric("outhook_events_in_memory").await;
            (held == 0.0 && self.hung.in_flight() == 0).then_some(())
        })
        .await;
    }

    /// Calls timed out and were tried again, and gates were closed for it.
    async fn has_gone_through_everything(&self, scene: &Scene) {
        let again = count_of(&self.hung, |request| request.header("outhook-attempt") != Some("1"));
        assert!(again > 0, "nothing was tried again");
        let closings = scene.outhook.metric("outhook_gate_closings_total{reason=\"breaker\"").await;
        assert!(closings > 0.0, "no gate was closed");
    }
}

async fn hung_bots_that_are_given_up_change_nothing_for_the_others(
    storage: Storage,
    settings: &[(&str, &str)],
) {
    let mut config = storage
        .config()
        .await
        .text("http.timeout", "400ms")
        .set("breaker.failures", "2")
        .text("breaker.open", "100ms")
        .text("breaker.max_open", "200ms")
        .set("retry.max_retries", "100")
        .text("retry.give_up_after", "3s")
        .set("actors.in_memory_events", &IN_MEMORY.to_string())
        .set("actors.calls_per_bot", "2")
        .text("log.filter", "error");
    for (key, value) in settings {
        config = config.set(key, value);
    }
    let scene = Scene::start(Inlet::RabbitMq, config).await;
    let mut traffic = Traffic::on(&scene).await;
    let backlog: Vec<Value> = (0..BACKLOG).map(|_| traffic.for_hung()).collect();
    scene.send(&backlog).await;
    traffic.hung.wait_for(IN_MEMORY).await;

    let mut meanwhile = traffic.goes_on_until_hung_bots_are_given_up(&scene).await;
    traffic.only_hung_ones_are_unfinished(&scene).await;
    meanwhile.sort_unstable();
    let (median, worst) = (meanwhile[meanwhile.len() / 2], meanwhile[meanwhile.len() - 1]);
    assert!(
        median <= MEANWHILE && worst <= MEANWHILE_MAX,
        "so many attempts of hung bots come before others: {meanwhile:?}"
    );
    traffic.all_ends(&scene).await;
    traffic.has_gone_through_everything(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_bots_that_time_out_and_are_given_up_change_nothing_for_the_others() {
    let settings = [("actors.waiting_per_bot", "1")];
    hung_bots_that_are_given_up_change_nothing_for_the_others(Storage::Postgres, &settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_bots_that_time_out_and_are_given_up_change_nothing_for_the_others_with_few_calls() {
    let settings = [("queue.prefetch", "10"), ("http.max_calls", "40")];
    hung_bots_that_are_given_up_change_nothing_for_the_others(Storage::Sqlite, &settings).await;
}
