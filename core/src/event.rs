//! What a queue delivery is, and which conversation it belongs to.

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    identity::{BotId, Conversation, MessageId},
    json::{Fields, Found, with_surrogates_replaced},
    place::{self, Place},
};

/// What outhook must know of an event before it is stored. The rest is only passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// `user_profile_id`.
    pub bot: BotId,
    /// `message.id`.
    pub message: MessageId,
    /// A stable digest of where the message was written: (`stream_id`, topic folded as Zulip compares), or the
    /// sorted ids in `display_recipient`; if that can't be read `recipient_id`, else the bot as a whole.
    pub conversation: Conversation,
}

/// Why a delivery is not an event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Malformed {
    /// It is not a JSON object.
    #[error("the event is not a JSON object: {0}")]
    NotJson(String),
    /// A required field is missing, or not what it must be.
    #[error("the event's `{field}` must be {expected}; it is {found}")]
    Field {
        /// Dotted name of the field.
        field: &'static str,
        /// What is asked for.
        expected: &'static str,
        /// What it is.
        found: Found,
    },
    /// A field that outhook reads is there several times, and readers differ in which of them counts
    /// (RFC 8259, section 4).
    #[error("the event has `{0}` more than once")]
    Repeated(String),
}

/// The fields of an event that outhook reads itself before it is stored.
const EVENT_FIELDS: [&str; 2] = ["message", "user_profile_id"];

/// Those of its message, beside the ones that say where it was written.
const MESSAGE_FIELDS: [&str; 2] = ["id", "content"];

impl Header {
    /// Reads the header of a delivery.
    ///
    /// # Errors
    /// [`Malformed`] when the body is not a JSON object, a required field is missing or of another type, or a
    /// field that outhook reads is there twice. Optional fields of an unexpected type are passed over.
    pub fn read(body: &[u8]) -> Result<Self, Malformed> {
        let body = with_surrogates_replaced(body);
        let event = object(&body)?;
        if let Some(name) = event.repeated(&EVENT_FIELDS) {
            return Err(Malformed::Repeated(name.to_owned()));
        }
        let message = event.exact_object("message").map_err(|found| field("message", "an object", found))?;
        if let Some(name) = message.repeated(&MESSAGE_FIELDS).or_else(|| message.repeated(&place::FIELDS)) {
            return Err(Malformed::Repeated(format!("message.{name}")));
        }
        let id = message.exact_integer("id").map_err(|found| field("message.id", "an integer", found))?;
        message.exact_text("content").map_err(|found| field("message.content", "text", found))?;
        Ok(Self { bot: bot(&event)?, message: id, conversation: conversation(&message) })
    }
}

fn object(body: &[u8]) -> Result<Fields<'_>, Malformed> {
    let text =
        std::str::from_utf8(body).map_err(|error| Malformed::NotJson(format!("it is not UTF-8: {error}")))?;
    if text.starts_with('\u{feff}') {
        return Err(Malformed::NotJson("it begins with a byte order mark, which JSON may not have".into()));
    }
    if text.trim_ascii_start().is_empty() {
        return Err(Malformed::NotJson("it is empty".into()));
    }
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Malformed::NotJson("it does not begin with {".into()));
    }
    serde_json::from_str(text).map_err(|error| Malformed::NotJson(error.to_string()))
}

fn bot(event: &Fields<'_>) -> Result<BotId, Malformed> {
    let bot = match event.exact_integer("user_profile_id") {
        Ok(..0) => Err(Found::Negative),
        read => read,
    };
    bot.map_err(|found| field("user_profile_id", "an integer that is not negative", found))
}

fn field(field: &'static str, expected: &'static str, found: Found) -> Malformed {
    Malformed::Field { field, expected, found }
}

fn conversation(message: &Fields<'_>) -> Conversation {
    match (Place::of(message), message.integer("recipient_id")) {
        (Ok(Place::Channel { id, topic }), _) => digest(&format!("stream:{id}:{}", folded(&topic))),
        (Ok(Place::Direct { mut people }), _) => {
            people.sort_unstable();
            digest(&format!("direct:{people:?}"))
        }
        (Err(_), Some(recipient)) => digest(&format!("recipient:{recipient}")),
        (Err(_), None) => digest("bot"),
    }
}

/// Equal for topics that Zulip takes for one, which it compares by PostgreSQL's `upper()`. To fold more than
/// that costs concurrency, to fold less would cost the order.
fn folded(topic: &str) -> String {
    topic.to_uppercase().to_lowercase()
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
    fn a_refused_event_says_what_is_wrong_and_where() {
        const MESSAGE: &str = r#""message":{"id":7,"content":"x"}"#;
        for (body, reason) in [
            ("", "not a JSON object: it is empty"),
            (" \n", "not a JSON object: it is empty"),
            ("not json", "it does not begin with {"),
            ("[]", "it does not begin with {"),
            (r#"[{"id":7,"content":"x"},1]"#, "it does not begin with {"),
            ("\"secret\"", "it does not begin with {"),
            ("null", "it does not begin with {"),
            ("{\"message\":", "EOF while parsing a value at line 1 column 11"),
            ("{} {}", "trailing characters at line 1 column 4"),
            ("{}\0", "trailing characters at line 1 column 3"),
            ("{\"a\":NaN}", "expected value at line 1 column 6"),
            ("\u{feff}{}", "it begins with a byte order mark"),
            (r#"{"user_profile_id":1}"#, "`message` must be an object; it is missing"),
            (r#"{"message":[],"user_profile_id":1}"#, "`message` must be an object; it is an array"),
            (r#"{"message":null,"user_profile_id":1}"#, "`message` must be an object; it is null"),
            (r#"{"message":"x","user_profile_id":1}"#, "`message` must be an object; it is text"),
            (
                r#"{"message":{"content":"x"},"user_profile_id":1}"#,
                "`message.id` must be an integer; it is missing",
            ),
            (r#"{"message":{"id":"7","content":"x"}}"#, "`message.id` must be an integer; it is text"),
            (r#"{"message":{"id":7.5,"content":"x"}}"#, "it is a number with a fraction or an exponent"),
            (r#"{"message":{"id":1.0,"content":"x"}}"#, "it is a number with a fraction or an exponent"),
            (r#"{"message":{"id":1e3,"content":"x"}}"#, "it is a number with a fraction or an exponent"),
            (r#"{"message":{"id":-0,"content":"x"}}"#, "it is a number with a fraction or an exponent"),
            (r#"{"message":{"id":9223372036854775808,"content":"x"}}"#, "an integer; it is beyond 64 bits"),
            (r#"{"message":{"id":true,"content":"x"}}"#, "`message.id` must be an integer; it is a boolean"),
            (r#"{"message":{"id":7}}"#, "`message.content` must be text; it is missing"),
            (r#"{"message":{"id":7,"content":null}}"#, "`message.content` must be text; it is null"),
            (r#"{"message":{"id":7,"content":[["x"]]}}"#, "`message.content` must be text; it is an array"),
            (
                &format!("{{{MESSAGE}}}"),
                "`user_profile_id` must be an integer that is not negative; it is missing",
            ),
            (&format!(r#"{{{MESSAGE},"user_profile_id":"1"}}"#), "not negative; it is text"),
            (&format!(r#"{{{MESSAGE},"user_profile_id":-1}}"#), "not negative; it is negative"),
            (
                &format!(r#"{{{MESSAGE},"user_profile_id":1E0}}"#),
                "it is a number with a fraction or an exponent",
            ),
            (&format!(r#"{{{MESSAGE},{MESSAGE},"user_profile_id":1}}"#), "has `message` more than once"),
            (
                &format!(r#"{{{MESSAGE},"user_profile_id":1,"user_profile_id":1}}"#),
                "has `user_profile_id` more",
            ),
            (r#"{"message":{"id":7,"id":7,"content":"x"}}"#, "has `message.id` more than once"),
            (r#"{"message":{"id":7,"content":"x","content":"x"}}"#, "has `message.content` more than once"),
            (r#"{"message":{"id":7,"content":"x","topic":"","t\u006fpic":""}}"#, "has `message.topic` more"),
        ] {
            let malformed = header(body).expect_err(body).to_string();
            assert!(malformed.contains(reason), "{body}: {malformed}");
        }
        let text = b"{\"message\":{\"id\":1,\"content\":\"\xff\"},\"user_profile_id\":1}";
        let malformed = Header::read(text).expect_err("no text").to_string();
        assert!(
            malformed.contains("it is not UTF-8: ") && malformed.contains("from index 30"),
            "{malformed}"
        );
    }

    #[test]
    fn what_is_only_passed_on_refuses_no_event() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        for more in [
            r#""new":1,"new":2"#,
            r#""new":1e400"#,
            r#""new":"\ud83d","\udc4d":1"#,
            &format!(r#""new":{deep}"#),
        ] {
            let event =
                format!(r#"{{{more},"message":{{"id":1,"content":"\ud83d",{more}}},"user_profile_id":0}}"#);
            assert_eq!(header(&event).map(|header| header.bot), Ok(0), "{}", &more[..10]);
        }
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
    fn topics_that_zulip_takes_for_one_are_one_conversation() {
        let of = |topic: &str| conversation_of(&format!(r#""stream_id":7,"subject":"{topic}""#));
        for (one, same) in [
            ("5 \u{b5}m", "5 \u{3bc}m"),
            ("σίσυφοσ", "ΣΊΣΥΦΟΣ"),
            ("σίσυφος", "ΣΊΣΥΦΟΣ"),
            ("ſ", "S"),
            ("ı", "i"),
            ("straße", "STRASSE"),
            ("ǆ", "ǅ"),
            ("ᾀ", "ᾈ"),
            ("ŉ", "ʼN"),
            ("\u{345}", "\u{399}"),
            ("\\ud83d", "\u{fffd}"),
        ] {
            assert_eq!(of(one), of(same), "{one} {same}");
        }
        assert_ne!(of("ä"), of("a"));
    }

    #[test]
    fn a_conversation_that_can_not_be_read_is_that_of_its_recipient() {
        let of_recipient = conversation_of(r#""recipient_id":4"#);
        for unreadable in [
            r#""stream_id":7,"subject":8"#,
            r#""stream_id":7.0,"subject":"x""#,
            r#""type":"direct","stream_id":7,"subject":"x""#,
            r#""display_recipient":[{"id":58},{"id":"31"}]"#,
        ] {
            assert_eq!(
                of_recipient,
                conversation_of(&format!(r#"{unreadable},"recipient_id":4"#)),
                "{unreadable}"
            );
        }
    }

    #[test]
    fn a_direct_conversation_is_its_people_in_any_order() {
        let pair = conversation_of(r#""display_recipient":[{"id":58},{"id":31}]"#);
        assert_eq!(pair, conversation_of(r#""display_recipient":[{"id":31},{"id":58}]"#));
        assert_ne!(pair, conversation_of(r#""display_recipient":[{"id":31},{"id":59}]"#));
        for kind in ["private", "direct"] {
            let message =
                format!(r#""type":"{kind}","subject":"","display_recipient":[{{"id":58}},{{"id":31}}]"#);
            assert_eq!(pair, conversation_of(&message));
        }
        let by_recipient = conversation_of(r#""display_recipient":"food","recipient_id":4"#);
        assert_ne!(by_recipient, conversation_of(r#""display_recipient":"food","recipient_id":5"#));
        assert_eq!(conversation_of(r#""type":"x""#), conversation_of(r#""subject":"y""#));
    }
}
