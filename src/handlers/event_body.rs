//! An event's body, with its parts left as they were written.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

pub(crate) use outhook_core::json::Fields;

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
