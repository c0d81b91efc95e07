//! Metrics, as Prometheus reads them.

use std::time::Duration;

use actix_web::{HttpResponse, web::Data};
use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::{
    health::Health,
    store::{Store, reason_name},
};

/// Makes the recorder of the process and says what each metric means.
pub(super) fn install() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        log::debug!("a metrics recorder was installed before");
    }
    describe_counter!(
        "outhook_events_taken_total",
        "Events stored by this process; `outhook send` is another one"
    );
    describe_counter!(
        "outhook_events_late_total",
        "Events stored after a later one of their conversation had begun"
    );
    describe_counter!("outhook_events_finished_total", "Events each of whose calls has finished");
    describe_counter!("outhook_events_parked_total", "Times an event was put aside until a retry");
    describe_counter!("outhook_dead_letters_total", "Deliveries set aside, by reason");
    describe_counter!(
        "outhook_calls_total",
        "Calls that were made, or put off or paused instead, by outcome"
    );
    describe_counter!("outhook_gate_closings_total", "Times a service was closed to calls, by reason");
    describe_gauge!("outhook_gates_closed", "Services that are closed to calls, or to be probed, by reason");
    describe_gauge!(
        "outhook_services_paused",
        "Services of the whole database that are not called until they are resumed, by reason"
    );
    describe_counter!("outhook_replies_total", "Attempts to post a reply, by outcome");
    describe_counter!("outhook_batches_total", "Commits of outcomes, by why the batch was cut");
    describe_counter!(
        "outhook_flags_put_off_total",
        "Events held back by somebody else's lock on their message"
    );
    describe_counter!("outhook_outcomes_dropped_total", "Outcomes of calls that had one already");
    describe_counter!("outhook_history_pruned_total", "Events deleted that were older than history.keep");
    describe_counter!("outhook_panics_total", "Panics");
    describe_counter!(
        "outhook_log_lines_dropped_total",
        "Log lines that standard error did not take in time, or at all"
    );
    describe_histogram!("outhook_call_seconds", metrics::Unit::Seconds, "Duration of attempts");
    describe_histogram!("outhook_batch_rows", "Completions in a commit");
    describe_histogram!("outhook_intake_rows", "Deliveries in a store transaction");
    describe_histogram!(
        "outhook_inbox_job_seconds",
        metrics::Unit::Seconds,
        "Duration of work on the inbox, by job"
    );
    describe_gauge!("outhook_events_in_memory", "Events that wait or are under way, by shard of bots");
    describe_gauge!("outhook_partitions", "Partitions of bots that this daemon works for");
    describe_gauge!("outhook_up", "1 for each actor that runs");
    describe_gauge!("outhook_mailbox_depth", "Messages that wait, by actor");
    describe_gauge!("outhook_restarts", "Restarts after a failure, by actor");
    handle
}

/// How often the exporter folds its samples together. Without that its memory grows.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Keeps the memory of the exporter small, also if nobody reads the metrics.
pub(super) async fn keep_small(exporter: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        exporter.run_upkeep();
    }
}

/// How often the services that are paused are counted.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Counts the services that are paused, which commands do too. The number stays as it was while the database
/// is away.
pub(super) async fn count_paused_services(store: Store) {
    loop {
        match store.count_paused_services().await {
            Ok(counts) => counts.into_iter().for_each(|(reason, services)| {
                gauge!("outhook_services_paused", "reason" => reason_name(reason)).set(services as f64);
            }),
            Err(error) => log::debug!("counting paused services: {error}"),
        }
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

/// The metrics' text.
pub(super) async fn render(health: Data<Health>, exporter: Data<PrometheusHandle>) -> HttpResponse {
    for stats in health.mailboxes() {
        let actor = stats.name().to_owned();
        gauge!("outhook_up", "actor" => actor.clone()).set(f64::from(u8::from(stats.is_up())));
        gauge!("outhook_mailbox_depth", "actor" => actor.clone()).set(stats.depth() as f64);
        gauge!("outhook_restarts", "actor" => actor).set(stats.restarts() as f64);
    }
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(exporter.render())
}
