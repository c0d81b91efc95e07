//! An event's own work: what outhook computes for it alone, without waiting for anybody.

use outhook_core::{
    egress::Egress,
    identity::MessageId,
    outcome::{Attempt, Failure, Fault},
};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    actors::service_call::{Tried, read_attempt},
    fail_points,
    handlers::{self, Call, EventBody, Handler, Request},
    store::{Bot, Service},
    zulip::Site,
};

/// Own work, as it is handed to a process that tries it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    /// The message.
    pub(crate) message: MessageId,
    /// The bot with its services.
    pub(crate) bot: Bot,
    /// Ports that may be called.
    pub(crate) ports: Vec<u16>,
    /// The Zulip server.
    pub(crate) site: Site,
    /// Which part of it.
    pub(crate) part: Part,
}

/// Which part of an event's own work.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// The requests to all services of the bot.
    Requests {
        /// The event as it was delivered.
        payload: Vec<u8>,
    },
    /// The answer of one.
    Answer {
        /// The service.
        service: i64,
        /// Its status.
        status: u16,
        /// Its body.
        body: Vec<u8>,
    },
}

impl Work {
    /// Does it and throws away what comes of it.
    pub(crate) fn rehearse(self) {
        let egress = Egress { ports: self.ports, ..Egress::default() };
        let secrets: Vec<&str> = self.bot.secrets().collect();
        for service in &self.bot.services {
            let Some(handler) = handlers::of_interface(service.interface) else { continue };
            match &self.part {
                Part::Requests { payload } => {
                    let call = (&self.bot, service, handler);
                    drop(build_request(self.message, payload, call, &egress, &self.site));
                }
                Part::Answer { service: id, status, body } if *id == service.id => {
                    let answered = Attempt::Answered {
                        status: *status,
                        retry_after: None,
                        leads_to: None,
                        body: body.clone(),
                    };
                    drop(read_answer(self.message, answered, handler, &secrets));
                }
                Part::Answer { .. } => {}
            }
        }
    }
}

/// Where a service's request goes, and what it is.
///
/// # Errors
/// A final failure of the call.
pub(crate) fn build_request(
    message: MessageId,
    payload: &[u8],
    (bot, service, handler): (&Bot, &Service, &dyn Handler),
    egress: &Egress,
    site: &Site,
) -> Result<(Url, Request), Failure> {
    fail_points::own_work(message);
    fail_points::place("handler.request");
    let failure = |fault, detail| Failure { fault, status: None, detail };
    let event = EventBody::read(payload)
        .map_err(|error| failure(Fault::Unsendable, format!("the event can't be read: {error}")))?;
    let url =
        egress.endpoint(&service.base_url).map_err(|fault| failure(Fault::BadUrl, fault.to_string()))?;
    let request = handler.request(&Call { bot, service, event: &event, site })?;
    Ok((url, request))
}

/// What an attempt came to, told without these secrets of the call.
pub(crate) fn read_answer(
    message: MessageId,
    attempt: Attempt,
    handler: &dyn Handler,
    secrets: &[&str],
) -> Tried {
    fail_points::answer(message);
    fail_points::place("handler.reply");
    read_attempt(attempt, handler, secrets)
}

/// Secrets on their way to a process of our own, through a pipe that nobody else has.
pub(crate) mod exposed {
    use secrecy::{ExposeSecret, SecretString};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the secret.
    pub(crate) fn serialize<S: Serializer>(secret: &SecretString, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose_secret())
    }

    /// Reads the secret.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
        String::deserialize(from).map(Into::into)
    }
}
