//! The outbox: bots take turns, so that one with many replies, or one that Zulip has told to wait, delays no
//! other.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::replies::{refused_until, replying_to, said, taken};
use super::support::*;

/// The first bot; the others follow it.
const BOT: i64 = 1_000_000;
/// `reply.in_flight`, unless set.
const IN_FLIGHT: usize = 4;

/// Makes bots of these ids.
async fn insert_bots(db: &Db, bots: std::ops::Range<i64>) {
    for bot in bots {
        setup::insert_bot(db, bot).await;
    }
}

/// Commits replies of a bot, dealt to so many conversations of its. Each says the bot's id.
async fn commit(db: &Db, storage: Storage, bot: i64, replies: i64, conversations: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let bytes = match storage {
        Storage::Sqlite => "BLOB",
        Storage::Postgres => "bytea",
    };
    db.exec(&format!(
        r#"WITH RECURSIVE i (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i WHERE n + 1 < {replies})
           INSERT INTO outhook_reply (event_id, service_id, bot_id, conversation, destination, content,
              state, due, attempts, created_at)
           SELECT CAST({bot} AS BIGINT) * 100000 + n, 1, {bot}, n % {conversations},
              '{{"type":"stream","to":7,"topic":"Kitchen"}}', CAST('{bot}' AS {bytes}), 0, {now}, 0, {now}
           FROM i"#
    ))
    .await;
}

/// Waits until so many replies of bots after the first are posted.
async fn posted_by_others(db: &Db, replies: i64) {
    let sql = format!("SELECT count(*) FROM outhook_reply WHERE state = 1 AND bot_id > {BOT}");
    let all = || async { (db.count(&sql).await == replies).then_some(()) };
    eventually("the other bots' replies", PATIENCE, all).await;
}

fn is_of_first_bot(post: &Request) -> bool {
    said(post) == BOT.to_string()
}

/// How many posts of the first bot arrived before the last one of the others.
fn overtaking(posts: &[Request]) -> usize {
    let last = posts.iter().rposition(|post| !is_of_first_bot(post)).unwrap();
    posts[..last].iter().filter(|post| is_of_first_bot(post)).count()
}

async fn a_flood_delays_by_a_fair_share(storage: Storage) {
    const FLOOD: i64 = 10_000;
    const OTHERS: i64 = 20;
    const REPLIES: i64 = 2;
    let zulip = Endpoint::start(|_, _| taken()).await;
    let config = replying_to(&zulip, storage.config().await);
    let db = setup::tables(&config).await;
    insert_bots(&db, BOT..BOT + 1 + OTHERS).await;
    commit(&db, storage, BOT, FLOOD, 100).await;
    for bot in BOT + 1..BOT + 1 + OTHERS {
        commit(&db, storage, bot, REPLIES, REPLIES).await;
    }
    let _scene = Scene::start(Inlet::Stored, config).await;
    posted_by_others(&db, OTHERS * REPLIES).await;
    let fair = usize::try_from(REPLIES).unwrap() + 2 * IN_FLIGHT;
    let overtaking = overtaking(&zulip.requests());
    assert!(overtaking <= fair, "{overtaking} posts of the flood came before the last of the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_replies_of_one_bot_delays_those_of_others_by_a_fair_share_on_sqlite() {
    a_flood_delays_by_a_fair_share(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_replies_of_one_bot_delays_those_of_others_by_a_fair_share_on_postgresql() {
    a_flood_delays_by_a_fair_share(Storage::Postgres).await;
}

async fn the_next_place_is_theirs(storage: Storage) {
    let gate = Gate::new();
    let held = gate.clone();
    let zulip = Endpoint::start(move |_, _| Answer::Gated(held.clone(), Box::new(taken()))).await;
    let config = replying_to(&zulip, storage.config().await);
    let db = setup::tables(&config).await;
    insert_bots(&db, BOT..BOT + 4).await;
    commit(&db, storage, BOT, 1000, 50).await;
    let _scene = Scene::start(Inlet::Stored, config).await;
    let begun = zulip.wait_for(IN_FLIGHT).await.len();
    for bot in BOT + 1..BOT + 4 {
        commit(&db, storage, bot, 1, 1).await;
    }
    gate.open();
    posted_by_others(&db, 3).await;
    let overtaking = overtaking(&zulip.requests()[begun..]);
    assert!(overtaking <= IN_FLIGHT, "{overtaking} posts were begun before those of bots without any");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_without_posts_under_way_gets_the_next_place_on_sqlite() {
    the_next_place_is_theirs(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_without_posts_under_way_gets_the_next_place_on_postgresql() {
    the_next_place_is_theirs(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bots_with_replies_to_post_have_half_of_the_places_each() {
    let gate = Gate::new();
    let held = gate.clone();
    let zulip = Endpoint::start(move |_, _| Answer::Gated(held.clone(), Box::new(taken()))).await;
    let config = replying_to(&zulip, Config::sqlite());
    let db = setup::tables(&config).await;
    insert_bots(&db, BOT..BOT + 2).await;
    commit(&db, Storage::Sqlite, BOT, 20, 20).await;
    commit(&db, Storage::Sqlite, BOT + 1, 20, 20).await;
    let _scene = Scene::start(Inlet::Stored, config).await;
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for post in zulip.wait_for(IN_FLIGHT).await {
        *places.entry(said(&post)).or_default() += 1;
    }
    let half = IN_FLIGHT / 2;
    assert_eq!(places, BTreeMap::from([(BOT.to_string(), half), ((BOT + 1).to_string(), half)]));
    gate.open();
}

async fn a_bot_that_has_to_wait_delays_nobody(storage: Storage) {
    const OTHERS: i64 = 10;
    let zulip = Endpoint::start(|post, _| {
        if is_of_first_bot(post) { refused_until(429, "RATE_LIMIT_HIT", Some(600)) } else { taken() }
    })
    .await;
    let config = replying_to(&zulip, storage.config().await);
    let db = setup::tables(&config).await;
    insert_bots(&db, BOT..BOT + 1 + OTHERS).await;
    commit(&db, storage, BOT, 2000, 2000).await;
    for bot in BOT + 1..BOT + 1 + OTHERS {
        commit(&db, storage, bot, 2, 1).await;
    }
    let mut scene = Scene::start(Inlet::Stored, config).await;
    posted_by_others(&db, 2 * OTHERS).await;
    assert_eq!(scene.drain().await, 0);
    let tried = zulip.requests().iter().filter(|post| is_of_first_bot(post)).count();
    assert!((1..=IN_FLIGHT).contains(&tried), "{tried} posts of the bot that has to wait");
    let touched = format!("bot_id = {BOT} AND (due IS NULL OR due > created_at)");
    let touched = db.count(&format!("SELECT count(*) FROM outhook_reply WHERE {touched}")).await;
    assert!(touched <= i64::try_from(IN_FLIGHT).unwrap(), "{touched} of its replies were moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_zulip_told_to_wait_takes_no_places_from_others_on_sqlite() {
    a_bot_that_has_to_wait_delays_nobody(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_zulip_told_to_wait_takes_no_places_from_others_on_postgresql() {
    a_bot_that_has_to_wait_delays_nobody(Storage::Postgres).await;
}
