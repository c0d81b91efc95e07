//! The actors. They carry out what the core decides.

mod due_timer;
pub(crate) mod event;
pub(crate) mod flag;
pub(crate) mod gates;
pub(crate) mod history;
pub(crate) mod lease;
pub(crate) mod queue;
pub(crate) mod reply;
pub(crate) mod service_call;

/// Log target of everything about single events, by the name that Zulip's operators know.
pub(crate) const EVENT_LOG: &str = "zerver.worker.outgoing_webhooks";

/// Counts a dead letter.
fn count_letter(reason: &'static str) {
    metrics::counter!("outhook_dead_letters_total", "reason" => reason).increment(1);
}
