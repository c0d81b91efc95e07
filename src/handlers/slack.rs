//! The format of Slack's outgoing webhooks: a form out, JSON back.

use outhook_core::{
    answer::{Answer, Reply, text},
    outcome::{Failure, Fault},
    place::MessageKind,
};
use secrecy::ExposeSecret;
use url::form_urlencoded;

use super::{Call, Handler, Request};

/// See the module.
pub(super) struct Slack;

impl Handler for Slack {
    fn interface(&self) -> i16 {
        2
    }

    fn name(&self) -> &'static str {
        "slack"
    }

    fn request(&self, call: &Call<'_>) -> Result<Request, Failure> {
        let message = &call.event.message;
        if MessageKind::of(message) == Ok(MessageKind::Direct) {
            return Err(Failure {
                fault: Fault::Unsupported,
                status: None,
                detail: "Slack's outgoing webhooks have no direct messages".into(),
            });
        }
        let number = |name: &str| message.integer(name).map(|number| number.to_string()).unwrap_or_default();
        let timestamp = number("timestamp");
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", call.service.token.expose_secret())
            .append_pair("team_id", &format!("T{}", call.bot.realm_id))
            .append_pair("team_domain", &call.site.realm_host(&call.bot.realm_string_id))
            .append_pair("channel_id", &format!("C{}", number("stream_id")))
            .append_pair("channel_name", &message.text("display_recipient").unwrap_or_default())
            .append_pair("thread_ts", &timestamp)
            .append_pair("timestamp", &timestamp)
            .append_pair("user_id", &format!("U{}", number("sender_id")))
            .append_pair("user_name", &message.text("sender_full_name").unwrap_or_default())
            .append_pair("text", &call.event.content())
            .append_pair("trigger_word", &call.event.trigger().unwrap_or_default())
            // Zulip sends the bot's id here, not the service's.
            .append_pair("service_id", &call.bot.id.to_string())
            .finish();
        Ok(Request { content_type: "application/x-www-form-urlencoded", body: body.into_bytes() })
    }

    fn reply(&self, answer: &Answer) -> Option<Reply> {
        let Answer::Object(object) = answer else { return None };
        Reply::new(text(object.get("text")?)?, None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_text_is_a_reply() {
        let words = |answer: serde_json::Value| {
            let object = answer.as_object().cloned().unwrap_or_default();
            Slack.reply(&Answer::Object(object)).map(|reply| reply.content)
        };
        assert_eq!(words(json!({"text": "soup"})), Some("soup".into()));
        assert_eq!(words(json!({"text": null})), None);
        assert_eq!(words(json!({"text": ["a"]})), Some(r#"["a"]"#.into()));
        assert_eq!(words(json!({"content": "soup"})), None);
        assert_eq!(Slack.reply(&Answer::Nothing), None);
    }
}
