//! The signals that the daemon hears.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Failed;

/// The signals that ask the daemon to end.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Number of the last one.
    pub(super) last: i32,
}

impl Signals {
    /// Begins to listen; from now on these signals no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Self, Failed> {
        let listen = |kind| signal(kind).map_err(Failed::internal);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            last: 0,
        })
    }

    /// Waits for the next one and gives its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        let (name, kind) = tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate()),
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
        };
        self.last = kind.as_raw_value();
        name
    }
}

/// SIGHUP, which asks the daemon to read its configuration again.
pub(crate) struct Hangups(Signal);

impl Hangups {
    /// Begins to listen; from now on SIGHUP no longer ends the process.
    pub(crate) fn listen() -> Result<Self, Failed> {
        signal(SignalKind::hangup()).map(Self).map_err(Failed::internal)
    }

    /// Waits for the next one; several that came meanwhile are one.
    pub(super) async fn next(&mut self) {
        self.0.recv().await;
    }
}
