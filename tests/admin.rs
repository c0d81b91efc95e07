//! The admin server.

use super::support::*;

const TOKEN: &str = "s3cr3tm4rk-admin";

fn bearer(token: &str) -> Vec<(String, String)> {
    vec![("authorization".into(), format!("Bearer {token}"))]
}

async fn post(outhook: &Outhook, token: &str, body: &[u8]) -> (u16, String) {
    let headers = bearer(token);
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    outhook.post("/v1/events", &headers, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_taken_over_http_once_and_only_with_the_token() {
    let endpoint = Endpoint::json(serde_json::json!({})).await;
    let config = Config::sqlite().admin_token(TOKEN);
    let added = config.cli(&["bots", "add", "--email", "b@x.org", "--name", "B", "--json"]).await.success();
    let bot = added.records()[0]["id"].as_i64().unwrap();
    let (id, url) = (bot.to_string(), endpoint.url("/hook"));
    config.cli(&["services", "add", "--bot", &id, "--name", "s", "--url", &url]).await.success();
    let outhook = Outhook::start(&config).await;
    let event = channel_event(bot, 7, 1, "t", "soup?").to_string();

    assert_eq!(outhook.post("/v1/events", &[], event.as_bytes()).await.0, 401);
    assert_eq!(post(&outhook, "another", event.as_bytes()).await.0, 401);
    assert_eq!(post(&outhook, TOKEN, b"{}").await.0, 400);
    let (status, body) = post(&outhook, TOKEN, event.as_bytes()).await;
    assert_eq!((status, body.contains("stored")), (202, true), "{body}");
    let (status, body) = post(&outhook, TOKEN, event.as_bytes()).await;
    assert_eq!((status, body.contains("known")), (202, true), "{body}");
    endpoint.wait_for(1).await;
    eventually("the event is finished", PATIENCE, || async {
        (outhook.metric("outhook_events_finished_total").await == 1.0).then_some(())
    })
    .await;
    assert_eq!(endpoint.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_nothing_that_changes_state_is_served() {
    let config = Config::sqlite();
    let outhook = Outhook::start(&config).await;
    assert_eq!(post(&outhook, "any", b"{}").await.0, 403);
    assert_eq!(outhook.get("/health/live").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_over_http_may_be_as_large_as_the_limit() {
    let config = Config::sqlite().admin_token(TOKEN).set("queue.max_event_bytes", "2000");
    let outhook = Outhook::start(&config).await;
    // White space at the end is part of the body too.
    let padded = |bytes: usize| format!("{:bytes$}", channel_event(1, 7, 1, "t", "").to_string());
    assert_eq!(post(&outhook, TOKEN, padded(2001).as_bytes()).await.0, 413);
    assert_eq!(post(&outhook, TOKEN, padded(2000).as_bytes()).await.0, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_waited_for_and_named() {
    let config = Config::sqlite().queue(&format!("amqp://127.0.0.1:{}", free_port()), "q");
    let outhook = Outhook::run(&config);
    eventually("it names the broker", PATIENCE, || async {
        let (status, body) = outhook.try_get("/health/ready").await.ok()?;
        (status == 503 && body.contains("broker")).then_some(())
    })
    .await;
    assert_eq!(outhook.get("/health/live").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_waited_for_and_named() {
    let postgres = Postgres::private().await;
    let url = postgres.database().await;
    postgres.stop().await;
    let config = Config::postgres(&url);
    let outhook = Outhook::run(&config);
    eventually("it names the database", PATIENCE, || async {
        let (status, body) = outhook.try_get("/health/ready").await.ok()?;
        (status == 503 && body.contains("database")).then_some(())
    })
    .await;
    assert_eq!(outhook.get("/health/live").await.0, 200);
    postgres.start_again().await;
    outhook.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_and_wrong_queue_arguments_end_the_start_with_69() {
    let queue = Rabbit::shared().await.queue().await;
    let wrong_password = queue.url.replace(BROKER_PASSWORD, &secrets::secret("wrong"));
    let config = Config::sqlite().queue(&wrong_password, &queue.name);
    let mut outhook = Outhook::run(&config);
    assert_eq!(outhook.wait().await.code(), Some(69));

    let transient = lapin::options::QueueDeclareOptions::default();
    let channel = queue.channel().await;
    channel
        .queue_declare(queue.name.as_str().into(), transient, lapin::types::FieldTable::default())
        .await
        .unwrap();
    let config = Config::sqlite().queue(&queue.url, &queue.name);
    let mut outhook = Outhook::run(&config);
    assert_eq!(outhook.wait().await.code(), Some(69));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mailbox_is_logged_now_and_then_and_at_the_end() {
    let config =
        Config::sqlite().set("actors.mailbox_log_interval", "\"100ms\"").set("actors.event_pool", "2");
    let mut outhook = Outhook::start(&config).await;
    outhook.wait_for_log("mailbox actor=queue").await;
    outhook.terminate().await;
    outhook.wait().await;
    let log = outhook.log().join("\n");
    for actor in ["queue", "event-0", "event-1", "flag", "reply"] {
        let line = log.lines().rfind(|line| line.contains(&format!("mailbox actor={actor} "))).unwrap();
        for field in ["depth=", "peak=", "handled=", "rate=", "wait_ms=", "restarts="] {
            assert!(line.contains(field), "{line}");
        }
    }
}
