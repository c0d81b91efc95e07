//! What is large is written in parts, and what a server refuses for its size in smaller ones.

use serde_json::json;

use super::support::*;

/// Has PostgreSQL refuse statements that insert more than this into a table.
async fn refuse(db: &Db, table: &str, more_than: &str, code: &str) {
    db.exec(&format!(
        "CREATE FUNCTION refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT {more_than} FROM fresh) THEN
                RAISE EXCEPTION 'the test refuses so much' USING ERRCODE = '{code}';
            END IF;
            RETURN NULL;
         END $$;
         CREATE TRIGGER refuse_{table} AFTER INSERT ON {table} REFERENCING NEW TABLE AS fresh
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_{table}()"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_stored_in_parts_of_16_mib() {
    const EVENTS: i64 = 12;
    let queue = Rabbit::shared().await.queue().await;
    let endpoint = Endpoint::json(json!({})).await;
    let config = Storage::Postgres.config().await.queue(&queue.url, &queue.name);
    let config = config.set("queue.max_event_bytes", "4194304");
    let db = setup::tables(&config).await;
    setup::insert_bot_at(&db, 7, &endpoint.url("/hook")).await;
    refuse(&db, "outhook_event", "sum(length(payload)) > 16777216", "54000").await;
    let text = "soup? ".repeat(300_000);
    for message in 1..=EVENTS {
        queue.publish(channel_event(7, message, message, "Kitchen", &text).to_string().as_bytes()).await;
    }

    let outhook = Outhook::start(&config).await;
    endpoint.wait_for(usize::try_from(EVENTS).unwrap()).await;
    let refused = outhook.log().into_iter().find(|line| line.contains("refuses a batch"));
    assert_eq!(refused, None);
}

/// A server that can't take much at once is given less, although its refusal passes by itself elsewhere.
async fn what_is_refused_for_its_size_is_halved(table: &str, code: &str) {
    const EVENTS: usize = 40;
    let (queue, gate) = (Rabbit::shared().await.queue().await, Gate::new());
    let endpoint = gated_endpoint(&gate).await;
    let config = Storage::Postgres.config().await.queue(&queue.url, &queue.name);
    let config = config.set("actors.calls_per_bot", "100").text("http.timeout", "1m");
    let db = setup::tables(&config).await;
    setup::insert_bot_at(&db, 7, &endpoint.url("/hook")).await;
    refuse(&db, table, "count(*) > 2", code).await;
    let event = |message| channel_event(7, message, message, "Kitchen", "soup?").to_string().into_bytes();
    queue.publish_all(&(1..=i64::try_from(EVENTS).unwrap()).map(event).collect::<Vec<_>>()).await;

    let outhook = Outhook::start(&config).await;
    endpoint.wait_for(EVENTS).await;
    gate.open();
    setup::all_finished(&db).await;
    assert_eq!(endpoint.count(), EVENTS);
    assert_eq!(db.count("SELECT count(*) FROM outhook_call WHERE state = 1").await, 40);
    assert_eq!(db.count("SELECT count(*) FROM outhook_dead_letter").await, 0);
    outhook.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_refused_for_their_size_are_stored_in_smaller_parts() {
    what_is_refused_for_its_size_is_halved("outhook_event", "53200").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_refused_for_their_size_are_settled_in_smaller_parts() {
    what_is_refused_for_its_size_is_halved("outhook_call", "53200").await;
}
