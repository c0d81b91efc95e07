//! The settings that a reload changes while the daemon runs. Whoever needs one reads it when it is needed.

use std::sync::{Arc, PoisonError, RwLock};

use outhook_core::{egress::Egress, gate::GatePolicy, rate::RateLimit, retry::RetryPolicy};

use crate::{
    config::{Config, actors::Actors, drain::Drain, egress::NameServers, http::Http, reply::Reply},
    http::{CaFileError, Interfaces, Route},
};

/// The keys that take effect without a restart. Each is read from [`Settings`], or is `log.filter`.
pub(crate) const LIVE: &[&str] = &[
    "actors.calls_per_bot",
    "actors.in_memory_events",
    "actors.mailbox_log_interval",
    "actors.rate_per_bot",
    "actors.waiting_per_bot",
    "breaker.failures",
    "breaker.max_open",
    "breaker.open",
    "drain.deadline",
    "egress.allow",
    "egress.ca_file",
    "egress.ports",
    "egress.proxy",
    "egress.resolver",
    "http.connect_timeout",
    "http.max_response_bytes",
    "http.timeout",
    "log.filter",
    "reply.give_up_after",
    "reply.in_flight",
    "retry.give_up_after",
    "retry.initial_delay",
    "retry.jitter",
    "retry.max_delay",
    "retry.max_retries",
    "retry.multiplier",
];

/// Settings, and what is made of them once. Keys that are not in [`LIVE`] are not for reading here.
pub(crate) struct Settings {
    /// How much is worked on at once.
    pub(crate) actors: Actors,
    /// The limits of a call.
    pub(crate) http: Http,
    /// Rules for what may be called.
    pub(crate) egress: Arc<Egress>,
    /// Who looks host names up.
    pub(crate) resolver: NameServers,
    /// How endpoints are reached.
    pub(crate) route: Route,
    /// When a call, or a post, is made again.
    pub(crate) retry: RetryPolicy,
    /// When a service is left alone.
    pub(crate) gates: GatePolicy,
    /// Calls of one bot in a second.
    pub(crate) rate: Option<RateLimit>,
    /// How replies are posted.
    pub(crate) reply: Reply,
    /// How the daemon ends.
    pub(crate) drain: Drain,
}

impl Settings {
    /// The settings of this configuration, on a machine with these network interfaces.
    ///
    /// # Errors
    /// If `egress.ca_file` can't be used.
    pub(crate) fn new(config: &Config, interfaces: Interfaces) -> Result<Self, CaFileError> {
        if let Some(sentence) = config.egress.without_effect() {
            log::warn!("{sentence}");
        }
        let breaker = &config.breaker;
        Ok(Self {
            actors: config.actors.clone(),
            http: config.http.clone(),
            egress: Arc::new(Egress::from(&config.egress)),
            resolver: config.egress.resolver.clone(),
            route: Route::new(&config.egress, interfaces)?,
            retry: RetryPolicy::from(&config.retry),
            gates: GatePolicy {
                failures: breaker.failures,
                open: breaker.open,
                max_open: breaker.max_open,
                max_retry_after: config.retry.give_up_after,
            },
            rate: RateLimit::per_second(config.actors.rate_per_bot),
            reply: config.reply.clone(),
            drain: config.drain.clone(),
        })
    }
}

/// The current settings. Cheap to clone; all clones see a change at once.
#[derive(Clone)]
pub(crate) struct Live(Arc<RwLock<Arc<Settings>>>);

impl Live {
    /// Begins with these.
    pub(crate) fn new(settings: Settings) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(settings))))
    }

    /// The settings as they are now.
    pub(crate) fn get(&self) -> Arc<Settings> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has others from now on.
    pub(crate) fn set(&self, settings: Settings) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_live_key_exists() {
        let written = Config::default().written;
        assert!(LIVE.iter().all(|key| written.has(key)));
    }
}
