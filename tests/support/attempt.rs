//! What a request to a bot is, as its headers tell.

use super::Request;

/// A call, as `webhook-id` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call {
    /// Its bot.
    pub bot: i64,
    /// Its message.
    pub message: i64,
    /// Its service.
    pub service: i64,
}

/// An attempt of a call, as `outhook-attempt` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// The call.
    pub call: Call,
    /// Counted from 1.
    pub number: i64,
}

impl Call {
    /// Reads a `webhook-id`, which must not be that of a replay.
    fn of(webhook_id: &str) -> Self {
        let numbers = webhook_id.strip_prefix("msg_").unwrap().split('_');
        let numbers: Vec<i64> = numbers.map(|number| number.parse().unwrap()).collect();
        let [bot, message, 0, service] = numbers[..] else { panic!("webhook-id: {webhook_id}") };
        Self { bot, message, service }
    }

    /// Its `webhook-id`.
    pub fn webhook_id(self) -> String {
        let Self { bot, message, service } = self;
        format!("msg_{bot}_{message}_0_{service}")
    }
}

impl Attempt {
    /// The attempt that a request is.
    pub fn of(request: &Request) -> Self {
        let call = Call::of(request.header("webhook-id").unwrap());
        Self { call, number: request.header("outhook-attempt").unwrap().parse().unwrap() }
    }
}
