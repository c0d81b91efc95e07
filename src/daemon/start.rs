//! What there has to be before the actors.

use std::time::Instant;

use log::Level;

use super::build::daemon_name;
use crate::{
    backoff::Backoff,
    config::{Config, database::DatabaseUrl},
    exit::Failed,
    health::Health,
    http::FileShares,
    store::{self, FileLock, OpenError, Store},
    tenure::Tenure,
    zulip::Site,
};

/// Whose complaint it is if the database does not answer at the start.
const START: &str = "start";

/// What is known of the Zulip server.
pub(super) fn site(config: &Config) -> Result<Site, Failed> {
    Site::new(&config.zulip).map_err(Failed::usage)
}

/// Waits for the database and brings its tables up to date.
pub(super) async fn open_database(config: &Config, health: &Health) -> Result<Store, Failed> {
    let mut backoff = Backoff::for_servers();
    loop {
        let opened = async {
            let store = store::open(&config.database).await?;
            let applied = store.prepare_tables(&config.database).await?;
            store.require_rights().await?;
            Ok((store, applied))
        };
        match opened.await {
            Ok((store, applied)) => {
                if applied > 0 {
                    log::info!("{applied} migrations were applied to the database");
                }
                health.database_answers(START);
                // A right that only the history needs is none without which nothing goes on.
                if let Some(sentence) = store.keeps_history().await? {
                    log::warn!("{sentence}");
                }
                return Ok(store);
            }
            Err(OpenError::Store(error)) if error.is_away() => {
                health.database_is_away(START, &error);
                tokio::time::sleep(backoff.after_failure(Instant::now())).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Locks an SQLite file, which serves one daemon; creates it if it is missing.
pub(super) fn lock_file(config: &Config) -> Result<Option<FileLock>, Failed> {
    match &config.database.url {
        DatabaseUrl::Sqlite(path) => {
            let lock = FileLock::take(path)?;
            if let Some(exposure) = store::exposure(path) {
                log::warn!("{exposure}");
            }
            Ok(Some(lock))
        }
        DatabaseUrl::Postgres(_) => Ok(None),
    }
}

/// Enters this process among the daemons of the database, which is waited for.
pub(super) async fn join(config: &Config, store: &Store, health: &Health) -> Result<Tenure, Failed> {
    let mut backoff = Backoff::for_servers();
    loop {
        match store.join(daemon_name(), config.database.lease).await {
            Ok(tenure) => {
                health.database_answers(START);
                return Ok(tenure);
            }
            Err(error) if error.is_away() => {
                health.database_is_away(START, &error);
                tokio::time::sleep(backoff.after_failure(Instant::now())).await;
            }
            Err(error) => return Err(Failed::unavailable(error)),
        }
    }
}

/// Every call in flight needs open files: there are to be as many as may be, and no more calls than they
/// allow.
pub(super) fn share_files_out(max_calls: usize) -> FileShares {
    let limit = rlimit::increase_nofile_limit(u64::MAX).or_else(|error| {
        log::warn!("the limit on open files can't be raised: {error}");
        rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(soft, _)| soft)
    });
    let shares = FileShares::new(limit.unwrap_or(u64::MAX), max_calls);
    if let Some(shortage) = shares.shortage() {
        let level = if shares.are_far_too_few() { Level::Warn } else { Level::Info };
        log::log!(level, "{shortage}");
    }
    shares.apply();
    shares
}
