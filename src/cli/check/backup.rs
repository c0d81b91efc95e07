//! Whether Zulip's own backup can read outhook's tables.

use super::Found;
use crate::{
    config::{Config, database::Tables},
    exit::Failed,
    store,
};

pub(super) async fn check(config: &Config) -> Result<Found, Failed> {
    if config.database.tables == Tables::Own {
        return Ok(Found::Well("nothing of Zulip's is in this database".into()));
    }
    let store = store::open(&config.database).await?;
    let unreadable = store.unreadable_by_zulip().await;
    store.close().await;
    Ok(match unreadable? {
        None => Found::Well("Zulip's own can read outhook's tables and sequences".into()),
        Some(found) => Found::Doubtful(format!(
            "`manage.py backup` will fail, role {} cannot read all of outhook's tables and sequences: {}",
            found.reader,
            found.remedy()
        )),
    })
}
