use std::collections::BTreeMap;

use sea_orm::DatabaseConnection;

use super::*;
use crate::store::{
    PostResult,
    in_memory::{count, in_memory},
};

/// An outbox on a database of its own.
struct Outbox {
    db: DatabaseConnection,
    store: Store,
}

impl Outbox {
    async fn new() -> Self {
        let (db, store) = in_memory(false).await;
        Self { db, store }
    }

    /// Adds due replies of a bot, dealt to so many conversations.
    async fn add(&self, bot: BotId, replies: i64, conversations: i64) {
        let sql = format!(
            "WITH RECURSIVE i (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i WHERE n + 1 < {replies})
             INSERT INTO outhook_reply (event_id, service_id, bot_id, conversation, destination, content,
                state, due, attempts, created_at)
             SELECT {bot} * 100000 + n, 1, {bot}, n % {conversations}, '', x'', 0, 1, 0, 1 FROM i"
        );
        self.db.execute_unprepared(&sql).await.expect("replies");
    }

    async fn take(&self, places: Places) -> DueReplies {
        self.store.take_due_replies(places).await.expect("replies")
    }

    async fn count(&self, what: &str) -> i64 {
        count(&self.db, &format!("outhook_reply WHERE {what}")).await
    }
}

/// How many of the replies each bot has.
fn by_bot(replies: &[Outgoing]) -> Vec<(BotId, usize)> {
    let mut counts: BTreeMap<BotId, usize> = BTreeMap::new();
    for reply in replies {
        *counts.entry(reply.bot_id).or_default() += 1;
    }
    counts.into_iter().collect()
}

#[tokio::test]
async fn every_bot_is_served_once_before_any_is_served_twice() {
    let outbox = Outbox::new().await;
    outbox.add(7, 2000, 1000).await;
    for bot in 8..37 {
        outbox.add(bot, 2, 2).await;
    }
    let (mut served, mut after) = (Vec::new(), 20);
    // Thirty bots, four at a time, and one of the next round.
    for free in [4, 4, 4, 4, 4, 4, 4, 2, 1] {
        let taken = outbox.take(Places { free, after, ..Places::default() }).await;
        assert_eq!(taken.replies.len(), free);
        served.extend(taken.replies);
        after = taken.last;
    }
    let twice: Vec<(BotId, usize)> = by_bot(&served).into_iter().filter(|(_, count)| *count > 1).collect();
    assert_eq!((served.len(), by_bot(&served).len(), twice), (31, 30, vec![(21, 2)]));
}

#[tokio::test]
async fn bots_get_as_many_places_each() {
    let outbox = Outbox::new().await;
    outbox.add(7, 50, 50).await;
    outbox.add(8, 50, 50).await;
    let taken = outbox.take(Places { free: 4, ..Places::default() }).await;
    assert_eq!(by_bot(&taken.replies), [(7, 2), (8, 2)]);
    let taken =
        outbox.take(Places { free: 2, in_flight: vec![8, 8, 8], after: 7, ..Places::default() }).await;
    assert_eq!(by_bot(&taken.replies), [(7, 2)]);
    let taken = outbox.take(Places { free: 256, ..Places::default() }).await;
    assert_eq!(by_bot(&taken.replies), [(7, 46), (8, 48)]);
    assert_eq!(taken.next, None);
}

#[tokio::test]
async fn of_a_long_conversation_only_the_oldest_is_taken_and_few_are_looked_at() {
    let outbox = Outbox::new().await;
    outbox.add(7, 200, 1).await;
    let first = outbox.take(Places { free: 4, ..Places::default() }).await;
    assert_eq!(first.replies.len(), 1);
    assert_eq!(outbox.count("due IS NULL").await, 64);
    assert!(first.next.is_some_and(|next| next <= now()), "there is more to look at");

    let [oldest] = &first.replies[..] else { unreachable!() };
    outbox.store.settle_replies(vec![(oldest.clone(), PostResult::Posted)]).await.expect("settled");
    let mut second = Vec::new();
    for _ in 0..4 {
        second.extend(outbox.take(Places { free: 4, ..Places::default() }).await.replies);
    }
    let second: Vec<i64> = second.iter().map(|reply| reply.id).collect();
    assert_eq!(second, [oldest.id + 1]);
    assert_eq!(outbox.count("due IS NOT NULL").await, 0);
}

#[tokio::test]
async fn replies_of_a_bot_that_waits_stay_as_they_are() {
    let outbox = Outbox::new().await;
    outbox.add(7, 100, 100).await;
    outbox.add(8, 1, 1).await;
    let waits = Places { free: 4, waiting: vec![7], ..Places::default() };
    let taken = outbox.take(waits.clone()).await;
    assert_eq!(by_bot(&taken.replies), [(8, 1)]);
    assert_eq!((taken.next, outbox.count("bot_id = 7 AND due = 1").await), (None, 100));
    assert!(outbox.take(waits).await.replies.is_empty());
}
