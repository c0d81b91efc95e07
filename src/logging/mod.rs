//! The log, on standard error, and what libraries may not say in it.
//!
//! | file | does |
//! | --- | --- |
//! | `filter` | which lines there are |
//! | `line` | how a line reads |
//! | `stderr` | writes lines for the daemon, which waits for nobody who reads them |

mod filter;
mod line;
mod stderr;

use std::{
    fmt,
    io::{self, Write},
    sync::{OnceLock, PoisonError, RwLock},
    time::Duration,
};

use log::{Level, Log, Metadata, Record};

pub(crate) use self::filter::is_overridden;
use self::{filter::Filter, stderr::Stderr};
use crate::escape::escaped_in_log;

/// How long the end of the process waits for standard error to take the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Who writes the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// Whoever logs, as a command does that has nothing else to do.
    Caller,
    /// A thread; lines that standard error does not take in time are dropped and counted.
    Thread,
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logged {
    /// It is written, or will be, or the filter does not want it.
    Well,
    /// It is lost.
    Dropped,
}

/// There is one log in a process.
static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    filter: RwLock<Filter>,
    /// `None` if the caller writes.
    thread: Option<Stderr>,
}

/// Logs to standard error. `RUST_LOG` wins over the given filter.
///
/// # Errors
/// What is wrong with `RUST_LOG`.
pub(crate) fn start(filter: &str, writer: Writer) -> Result<(), String> {
    let filter = Filter::wanted(filter)?;
    let thread = (writer == Writer::Thread).then(Stderr::start);
    log::set_max_level(filter.max_level());
    let logger = LOGGER.get_or_init(|| Logger { filter: RwLock::new(filter), thread });
    // It fails only if a logger was set before, and this is the only place.
    let _ = log::set_logger(logger);
    Ok(())
}

/// Logs by another filter from now on, over which `RUST_LOG` still wins.
pub(crate) fn set_filter(filter: &str) {
    // RUST_LOG was looked at when the process began.
    if let (Some(logger), Ok(filter)) = (LOGGER.get(), Filter::wanted(filter)) {
        log::set_max_level(filter.max_level());
        *logger.filter.write().unwrap_or_else(PoisonError::into_inner) = filter;
    }
}

/// Logs at INFO what must not get lost unnoticed.
pub(crate) fn info(target: &str, text: fmt::Arguments<'_>) -> Logged {
    let record = Record::builder().level(Level::Info).target(target).args(text).build();
    LOGGER.get().map_or(Logged::Well, |logger| logger.take(&record))
}

/// Tells the person, whatever the filter is.
pub(crate) fn complain(message: &str) {
    let lines = message.lines().map(|line| format!("{}\n", escaped_in_log(line)));
    write(LOGGER.get(), format!("outhook: {}", lines.collect::<String>()));
}

/// Waits a moment until what was logged is written.
pub(crate) fn flush() {
    if let Some(Logger { thread: Some(stderr), .. }) = LOGGER.get() {
        stderr.flush(FLUSH_TIMEOUT);
    }
}

fn write(logger: Option<&Logger>, text: String) -> Logged {
    match logger.and_then(|logger| logger.thread.as_ref()) {
        Some(stderr) => stderr.push(text),
        None => match io::stderr().lock().write_all(text.as_bytes()) {
            Ok(()) => Logged::Well,
            Err(_) => Logged::Dropped,
        },
    }
}

impl Logger {
    fn filter(&self) -> std::sync::RwLockReadGuard<'_, Filter> {
        self.filter.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, record: &Record<'_>) -> Logged {
        let is_wanted = self.filter().matches(record);
        if is_wanted { write(Some(self), line::of(record)) } else { Logged::Well }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter().is_enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.take(record);
    }

    fn flush(&self) {
        flush();
    }
}
