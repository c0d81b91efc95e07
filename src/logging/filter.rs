//! Which lines there are: what the operator wants, and what libraries may not say.

use std::env;

use env_logger::Logger;
use log::{LevelFilter, Log, Metadata, Record};

use crate::config::log::{FILTER, is_filter};

const VARIABLE: &str = "RUST_LOG";

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

/// A filter that keeps to [`CAPS`].
pub(super) struct Filter(Logger);

impl Filter {
    /// That of `RUST_LOG`, or else the given one.
    ///
    /// # Errors
    /// What is wrong with `RUST_LOG`.
    pub(super) fn wanted(filter: &str) -> Result<Self, String> {
        match env::var_os(VARIABLE).filter(|wanted| !wanted.is_empty()) {
            None => Ok(Self::new(filter)),
            Some(wanted) => match wanted.to_str().filter(|wanted| is_filter(wanted)) {
                Some(wanted) => Ok(Self::new(wanted)),
                None => Err(format!("{VARIABLE} = {}: must be {FILTER}", wanted.display())),
            },
        }
    }

    fn new(filter: &str) -> Self {
        Self(env_logger::Builder::new().parse_filters(&format!("{QUIET},{filter}")).build())
    }

    pub(super) fn max_level(&self) -> LevelFilter {
        self.0.filter()
    }

    pub(super) fn is_enabled(&self, metadata: &Metadata<'_>) -> bool {
        may_be_said(metadata) && self.0.enabled(metadata)
    }

    pub(super) fn matches(&self, record: &Record<'_>) -> bool {
        self.is_enabled(record.metadata())
    }
}

/// Whether `RUST_LOG` wins over the configuration.
pub(crate) fn is_overridden() -> bool {
    env::var_os(VARIABLE).is_some_and(|wanted| !wanted.is_empty())
}

fn may_be_said(metadata: &Metadata<'_>) -> bool {
    CAPS.iter().all(|(target, most)| !metadata.target().starts_with(target) || metadata.level() <= *most)
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    fn is_said(filter: &str, target: &str, level: Level) -> bool {
        Filter::new(filter).is_enabled(&Metadata::builder().target(target).level(level).build())
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
