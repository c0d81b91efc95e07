//! `[reply]`: where a bot's replies go.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `to` | `"log"` | `"log"`, `"zulip"` (its REST API) or `"none"` |
//! | `site` | `""` | the `http://` or `https://` URL at which Zulip is dialled; needed for `"zulip"` |
//! | `in_flight` | 4 posts | 1 to 1000 |
//! | `give_up_after` | `"1h"` | `"0s"` to `"30days"` |
//! | `allow_plaintext` | false | whether `site` may be an `http://` URL of another machine |

use std::time::Duration;

use url::{Host, Url};

use super::section::Section;

const SITE: &str =
    "an http:// or https:// URL such as \"https://chat.example.org\", without user name, query or fragment";
const SITE_MISSING: &str = "set when reply.to is \"zulip\", for example \"https://chat.example.org\"";
const SITE_IN_CLEAR: &str = "an https:// URL, because API keys would cross the network unencrypted; \
    if that network is trusted, set reply.allow_plaintext = true";
const GIVE_UP_AFTER_MAX: Duration = Duration::from_secs(30 * 86_400);

/// `[reply]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Where replies go.
    pub(crate) to: ReplyTo,
    /// How many replies are posted at once, which is also how many a crash may repeat.
    pub(crate) in_flight: usize,
    /// How long after its call a reply is still posted.
    pub(crate) give_up_after: Duration,
}

/// Where replies go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReplyTo {
    /// Into the log.
    Log,
    /// To Zulip's REST API.
    Zulip {
        /// Where Zulip is dialled; the `Host` header is the bot's own organisation.
        site: Url,
    },
    /// Nowhere.
    None,
}

#[derive(Clone, Copy, PartialEq)]
enum Target {
    Log,
    Zulip,
    None,
}

const TARGETS: [(&str, Target); 3] = [("log", Target::Log), ("zulip", Target::Zulip), ("none", Target::None)];

impl Reply {
    pub(super) fn read(section: &mut Section) -> Self {
        let (hour, ages) = (Duration::from_secs(3600), Duration::ZERO..=GIVE_UP_AFTER_MAX);
        Self {
            to: ReplyTo::read(section),
            in_flight: section.integer("in_flight", 4, 1..=1000),
            give_up_after: section.duration("give_up_after", hour, ages),
        }
    }
}

impl ReplyTo {
    fn read(section: &mut Section) -> Self {
        let target = section.choice("to", Target::Log, &TARGETS);
        let site = encrypted_site(section);
        match (target, site) {
            (Target::Log, _) => Self::Log,
            (Target::None, _) => Self::None,
            (Target::Zulip, Some(site)) => Self::Zulip { site },
            (Target::Zulip, None) => {
                if !section.has_fault("site") {
                    section.reject("site", "\"\"", SITE_MISSING);
                }
                Self::Log
            }
        }
    }
}

fn encrypted_site(section: &mut Section) -> Option<Url> {
    let allows_plaintext = section.boolean("allow_plaintext", false);
    let site = section.optional("site", None, SITE, site)?;
    if !allows_plaintext && is_in_clear(&site) {
        section.reject("site", &format!("\"{site}\""), SITE_IN_CLEAR);
    }
    Some(site)
}

/// Whether others could read what is sent there: over plain http to another machine.
fn is_in_clear(site: &Url) -> bool {
    let is_this_machine = match site.host() {
        Some(Host::Domain(name)) => {
            // No name below it: the system's resolver may ask DNS for that.
            name.strip_suffix('.').unwrap_or(name) == "localhost"
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    };
    site.scheme() == "http" && !is_this_machine
}

fn site(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_http = matches!(url.scheme(), "http" | "https");
    let has_user_info = !url.username().is_empty() || url.password().is_some();
    let has_extras = url.query().is_some() || url.fragment().is_some();
    (is_http && !has_user_info && !has_extras).then_some(url)
}
