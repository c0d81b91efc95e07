//! What a queue delivery is, and which conversation it belongs to.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::identity::{BotId, Conversation, MessageId};

/// What outhook must know of an event before it is stored. The rest is only passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// `user_profile_id`.
    pub bot: BotId,
    /// `message.id`.
    pub message: MessageId,
    /// A stable digest of where the message was written: (`stream_id`, lower-cased topic), or the
    /// sorted ids in `display_recipient`, else `recipient_id`, else the bot as a whole.
    pub conversation: Conversation,
}

/// Why a delivery is not an event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Malformed {
    /// It is not a JSON object.
    #[error("the event is not a JSON object: {0}")]
    NotJson(String),
    /// A required field is missing, or not of the required type.
    #[error("the event's `{field}` must be {expected}")]
    Field {
        /// Dotted name of the field.
        field: &'static str,
        /// What is asked for.
        expected: &'static str,
    },
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    user_profile_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawMessage<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    stream_id: Option<&'a RawValue>,
    #[serde(borrow)]
    topic: Option<&'a RawValue>,
    #[serde(borrow)]
    subject: Option<&'a RawValue>,
    #[serde(borrow)]
    display_recipient: Option<&'a RawValue>,
    #[serde(borrow)]
    recipient_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Recipient {
    id: i64,
}

impl Header {
    /// Reads the header of a delivery.
    ///
    /// # Errors
    /// [`Malformed`] when the body is not a JSON object, or a required field is missing or of
    /// another type. Optional fields of an unexpected type are passed over.
    pub fn read(body: &[u8]) -> Result<Self, Malformed> {
        if let Err(error) = std::str::from_utf8(body) {
            return Err(Malformed::NotJson(error.to_string()));
        }
        let event: RawEvent<'_> = if is_object(body) {
            serde_json::from_slice(body).map_err(|error| Malformed::NotJson(error.to_string()))?
        } else {
            return Err(Malformed::NotJson("it does not begin with {".into()));
        };
        let message = event.message.filter(|message| is_object(message.get().as_bytes())).ok_or(MESSAGE)?;
        let message: RawMessage<'_> = serde_json::from_str(message.get()).map_err(|_| MESSAGE)?;
        let id =
            integer(message.id).ok_or(Malformed::Field { field: "message.id", expected: "an integer" })?;
        text(message.content).ok_or(Malformed::Field { field: "message.content", expected: "text" })?;
        let bot = integer(event.user_profile_id)
            .ok_or(Malformed::Field { field: "user_profile_id", expected: "an integer" })?;
        Ok(Self { bot, message: id, conversation: conversation(&message) })
    }
}

/// Asked before parsing, because serde takes arrays for structures too.
fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().starts_with(b"{")
}

const MESSAGE: Malformed = Malformed::Field { field: "message", expected: "an object" };

fn conversation(message: &RawMessage<'_>) -> Conversation {
    if let Some(stream) = integer(message.stream_id) {
        let topic = text(message.topic).or_else(|| text(message.subject)).unwrap_or_default();
        return digest(&format!("stream:{stream}:{}", topic.to_lowercase()));
    }
    if let Some(recipients) = message.display_recipient
        && let Ok(recipients) = serde_json::from_str::<Vec<Recipient>>(recipients.get())
        && !recipients.is_empty()
    {
        let mut ids: Vec<i64> = recipients.iter().map(|recipient| recipient.id).collect();
        ids.sort_unstable();
        return digest(&format!("direct:{ids:?}"));
    }
    match integer(message.recipient_id) {
        Some(recipient) => digest(&format!("recipient:{recipient}")),
        None => digest("bot"),
    }
}

/// 64 bits of SHA-256: the same in every version and on every machine, and short enough to index.
/// Two conversations that collide are served one after the other, nothing worse.
fn digest(name: &str) -> Conversation {
    let hash = Sha256::digest(name.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    // Whoever reads conversations in order may begin below all of them.
    i64::from_be_bytes(first).max(Conversation::MIN + 1)
}

fn integer(raw: Option<&RawValue>) -> Option<i64> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
}

fn text<'a>(raw: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
    let raw = raw?.get();
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(raw).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(body: &str) -> Result<Header, Malformed> {
        Header::read(body.as_bytes())
    }

    fn conversation_of(message: &str) -> Conversation {
        header(&format!(r#"{{"message":{{"id":1,"content":"",{message}}},"user_profile_id":2}}"#))
            .expect("a valid event")
            .conversation
    }

    #[test]
    fn an_event_needs_only_three_fields() {
        let header = header(r#"{"message":{"id":9001,"content":"soup?"},"user_profile_id":58}"#);
        let header = header.expect("a valid event");
        assert_eq!((header.bot, header.message), (58, 9001));
    }

    #[test]
    fn each_malformed_event_is_told_apart() {
        for (body, field) in [
            (r#"{"user_profile_id":1}"#, "message"),
            (r#"{"message":[],"user_profile_id":1}"#, "message"),
            (r#"{"message":[7,"x",null,null,null,null,null],"user_profile_id":1}"#, "message"),
            (r#"{"message":{"content":"x"},"user_profile_id":1}"#, "message.id"),
            (r#"{"message":{"id":"7","content":"x"},"user_profile_id":1}"#, "message.id"),
            (r#"{"message":{"id":7.5,"content":"x"},"user_profile_id":1}"#, "message.id"),
            (r#"{"message":{"id":99999999999999999999,"content":"x"},"user_profile_id":1}"#, "message.id"),
            (r#"{"message":{"id":7},"user_profile_id":1}"#, "message.content"),
            (r#"{"message":{"id":7,"content":null},"user_profile_id":1}"#, "message.content"),
            (r#"{"message":{"id":7,"content":"x"}}"#, "user_profile_id"),
            (r#"{"message":{"id":7,"content":"x"},"user_profile_id":"1"}"#, "user_profile_id"),
        ] {
            match header(body) {
                Err(Malformed::Field { field: found, .. }) => assert_eq!(found, field, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
        for body in [
            "",
            "not json",
            "[]",
            r#"[{"id":7,"content":"x"},1]"#,
            "\"secret\"",
            "null",
            "7",
            "{\"message\":",
            "\u{feff}{}",
        ] {
            assert!(matches!(header(body), Err(Malformed::NotJson(_))), "{body}");
        }
        assert!(
            Header::read(b"{\"message\":{\"id\":1,\"content\":\"\xff\"},\"user_profile_id\":1}").is_err()
        );
    }

    #[test]
    fn a_conversation_is_a_channel_topic_whatever_its_case() {
        let kitchen = conversation_of(r#""stream_id":7,"subject":"kitchen""#);
        assert_eq!(kitchen, conversation_of(r#""stream_id":7,"subject":"KITCHEN""#));
        assert_eq!(kitchen, conversation_of(r#""stream_id":7,"subject":"kit\u0063hen""#));
        assert_eq!(kitchen, conversation_of(r#""stream_id":7,"subject":"x","topic":"Kitchen""#));
        assert_ne!(kitchen, conversation_of(r#""stream_id":8,"subject":"kitchen""#));
        assert_ne!(kitchen, conversation_of(r#""stream_id":7,"subject":"garden""#));
    }

    #[test]
    fn a_direct_conversation_is_its_people_in_any_order() {
        let pair = conversation_of(r#""display_recipient":[{"id":58},{"id":31}]"#);
        assert_eq!(pair, conversation_of(r#""display_recipient":[{"id":31},{"id":58}]"#));
        assert_ne!(pair, conversation_of(r#""display_recipient":[{"id":31},{"id":59}]"#));
        let by_recipient = conversation_of(r#""display_recipient":"food","recipient_id":4"#);
        assert_ne!(by_recipient, conversation_of(r#""display_recipient":"food","recipient_id":5"#));
        assert_eq!(conversation_of(r#""type":"x""#), conversation_of(r#""subject":"y""#));
    }
}
