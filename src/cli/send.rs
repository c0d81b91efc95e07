//! `outhook send`

mod places;

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
};

use clap::Args;
use outhook_core::{batch, event::Header, identity::BotId};
use serde_json::{Value, json};

use self::places::Places;
use super::{open_or_create, output::say};
use crate::{
    broker::Publisher,
    config::{
        Config,
        queue::{Queue, QueueUrl},
    },
    exit::{Exit, Failed},
    store::{NewEvent, Store, now},
};

/// Events that are put on the queue together.
const BATCH_EVENTS: usize = 500;

/// Puts events on the configured queue.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["bot", "file"])))]
pub(super) struct Send {
    /// The bot to call.
    #[arg(long, value_name = "ID", requires = "content", value_parser = clap::value_parser!(i64).range(0..))]
    bot: Option<i64>,
    /// What the message says.
    #[arg(long, value_name = "TEXT", requires = "bot")]
    content: Option<String>,
    /// The channel it is written in.
    #[arg(long, requires = "topic", conflicts_with_all = ["direct", "file"])]
    stream: Option<String>,
    /// Its topic.
    #[arg(long, requires = "stream")]
    topic: Option<String>,
    /// It is a direct message; so it is unless --stream is given.
    #[arg(long, conflicts_with = "file")]
    direct: bool,
    /// With Zulip: the id of the person who writes it and gets the reply to a direct message.
    #[arg(long, value_name = "ID", conflicts_with = "file")]
    from: Option<i64>,
    /// A file with one event as JSON on each line; - for standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "content")]
    file: Option<PathBuf>,
}

/// Where events are put.
enum Target {
    Inbox(Store, Queue),
    Broker(Box<Publisher>),
}

impl Send {
    pub(super) async fn execute(self, config: Config) -> Result<Exit, Failed> {
        let mut places = Places::of(&config).await?;
        let target = Target::open(&config).await?;
        let sent = match &self.file {
            Some(path) => send_lines(&target, places.as_mut(), open_lines(path)?).await?,
            None => {
                let event = self.event(places.as_ref()).await?;
                target.put(vec![event.to_string().into_bytes()]).await?
            }
        };
        say(format!("{sent} {} put on the queue", if sent == 1 { "event was" } else { "events were" }))?;
        match target {
            Target::Inbox(store, _) => store.close().await,
            Target::Broker(publisher) => publisher.close().await,
        }
        if let Some(places) = places {
            places.close().await;
        }
        Ok(Exit::Success)
    }

    /// With Zulip, everything that it names exists.
    async fn event(&self, places: Option<&Places>) -> Result<Value, Failed> {
        let bot = self.bot.unwrap_or_default();
        let content = self.content.clone().unwrap_or_default();
        let channel = self.stream.as_deref().zip(self.topic.as_deref());
        let event = sample_event(bot, new_message_id(), &content, channel);
        match places {
            Some(places) => places.real(event, bot, self.stream.as_deref(), self.from).await,
            None if self.from.is_some() => {
                Err(Failed::usage("--from names a person of Zulip: it needs database.tables = \"zulip\""))
            }
            None => Ok(event),
        }
    }
}

/// An event as Zulip would publish it, from a person who does not exist.
pub(super) fn sample_event(bot: BotId, message: i64, content: &str, channel: Option<(&str, &str)>) -> Value {
    let mut fields = json!({
        "id": message, "sender_id": 0, "content": content, "timestamp": now() / 1000, "client": "outhook",
        "topic_links": [], "is_me_message": false, "reactions": [], "submessages": [],
        "sender_full_name": "outhook send", "sender_email": "send@outhook.invalid", "sender_realm_str": "",
    });
    let more = match channel {
        Some((stream, topic)) => json!({
            "type": "stream", "stream_id": stream_id(stream), "display_recipient": stream, "subject": topic,
        }),
        None => json!({
            "type": "private", "subject": "",
            "display_recipient": [
                {"id": 0, "email": "send@outhook.invalid", "full_name": "outhook send", "is_mirror_dummy": false},
                {"id": bot, "email": "", "full_name": "", "is_mirror_dummy": false},
            ],
        }),
    };
    if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
        fields.extend(more);
    }
    let trigger = if channel.is_some() { "mention" } else { "direct_message" };
    json!({ "message": fields, "trigger": trigger, "user_profile_id": bot })
}

/// A number for a channel that has only a name.
fn stream_id(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) >> 1
}

/// Microseconds since the epoch: new for each call, growing, and exact in JavaScript too.
fn new_message_id() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn open_lines(path: &PathBuf) -> Result<Box<dyn BufRead>, Failed> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path).map_err(|error| Failed::usage(format!("{}: {error}", path.display())))?;
    Ok(Box::new(BufReader::new(file)))
}

/// Every line is checked before any is sent in its batch, so that a bad one is named with its number.
async fn send_lines(
    target: &Target,
    mut places: Option<&mut Places>,
    lines: Box<dyn BufRead>,
) -> Result<usize, Failed> {
    let (mut sent, mut bytes) = (0, 0);
    let mut events = Vec::new();
    for (index, line) in lines.lines().enumerate() {
        let line = line.map_err(|error| Failed::usage(format!("line {}: {error}", index + 1)))?;
        if line.trim().is_empty() {
            continue;
        }
        let body = line.into_bytes();
        if let Err(fault) = check_line(&body, places.as_deref_mut()).await {
            sent += target.put(events).await?;
            let Failed { exit, message } = fault;
            let message =
                format!("line {}: {message}; the {sent} events before it were put on the queue", index + 1);
            return Err(Failed { exit, message });
        }
        if events.len() == BATCH_EVENTS || bytes + body.len() > batch::BYTES_MAX {
            sent += target.put(std::mem::take(&mut events)).await?;
            bytes = 0;
        }
        bytes += body.len();
        events.push(body);
    }
    Ok(sent + target.put(events).await?)
}

async fn check_line(body: &[u8], places: Option<&mut Places>) -> Result<(), Failed> {
    let header = Header::read(body).map_err(Failed::usage)?;
    match places {
        Some(places) => places.check(header.bot, body).await,
        None => Ok(()),
    }
}

impl Target {
    async fn open(config: &Config) -> Result<Self, Failed> {
        match &config.queue.url {
            QueueUrl::Stored => Ok(Self::Inbox(open_or_create(config).await?, config.queue.clone())),
            QueueUrl::Amqp(url) => {
                let publisher = Publisher::connect(url, &config.queue.name).await;
                let publisher = publisher
                    .map_err(|error| Failed::unavailable(format!("the broker at {url}: {error}")))?;
                Ok(Self::Broker(Box::new(publisher)))
            }
        }
    }

    /// Puts events on the queue and says how many. Those that the inbox knows already don't count, nor do
    /// those beyond `queue.stored_per_bot`, which are dead letters.
    async fn put(&self, bodies: Vec<Vec<u8>>) -> Result<usize, Failed> {
        match self {
            Self::Broker(publisher) => {
                publisher.publish(&bodies).await.map_err(Failed::unavailable)?;
                Ok(bodies.len())
            }
            Self::Inbox(store, queue) => {
                let mut events = Vec::with_capacity(bodies.len());
                for body in bodies {
                    events.push(read_event(body, queue.max_event_bytes)?);
                }
                Ok(store.put_into_inbox(events, queue.per_bot()).await?)
            }
        }
    }
}

fn read_event(body: Vec<u8>, event_bytes_max: usize) -> Result<NewEvent, Failed> {
    if body.len() > event_bytes_max {
        let message = format!("an event of {} bytes is larger than queue.max_event_bytes", body.len());
        return Err(Failed::usage(message));
    }
    NewEvent::read(&body).map_err(Failed::usage)
}
