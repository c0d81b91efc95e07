//! While a probe is under way.

use super::*;

/// The probe takes longer than anything is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_probe_that_hangs_goes_on_when_its_service_is_resumed() {
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = Endpoint::start(move |request, number| match number {
        0 => Answer::status(503),
        1 => Answer::Gated(held.clone(), Box::new(echo(request))),
        _ => echo(request),
    })
    .await;
    let config = config(Config::sqlite(), 1, "1s").text("http.timeout", "120s");
    let scene = Scene::start(Inlet::Stored, config).await;
    let bot = scene.bot("soup").await;
    let service = scene.service(bot, "main", &endpoint.url("/hook"), &[]).await;
    scene.send(&[event(bot, 1)]).await;
    scene.finished(1).await;
    scene.send(&events(bot, 2..=5)).await;
    endpoint.wait_for(2).await;
    assert_eq!(
        services(&scene, "resume", service).await,
        format!("service {service} is called again"),
        "it was left alone"
    );
    scene.finished(4).await;
    assert_eq!(endpoint.count(), 5);
    gate.open();
    scene.finished(5).await;
    assert_eq!(endpoint.count(), 5);
}
