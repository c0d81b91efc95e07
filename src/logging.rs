//! The log, on standard error, and what libraries may not say in it.

use env_logger::Logger;
use log::{LevelFilter, Log, Metadata, Record};

/// What libraries say at the level of information is of no use to an operator.
const QUIET: &str = "sqlx=warn,sea_orm_migration=warn,actix_server=warn,lapin=warn,tracing=warn";

/// The most that libraries may say, whatever the filter asks for, by how their targets begin. Below that they
/// show what passes through them: the heads of requests with signatures and API keys, deliveries, SQL; or
/// what they read of a database's URL and of `~/.pgpass`.
const CAPS: [(&str, LevelFilter); 7] = [
    ("actix_http", LevelFilter::Info),
    ("awc", LevelFilter::Info),
    ("h2", LevelFilter::Info),
    ("lapin", LevelFilter::Info),
    ("sea_orm", LevelFilter::Info),
    ("sqlx", LevelFilter::Info),
    ("sqlx_postgres::options", LevelFilter::Off),
];

/// Logs to standard error. `RUST_LOG` wins over the given filter.
pub(crate) fn start(filter: &str) {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| filter.to_owned());
    let logger = Discreet(logger(&wanted));
    log::set_max_level(logger.0.filter());
    // It fails only if a logger was set before, and this is the only place.
    let _ = log::set_boxed_logger(Box::new(logger));
}

fn logger(filter: &str) -> Logger {
    env_logger::Builder::new().parse_filters(&format!("{QUIET},{filter}")).format_timestamp_millis().build()
}

/// A logger that keeps to [`CAPS`].
struct Discreet(Logger);

impl Log for Discreet {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        may_be_said(metadata) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if may_be_said(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn may_be_said(metadata: &Metadata<'_>) -> bool {
    CAPS.iter().all(|(target, most)| !metadata.target().starts_with(target) || metadata.level() <= *most)
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    fn is_said(filter: &str, target: &str, level: Level) -> bool {
        Discreet(logger(filter)).enabled(&Metadata::builder().target(target).level(level).build())
    }

    #[test]
    fn no_filter_makes_a_library_show_what_passes_through_it() {
        for filter in ["trace", "trace,lapin=trace,awc::client=trace,sqlx_postgres::options::parse=trace"] {
            assert!(!is_said(filter, "lapin::channels", Level::Debug), "{filter}");
            assert!(!is_said(filter, "awc::client::h2proto", Level::Trace), "{filter}");
            assert!(!is_said(filter, "sqlx_postgres::options::parse", Level::Warn), "{filter}");
        }
        assert!(is_said("lapin=trace", "lapin::channels", Level::Info));
        assert!(is_said("trace", "sqlx::query", Level::Warn));
        assert!(is_said("trace", "outhook::daemon", Level::Trace));
        assert!(is_said("trace", "rustls::client", Level::Trace));
    }

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        assert!(!is_said("info", "lapin::channels", Level::Info));
        assert!(is_said("info", "outhook::daemon", Level::Info));
        assert!(!is_said("info", "outhook::daemon", Level::Debug));
    }
}
