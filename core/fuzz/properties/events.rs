//! Events as a queue delivers them.

use outhook_core::event::Header;
use serde_json::{Map, Value};

/// More would mean that a fault quotes the event, which is nobody's business but the bot's.
const FAULT_BYTES_MAX: usize = 200;

pub fn hold(bytes: &[u8]) {
    let header = Header::read(bytes);
    assert_eq!(header, Header::read(bytes), "reading is not deterministic");
    match &header {
        Ok(header) => {
            assert!(std::str::from_utf8(bytes).is_ok(), "what is not UTF-8 is not JSON");
            assert_ne!(header.conversation, i64::MIN, "nothing may be below all conversations");
        }
        Err(fault) => assert!(fault.to_string().len() <= FAULT_BYTES_MAX, "{fault}"),
    }
    // A header is read without looking into the parts that are only passed on, so it may be found in what
    // is not wholly valid. Of what is, the general reader is the judge.
    let Ok(event) = serde_json::from_slice::<Value>(bytes) else { return };
    let required = required(&event);
    if let Ok(header) = header {
        assert_eq!(required, Some((header.bot, header.message)));
    }
    // Written again, no key is there twice, which would be a fault of its own.
    let [once, reversed] =
        [event.to_string(), reversed(event).to_string()].map(|text| Header::read(text.as_bytes()));
    assert_eq!(once.as_ref().ok().map(|header| (header.bot, header.message)), required);
    assert_eq!(once.is_ok(), reversed.is_ok());
    if let Ok(header) = once {
        assert_eq!(Ok(header), reversed, "the order of keys matters");
    }
}

/// The bot and the message of an event that has the three fields that it needs, and a bot that may exist.
fn required(event: &Value) -> Option<(i64, i64)> {
    let message = event.as_object()?.get("message")?.as_object()?;
    message.get("content")?.as_str()?;
    let bot = event.get("user_profile_id")?.as_i64().filter(|bot| *bot >= 0)?;
    Some((bot, message.get("id")?.as_i64()?))
}

/// The same value, its keys in reverse.
fn reversed(value: Value) -> Value {
    match value {
        Value::Object(entries) => {
            let entries = entries.into_iter().rev().map(|(key, value)| (key, reversed(value)));
            Value::Object(entries.collect::<Map<String, Value>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(reversed).collect()),
        scalar => scalar,
    }
}
