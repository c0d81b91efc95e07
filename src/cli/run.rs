//! `outhook run`

use crate::{
    config::Config,
    daemon,
    exit::{Exit, Failed},
};

/// Runs the daemon.
pub(super) async fn execute(config: Config) -> Result<Exit, Failed> {
    daemon::run(config).await
}
