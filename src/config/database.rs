//! `[database]`: where outhook keeps its rows, and whose bots it serves.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `url` | `"sqlite://outhook.db"` | `sqlite://` and a path, relative or absolute, or a `postgres://` URL |
//! | `tables` | `"own"` | `"own"`, or `"zulip"`: bots are read from Zulip's tables |
//! | `auto_migrate` | true | whether `run` brings outhook's own tables up to date, or says what is pending |
//! | `max_connections` | 8 connections | 2 to 100 |
//! | `lease` | 15 s | 1 s to 1 h |
//! | `timeout` | 10 s | 1 s to 10 min |

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::connection_url::ConnectionUrl;
use super::section::Section;

const URL: &str = "\"sqlite://\" and the path of a file, without options, or a URL such as \
    \"postgres://user:password@host:5432/database\", with special characters percent-encoded";

const LEASES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// `[database]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Database {
    /// Where the database is.
    pub(crate) url: DatabaseUrl,
    /// Whose tables hold bots and services.
    pub(crate) tables: Tables,
    /// Whether `run` creates and upgrades outhook's own tables.
    pub(crate) auto_migrate: bool,
    /// The most connections of the pool.
    pub(crate) max_connections: u32,
    /// A daemon that is silent for so long is dead to the others.
    pub(crate) lease: Duration,
    /// How long one job with the database may take, waiting for a connection included.
    pub(crate) timeout: Duration,
}

impl Database {
    pub(super) fn read(section: &mut Section) -> Self {
        let default = DatabaseUrl::Sqlite(PathBuf::from("outhook.db"));
        Self {
            url: section.parsed("url", default, URL, DatabaseUrl::parse),
            tables: section.choice("tables", Tables::Own, &[("own", Tables::Own), ("zulip", Tables::Zulip)]),
            auto_migrate: section.boolean("auto_migrate", true),
            max_connections: section.integer("max_connections", 8, 2..=100),
            lease: section.duration("lease", Duration::from_secs(15), LEASES),
            timeout: section.duration("timeout", Duration::from_secs(10), TIMEOUTS),
        }
    }
}

/// Whose tables hold bots and services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    /// outhook's own, managed by its commands.
    Own,
    /// Zulip's, which are read, and in which messages are flagged as processed.
    Zulip,
}

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DatabaseUrl {
    /// The path of a file, relative to the working directory if it is not absolute.
    Sqlite(PathBuf),
    /// A server.
    Postgres(ConnectionUrl),
}

impl DatabaseUrl {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("sqlite://") {
            Some(path) => sqlite_path(path).map(Self::Sqlite),
            None => ConnectionUrl::parse(text, &["postgres://", "postgresql://"]).map(Self::Postgres),
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(url) => fmt::Display::fmt(url, f),
        }
    }
}

/// A database in memory would lose every event that was acknowledged, so there is none. `mode=rwc`, with
/// which other tools ask for the file to be created, is what happens anyway.
fn sqlite_path(text: &str) -> Option<PathBuf> {
    let path = text.strip_suffix("?mode=rwc").unwrap_or(text);
    let is_file = !path.is_empty() && path != ":memory:" && !path.contains(['?', '#', '\0']);
    is_file.then(|| PathBuf::from(path))
}
