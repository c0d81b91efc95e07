//! Events as Zulip puts them on the queue.

use serde_json::{Map, Value, json};

const SENDER: i64 = 31;

/// A message in a channel that mentions the bot.
pub fn channel_event(bot: i64, message_id: i64, stream_id: i64, topic: &str, content: &str) -> Value {
    let mut message = message(message_id, SENDER, content);
    message.extend(object(json!({
        "recipient_type": 2,
        "recipient_type_id": stream_id,
        "recipient_id": 1_000 + stream_id,
        "subject": topic,
        "type": "stream",
        "stream_id": stream_id,
        "display_recipient": format!("channel {stream_id}"),
    })));
    json!({ "message": message, "trigger": "mention", "user_profile_id": bot })
}

/// A direct message to the bot.
pub fn direct_event(bot: i64, message_id: i64, sender: i64, content: &str) -> Value {
    let mut message = message(message_id, sender, content);
    message.extend(object(json!({
        "recipient_type": 1,
        "recipient_type_id": bot,
        "recipient_id": 2_000 + bot,
        "subject": "",
        "type": "private",
        "display_recipient": [party(bot, "bot", "Bot"), party(sender, "user", "Person")],
    })));
    json!({ "message": message, "trigger": "direct_message", "user_profile_id": bot })
}

/// What the messages of all conversations have, the sender apart.
fn message(id: i64, sender: i64, content: &str) -> Map<String, Value> {
    let mut message = object(json!({
        "id": id,
        "content": content,
        "rendered_content": format!("<p>{content}</p>"),
        "timestamp": 1_767_225_600,
        "client": "website",
        "topic_links": [],
        "is_me_message": false,
        "reactions": [],
        "submessages": [],
    }));
    message.extend(sender_fields(sender));
    message
}

fn sender_fields(id: i64) -> Map<String, Value> {
    object(json!({
        "sender_id": id,
        "sender_full_name": format!("Person {id}"),
        "sender_email": format!("user{id}@chat.example.org"),
        "sender_delivery_email": format!("person{id}@example.org"),
        "sender_realm_id": 2,
        "sender_realm_str": "acme",
        "sender_recipient_id": 2_000 + id,
        "sender_avatar_source": "G",
        "sender_avatar_version": 1,
        "sender_is_mirror_dummy": false,
        "sender_email_address_visibility": 2,
    }))
}

fn party(id: i64, account: &str, name: &str) -> Value {
    json!({
        "id": id,
        "email": format!("{account}{id}@chat.example.org"),
        "full_name": format!("{name} {id}"),
        "is_mirror_dummy": false,
    })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("{other} is written as an object"),
    }
}
