//! Where a reply goes: the conversation that the event came from.

use serde::{Deserialize, Serialize};

use crate::handlers::EventBody;

/// A conversation, as Zulip's REST API addresses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Destination {
    /// A topic of a channel, by the channel's id, so that renaming it does no harm.
    Stream {
        /// Channel id.
        to: i64,
        /// Topic; may be empty.
        topic: String,
    },
    /// A direct message to these people.
    Direct {
        /// User ids.
        to: Vec<i64>,
    },
    /// The event does not say.
    Unknown,
}

#[derive(Deserialize)]
struct Person {
    id: i64,
}

impl Destination {
    /// The conversation of an event.
    pub(crate) fn of_event(payload: &[u8]) -> Self {
        let Ok(event) = EventBody::read(payload) else { return Self::Unknown };
        let message = &event.message;
        if let Some(to) = message.integer("stream_id") {
            let topic = message.text("topic").or_else(|| message.text("subject"));
            return Self::Stream { to, topic: topic.unwrap_or_default().into_owned() };
        }
        let people: Option<Vec<Person>> =
            message.get("display_recipient").and_then(|raw| serde_json::from_str(raw.get()).ok());
        match people {
            Some(people) if !people.is_empty() => {
                Self::Direct { to: people.into_iter().map(|person| person.id).collect() }
            }
            _ => Self::Unknown,
        }
    }

    /// As it is stored.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From what was stored.
    pub(crate) fn from_json(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or(Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_message(message: &str) -> Destination {
        Destination::of_event(format!(r#"{{"message":{{{message}}},"user_profile_id":1}}"#).as_bytes())
    }

    #[test]
    fn a_reply_goes_where_the_message_came_from() {
        let stream = of_message(r#""stream_id":7,"subject":"kitchen","display_recipient":"food""#);
        assert_eq!(stream, Destination::Stream { to: 7, topic: "kitchen".into() });
        assert_eq!(Destination::from_json(&stream.to_json()), stream);
        let direct = of_message(r#""display_recipient":[{"id":58,"email":"x"},{"id":31}]"#);
        assert_eq!(direct, Destination::Direct { to: vec![58, 31] });
        assert_eq!(Destination::from_json(&direct.to_json()), direct);
        assert_eq!(of_message(r#""id":1"#), Destination::Unknown);
    }
}
