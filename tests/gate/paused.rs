//! Services that are paused are counted, for the whole database.

use super::*;

/// Waits until a daemon shows so many services as paused by command, and so many as gone.
async fn shows(outhook: &Outhook, by_command: f64, gone: f64) {
    let metric = |reason: &str| format!("outhook_services_paused{{reason=\"{reason}\"");
    let shown = || async {
        let counts = (outhook.metric(&metric("paused")).await, outhook.metric(&metric("gone")).await);
        (counts == (by_command, gone)).then_some(())
    };
    eventually(&format!("{by_command} paused and {gone} gone services"), PATIENCE, shown).await;
}

async fn are_counted_by_their_reasons(storage: Storage) {
    let held = Gate::new();
    let gate = held.clone();
    let endpoint =
        Endpoint::start(move |_, _| Answer::Gated(gate.clone(), Box::new(Answer::status(410)))).await;
    let config = storage.config().await;
    let db = setup::tables(&config).await;
    let bot = setup::add_bot(&config).await;
    setup::add_service(&config, bot, &endpoint.url("/hook"), "generic").await;
    let other = setup::add_service(&config, bot, "http://127.0.0.1:9/hook", "generic").await.to_string();
    config.cli(&["services", "pause", &other]).await.success();
    let outhook = Outhook::start(&config).await;
    shows(&outhook, 1.0, 0.0).await;

    setup::send(&config, &events(bot, 1..=2)).await;
    endpoint.wait_for(2).await;
    held.open();
    setup::all_finished(&db).await;
    let closings = outhook.metric("outhook_gate_closings_total{reason=\"gone\"").await;
    assert_eq!(closings, 1.0, "both calls were told the same");
    config.cli(&["services", "resume", &other]).await.success();
    shows(&outhook, 0.0, 1.0).await;
    if storage == Storage::Postgres {
        let config = config.sibling();
        shows(&Outhook::start(&config).await, 0.0, 1.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_are_paused_are_counted_by_their_reasons_on_sqlite() {
    are_counted_by_their_reasons(Storage::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_are_paused_are_counted_by_their_reasons_and_by_every_daemon_on_postgresql() {
    are_counted_by_their_reasons(Storage::Postgres).await;
}
