//! `outhook run`

use super::start_logging;
use crate::{
    config::ConfigFile,
    daemon::{self, Hangups, Signals},
    exit::{Exit, Failed},
    fail_points,
    logging::Writer,
};

/// Runs the daemon. Signals are listened to before anything else is done: SIGHUP would end the process.
pub(super) async fn execute(file: ConfigFile) -> Result<Exit, Failed> {
    let signals = (Signals::listen()?, Hangups::listen()?);
    let config = file.load().map_err(Failed::usage)?;
    fail_points::set_up();
    start_logging(&config.log.filter, Writer::Thread)?;
    daemon::run(signals, (file.once_found(), config)).await
}
