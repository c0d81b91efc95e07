//! The pace of a bot: `actors.rate_per_bot`.

use std::ops::Range;

use super::*;

const RATE: u32 = 5;
/// Between two calls of a bot, once it has made a second's worth.
const SHARE: Duration = Duration::from_millis(200);

/// A bot with more calls to make than a second's worth, and bots with just that.
const BUSY: i64 = 1;
const CALLS: u32 = 14;
const OTHERS: Range<i64> = 2000..2020;
const CALLS_OF_OTHERS: u32 = 20 * RATE;

fn of_others() -> Vec<Value> {
    let messages = (1..).map(|n| 1000 + n);
    let bots = (0..RATE).flat_map(|_| OTHERS);
    bots.zip(messages).map(|(bot, message)| event(bot, message)).collect()
}

/// One actor has all bots. What the others make would take twice as long as it may, were all calls counted
/// together.
#[tokio::test(flavor = "multi_thread")]
async fn each_bot_makes_as_many_calls_in_a_second_as_it_may_however_many_others_make() {
    let (endpoint, others) = (Endpoint::json(json!({})).await, Endpoint::json(json!({})).await);
    let config = Config::sqlite()
        .set("actors.rate_per_bot", &RATE.to_string())
        .set("actors.calls_per_bot", "20")
        .set("actors.event_pool", "1");
    let scene = Scene::start(Inlet::Stored, config).await;
    setup::insert_bot_at(&scene.db, BUSY, &endpoint.url("/hook")).await;
    setup::insert_bots_at(&scene.db, OTHERS, &others.url("/hook")).await;
    let began = Instant::now();
    scene.send(&events(BUSY, 1..=i64::from(CALLS))).await;
    endpoint.wait_for(RATE as usize).await;
    let sent = Instant::now();
    scene.send(&of_others()).await;
    others.wait_for(CALLS_OF_OTHERS as usize).await;
    let took = sent.elapsed();
    assert!(took < SHARE * CALLS_OF_OTHERS / 2, "the others were slowed: {took:?}");
    scene.finished((CALLS + CALLS_OF_OTHERS) as usize).await;

    assert_eq!(others.count(), CALLS_OF_OTHERS as usize);
    keeps_its_pace(began, &endpoint.requests());
    let made = i64::from(CALLS + CALLS_OF_OTHERS);
    assert_eq!(count(&scene, "outhook_call WHERE state = 1 AND attempts = 1").await, made);
}

/// After a second's worth, no call comes before its turn; and they come one by one, but for what a busy
/// machine held up.
fn keeps_its_pace(began: Instant, requests: &[Request]) {
    let mut at: Vec<Duration> = requests.iter().map(|request| request.at - began).collect();
    at.sort_unstable();
    assert_eq!(at.len(), CALLS as usize);
    let paced = &at[RATE as usize..];
    for (turn, at) in (1..).zip(paced) {
        assert!(*at >= SHARE * turn - ROUNDING, "call {turn} beyond a second's worth is early: {paced:?}");
    }
    let mut gaps: Vec<Duration> = paced.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    assert!(gaps[gaps.len() / 2] >= SHARE / 2, "they come in bursts: {paced:?}");
}
