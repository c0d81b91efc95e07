//! Reads the configuration again at SIGHUP: what can change while the daemon runs takes effect at once, the rest
//! is named.

use super::signals::Hangups;
use crate::{
    admin,
    config::{Change, Config, ConfigFile, Written},
    http::Interfaces,
    logging,
    settings::{LIVE, Live, Settings},
    zulip::Site,
};

/// Where the daemon logs by its own filter.
const FILTER: &str = "log.filter";

/// See the module.
pub(super) struct Reloader {
    file: ConfigFile,
    live: Live,
    /// What is in effect.
    written: Written,
}

impl Reloader {
    /// Reloads what this configuration was read from.
    pub(super) fn new(file: ConfigFile, config: &Config, live: Live) -> Self {
        Self { file, live, written: config.written.clone() }
    }

    /// Reloads at each SIGHUP.
    pub(super) async fn run(mut self, mut hangups: Hangups) {
        loop {
            hangups.next().await;
            match self.read().await {
                Ok((config, settings)) => self.apply(&config, settings),
                Err(faults) => refuse(&faults),
            }
        }
    }

    /// Nothing is changed before all of it is known to be valid.
    async fn read(&self) -> Result<(Config, Settings), String> {
        let file = self.file.clone();
        let read = move || {
            let config = file.load().map_err(|error| error.to_string())?;
            // A restart would refuse these, too.
            admin::check_token(&config.admin).map_err(|fault| fault.message)?;
            Site::new(&config.zulip).map_err(|fault| fault.to_string())?;
            let interfaces = Interfaces::for_calls(&config.egress).map_err(|error| error.to_string())?;
            let settings = Settings::new(&config, interfaces).map_err(|error| error.to_string())?;
            Ok((config, settings))
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn apply(&mut self, config: &Config, settings: Settings) {
        let changes = self.written.changes(&config.written);
        let (live, others): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| LIVE.contains(&change.key.as_str()));
        self.live.set(settings);
        // By the filter that shows it, the old one or the new.
        let is_shown = log::log_enabled!(log::Level::Info);
        if is_shown {
            tell(&live);
        }
        if live.iter().any(|change| change.key == FILTER) {
            set_filter(&config.log.filter);
        }
        if !is_shown {
            tell(&live);
        }
        live.into_iter().for_each(|change| self.written.apply(change));
        if !others.is_empty() {
            log::warn!("restart outhook for this to take effect: {}", joined(&others));
        }
    }
}

fn set_filter(filter: &str) {
    logging::set_filter(filter);
    if logging::is_overridden() {
        log::warn!("{FILTER} has no effect: RUST_LOG is set and wins over it");
    }
}

fn tell(changes: &[Change]) {
    match changes {
        [] => log::info!("reloaded: no setting has changed that takes effect without a restart"),
        changes => log::info!("reloaded: {}", joined(changes)),
    }
}

fn joined(changes: &[Change]) -> String {
    let shown: Vec<String> = changes.iter().map(ToString::to_string).collect();
    shown.join(", ")
}

fn refuse(faults: &str) {
    log::warn!("not reloaded, all settings stay as they were: the configuration has these faults");
    faults.lines().for_each(|fault| log::warn!("not reloaded: {fault}"));
}
