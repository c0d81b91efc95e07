//! `outhook migrate`

use super::output::say;
use crate::{
    config::Config,
    exit::{Exit, Failed},
    store,
};

/// Applies what is pending.
pub(super) async fn execute(config: Config) -> Result<Exit, Failed> {
    store::create_file(&config.database)?;
    let store = store::open(&config.database).await?;
    match store.migrate_tables(&config.database).await? {
        0 => say("outhook's tables are up to date")?,
        applied => say(format!("{applied} migrations were applied"))?,
    }
    store.close().await;
    Ok(Exit::Success)
}
