//! Where a message was written, and so where a reply to it goes.
//!
//! A place is read exactly or not at all: a reply must never turn up where nobody asked.

use std::borrow::Cow;

use thiserror::Error;

use crate::{
    event::Malformed,
    json::{Fields, Found, Kind},
};

/// The fields of a message that say where it was written.
pub(crate) const FIELDS: [&str; 6] =
    ["type", "stream_id", "topic", "subject", "display_recipient", "recipient_id"];

/// Where a message was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A topic of a channel.
    Channel {
        /// `stream_id`.
        id: i64,
        /// May be empty.
        topic: String,
    },
    /// A direct message.
    Direct {
        /// User ids in the event's order, at least one.
        people: Vec<i64>,
    },
}

/// The two ways of writing a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// In a channel.
    Channel,
    /// To people.
    Direct,
}

/// Why nobody can tell where a message was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unplaced {
    /// A field that says it can't be read.
    #[error(transparent)]
    Unreadable(#[from] Malformed),
    /// No field says it.
    #[error(
        "the event names neither a channel (`message.stream_id`) nor people (`message.display_recipient`)"
    )]
    NotNamed,
}

impl Place {
    /// The place of a message.
    ///
    /// # Errors
    /// [`Unplaced`] also if only a part of it can't be read, such as the topic.
    pub fn of(message: &Fields<'_>) -> Result<Self, Unplaced> {
        Ok(match MessageKind::of(message)? {
            MessageKind::Channel => Self::Channel { id: channel(message)?, topic: topic(message)? },
            MessageKind::Direct => Self::Direct { people: people(message)? },
        })
    }
}

impl MessageKind {
    /// By `type`, which has two names for either; by the other fields if that says nothing known.
    ///
    /// # Errors
    /// [`Unplaced`] if nothing says it.
    pub fn of(message: &Fields<'_>) -> Result<Self, Unplaced> {
        let kind = match message.exact_text("type") {
            Err(Found::Nothing | Found::Kind(Kind::Null)) => Cow::Borrowed(""),
            read => read.map_err(|found| unreadable("message.type", "text", found))?,
        };
        match kind.as_ref() {
            "stream" | "channel" => Ok(Self::Channel),
            "private" | "direct" => Ok(Self::Direct),
            _ if has(message, "stream_id") => Ok(Self::Channel),
            _ if message.kind("display_recipient") == Some(Kind::Array) => Ok(Self::Direct),
            _ => Err(Unplaced::NotNamed),
        }
    }
}

/// Whether there is such a field that is not `null`.
fn has(message: &Fields<'_>, name: &str) -> bool {
    message.kind(name).is_some_and(|kind| kind != Kind::Null)
}

fn channel(message: &Fields<'_>) -> Result<i64, Malformed> {
    message.exact_integer("stream_id").map_err(|found| unreadable("message.stream_id", "an integer", found))
}

/// Zulip writes `subject`; `topic` is what its API calls the same, and counts if both are there.
fn topic(message: &Fields<'_>) -> Result<String, Malformed> {
    let (name, field) =
        if has(message, "topic") { ("topic", "message.topic") } else { ("subject", "message.subject") };
    let topic = message.exact_text(name).map_err(|found| unreadable(field, "text", found))?;
    Ok(topic.into_owned())
}

fn people(message: &Fields<'_>) -> Result<Vec<i64>, Malformed> {
    let unreadable = |found| unreadable("message.display_recipient", "an array of people", found);
    let people = message.exact_objects("display_recipient").map_err(unreadable)?;
    if people.is_empty() {
        return Err(unreadable(Found::Empty));
    }
    people.iter().map(id).collect()
}

fn id(person: &Fields<'_>) -> Result<i64, Malformed> {
    const FIELD: &str = "message.display_recipient[].id";
    match person.repeated(&["id"]) {
        Some(_) => Err(Malformed::Repeated(FIELD.to_owned())),
        None => person.exact_integer("id").map_err(|found| unreadable(FIELD, "an integer", found)),
    }
}

fn unreadable(field: &'static str, expected: &'static str, found: Found) -> Malformed {
    Malformed::Field { field, expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(message: &str) -> Result<Place, Unplaced> {
        let json = format!("{{{message}}}");
        Place::of(&serde_json::from_str(&json).expect("an object"))
    }

    fn channel(topic: &str) -> Place {
        Place::Channel { id: 7, topic: topic.into() }
    }

    #[test]
    fn a_channel_and_its_topic_are_read_exactly() {
        for (message, topic) in [
            (r#""stream_id":7,"subject":"kitchen""#, "kitchen"),
            (r#""type":"stream","stream_id":7,"subject":"""#, ""),
            (r#""type":"channel","stream_id":7,"subject":"old","topic":"new""#, "new"),
            (r#""type":"something new","stream_id":7,"topic":null,"subject":"a\u0000b""#, "a\0b"),
            (r#""type":null,"stream_id":7,"subject":" x ","display_recipient":[{"id":1}]"#, " x "),
        ] {
            assert_eq!(place(message), Ok(channel(topic)), "{message}");
        }
    }

    #[test]
    fn people_are_read_exactly() {
        for message in [
            r#""display_recipient":[{"id":58,"email":"x"},{"id":31}]"#,
            r#""type":"private","display_recipient":[{"id":58},{"id":31}]"#,
            r#""type":"direct","stream_id":7,"subject":"t","display_recipient":[{"id":58},{"id":31}]"#,
            r#""type":"new","stream_id":null,"display_recipient":[{"id":58},{"id":31}]"#,
        ] {
            assert_eq!(place(message), Ok(Place::Direct { people: vec![58, 31] }), "{message}");
        }
    }

    #[test]
    fn what_can_not_be_read_is_no_place_and_says_why() {
        for (message, reason) in [
            (r#""stream_id":7"#, "`message.subject` must be text; it is missing"),
            (r#""stream_id":7,"subject":null"#, "`message.subject` must be text; it is null"),
            (r#""stream_id":7,"subject":8"#, "`message.subject` must be text; it is a number"),
            (r#""stream_id":7,"topic":["x"],"subject":"y""#, "`message.topic` must be text; it is an array"),
            (r#""stream_id":7,"subject":"t \ud83d""#, "`message.subject` must be text; it is text with half"),
            (
                r#""stream_id":7,"topic":"\udc00","subject":"y""#,
                "`message.topic` must be text; it is text with",
            ),
            (r#""stream_id":"7","subject":"x""#, "`message.stream_id` must be an integer; it is text"),
            (r#""stream_id":7.0,"subject":"x""#, "must be an integer; it is a number with a fraction"),
            (r#""stream_id":1e3,"subject":"x""#, "must be an integer; it is a number with a fraction"),
            (r#""stream_id":9223372036854775808,"subject":"x""#, "must be an integer; it is beyond 64 bits"),
            (r#""type":"stream","subject":"x""#, "`message.stream_id` must be an integer; it is missing"),
            (r#""type":"channel","stream_id":null,"subject":"x""#, "must be an integer; it is null"),
            (r#""type":7,"stream_id":7,"subject":"x""#, "`message.type` must be text; it is a number"),
            (r#""type":"private","stream_id":7,"subject":"x""#, "must be an array of people; it is missing"),
            (r#""type":"direct","display_recipient":"food""#, "must be an array of people; it is text"),
            (r#""display_recipient":[]"#, "must be an array of people; it is empty"),
            (r#""display_recipient":[58]"#, "must be an array of people; it is an array of something else"),
            (
                r#""display_recipient":[[58],[31]]"#,
                "must be an array of people; it is an array of something else",
            ),
            (
                r#""display_recipient":[{"id":58},{}]"#,
                "`message.display_recipient[].id` must be an integer; it is missing",
            ),
            (r#""display_recipient":[{"id":58},{"id":"31"}]"#, "[].id` must be an integer; it is text"),
            (
                r#""display_recipient":[{"id":58.0}]"#,
                "[].id` must be an integer; it is a number with a fraction",
            ),
            (
                r#""display_recipient":[{"id":58,"id":31}]"#,
                "has `message.display_recipient[].id` more than once",
            ),
            (
                r#""type":"x","display_recipient":"food""#,
                "neither a channel (`message.stream_id`) nor people",
            ),
            (r#""recipient_id":4"#, "neither a channel (`message.stream_id`) nor people"),
        ] {
            let unplaced = place(message).expect_err(message).to_string();
            assert!(unplaced.contains(reason), "{message}: {unplaced}");
        }
    }
}
