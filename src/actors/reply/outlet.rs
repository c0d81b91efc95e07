//! Where replies go: to Zulip, or to the log.

use std::sync::Arc;

use serde_json::Value;

use super::Links;
use crate::{
    actors::EVENT_LOG,
    logging::{self, Logged},
    store::{Bot, NotCallable, Outgoing},
    zulip::{Posted, RestClient, Site},
};

/// The most characters of a reply that are logged.
const LOGGED_CHARS_MAX: usize = 2000;

/// Where replies go.
#[derive(Clone)]
pub(crate) enum Outlet {
    /// To the log. What may not be shown was hidden when they were put into the outbox.
    Log,
    /// Nowhere. What is in the outbox was to be posted, so nothing was hidden in it, and only its being there is
    /// logged.
    Nowhere,
    /// To Zulip.
    Zulip {
        /// Its REST API.
        rest: Box<RestClient>,
        /// Hosts of organisations.
        site: Arc<Site>,
    },
}

impl Outlet {
    /// Posts a reply, or logs it.
    pub(super) async fn post(&self, links: &Links, reply: &Outgoing) -> Posted {
        match self {
            Self::Log => {
                let said = shown(&String::from_utf8_lossy(&reply.content));
                let line = format_args!("reply of bot {} to {}: {said}", reply.bot_id, reply.destination);
                match logging::info(EVENT_LOG, line) {
                    Logged::Well => Posted::Done,
                    Logged::Dropped => Posted::Dropped,
                }
            }
            Self::Nowhere => {
                let Outgoing { bot_id, destination, .. } = reply;
                log::info!(target: EVENT_LOG, "a reply of bot {bot_id} to {destination} is dropped: reply.to is none");
                Posted::Done
            }
            Self::Zulip { rest, site } => post_as_bot(rest, site, links, reply).await,
        }
    }
}

/// A key that was regenerated is known after 5 s; until then Zulip refuses the one that is remembered.
async fn post_as_bot(rest: &RestClient, site: &Site, links: &Links, reply: &Outgoing) -> Posted {
    let bot = links.directory.find(reply.bot_id).await;
    let posted = post_as(rest, site, bot, reply).await;
    let Posted::Unauthorized { .. } = posted else { return posted };
    let bot = links.directory.find_anew(reply.bot_id).await;
    links.tenure.held().await;
    post_as(rest, site, bot, reply).await
}

async fn post_as(
    rest: &RestClient,
    site: &Site,
    bot: Result<Arc<Bot>, NotCallable>,
    reply: &Outgoing,
) -> Posted {
    match bot {
        Ok(bot) => rest.post_message(&bot, &site.realm_host(&bot.realm_string_id), reply).await,
        Err(reason) => Posted::Refused { detail: reason.to_string() },
    }
}

/// The text of a reply as the log shows it: in quotes, the beginning if it is long.
fn shown(content: &str) -> String {
    match content.char_indices().nth(LOGGED_CHARS_MAX) {
        None => Value::from(content).to_string(),
        Some((end, _)) => {
            let chars = content.chars().count();
            format!("{} (the first {LOGGED_CHARS_MAX} of {chars} characters)", Value::from(&content[..end]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reply_is_cut_and_says_so() {
        let most = "ü".repeat(LOGGED_CHARS_MAX);
        assert_eq!(shown(&most), format!("\"{most}\""));
        let cut = format!("\"{most}\" (the first 2000 of 2002 characters)");
        assert_eq!(shown(&format!("{most}\n\n")), cut);
        assert_eq!(shown("a\n\"b\""), r#""a\n\"b\"""#);
    }
}
