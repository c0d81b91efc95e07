//! `[queue]`: where events come from, and how many may be stored.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `url` | `"stored:"` | `"stored:"` (the database is the queue), or an `amqp://` or `amqps://` URL |
//! | `name` | `"outgoing_webhooks"` | 1 to 255 bytes |
//! | `prefetch` | 1000 deliveries | 1 to 65535 |
//! | `max_event_bytes` | 1048576 bytes | 1024 to 134217728 |
//! | `stored_per_bot` | 100000 events | 1 to 10000000 |
//! | `dead_letters_per_bot` | 10000 dead letters | 1 to 10000000 |

use std::fmt;

use lapin::uri::AMQPUri;
use url::Url;

use super::connection_url::ConnectionUrl;
use super::section::Section;

const URL: &str = "\"stored:\" or a URL such as \"amqp://user:password@host:5672/vhost\" (amqps:// for TLS), \
    with special characters percent-encoded";

/// `[queue]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    /// Where events come from.
    pub(crate) url: QueueUrl,
    /// The queue's name at the broker.
    pub(crate) name: String,
    /// How many deliveries may be taken and not yet stored.
    pub(crate) prefetch: u16,
    /// The largest event that is taken; a larger one is a dead letter.
    pub(crate) max_event_bytes: usize,
    /// How many unfinished events of one bot are stored; one more is a dead letter.
    pub(crate) stored_per_bot: usize,
    /// How many dead letters of one bot keep their body; the older ones lose it.
    pub(crate) dead_letters_per_bot: usize,
}

impl Queue {
    pub(super) fn read(section: &mut Section) -> Self {
        Self {
            url: section.parsed("url", QueueUrl::Stored, URL, QueueUrl::parse),
            name: section.parsed("name", "outgoing_webhooks".to_owned(), "a text of 1 to 255 bytes", name),
            prefetch: section.integer("prefetch", 1000, 1..=65535),
            max_event_bytes: section.integer("max_event_bytes", 1_048_576, 1024..=134_217_728),
            stored_per_bot: section.integer("stored_per_bot", 100_000, 1..=10_000_000),
            dead_letters_per_bot: section.integer("dead_letters_per_bot", 10_000, 1..=10_000_000),
        }
    }

    pub(crate) fn per_bot(&self) -> PerBot {
        PerBot { events: self.stored_per_bot, dead_letters: self.dead_letters_per_bot }
    }
}

/// What may be stored for one bot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PerBot {
    /// Unfinished events.
    pub(crate) events: usize,
    /// Dead letters with their bodies.
    pub(crate) dead_letters: usize,
}

/// Where events come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum QueueUrl {
    /// The database is the queue.
    Stored,
    /// A broker that speaks AMQP 0-9-1, such as RabbitMQ.
    Amqp(ConnectionUrl),
}

impl QueueUrl {
    fn parse(text: &str) -> Option<Self> {
        if text == "stored:" {
            return Some(Self::Stored);
        }
        let is_usable = has_host(text) && text.parse::<AMQPUri>().is_ok();
        ConnectionUrl::parse(text, &["amqp://", "amqps://"]).filter(|_| is_usable).map(Self::Amqp)
    }
}

impl fmt::Display for QueueUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored => f.write_str("stored:"),
            Self::Amqp(url) => fmt::Display::fmt(url, f),
        }
    }
}

/// `AMQPUri` takes `localhost` for a missing host, which must not happen silently.
fn has_host(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| url.host_str().is_some_and(|host| !host.is_empty()))
}

/// AMQP writes the length of a name in one byte.
fn name(text: &str) -> Option<String> {
    (1..=255).contains(&text.len()).then(|| text.to_owned())
}
