//! Zulip's tables, by Zulip's names.

pub mod realm;
pub mod service;
pub mod user_message;
pub mod user_profile;

/// `zerver_userprofile.bot_type` of a bot that is called by webhook.
pub const BOT_TYPE_OUTGOING_WEBHOOK: i16 = 3;
/// `zerver_usermessage.flags`: the bit `read`, which marks a message as processed by its bot.
pub const FLAG_READ: i64 = 1;
