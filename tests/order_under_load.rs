//! Order within conversations, with very many events under way.

use super::order::talk::{Talk, assert_in_order, moody, persistent};
use super::support::*;

const FIFTY_THOUSAND: Talk = Talk { bots: 50, conversations: 20, messages: 50 };

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_events_stay_in_order_whatever_their_endpoints_do() {
    let endpoint = Endpoint::start(|request, _| moody(request)).await;
    let config = Storage::Postgres.config().await.text("log.filter", "error").text("reply.to", "none");
    let mut scene = Scene::start(Inlet::RabbitMq, persistent(config)).await;
    setup::insert_bots_at(&scene.db, 1..51, &endpoint.url("/hook")).await;
    let bots: Vec<i64> = (1..51).collect();
    let events = FIFTY_THOUSAND.of_bots(&bots);
    for part in events.chunks(10_000) {
        scene.send(part).await;
    }
    let finished = || async {
        let count = scene.db.count("SELECT count(*) FROM outhook_event WHERE state = 1").await;
        usize::try_from(count).unwrap()
    };
    reaches("finished events", FIFTY_THOUSAND.events(), finished).await;
    assert_eq!(scene.drain().await, 0);
    assert_in_order(&scene, &endpoint.requests(), &events).await;
}
