//! How events and calls are named.

use std::fmt;

/// A bot's user id (`zerver_userprofile.id`).
pub type BotId = i64;
/// A message id (`zerver_message.id`).
pub type MessageId = i64;
/// A service's row id (`zerver_service.id`).
pub type ServiceId = i64;
/// An event's row id (`outhook_event.id`).
pub type EventId = i64;
/// A conversation of a bot, see [`crate::event::Header::conversation`].
pub type Conversation = i64;
/// A daemon's row id (`outhook_daemon.id`).
pub type DaemonId = i64;
/// A moment: milliseconds since the Unix epoch.
pub type Millis = i64;

/// The identity of an event: one message for one bot; a replay is an event of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    /// The bot that is called.
    pub bot: BotId,
    /// The message that triggered it.
    pub message: MessageId,
    /// 0 for the event as it arrived.
    pub replay: i32,
}

impl EventKey {
    /// The `webhook-id` of this event's call to `service`.
    ///
    /// It is derived, never stored, so every attempt of a call carries the same id, also after a
    /// crash. Standard Webhooks asks for an id that is unique and constant over retries.
    pub fn webhook_id(&self, service: ServiceId) -> String {
        format!("msg_{}_{}_{}_{service}", self.bot, self.message, self.replay)
    }
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bot {} message {}", self.bot, self.message)?;
        match self.replay {
            0 => Ok(()),
            replay => write!(f, " replay {replay}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_of_an_event_has_an_id_of_its_own_and_a_replay_too() {
        let key = EventKey { bot: 58, message: 9001, replay: 0 };
        assert_eq!(key.webhook_id(3), "msg_58_9001_0_3");
        assert_ne!(key.webhook_id(3), key.webhook_id(4));
        assert_ne!(key.webhook_id(3), EventKey { replay: 1, ..key }.webhook_id(3));
    }
}
