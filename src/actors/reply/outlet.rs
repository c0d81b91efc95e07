//! Where replies go: to Zulip, or to the log.

use std::sync::Arc;

use outhook_core::excerpt::without_secrets;
use serde_json::Value;

use crate::{
    actors::EVENT_LOG,
    directory::Directory,
    http::Route,
    store::{Bot, Outgoing},
    zulip::{Posted, RestClient, Site},
};

/// Where replies go.
#[derive(Clone)]
pub(crate) enum Outlet {
    /// To the log.
    Log {
        /// The way to endpoints, on which there may be credentials.
        route: Route,
    },
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
    pub(super) async fn post(&self, directory: &Directory, reply: &Outgoing) -> Posted {
        match self {
            Self::Log { route } => {
                let said = match directory.find(reply.bot_id).await {
                    Ok(bot) => said(reply, &bot, route),
                    // Nobody knows what of it is a secret.
                    Err(reason) => format!("(not shown: {reason})"),
                };
                log::info!(target: EVENT_LOG, "reply of bot {} to {}: {said}", reply.bot_id, reply.destination);
                Posted::Done
            }
            Self::Zulip { rest, site } => match directory.find(reply.bot_id).await {
                Ok(bot) => rest.post_message(&bot, &site.realm_host(&bot.realm_string_id), reply).await,
                Err(reason) => Posted::Refused { detail: reason.to_string() },
            },
        }
    }
}

/// The words of a reply as JSON, without anything that its endpoint was sent and nobody may be shown.
fn said(reply: &Outgoing, bot: &Bot, route: &Route) -> String {
    let secrets: Vec<&str> = bot.secrets().chain(route.secrets()).collect();
    let words = without_secrets(&reply.content, &secrets);
    Value::from(String::from_utf8_lossy(&words)).to_string()
}
