//! How the body of a 2xx answer is read, before a handler looks for its reply in it.

use serde_json::{Map, Value};

use crate::{
    json,
    outcome::{Failure, Fault},
};

/// What an endpoint said with a 2xx status.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// An empty body, or the JSON text `""`: taken, and nothing to say.
    Nothing,
    /// A JSON object, for the handler to read.
    Object(Map<String, Value>),
}

/// A reply to post into the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Zulip Markdown; not blank.
    pub content: String,
    /// `widget_content`: a string that contains JSON.
    pub widget: Option<String>,
}

impl Answer {
    /// Reads a 2xx body.
    ///
    /// # Errors
    /// [`Fault::BadAnswer`] if it is not JSON, or JSON but neither an object nor `""`.
    pub fn read(body: &[u8]) -> Result<Self, Failure> {
        let body = json::without_byte_order_mark(body);
        if body.trim_ascii().is_empty() {
            return Ok(Self::Nothing);
        }
        let said = json::read(body).map_err(|error| unusable(format!("the answer is not JSON: {error}")))?;
        match said {
            Value::Object(object) => Ok(Self::Object(object)),
            Value::String(text) if text.is_empty() => Ok(Self::Nothing),
            other => Err(unusable(format!("the answer is {}, not a JSON object", kind(&other)))),
        }
    }
}

impl Reply {
    /// A reply of this text; `None` if there is nothing to see in it.
    pub fn new(content: String, widget: Option<String>) -> Option<Self> {
        (!content.trim().is_empty()).then_some(Self { content, widget })
    }
}

/// A JSON value as the text of a message: `null` is nothing, other values that are not text become
/// compact JSON.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Python's idea of truth, by which Zulip reads `response_not_required`.
pub fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
    }
}

fn unusable(detail: String) -> Failure {
    Failure { fault: Fault::BadAnswer, status: None, detail }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_body_and_an_empty_string_are_answers_without_words() {
        for body in ["", " \r\n", "\"\"", " \"\" ", "\u{feff}", "\u{feff}\r\n", "\u{feff}\"\""] {
            assert_eq!(Answer::read(body.as_bytes()), Ok(Answer::Nothing), "{body:?}");
        }
    }

    #[test]
    fn only_an_object_is_read_further() {
        for body in ["{}", "\u{feff}{}", "\u{feff} {}", r#"{"content":"\ud83d"}"#] {
            assert!(matches!(Answer::read(body.as_bytes()), Ok(Answer::Object(_))), "{body}");
        }
        for body in [
            "true",
            "[]",
            "null",
            "3",
            "\"x\"",
            "<html>",
            "{",
            "{} {}",
            "\u{feff}\u{feff}{}",
            "NaN",
            "{\"a\":NaN}",
        ] {
            let failure = Answer::read(body.as_bytes()).expect_err(body);
            assert_eq!(failure.fault, Fault::BadAnswer, "{body}");
        }
        assert!(Answer::read(b"{\"content\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_value_that_is_not_text_becomes_compact_json_and_null_nothing() {
        assert_eq!(text(&json!(null)), None);
        assert_eq!(text(&json!("x")), Some("x".into()));
        assert_eq!(text(&json!({"a": [1, true]})), Some(r#"{"a":[1,true]}"#.into()));
    }

    #[test]
    fn an_answer_is_no_deeper_and_no_other_than_it_was_written() {
        let said = |content: &str| match Answer::read(format!("{{\"content\":{content}}}").as_bytes()) {
            Ok(Answer::Object(object)) => text(&object["content"]),
            other => panic!("{other:?}"),
        };
        let mut content = json!("x").to_string();
        for _ in 0..12 {
            let raw = json!({ "$serde_json::private::RawValue": content }).to_string();
            content = format!("{}{raw}{}", "[".repeat(125), "]".repeat(125));
            assert_eq!(said(&content), Some(content.clone()));
        }
        assert_eq!(said("7.5e0"), Some("7.5".into()));
    }

    #[test]
    fn truth_is_pythons() {
        for truth in [json!(true), json!("no"), json!(1), json!([0]), json!({"a": 0})] {
            assert!(truthy(&truth), "{truth}");
        }
        for falsehood in [json!(false), json!(""), json!(0), json!(0.0), json!([]), json!({}), json!(null)] {
            assert!(!truthy(&falsehood), "{falsehood}");
        }
    }

    #[test]
    fn a_blank_reply_is_no_reply() {
        assert_eq!(Reply::new(" \n".into(), None), None);
        assert!(Reply::new("soup".into(), None).is_some());
    }
}
