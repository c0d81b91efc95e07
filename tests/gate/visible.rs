//! Why a service is not called, since when and until when: `services list`, `deliveries` and the metrics say
//! so.

use std::time::SystemTime;

use super::*;

/// How many gates are shown as closed for this reason.
async fn closed_gates(scene: &Scene, reason: &str) -> f64 {
    let (_, text) = scene.outhook.get("/metrics").await;
    let label = format!("reason=\"{reason}\"");
    text.lines()
        .filter(|line| line.starts_with("outhook_gates_closed{") && line.contains(&label))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum()
}

/// The one line with all of this in it that a command prints for people.
async fn line(scene: &Scene, command: &[&str], parts: &[&str]) -> String {
    let told = scene.config.cli(command).await.success().stdout;
    let lines: Vec<&str> = told.lines().filter(|line| parts.iter().all(|part| line.contains(part))).collect();
    let [line] = lines[..] else { panic!("not one line with {parts:?} in {told}") };
    line.to_owned()
}

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record[key].as_str().unwrap_or_else(|| panic!("no {key} in {record}"))
}

/// A moment as commands print it, to the second.
fn moment(record: &Value, key: &str) -> SystemTime {
    humantime::parse_rfc3339(text(record, key)).unwrap()
}

/// Asserts that a service is shown as closed for so long by an answer that came after `began`.
async fn is_shown(
    scene: &Scene,
    service: i64,
    (reason, detail): (&str, &str),
    began: SystemTime,
    time: Duration,
) {
    const SECOND: Duration = Duration::from_secs(1);
    let closed = listed(&scene.config, service).await;
    assert_eq!((text(&closed, "state"), text(&closed, "reason")), ("closed", reason), "{closed}");
    assert!(text(&closed, "detail").contains(detail), "{closed}");
    let now = SystemTime::now();
    let (since, until) = (moment(&closed, "since"), moment(&closed, "until"));
    assert!(since + SECOND >= began && since <= now, "{closed}");
    assert!(until + SECOND >= began + time && until <= now + time, "{closed}");
    let parts = [reason, detail, text(&closed, "since"), text(&closed, "until")];
    assert!(line(scene, &["services", "list"], &parts).await.contains("closed"));
    assert_eq!(closed_gates(scene, reason).await, 1.0);
}

/// Asserts that a message's call, or the message itself, is shown to wait for the gate of this service.
async fn is_waited_for(
    scene: &Scene,
    (service, reason): (i64, &str),
    message: i64,
    (state, attempts): (&str, Value),
) {
    let until = listed(&scene.config, service).await["until"].clone();
    let calls = calls(scene, message).await;
    let waiting = calls.iter().find(|call| call["state"] == state);
    let waiting = waiting.unwrap_or_else(|| panic!("nothing is {state}: {calls:?}"));
    assert_eq!((&waiting["reason"], &waiting["due"]), (&json!(reason), &until), "{waiting}");
    assert_eq!(waiting["attempts"], attempts, "{waiting}");
    let told =
        line(scene, &["deliveries"], &[state, &format!("{reason}: {}", text(waiting, "detail"))]).await;
    assert!(told.contains(&format!("next try at {}", text(waiting, "due"))), "{told}");
}

/// One bot has a sibling beside the service that fails, so that its next event begins; of the other all is
/// closed.
async fn why_and_until_when(storage: Storage) {
    const OPEN: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_secs(100);
    let failing = Endpoint::start(|_, _| Answer::status(503)).await;
    let sibling = Endpoint::json(json!({})).await;
    let asking = asks_for_a_pause(429, PAUSE).await;
    let scene = Scene::start(Inlet::Stored, config(storage.config().await, 1, "60s")).await;
    let (soup, salad) = (scene.bot("soup").await, scene.bot("salad").await);
    let broken = scene.service(soup, "main", &failing.url("/hook"), &[]).await;
    scene.service(soup, "sibling", &sibling.url("/hook"), &[]).await;
    let asked = scene.service(salad, "main", &asking.url("/hook"), &[]).await;
    let began = SystemTime::now();
    scene.send(&[event(soup, 1)]).await;
    scene.finished(1).await;
    scene.send(&[event(salad, 2)]).await;
    scene.finished(2).await;
    is_shown(&scene, broken, ("breaker", "a call failed with: "), began, OPEN).await;
    is_shown(&scene, asked, ("retry_after", "the endpoint asked for no calls until then"), began, PAUSE)
        .await;

    scene.send(&[event(soup, 3), event(salad, 4)]).await;
    put_off(&scene, "breaker", 1).await;
    is_waited_for(&scene, (broken, "breaker"), 3, ("waiting", json!(0))).await;
    is_waited_for(&scene, (asked, "retry_after"), 4, ("not started", Value::Null)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_gate_is_closed_and_until_when_is_shown_wherever_one_looks_on_sqlite() {
    why_and_until_when(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_gate_is_closed_and_until_when_is_shown_wherever_one_looks_on_postgresql() {
    why_and_until_when(Storage::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_time_has_come_is_probing_until_a_call_shows_how_it_is() {
    let probed = Gate::new();
    let gate = probed.clone();
    let endpoint = Endpoint::start(move |request, number| match number {
        0 => Answer::status(503),
        _ => echo_behind(&gate, request),
    })
    .await;
    let scene = Scene::start(Inlet::Stored, config(Config::sqlite(), 1, "100ms")).await;
    let bot = scene.bot("soup").await;
    let service = scene.service(bot, "main", &endpoint.url("/hook"), &[]).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    let is_probing = || async {
        let listed = listed(&scene.config, service).await;
        (listed["state"] == "probing").then_some(listed)
    };
    let probing = eventually("the service to be probing", PATIENCE, is_probing).await;
    assert_eq!(probing["reason"], "breaker", "{probing}");
    line(&scene, &["services", "list"], &["probing", "breaker: ", text(&probing, "until")]).await;
    assert_eq!(closed_gates(&scene, "breaker").await, 1.0);

    scene.send(&[event(bot, 2)]).await;
    endpoint.wait_for(2).await;
    assert_eq!(is_probing().await, Some(probing), "a probe that is under way has shown nothing yet");
    assert_eq!(closed_gates(&scene, "breaker").await, 1.0);
    probed.open();
    scene.finished(2).await;
    let open = listed(&scene.config, service).await;
    assert_eq!(
        (&open["state"], &open["reason"], &open["until"]),
        (&json!("open"), &Value::Null, &Value::Null)
    );
    assert_eq!(closed_gates(&scene, "breaker").await, 0.0);
}
