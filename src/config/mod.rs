//! The configuration: one struct per concern, read from `config.toml` and the environment.
//!
//! A file is optional, and `OUTHOOK__SECTION__KEY` variables win over it. Everything wrong is found in one
//! run and told by key ([`Faults`]). Each section reads itself ([`section`]), so that a key, its default and
//! its limits stand in one place, listed at the top of the section's module.

use std::io;
use std::path::{Path, PathBuf};

mod fault;
mod processed;
mod reader;
mod section;
mod source;
mod value;
mod written;

pub(crate) mod actors;
pub(crate) mod admin;
pub(crate) mod breaker;
pub(crate) mod connection_url;
pub(crate) mod database;
pub(crate) mod drain;
pub(crate) mod egress;
pub(crate) mod flag;
pub(crate) mod history;
pub(crate) mod http;
pub(crate) mod log;
pub(crate) mod queue;
pub(crate) mod reply;
pub(crate) mod retry;
pub(crate) mod zulip;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub(crate) use self::fault::Faults;
pub(crate) use self::written::{Change, Written};

use self::actors::Actors;
use self::admin::Admin;
use self::breaker::Breaker;
use self::database::Database;
use self::drain::Drain;
use self::egress::Egress;
use self::flag::Flag;
use self::history::History;
use self::http::Http;
use self::log::Log;
use self::queue::Queue;
use self::reader::Reader;
use self::reply::Reply;
use self::retry::Retry;
use self::zulip::Zulip;

/// The whole configuration, valid.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// Where events come from.
    pub(crate) queue: Queue,
    /// Where rows are kept.
    pub(crate) database: Database,
    /// How much is worked on at once.
    pub(crate) actors: Actors,
    /// The limits of a call.
    pub(crate) http: Http,
    /// When a call is made again.
    pub(crate) retry: Retry,
    /// When a service is left alone.
    pub(crate) breaker: Breaker,
    /// Where calls may go.
    pub(crate) egress: Egress,
    /// Where replies go.
    pub(crate) reply: Reply,
    /// What to know of a Zulip server.
    pub(crate) zulip: Zulip,
    /// How outcomes are batched.
    pub(crate) flag: Flag,
    /// How the daemon ends.
    pub(crate) drain: Drain,
    /// How long history is kept.
    pub(crate) history: History,
    /// What is logged.
    pub(crate) log: Log,
    /// The admin server.
    pub(crate) admin: Admin,
    /// What each key is set to, in words.
    pub(crate) written: Written,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file is not there, or may not be read.
    #[error("cannot read {}: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// The file was read, and it or the environment is wrong.
    #[error(transparent)]
    Faults(#[from] Faults),
}

/// Where the configuration is read from.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    is_required: bool,
}

impl ConfigFile {
    /// The file that the operator named, or `config.toml`, which need not be there.
    pub(crate) fn new(named: Option<PathBuf>) -> Self {
        Self { is_required: named.is_some(), path: named.unwrap_or_else(|| "config.toml".into()) }
    }

    /// Reads it, and the environment.
    pub(crate) fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.path, self.is_required)
    }

    /// The same file, required from now on if it is there now.
    pub(crate) fn once_found(self) -> Self {
        Self { is_required: self.is_required || self.path.exists(), ..self }
    }
}

impl Config {
    /// Reads the file at `path` and the environment. A file that is not there means all defaults, unless it
    /// is `required` because the operator named it.
    fn load(path: &Path, required: bool) -> Result<Self, ConfigError> {
        let text = source::text(path, required)
            .map_err(|reason| ConfigError::Unreadable { path: path.to_owned(), reason })?;
        let source = source::layered(&text, source::variables())?;
        Ok(Self::read(source)?)
    }

    /// Reads what the `config` crate has put together, and reports every fault in it.
    pub(crate) fn read(source: ::config::Config) -> Result<Self, Faults> {
        let mut reader = Reader::new(source);
        let config = Self::sections(&mut reader);
        reader.finish().map(|()| config)
    }

    fn sections(reader: &mut Reader) -> Self {
        let queue = reader.section("queue", Queue::read);
        let database = reader.section("database", Database::read);
        let tables = database.tables;
        reader.section("processed", processed::check);
        Self {
            queue,
            database,
            actors: reader.section("actors", Actors::read),
            http: reader.section("http", Http::read),
            retry: reader.section("retry", Retry::read),
            breaker: reader.section("breaker", Breaker::read),
            egress: reader.section("egress", Egress::read),
            reply: reader.section("reply", Reply::read),
            zulip: reader.section("zulip", |section| Zulip::read(section, tables)),
            flag: reader.section("flag", Flag::read),
            drain: reader.section("drain", Drain::read),
            history: reader.section("history", History::read),
            log: reader.section("log", Log::read),
            admin: reader.section("admin", Admin::read),
            written: std::mem::take(&mut reader.written),
        }
    }
}

/// The configuration of an empty file.
impl Default for Config {
    fn default() -> Self {
        Self::sections(&mut Reader::new(::config::Config::default()))
    }
}
