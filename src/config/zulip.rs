//! `[zulip]`: what outhook must know of a Zulip server that its tables do not tell.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `external_host` | `""` | the server's `EXTERNAL_HOST`; needed for `database.tables = "zulip"` |
//! | `realm_hosts` | `{}` | the server's `REALM_HOSTS`: organisation to host |
//! | `gravatar` | true | the server's `ENABLE_GRAVATAR` |
//! | `avatar_salt_file` | `""` | the path of a file that holds the server's `avatar_salt` |
//! | `version` | `""` | the server's version, such as `"10.4"` |

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::database::Tables;
use super::section::Section;

const HOST: &str = "a host such as \"chat.example.org\", without https://";
const VERSION: &str = "a version such as \"11.4\", without spaces";
const HOST_MISSING: &str = "set when database.tables is \"zulip\", for example \"chat.example.org\"";

/// `[zulip]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zulip {
    /// The host of the root organisation; the others are subdomains of it.
    pub(crate) external_host: Option<String>,
    /// Organisations with a host of their own.
    pub(crate) realm_hosts: BTreeMap<String, String>,
    /// Whether users without an avatar have one at Gravatar.
    pub(crate) gravatar: bool,
    /// A file that holds the salt of avatar URLs.
    pub(crate) avatar_salt_file: Option<PathBuf>,
    /// The server's version.
    pub(crate) version: Option<String>,
}

impl Zulip {
    pub(super) fn read(section: &mut Section, tables: Tables) -> Self {
        Self {
            external_host: external_host(section, tables),
            realm_hosts: section.map("realm_hosts", HOST, host),
            gravatar: section.boolean("gravatar", true),
            avatar_salt_file: section
                .optional("avatar_salt_file", None, "the path of a file", |text| Some(PathBuf::from(text))),
            version: section.optional("version", None, VERSION, version),
        }
    }
}

/// Without it the host of an organisation cannot be computed.
fn external_host(section: &mut Section, tables: Tables) -> Option<String> {
    let external_host = section.optional("external_host", None, HOST, host);
    if external_host.is_none() && tables == Tables::Zulip && !section.has_fault("external_host") {
        section.reject("external_host", "\"\"", HOST_MISSING);
    }
    external_host
}

/// It is sent in a header.
fn version(text: &str) -> Option<String> {
    text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| text.to_owned())
}

fn host(text: &str) -> Option<String> {
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    (!text.is_empty() && text.bytes().all(is_host)).then(|| text.to_owned())
}
