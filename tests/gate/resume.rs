//! `outhook services resume`: whatever closed the gate of a service, it is called again at once, and what
//! waited for it goes on.

use super::*;

/// Longer than anything is waited for.
const LONG: Duration = Duration::from_secs(120);

/// Sooner than the daemon would forget by itself that an endpoint said that it is gone.
const SOON: Duration = Duration::from_secs(8);

/// A bot, and its service at this endpoint; it has another service at the sibling.
async fn bot_with_sibling(scene: &Scene, endpoint: &Endpoint, sibling: &Endpoint) -> (i64, i64) {
    let bot = scene.bot("soup").await;
    let service = scene.service(bot, "main", &endpoint.url("/hook"), &[]).await;
    scene.service(bot, "sibling", &sibling.url("/hook"), &[]).await;
    (bot, service)
}

async fn resume(scene: &Scene, service: i64) {
    assert_eq!(services(scene, "resume", service).await, format!("service {service} is called again"));
}

fn long_closed(config: Config) -> Config {
    self::config(config, 1, &format!("{}s", LONG.as_secs()))
}

async fn what_waits_goes_on(storage: Storage) {
    let endpoint = Endpoint::start(|request, number| match number {
        0 => Answer::status(503),
        _ => echo(request),
    })
    .await;
    let sibling = Endpoint::json(json!({})).await;
    let config = long_closed(storage.config().await).set("retry.max_retries", "1");
    let scene = Scene::start(Inlet::Stored, config).await;
    let (bot, service) = bot_with_sibling(&scene, &endpoint, &sibling).await;
    scene.send(&[event(bot, 1)]).await;
    put_off(&scene, "status", 1).await;
    scene.send(&events(bot, 2..=4)).await;
    put_off(&scene, "breaker", 3).await;
    assert_eq!(scene.outhook.metric("outhook_gates_closed").await, 1.0);

    resume(&scene, service).await;
    assert_eq!(listed(&scene.config, service).await["state"], "open");
    scene.finished(4).await;
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 5);
    let attempt = |request: &Request| request.header("outhook-attempt").map(str::to_owned);
    for request in &requests[1..] {
        let expected = if message_of(request) == 1 { "2" } else { "1" };
        assert_eq!(attempt(request).as_deref(), Some(expected));
    }
    assert_eq!(scene.outhook.metric("outhook_gates_closed").await, 0.0);
    assert_eq!(
        services(&scene, "resume", service).await,
        format!("service {service} was not paused"),
        "it can be called"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_gate_closed_by_itself_is_resumed_with_all_that_waits_on_sqlite() {
    what_waits_goes_on(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_gate_closed_by_itself_is_resumed_with_all_that_waits_on_postgresql() {
    what_waits_goes_on(Storage::Postgres).await;
}

async fn a_whole_bot_goes_on(storage: Storage) {
    let endpoint = asks_for_a_pause(429, LONG).await;
    let other = Endpoint::json(json!({})).await;
    let config = self::config(storage.config().await, 20, "5s");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot("soup").await;
    let service = scene.service(bot, "main", &endpoint.url("/hook"), &[]).await;
    let healthy = scene.bot_at("salad", &other.url("/hook")).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    assert_eq!(listed(&scene.config, service).await["reason"], "retry_after");
    scene.send(&events(bot, 2..=6)).await;
    // The same actor does this after it has been given all of those.
    scene.send(&[event(healthy, 100)]).await;
    other.wait_for(1).await;
    assert_eq!(endpoint.count(), 1);
    resume(&scene, service).await;
    scene.finished(7).await;
    assert_eq!(endpoint.count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_whose_only_service_is_left_alone_goes_on_when_that_is_resumed_on_sqlite() {
    a_whole_bot_goes_on(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_whose_only_service_is_left_alone_goes_on_when_that_is_resumed_on_postgresql() {
    a_whole_bot_goes_on(Storage::Postgres).await;
}

/// What the daemon remembers of the bot is from before the resume, and says of its only service that it is
/// closed.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_event_of_a_bot_goes_on_when_the_only_service_of_the_bot_is_resumed() {
    let endpoint = Endpoint::start(|request, number| match number {
        0 => Answer::status(503),
        _ => echo(request),
    })
    .await;
    let config = long_closed(Config::sqlite()).set("retry.max_retries", "1");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot("soup").await;
    let service = scene.service(bot, "main", &endpoint.url("/hook"), &[]).await;
    scene.send(&[event(bot, 1)]).await;
    put_off(&scene, "status", 1).await;
    resume(&scene, service).await;
    scene.finished(1).await;
    assert_eq!(endpoint.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_goes_on_when_its_service_is_resumed_while_its_sibling_is_in_flight() {
    let gate = Gate::new();
    let sibling = gated_endpoint(&gate).await;
    let endpoint = Endpoint::start(|request, number| match number {
        0 => Answer::status(503),
        _ => echo(request),
    })
    .await;
    let config = long_closed(Config::sqlite()).set("retry.max_retries", "1").text("http.timeout", "60s");
    let scene = Scene::start(Inlet::Stored, config).await;
    let (bot, service) = bot_with_sibling(&scene, &endpoint, &sibling).await;
    scene.send(&[event(bot, 1)]).await;
    sibling.wait_for(1).await;
    put_off(&scene, "status", 1).await;
    resume(&scene, service).await;
    gate.open();
    scene.finished(1).await;
    assert_eq!((endpoint.count(), sibling.count()), (2, 1));
}

/// Until the gate would have opened by itself, no retry can wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_in_flight_during_a_resume_and_fails_does_not_wait_for_the_gate() {
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint =
        Endpoint::start(move |request, _| match (message_of(request), request.header("outhook-attempt")) {
            (1, Some("1")) => Answer::Gated(held.clone(), Box::new(Answer::status(503))),
            (1, _) => echo(request),
            _ => {
                let headers = vec![("retry-after".to_owned(), "1000000".to_owned())];
                Answer::Http { status: 429, headers, body: vec![] }
            }
        })
        .await;
    let config =
        self::config(Config::sqlite(), 20, "5s").set("retry.max_retries", "1").text("http.timeout", "60s");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot("soup").await;
    let service = scene.service(bot, "main", &endpoint.url("/hook"), &[]).await;
    scene.send(&[event(bot, 1)]).await;
    endpoint.wait_for(1).await;
    scene.send(&[event(bot, 2)]).await;
    scene.finished(1).await;
    assert_eq!(listed(&scene.config, service).await["reason"], "retry_after");
    resume(&scene, service).await;
    gate.open();
    scene.finished(2).await;
    assert_eq!(calls(&scene, 1).await[0]["state"], "succeeded");
    assert_eq!(endpoint.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_resumed_and_fails_again_is_left_alone_again() {
    let endpoint = Endpoint::start(|_, _| Answer::status(503)).await;
    let sibling = Endpoint::json(json!({})).await;
    let scene = Scene::start(Inlet::Stored, long_closed(Config::sqlite())).await;
    let (bot, service) = bot_with_sibling(&scene, &endpoint, &sibling).await;
    for message in 1..=2 {
        scene.send(&[event(bot, message)]).await;
        scene.finished(message as usize).await;
        assert_eq!(listed(&scene.config, service).await["reason"], "breaker");
        if message == 1 {
            resume(&scene, service).await;
        }
    }
    scene.send(&[event(bot, 3)]).await;
    put_off(&scene, "breaker", 1).await;
    assert_eq!(endpoint.count(), 2);
}

/// Two calls are in flight: the first that ends closes the gate, and the other says that the endpoint is
/// gone.
async fn resumed_right_after_a_410(storage: Storage) {
    let (failing, going) = (Gate::new(), Gate::new());
    let gates = [failing.clone(), going.clone()];
    let endpoint = Endpoint::start(move |request, number| match number {
        0 => Answer::Gated(gates[0].clone(), Box::new(Answer::status(503))),
        1 => Answer::Gated(gates[1].clone(), Box::new(Answer::status(410))),
        _ => echo(request),
    })
    .await;
    let sibling = Endpoint::json(json!({})).await;
    let scene = Scene::start(Inlet::Stored, long_closed(storage.config().await)).await;
    let (bot, service) = bot_with_sibling(&scene, &endpoint, &sibling).await;
    scene.send(&events(bot, 1..=2)).await;
    endpoint.wait_for(2).await;
    failing.open();
    scene.finished(1).await;
    scene.send(&events(bot, 3..=5)).await;
    put_off(&scene, "breaker", 3).await;
    going.open();
    scene.finished(2).await;
    assert_eq!(listed(&scene.config, service).await["reason"], "gone");

    let resumed = Instant::now();
    resume(&scene, service).await;
    scene.send(&[event(bot, 6)]).await;
    scene.finished(6).await;
    let requests = endpoint.requests();
    let mut called: Vec<i64> = requests[2..].iter().map(message_of).collect();
    called.sort_unstable();
    assert_eq!(called, [3, 4, 5, 6]);
    assert!(requests[2..].iter().all(|request| request.at - resumed < SOON), "it took too long");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_right_after_a_410_lets_the_next_event_and_all_that_waits_go_on_sqlite() {
    resumed_right_after_a_410(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_right_after_a_410_lets_the_next_event_and_all_that_waits_go_on_postgresql() {
    resumed_right_after_a_410(Storage::Postgres).await;
}
