//! The admin server.

use std::collections::HashSet;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
    outhook.wait_for_log("the queue is not durable").await;
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

/// The header section and the body of a response to a request without a body.
async fn asked(outhook: &Outhook, method: &str, path: &str) -> (Vec<String>, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    let response = http::raw(outhook.admin(), request.as_bytes()).await.unwrap();
    let (section, body) = response.split_once("\r\n\r\n").unwrap();
    (section.lines().map(str::to_ascii_lowercase).collect(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn head_gets_what_get_gets_without_the_body() {
    // Dates and figures may change in between.
    const VARYING: [&str; 2] = ["date: ", "content-length: "];
    let outhook = Outhook::start(&Config::sqlite()).await;
    for path in ["/health/live", "/health/ready", "/metrics", "/nowhere"] {
        let [(get, body), (head, none)] =
            [asked(&outhook, "GET", path).await, asked(&outhook, "HEAD", path).await];
        let fixed = |section: Vec<String>| {
            let mut lines: Vec<String> = section
                .into_iter()
                .filter(|line| !VARYING.iter().any(|name| line.starts_with(name)))
                .collect();
            lines.sort_unstable();
            lines
        };
        assert!(head.iter().any(|line| line.starts_with("content-length: ")), "{head:?}");
        assert_eq!(fixed(head), fixed(get), "{path}");
        assert_eq!((none.as_str(), body.is_empty()), ("", path == "/nowhere"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_told_the_right_ones() {
    let outhook = Outhook::start(&Config::sqlite().admin_token(TOKEN)).await;
    for (method, path, allow) in [
        ("POST", "/health/live", "get, head"),
        ("DELETE", "/health/ready", "get, head"),
        ("PUT", "/metrics", "get, head"),
        ("OPTIONS", "/metrics", "get, head"),
        ("GET", "/v1/events", "post"),
        ("HEAD", "/v1/events", "post"),
        ("PATCH", "/v1/events", "post"),
    ] {
        let (section, _) = asked(&outhook, method, path).await;
        assert!(section[0].contains(" 405 "), "{method} {path}: {section:?}");
        assert!(section.contains(&format!("allow: {allow}")), "{method} {path}: {section:?}");
    }
    for method in ["GET", "HEAD", "POST"] {
        assert!(asked(&outhook, method, "/v1/event").await.0[0].contains(" 404 "), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheme_of_a_token_is_read_in_any_case() {
    let outhook = Outhook::start(&Config::sqlite().admin_token(TOKEN)).await;
    let event = channel_event(1, 7, 1, "t", "soup?").to_string();
    for (scheme, status) in
        [("bearer ", 202), ("BEARER ", 202), ("Bearer   ", 202), ("Basic ", 401), ("Bearer", 401)]
    {
        let headers = [("authorization", &*format!("{scheme}{TOKEN}"))];
        assert_eq!(outhook.post("/v1/events", &headers, event.as_bytes()).await.0, status, "{scheme:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_keep_health_from_answering() {
    const CONNECTIONS_MAX: usize = 64;
    let outhook = Outhook::start(&Config::sqlite()).await;
    let sockets = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", outhook.pid())).unwrap();
        let links = open.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
        // A connection may have two descriptors.
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).collect::<HashSet<_>>().len()
    };
    let before = sockets();
    let mut silent = vec![];
    for _ in 0..2 * CONNECTIONS_MAX {
        silent.push(tokio::net::TcpStream::connect(outhook.admin()).await.unwrap());
    }
    eventually("the first to be accepted", PATIENCE, || async {
        (sockets() >= before + CONNECTIONS_MAX).then_some(())
    })
    .await;
    // One of them may be open twice for as long as it is handed over.
    assert!(sockets() <= before + CONNECTIONS_MAX + 1, "{} of {before}", sockets());
    assert_eq!(outhook.get("/health/live").await.0, 200);
    assert_eq!(outhook.get("/health/ready").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_end_do_not_keep_health_from_answering() {
    const CONNECTIONS_MAX: usize = 64;
    let outhook = Outhook::start(&Config::sqlite().admin_token(TOKEN)).await;
    let mut endless = vec![];
    for number in 0..CONNECTIONS_MAX {
        let request = if number % 2 == 0 { "GET /health/live" } else { "POST /v1/events" };
        let head = format!("{request} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut stream = tokio::net::TcpStream::connect(outhook.admin()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        endless.push(stream);
    }
    eventually("health to answer", PATIENCE, || async { outhook.try_get("/health/live").await.ok() }).await;
}

/// A POST of an event whose body is still to come.
async fn begun_post(outhook: &Outhook, length: usize) -> tokio::net::TcpStream {
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {length}\r\n\r\n{{"
    );
    let mut stream = tokio::net::TcpStream::connect(outhook.admin()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_can_be_in_work_are_told_to_come_again() {
    const REQUESTS_MAX: usize = 16;
    let outhook = Outhook::start(&Config::sqlite().admin_token(TOKEN)).await;
    let event = channel_event(1, 7, 1, "t", "soup?").to_string();
    let mut slow = vec![];
    for _ in 0..REQUESTS_MAX {
        slow.push(begun_post(&outhook, event.len()).await);
    }
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n\r\n{event}",
        event.len()
    );
    let refused = eventually("one more to be refused", PATIENCE, || async {
        let response = http::raw(outhook.admin(), request.as_bytes()).await.unwrap();
        response.starts_with("HTTP/1.1 503 ").then_some(response)
    })
    .await;
    assert!(refused.to_ascii_lowercase().contains("\r\nretry-after: 1\r\n"), "{refused}");
    assert_eq!(outhook.get("/health/ready").await.0, 200);

    // One sends the rest, the others never do.
    let mut first = slow.swap_remove(0);
    first.write_all(&event.as_bytes()[1..]).await.unwrap();
    let mut ends = vec![];
    for stream in std::iter::once(&mut first).chain(&mut slow) {
        let mut response = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut response)).await.unwrap().unwrap();
        ends.push(response.split(' ').nth(1).unwrap_or_default().to_owned());
    }
    assert_eq!((ends[0].as_str(), ends[1..].iter().all(|status| status == "408")), ("202", true), "{ends:?}");
    assert_eq!(post(&outhook, TOKEN, event.as_bytes()).await.0, 202);
}

async fn a_full_bot_takes_nothing_more(storage: Storage) {
    const LIMIT: usize = 3;
    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    let config = storage.config().await.admin_token(TOKEN).set("queue.stored_per_bot", &LIMIT.to_string());
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let event = |message: i64| channel_event(bot, message, message, "t", "soup?").to_string().into_bytes();
    let offer = async |message: i64| {
        let (status, body) = post(&scene.outhook, TOKEN, &event(message)).await;
        (status, body.contains("stored\""), body.contains("known\""))
    };
    const FULL: (u16, bool, bool) = (429, false, false);
    for message in 1..=3 {
        assert_eq!(offer(message).await, (202, true, false), "{message}");
    }
    assert_eq!((offer(4).await, offer(5).await), (FULL, FULL));
    assert_eq!(offer(3).await, (202, false, true), "what is known is not refused");
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_dead_letter").await, 0);
    gate.open();
    scene.finished(LIMIT).await;
    assert_eq!(offer(4).await, (202, true, false));
    scene.finished(LIMIT + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_bot_takes_nothing_more_over_http_on_sqlite() {
    a_full_bot_takes_nothing_more(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_bot_takes_nothing_more_over_http_on_postgresql() {
    a_full_bot_takes_nothing_more(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_offered_at_the_same_time_are_stored_or_refused_but_never_set_aside() {
    const LIMIT: usize = 3;
    let gate = Gate::new();
    let endpoint = gated_endpoint(&gate).await;
    let config = Config::sqlite().admin_token(TOKEN).set("queue.stored_per_bot", &LIMIT.to_string());
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot_at("soup", &endpoint.url("/hook")).await;
    let posts = (1..=12).map(|message| {
        let event = channel_event(bot, message, message, "t", "soup?").to_string();
        let outhook = &scene.outhook;
        async move { post(outhook, TOKEN, event.as_bytes()).await }
    });
    let ends = futures_util::future::join_all(posts).await;
    let count = |status: u16, word: &str| {
        ends.iter().filter(|(found, body)| *found == status && body.contains(word)).count()
    };
    assert_eq!((count(202, "stored\""), count(429, "stored_per_bot")), (LIMIT, 12 - LIMIT), "{ends:?}");
    assert_eq!(scene.db.count("SELECT count(*) FROM outhook_dead_letter").await, 0);
    gate.open();
}
