//! `Retry-After`: what an endpoint asks for holds for all calls of its service, and then one call finds out.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::*;

/// An HTTP date so long from now or up to a second less, as it has whole seconds only; and when that is.
fn date_in(time: Duration) -> (String, Instant) {
    let (now, at) = (SystemTime::now(), Instant::now());
    let date = httpdate::fmt_http_date(now + time);
    let time = httpdate::parse_http_date(&date).unwrap().duration_since(now).unwrap();
    (date, at + time)
}

fn asking(status: u16, retry_after: String) -> Answer {
    Answer::Http { status, headers: vec![("retry-after".to_owned(), retry_after)], body: vec![] }
}

/// A probe may be answered with another wish, this time in seconds.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_names_a_date_is_probed_then_and_is_left_alone_again_if_it_asks_again() {
    const PAUSE: Duration = Duration::from_secs(1);
    let (again, good, named) = (Gate::new(), Gate::new(), Arc::new(OnceLock::new()));
    let (gates, date) = ([again.clone(), good.clone()], Arc::clone(&named));
    let endpoint = Endpoint::start(move |request, number| match number {
        0 => {
            let (text, moment) = date_in(Duration::from_secs(3));
            date.set(moment).unwrap();
            asking(429, text)
        }
        1 => Answer::Gated(gates[0].clone(), Box::new(asking(503, PAUSE.as_secs().to_string()))),
        2 => echo_behind(&gates[1], request),
        _ => echo(request),
    })
    .await;
    let other = Endpoint::json(json!({})).await;
    let scene = Scene::start(Inlet::Stored, config(Config::sqlite(), 20, "5s")).await;
    let bot = scene.bot("soup").await;
    let service = scene.service(bot, "main", &endpoint.url("/hook"), &[]).await;
    let healthy = scene.bot_at("salad", &other.url("/hook")).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    assert_eq!(listed(&scene.config, service).await["reason"], "retry_after");
    scene.send(&events(bot, 2..=6)).await;
    let requests = endpoint.wait_for(2).await;
    let date = *named.get().unwrap();
    assert!(requests[1].at >= date - ROUNDING, "{:?} early", date - requests[1].at);
    there_is_one_probe(&scene, &endpoint, healthy, &other).await;

    let asked = Instant::now();
    again.open();
    let requests = endpoint.wait_for(3).await;
    assert!(requests[2].at - asked >= PAUSE - ROUNDING, "{:?}", requests[2].at - asked);
    assert_eq!(listed(&scene.config, service).await["reason"], "retry_after");
    there_is_one_probe(&scene, &endpoint, healthy, &other).await;

    good.open();
    scene.finished(8).await;
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 6);
    assert!(requests.iter().all(|request| request.header("outhook-attempt") == Some("1")));
    assert_eq!(count(&scene, "outhook_call WHERE state = 1 AND attempts = 1").await, 6);
    assert_eq!(count(&scene, "outhook_call WHERE state = 2 AND attempts = 1 AND fault = 'status'").await, 2);
    assert_eq!(listed(&scene.config, service).await["state"], "open");
}

/// A probe has just begun. The one actor calls the healthy bot after it has let others of those begin that
/// may.
async fn there_is_one_probe(scene: &Scene, endpoint: &Endpoint, healthy: i64, other: &Endpoint) {
    let (probes, calls) = (endpoint.count(), other.count());
    scene.send(&[event(healthy, 100 + i64::try_from(calls).unwrap())]).await;
    other.wait_for(calls + 1).await;
    assert_eq!(endpoint.count(), probes, "there is one probe");
}
