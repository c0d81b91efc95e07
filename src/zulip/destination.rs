//! Where a reply goes: the conversation that the event came from.

use outhook_core::place::Place;
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
    /// Nobody can tell, so nothing is posted.
    Unknown {
        /// What is wrong with the event.
        #[serde(default)]
        why: String,
    },
}

impl Destination {
    /// The conversation of an event.
    pub(crate) fn of_event(payload: &[u8]) -> Self {
        let event = match EventBody::read(payload) {
            Ok(event) => event,
            Err(error) => return Self::Unknown { why: format!("the event can't be read: {error}") },
        };
        match Place::of(&event.message) {
            Ok(Place::Channel { id, topic }) => Self::Stream { to: id, topic },
            Ok(Place::Direct { people }) => Self::Direct { to: people },
            Err(unplaced) => Self::Unknown { why: unplaced.to_string() },
        }
    }

    /// As it is stored.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From what was stored.
    pub(crate) fn from_json(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_else(|error| Self::Unknown {
            why: format!("the stored destination can't be read: {error}"),
        })
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
    }

    #[test]
    fn a_reply_whose_way_can_not_be_read_goes_nowhere_and_the_reason_is_kept() {
        let twice = r#""stream_id":7,"subject":"x"},"message":{"stream_id":8,"subject":"x""#;
        for (message, reason) in [
            (r#""id":1"#, "the event names neither a channel"),
            (r#""stream_id":7,"subject":"t \ud83d""#, "`message.subject` must be text"),
            (twice, "the event can't be read: duplicate field `message`"),
        ] {
            let destination = Destination::from_json(&of_message(message).to_json());
            let Destination::Unknown { why } = destination else { panic!("{message}: {destination:?}") };
            assert!(why.contains(reason), "{message}: {why}");
        }
    }

    #[test]
    fn what_an_older_version_stored_is_read() {
        let why = String::new();
        assert_eq!(Destination::from_json(r#"{"type":"unknown"}"#), Destination::Unknown { why });
        let stored = r#"{"type":"stream","to":7,"topic":"kitchen"}"#;
        assert_eq!(Destination::from_json(stored), Destination::Stream { to: 7, topic: "kitchen".into() });
    }
}
