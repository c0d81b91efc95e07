//! Bodies of 2xx answers.

use std::mem::discriminant;

use outhook_core::answer::{Answer, Reply, text, truthy};
use outhook_core::outcome::Fault;
use serde_json::{Map, Value, json};

/// More would mean that a fault quotes the answer, which may be a secret or without end.
const FAULT_BYTES_MAX: usize = 200;

pub fn hold(bytes: &[u8]) {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let is_blank = text.iter().all(u8::is_ascii_whitespace);
    let is_empty_text = serde_json::from_slice::<String>(text).is_ok_and(|text| text.is_empty());
    let object = || serde_json::from_slice::<Map<String, Value>>(text).ok();
    let tame_object = || serde_json::from_slice::<Map<String, Value>>(&without_surrogates(text)).ok();
    match Answer::read(bytes) {
        Ok(Answer::Nothing) => assert!(is_blank || is_empty_text),
        Ok(Answer::Object(read)) => {
            read.values().for_each(value);
            assert!(tame_object().is_some());
            if !read.iter().any(is_private)
                && let Some(object) = object()
            {
                assert_eq!(read, object);
            }
        }
        Err(failure) => {
            assert!(!is_blank && !is_empty_text && tame_object().is_none(), "{failure:?}");
            assert_eq!((failure.fault, failure.status), (Fault::BadAnswer, None));
            assert!(failure.detail.len() <= FAULT_BYTES_MAX, "{failure:?}");
        }
    }
}

/// A text in which no escape is a surrogate, whole pair or not.
fn without_surrogates(text: &[u8]) -> Vec<u8> {
    let mut tame = text.to_vec();
    for at in 0..tame.len().saturating_sub(5) {
        let [b'\\', b'u', b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F', last @ ..] =
            &tame[at..at + 6]
        else {
            continue;
        };
        if last.iter().all(u8::is_ascii_hexdigit) {
            tame[at + 2..at + 6].copy_from_slice(b"fffd");
        }
    }
    tame
}

/// Whether serde_json's own reading of an entry is another, because a key in it means something to that
/// alone.
fn is_private((key, value): (&String, &Value)) -> bool {
    key.starts_with("$serde_json::private::")
        || match value {
            Value::Object(entries) => entries.iter().any(is_private),
            Value::Array(items) => items.iter().any(|item| is_private((&String::new(), item))),
            _ => false,
        }
}

/// A value of an answer, read as answers are.
fn read_again(words: &str) -> Value {
    match Answer::read(format!("{{\"\":{words}}}").as_bytes()) {
        Ok(Answer::Object(mut object)) => object.remove("").unwrap(),
        other => panic!("{words}: {other:?}"),
    }
}

/// What a handler makes of a value in the answer.
fn value(value: &Value) {
    let words = text(value);
    match (value, &words) {
        (Value::Null, None) => {}
        (Value::String(said), Some(words)) => assert_eq!(said, words),
        (_, Some(words)) => {
            assert_eq!(discriminant(&read_again(words)), discriminant(value), "{words}");
        }
        (_, None) => panic!("{value} is not told"),
    }
    let falsehoods = [json!(null), json!(false), json!(0), json!(0.0), json!(""), json!([]), json!({})];
    assert_eq!(truthy(value), !falsehoods.contains(value), "{value}");
    if let Some(words) = words {
        let is_blank = words.trim().is_empty();
        assert_eq!(Reply::new(words, None).is_none(), is_blank);
    }
}
