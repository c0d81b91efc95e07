//! Zulip's generic interface: JSON both ways.

use std::borrow::Cow;

use outhook_core::{
    answer::{Answer, Reply, text, truthy},
    outcome::{Failure, Fault},
};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Call, Handler, Request, event_body::Fields};

/// See the module.
pub(super) struct Generic;

/// What Zulip takes out of the message before it is sent.
const REMOVED: [&str; 11] = [
    "recipient_type",
    "recipient_type_id",
    "sender_realm_id",
    "sender_recipient_id",
    "sender_delivery_email",
    "sender_avatar_source",
    "sender_avatar_version",
    "sender_is_mirror_dummy",
    "sender_email_address_visibility",
    "can_access_sender",
    // Added anew below.
    "avatar_url",
];

#[derive(Serialize)]
struct Body<'a> {
    data: Cow<'a, str>,
    message: Fields<'a>,
    bot_email: &'a str,
    bot_full_name: &'a str,
    token: &'a str,
    trigger: Option<&'a RawValue>,
}

impl Handler for Generic {
    fn interface(&self) -> i16 {
        1
    }

    fn name(&self) -> &'static str {
        "generic"
    }

    fn request(&self, call: &Call<'_>) -> Result<Request, Failure> {
        let added = [
            ("recipient_id", sender_recipient(call)),
            ("avatar_url", Some(raw(&call.site.avatar_url(&call.event.message))?)),
            ("content_type", Some(raw("text/x-markdown")?)),
        ];
        let body = Body {
            data: call.event.content(),
            message: message(&call.event.message, &added),
            bot_email: &call.bot.email,
            bot_full_name: &call.bot.full_name,
            token: call.service.token.expose_secret(),
            trigger: call.event.trigger,
        };
        let body = serde_json::to_vec(&body).map_err(|error| unsendable(&error))?;
        Ok(Request { content_type: "application/json", body })
    }

    fn reply(&self, answer: &Answer) -> Option<Reply> {
        let Answer::Object(object) = answer else { return None };
        if object.get("response_not_required").is_some_and(truthy) {
            return None;
        }
        if let Some(response) = object.get("response_string") {
            return Reply::new(text(response)?, None);
        }
        let widget = object.get("widget_content").and_then(text);
        Reply::new(text(object.get("content")?)?, widget)
    }
}

/// The recipient of a 1:1 direct message stands for the bot itself; what it needs to answer is the
/// sender's.
fn sender_recipient(call: &Call<'_>) -> Option<Box<RawValue>> {
    let message = &call.event.message;
    let is_to_bot =
        call.bot.recipient_id.is_some() && message.integer("recipient_id") == call.bot.recipient_id;
    let sender = message.get("sender_recipient_id").filter(|_| is_to_bot)?;
    Some(sender.to_owned())
}

fn message<'a>(fields: &Fields<'a>, added: &'a [(&'static str, Option<Box<RawValue>>)]) -> Fields<'a> {
    let replacement =
        |name: &str| added.iter().find(|(other, _)| *other == name).and_then(|(_, value)| value.as_deref());
    let mut sent: Vec<(Cow<'a, str>, &'a RawValue)> = fields
        .0
        .iter()
        .filter(|(name, _)| !REMOVED.contains(&name.as_ref()) && name != "content_type")
        .map(|(name, value)| (name.clone(), replacement(name).unwrap_or(value)))
        .collect();
    for (name, value) in added.iter().filter(|(name, _)| *name != "recipient_id") {
        sent.extend(value.as_deref().map(|value| (Cow::Borrowed(*name), value)));
    }
    Fields(sent)
}

fn raw(value: &(impl Serialize + ?Sized)) -> Result<Box<RawValue>, Failure> {
    serde_json::value::to_raw_value(value).map_err(|error| unsendable(&error))
}

fn unsendable(error: &serde_json::Error) -> Failure {
    Failure {
        fault: Fault::Unsendable,
        status: None,
        detail: format!("the event can't be written as JSON: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reply(answer: Value) -> Option<Reply> {
        match answer {
            Value::Object(object) => Generic.reply(&Answer::Object(object)),
            _ => Generic.reply(&Answer::Nothing),
        }
    }

    fn words(answer: Value) -> Option<String> {
        reply(answer).map(|reply| reply.content)
    }

    #[test]
    fn a_reply_is_read_by_zulips_keys_in_zulips_order() {
        assert_eq!(words(json!({"content": "soup"})), Some("soup".into()));
        assert_eq!(words(json!({"content": "soup", "response_string": "salad"})), Some("salad".into()));
        assert_eq!(words(json!({"content": "soup", "response_not_required": true})), None);
        assert_eq!(words(json!({"content": "soup", "response_not_required": false})), Some("soup".into()));
        assert_eq!(words(json!({"content": null})), None);
        assert_eq!(words(json!({"content": " \n "})), None);
        assert_eq!(words(json!({"content": 7})), Some("7".into()));
        assert_eq!(words(json!({"content": {"a": 1}})), Some(r#"{"a":1}"#.into()));
        assert_eq!(words(json!({"something": "else"})), None);
        assert_eq!(words(json!({})), None);
        assert_eq!(reply(Value::Null), None);
    }

    #[test]
    fn a_widget_goes_with_content_only() {
        let widget =
            reply(json!({"content": "x", "widget_content": "{\"a\":1}"})).and_then(|reply| reply.widget);
        assert_eq!(widget.as_deref(), Some("{\"a\":1}"));
        let widget =
            reply(json!({"content": "x", "widget_content": {"a": 1}})).and_then(|reply| reply.widget);
        assert_eq!(widget.as_deref(), Some("{\"a\":1}"));
        let widget =
            reply(json!({"response_string": "x", "widget_content": "{}"})).and_then(|reply| reply.widget);
        assert_eq!(widget, None);
    }
}
