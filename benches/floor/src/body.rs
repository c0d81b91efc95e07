//! JSON: an event's key, the body of a generic call, the answer. Parts that are only passed on stay raw.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Result, value::RawValue};

use crate::{Bot, Key};

/// Keys of a queued message that no bot gets to see.
const REMOVED: [&str; 10] = [
    "can_access_sender",
    "recipient_type",
    "recipient_type_id",
    "sender_avatar_source",
    "sender_avatar_version",
    "sender_delivery_email",
    "sender_email_address_visibility",
    "sender_is_mirror_dummy",
    "sender_realm_id",
    "sender_recipient_id",
];
/// As long as the real one; the floor does not hash.
const AVATAR_URL: &str =
    r#""https://secure.gravatar.com/avatar/00000000000000000000000000000000?d=identicon&version=1""#;
const CONTENT_TYPE: &str = r#""text/x-markdown""#;

#[derive(Deserialize)]
struct Header {
    user_profile_id: i64,
    message: MessageId,
}

#[derive(Deserialize)]
struct MessageId {
    id: i64,
}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(borrow)]
    message: BTreeMap<&'a str, &'a RawValue>,
    #[serde(borrow)]
    trigger: &'a RawValue,
}

#[derive(Serialize)]
struct Outgoing<'a> {
    data: Option<&'a RawValue>,
    message: BTreeMap<&'a str, &'a RawValue>,
    bot_email: &'a str,
    bot_full_name: &'a str,
    token: &'a str,
    trigger: &'a RawValue,
}

/// Reads what identifies an event.
pub(crate) fn key(payload: &[u8]) -> Result<Key> {
    let header: Header = serde_json::from_slice(payload)?;
    Ok((header.user_profile_id, header.message.id))
}

/// Writes the body that a generic bot gets.
pub(crate) fn outgoing(bot: &Bot, payload: &[u8]) -> Result<Vec<u8>> {
    let Incoming { mut message, trigger } = serde_json::from_slice(payload)?;
    for key in REMOVED {
        message.remove(key);
    }
    message.insert("avatar_url", serde_json::from_str(AVATAR_URL)?);
    message.insert("content_type", serde_json::from_str(CONTENT_TYPE)?);
    serde_json::to_vec(&Outgoing {
        data: message.get("content").copied(),
        message,
        bot_email: &bot.email,
        bot_full_name: &bot.full_name,
        token: &bot.token,
        trigger,
    })
}

/// An answer has to be JSON; nobody asks what it says.
pub(crate) fn check_answer(answer: &[u8]) -> Result<()> {
    let IgnoredAny = serde_json::from_slice(answer)?;
    Ok(())
}
