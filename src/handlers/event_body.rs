//! An event's body, with its parts left as they were written.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::value::RawValue;

/// An event.
#[derive(Debug, Deserialize)]
pub(crate) struct EventBody<'a> {
    /// The message.
    #[serde(borrow)]
    pub(crate) message: Fields<'a>,
    /// Why the bot is called.
    #[serde(borrow)]
    pub(crate) trigger: Option<&'a RawValue>,
}

/// The members of a JSON object, in their order, their values not taken apart.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> EventBody<'a> {
    /// Reads an event.
    ///
    /// # Errors
    /// If it is not a JSON object with a `message` object.
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(payload)
    }

    /// `message.content`, which a bot is given as its command.
    pub(crate) fn content(&self) -> Cow<'_, str> {
        self.message.text("content").unwrap_or_default()
    }

    /// `trigger`, if it is text.
    pub(crate) fn trigger(&self) -> Option<String> {
        self.trigger.and_then(|raw| serde_json::from_str(raw.get()).ok())
    }
}

impl<'a> Fields<'a> {
    /// A member as it was written; the last, if there are several of one name.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// A member that is an integer.
    pub(crate) fn integer(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    /// A member that is text.
    pub(crate) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok()).map(Cow::Owned)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::with_capacity(24);
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
