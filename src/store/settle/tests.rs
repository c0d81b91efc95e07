use outhook_core::{
    event::Header,
    gate::{Closed, Gate, Reason},
};
use sea_orm::DatabaseConnection;

use super::*;
use crate::store::{
    GateChange, Intake, NewEvent, Pausing,
    in_memory::{count, in_memory},
};

const BOT: i64 = 1;
const SERVICE: ServiceId = 1;
/// `queue.dead_letters_per_bot`.
const LETTERS: usize = 10;

/// An inbox on a database of its own.
struct Inbox {
    db: DatabaseConnection,
    store: Store,
}

impl Inbox {
    async fn new() -> Self {
        let (db, store) = in_memory(true).await;
        let service = format!(
            "INSERT INTO zerver_service (id, name, user_profile_id, base_url, token)
             VALUES ({SERVICE}, 'main', {BOT}, '', '')"
        );
        db.execute_unprepared(&service).await.expect("a service");
        Self { db, store }
    }

    /// Stores an event with this body, and returns its row.
    async fn take(&self, message: i64, body: &str) -> EventId {
        let intake = Intake { events: vec![event(message, 0, body)], ..Intake::default() };
        let stored = self.store.store_deliveries(intake, false, LETTERS).await.expect("an event");
        stored.held[0].event.id
    }

    /// Settles twice, as when the first commit was not answered.
    async fn settle_twice(&self, settlement: Settlement) -> [Settled; 2] {
        let first = self.store.settle(settlement.clone(), LETTERS).await.expect("a commit");
        [first, self.store.settle(settlement, LETTERS).await.expect("another commit")]
    }

    /// The reasons and bodies of all dead letters that were not replayed.
    async fn letters(&self) -> Vec<(String, String)> {
        let mut letters = Vec::new();
        for listed in self.store.list_dead_letters().await.expect("letters") {
            let letter = self.store.find_dead_letter(listed.id).await.expect("an answer").expect("a letter");
            letters.push((letter.reason, String::from_utf8(letter.payload).expect("a body")));
        }
        letters
    }

    async fn count(&self, rows: &str) -> i64 {
        count(&self.db, rows).await
    }
}

fn event(message: i64, replay: i32, body: &str) -> NewEvent {
    let header = Header { bot: BOT, message, conversation: message };
    NewEvent { header, replay, payload: body.as_bytes().to_vec() }
}

fn key(message: i64, replay: i32) -> EventKey {
    EventKey { bot: BOT, message, replay }
}

fn letter(key: EventKey, reason: &'static str) -> DeadLetter {
    DeadLetter::of_event(key, reason, "a test wants it".into())
}

fn dead(event: EventId, key: EventKey) -> Settlement {
    let end = EventEnd::Dead { letter: letter(key, "unknown_bot") };
    Settlement { events: vec![(event, key, end)], ..Settlement::default() }
}

fn call(event: EventId, outcome: CallOutcome, ended_at: Millis) -> CallRecord {
    CallRecord {
        event,
        service: SERVICE,
        service_name: "main".into(),
        outcome,
        attempts: 1,
        fault: None,
        status: None,
        detail: None,
        excerpt: None,
        duration_ms: 0,
        ended_at,
        reply: None,
        gate: None,
    }
}

/// A call of message 1 that has changed the gate of its service and waits, and its event with it.
fn changing(event: EventId, change: GateChange, at: Millis) -> Settlement {
    let (waiting, gate) = (CallOutcome::Waiting { due: Millis::MAX }, Some(DatedChange { change, at }));
    let end = EventEnd::Parked(Millis::MAX);
    let mut settlement = Settlement { events: vec![(event, key(1, 0), end)], ..Settlement::default() };
    settlement.add_call(CallRecord { gate, ..call(event, waiting, at) });
    settlement
}

fn closing(event: EventId, at: Millis) -> Settlement {
    let closed = Closed { until: Millis::MAX, reason: Reason::Breaker };
    let gate = Gate::restored(closed, 1, 1);
    changing(event, GateChange::Closed { gate, detail: "a test".into() }, at)
}

#[tokio::test]
async fn an_event_that_is_settled_twice_is_set_aside_once_with_its_body() {
    let inbox = Inbox::new().await;
    let (unknown, panicked, open) =
        (inbox.take(1, "one").await, inbox.take(2, "two").await, inbox.take(3, "three").await);
    let mut settlement = dead(unknown, key(1, 0));
    for (event, message) in [(panicked, 2), (open, 3)] {
        settlement.add_call(call(event, CallOutcome::Failed, 5));
        settlement.letters.push((event, letter(key(message, 0), "panicked")));
    }
    settlement.events.push((panicked, key(2, 0), EventEnd::Finished));
    let [first, again] = inbox.settle_twice(settlement).await;

    assert_eq!((first.dropped, again.dropped), (0, 2));
    let mut letters = inbox.letters().await;
    letters.sort_unstable();
    let expected = [("panicked", "three"), ("panicked", "two"), ("unknown_bot", "one")];
    assert_eq!(letters, expected.map(|(reason, body)| (reason.to_owned(), body.to_owned())));
    assert_eq!(inbox.count("outhook_event WHERE state = 2").await, 1);
}

#[tokio::test]
async fn a_dead_letter_that_is_replayed_and_dies_again_is_a_second_one_with_the_body() {
    let inbox = Inbox::new().await;
    let first = inbox.take(1, "one").await;
    inbox.settle_twice(dead(first, key(1, 0))).await;
    let letter = inbox.store.list_dead_letters().await.expect("letters")[0].id;
    let replayed = inbox.store.replay_dead_letter(letter, event(1, 0, "one")).await.expect("a replay");
    let replayed = replayed.expect("an event");
    assert!(inbox.letters().await.is_empty());

    inbox.settle_twice(dead(replayed.event_id, key(1, replayed.replay))).await;
    assert_eq!(inbox.letters().await, [("unknown_bot".to_owned(), "one".to_owned())]);
    assert_eq!(inbox.count("outhook_dead_letter").await, 2);
}

#[tokio::test]
async fn a_resume_outlasts_the_changes_before_it_however_late_they_are_settled() {
    let inbox = Inbox::new().await;
    let event = inbox.take(1, "one").await;
    let closed = closing(event, now());
    inbox.store.settle(closed.clone(), LETTERS).await.expect("a commit");
    assert_eq!(inbox.store.resume_service(SERVICE).await.expect("a resume"), Pausing::Changed);
    let again = inbox.store.settle(closed, LETTERS).await.expect("a commit that was not answered");
    assert!(again.dropped == 1 && again.due.is_some_and(|due| due <= now()), "{again:?}");
    let due = format!("WHERE due <= {}", now());
    assert_eq!(inbox.count(&format!("outhook_call {due}")).await, 1);
    assert_eq!(inbox.count(&format!("outhook_event {due}")).await, 1);
    inbox.store.settle(changing(event, GateChange::Opened, 1), LETTERS).await.expect("a late commit");
    assert_eq!(inbox.count("outhook_gate WHERE reason = 4").await, 1);

    inbox.store.settle(closing(event, now() + 1_000), LETTERS).await.expect("a failure since");
    assert_eq!(inbox.count("outhook_gate WHERE reason = 0").await, 1);
}

#[tokio::test]
async fn a_resume_of_a_moment_to_come_outlasts_nothing() {
    let inbox = Inbox::new().await;
    let event = inbox.take(1, "one").await;
    inbox.store.settle(closing(event, now()), LETTERS).await.expect("a commit");
    inbox.store.resume_service(SERVICE).await.expect("a resume");
    let put_back = "UPDATE outhook_gate SET since = since + 3600000";
    inbox.db.execute_unprepared(put_back).await.expect("another moment");

    inbox.store.settle(closing(event, now() - 1), LETTERS).await.expect("a failure since");
    assert_eq!(inbox.count("outhook_gate WHERE reason = 0").await, 1);
    inbox.store.resume_service(SERVICE).await.expect("a resume");
    inbox.db.execute_unprepared(put_back).await.expect("another moment");
    inbox.store.settle(changing(event, GateChange::Opened, now()), LETTERS).await.expect("an answer since");
    assert_eq!(inbox.count("outhook_gate").await, 0);
}

#[tokio::test]
async fn an_endpoint_that_says_again_after_a_resume_that_it_is_gone_is_paused_again() {
    let inbox = Inbox::new().await;
    let event = inbox.take(1, "one").await;
    let gone = || GateChange::Gone { detail: "a test".into() };
    inbox.store.settle(closing(event, 1), LETTERS).await.expect("a commit");
    inbox.store.resume_service(SERVICE).await.expect("a resume");

    let mut settlement = changing(event, gone(), 2);
    settlement.add_call(CallRecord {
        gate: Some(DatedChange { change: gone(), at: now() + 1_000 }),
        ..call(event, CallOutcome::Failed, now())
    });
    inbox.store.settle(settlement, LETTERS).await.expect("a commit");
    assert_eq!(inbox.count("outhook_gate WHERE reason = 3").await, 1);
}
