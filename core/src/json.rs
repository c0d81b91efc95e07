//! JSON of strangers.

mod fields;
mod surrogates;

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

pub use self::{
    fields::{Fields, Found, Kind},
    surrogates::with_surrogates_replaced,
};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// JSON text without the byte order mark that it must not have and that a reader may ignore (RFC 8259 §8.1).
pub(crate) fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// Reads JSON text. A surrogate without its other half becomes U+FFFD: no Rust string can hold it, and its
/// behavior is left to the reader (RFC 8259 §8.2).
pub(crate) fn read(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(&with_surrogates_replaced(text)).map(|Plain(value)| value)
}

/// A JSON value as it was written. `Value` reads itself otherwise: it takes an object with a certain key for
/// serde_json's own raw text, and parses that anew, as deep as the limit allows once more for each of them.
struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything).map(Self)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::from(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Value, S::Error> {
        let mut items = Vec::new();
        while let Some(Plain(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Value, M::Error> {
        let mut entries = Map::new();
        while let Some((key, Plain(value))) = map.next_entry::<String, Plain>()? {
            entries.insert(key, value);
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        super::read(text.as_bytes()).expect("JSON")
    }

    #[test]
    fn lone_surrogates_are_replaced_wherever_they_stand() {
        for (text, expected) in [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""\uDC00""#, "\u{fffd}"),
            (r#""a\ud83db""#, "a\u{fffd}b"),
            (r#""\ud83d\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\udc00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83d\ud83d\udcdd""#, "\u{fffd}\u{1f4dd}"),
            (r#""\ud83d\n""#, "\u{fffd}\n"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
            (r#""\uD83D\uDCDD""#, "\u{1f4dd}"),
            (r#""\\ud83d""#, r"\ud83d"),
            (r#""\\\ud83d""#, "\\\u{fffd}"),
            (r#""\ud7ff\ue000""#, "\u{d7ff}\u{e000}"),
        ] {
            assert_eq!(read(text), json!(expected), "{text}");
        }
        let nested = r#"{"\ud83d":[{"a\udfff":"\udbff"}]}"#;
        assert_eq!(read(nested), json!({"\u{fffd}": [{"a\u{fffd}": "\u{fffd}"}]}));
    }

    #[test]
    fn a_broken_escape_stays_an_error() {
        for text in [r#""\ud8""#, r#""\ud83g""#, r#""\u+d83""#, r#""\"#, r#""\ud83d"#, r#""\ud83d\"#] {
            assert!(super::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn every_kind_of_value_is_read_as_it_is() {
        let text = r#"{"a":[null,true,-7,18446744073709551615,0.5,"x\n"],"b":{},"c":[],"a":[{"d":1}]}"#;
        assert_eq!(read(text), json!({"a": [{"d": 1}], "b": {}, "c": []}));
        for text in ["null", "true", "-7", "18446744073709551615", "0.5", r#""x\n""#, r#"{"b":1,"a":2}"#] {
            assert_eq!(read(text).to_string(), text);
        }
    }

    #[test]
    fn no_key_has_a_meaning_of_its_own() {
        for text in [
            r#"{"$serde_json::private::RawValue":"\"x\""}"#,
            r#"[{"$serde_json::private::RawValue":7}]"#,
            r#"{"a":{"$serde_json::private::RawValue":"[","b":1}}"#,
            r#"{"$serde_json::private::Number":"1"}"#,
        ] {
            assert_eq!(read(text).to_string(), text);
        }
    }
}
