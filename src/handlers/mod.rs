//! The formats in which endpoints are spoken to.
//!
//! A handler turns an event into a request and an answer into a reply. To add one: write a file
//! beside `generic.rs`, and add a line to [`HANDLERS`].

pub(crate) mod event_body;
mod generic;
mod slack;

use outhook_core::{
    answer::{Answer, Reply},
    outcome::Failure,
};

pub(crate) use event_body::EventBody;

use crate::{
    store::{Bot, Service},
    zulip::Site,
};

/// A format in which endpoints are spoken to.
pub(crate) trait Handler: Sync {
    /// Its number in `zerver_service.interface`.
    fn interface(&self) -> i16;

    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// The request for an event.
    ///
    /// # Errors
    /// A final [`Failure`] if this format can't carry the event.
    fn request(&self, call: &Call<'_>) -> Result<Request, Failure>;

    /// The reply in an answer, if there is one.
    fn reply(&self, answer: &Answer) -> Option<Reply>;
}

/// What a handler may use to build a request.
pub(crate) struct Call<'a> {
    /// The bot.
    pub(crate) bot: &'a Bot,
    /// Its service.
    pub(crate) service: &'a Service,
    /// The event.
    pub(crate) event: &'a EventBody<'a>,
    /// The Zulip server.
    pub(crate) site: &'a Site,
}

/// A request, as far as the format decides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// `Content-Type`.
    pub(crate) content_type: &'static str,
    /// Body.
    pub(crate) body: Vec<u8>,
}

/// All formats.
pub(crate) const HANDLERS: [&dyn Handler; 2] = [&generic::Generic, &slack::Slack];

/// The handler for a number in `zerver_service.interface`.
pub(crate) fn of_interface(interface: i16) -> Option<&'static dyn Handler> {
    HANDLERS.into_iter().find(|handler| handler.interface() == interface)
}

/// The handler of this name.
pub(crate) fn of_name(name: &str) -> Option<&'static dyn Handler> {
    HANDLERS.into_iter().find(|handler| handler.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_each_given_once() {
        for handler in HANDLERS {
            let found = of_interface(handler.interface()).map(Handler::name);
            assert_eq!(found, Some(handler.name()));
            assert_eq!(of_name(handler.name()).map(Handler::interface), Some(handler.interface()));
        }
    }
}
