use std::{collections::BTreeMap, time::Instant};

use outhook_core::{lanes::BotWant, partition::Partitions};
use sea_orm::DatabaseConnection;

use super::*;
use crate::{store::in_memory::in_memory, tenure::Tenure};

const PAGE: usize = 500;
/// When everything here is due.
const DUE: Millis = 5;

/// An inbox on a database of its own.
struct Inbox {
    db: DatabaseConnection,
    store: Store,
}

impl Inbox {
    async fn new() -> Self {
        let (db, store) = in_memory(false).await;
        Self { db, store }
    }

    /// Adds due events of a bot, dealt to so many conversations.
    async fn add(&self, bot: BotId, events: i64, conversations: i64, due: Millis) {
        let sql = format!(
            "WITH RECURSIVE i (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i WHERE n + 1 < {events})
             INSERT INTO outhook_event (bot_id, message_id, replay, conversation, state, due, taken_at, payload)
             SELECT {bot}, {bot} * 100000 + n, 0, n % {conversations}, 0, {due}, 1, x'00' FROM i"
        );
        self.db.execute_unprepared(&sql).await.expect("events");
    }

    async fn due(&self, after: BotId) -> DueEvents {
        self.store.due_events(DUE, after, PAGE).await.expect("events")
    }

    /// Takes a page as the QueueActor does.
    async fn take(&self, after: BotId) -> DueEvents {
        let due = self.due(after).await;
        let events: Vec<EventId> = due.events.iter().map(|taken| taken.event.id).collect();
        let claimed = self.store.claim_events(events.clone(), DUE).await.expect("claimed");
        assert_eq!(claimed.len(), events.len());
        due
    }
}

/// How many of the events each bot has.
fn by_bot(due: &DueEvents) -> BTreeMap<BotId, usize> {
    let mut counts = BTreeMap::new();
    for taken in &due.events {
        *counts.entry(taken.event.key.bot).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn what_fits_into_a_page_is_handed_out_at_once() {
    let inbox = Inbox::new().await;
    inbox.add(7, 490, 10, DUE).await;
    inbox.add(8, 10, 1, DUE).await;
    inbox.add(9, 600, 1, DUE + 1).await;
    let due = inbox.take(0).await;
    assert_eq!(by_bot(&due), BTreeMap::from([(7, 490), (8, 10)]));
    assert_eq!(due.next, Some(DUE + 1));
    assert!(due.events.is_sorted_by_key(|taken| taken.event.key.message));
}

#[tokio::test]
async fn a_bot_with_many_due_events_does_not_stand_before_the_others() {
    let inbox = Inbox::new().await;
    inbox.add(7, 3000, 50, 1).await;
    for bot in 8..37 {
        inbox.add(bot, 2, 2, DUE).await;
    }
    let due = inbox.take(0).await;
    let counts = by_bot(&due);
    assert_eq!((counts.len(), counts[&7], due.events.len()), (30, 16, 16 + 29 * 2));
    assert_eq!(due.next, Some(DUE), "there is more");
    // Alone, it has no more than a part of a page, so that others that come need not wait for long.
    assert_eq!(by_bot(&inbox.take(due.last).await), BTreeMap::from([(7, ROWS_OF_BOT_MAX)]));
}

#[tokio::test]
async fn more_bots_than_a_page_has_rows_are_served_in_turn() {
    let inbox = Inbox::new().await;
    for bot in 1..=800 {
        inbox.add(bot, 2, 1, DUE).await;
    }
    let first = inbox.take(100).await;
    assert_eq!((by_bot(&first).len(), first.events.len(), first.last), (500, 500, 600));
    let second = inbox.take(first.last).await;
    assert_eq!((by_bot(&second).len(), second.events.len(), second.last), (500, 500, 300));
    let both: Vec<BotId> = by_bot(&second).into_keys().collect();
    assert!(both.contains(&800) && both.contains(&1) && !both.contains(&301));
}

#[tokio::test]
async fn every_event_is_handed_out_once_and_found_as_a_row_afterwards() {
    let inbox = Inbox::new().await;
    inbox.add(7, 1200, 40, DUE).await;
    inbox.add(8, 300, 30, DUE).await;
    let (mut seen, mut after) = (HashSet::new(), 0);
    loop {
        let due = inbox.take(after).await;
        for taken in &due.events {
            assert!(seen.insert(taken.event.id), "handed out twice");
            // The first of a conversation is message n below the number of conversations.
            let conversations = if taken.event.key.bot == 7 { 40 } else { 30 };
            let is_first = taken.event.key.message % 100_000 < conversations;
            assert_eq!(taken.neighbours, Neighbours { earlier: !is_first, later: true });
        }
        after = due.last;
        if due.next.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 1500);
    for (bot, conversations) in [(7, 40), (8, 30)] {
        let want = BotWant { bot, after: -1, rows_max: 100, held: Vec::new(), taken_before: None };
        let pages = inbox.store.rows_of_bots(vec![want]).await.expect("rows");
        assert_eq!(pages[0].events.len(), conversations, "the head of each conversation");
    }
}

#[tokio::test]
async fn what_was_handed_out_and_is_due_later_now_is_not_claimed() {
    let inbox = Inbox::new().await;
    inbox.add(7, 2, 2, DUE).await;
    let due = inbox.due(0).await;
    let events: Vec<EventId> = due.events.iter().map(|taken| taken.event.id).collect();
    let sql = format!("UPDATE outhook_event SET due = {} WHERE id = {}", DUE + 1, events[0]);
    inbox.db.execute_unprepared(&sql).await.expect("parked");
    let claimed = inbox.store.claim_events(events.clone(), DUE).await.expect("claimed");
    assert_eq!(claimed, HashSet::from([events[1]]));
}

#[tokio::test]
async fn a_flood_of_another_daemons_bot_is_no_reason_to_look_again() {
    let inbox = Inbox::new().await;
    let (mine, others) = (7, 8);
    inbox.add(others, 600, 1, DUE).await;
    inbox.add(mine, 2, 2, DUE).await;
    inbox.add(mine + 64, 1, 1, DUE + 1).await;
    let tenure = Tenure::leased(1, Instant::now());
    tenure.gain(Partitions::of_bot(mine));
    let due = inbox.store.under(tenure).due_events(DUE, 0, PAGE).await.expect("events");
    assert_eq!((by_bot(&due), due.next), (BTreeMap::from([(mine, 2)]), Some(DUE + 1)));
}

#[tokio::test]
async fn a_page_of_large_events_ends_before_it_is_full_and_the_next_bot_goes_on() {
    let inbox = Inbox::new().await;
    for bot in 1..=3 {
        inbox.add(bot, 2, 2, DUE).await;
    }
    // Two of them fit into a page.
    inbox
        .db
        .execute_unprepared("UPDATE outhook_event SET payload = zeroblob(6000000)")
        .await
        .expect("bodies");
    inbox.add(4, 600, 1, DUE).await;
    let (mut bots, mut after) = (Vec::new(), 0);
    for _ in 0..3 {
        let due = inbox.take(after).await;
        assert_eq!(due.next, Some(DUE), "there is more");
        bots.push(by_bot(&due).into_iter().collect::<Vec<_>>());
        after = due.last;
    }
    assert_eq!(bots[0], [(1, 2)]);
    assert_eq!(bots[1], [(2, 2)]);
    assert_eq!(bots[2][0], (3, 2));
}
