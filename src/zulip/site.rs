//! What is known of the Zulip server from `[zulip]`.

use std::{collections::BTreeMap, fs, io, path::Path};

use md5::Md5;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{config::zulip::Zulip, handlers::event_body::Fields, trial::work::exposed};

/// The Zulip server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Site {
    external_host: String,
    realm_hosts: BTreeMap<String, String>,
    has_gravatar: bool,
    avatar_salt: Option<Salt>,
    user_agent: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Salt(#[serde(with = "exposed")] SecretString);

/// Why there is no salt of avatar URLs.
#[derive(Debug, Error)]
pub(crate) enum SaltFileError {
    /// The file is not there, or may not be read.
    #[error("zulip.avatar_salt_file {0}: {1}")]
    Unreadable(String, io::Error),
    /// It holds something else.
    #[error(
        "zulip.avatar_salt_file {0}: it holds no avatar_salt: name zulip-secrets.conf, or a file of the salt alone"
    )]
    NoSalt(String),
}

impl Salt {
    fn read(path: &Path) -> Result<Self, SaltFileError> {
        let name = path.display().to_string();
        let text =
            fs::read_to_string(path).map_err(|error| SaltFileError::Unreadable(name.clone(), error))?;
        salt_in(&text).map(|salt| Self(salt.into())).ok_or(SaltFileError::NoSalt(name))
    }
}

impl Site {
    /// Reads the salt's file, if one is named.
    ///
    /// # Errors
    /// If that file can't be read, or holds no salt.
    pub(crate) fn new(config: &Zulip) -> Result<Self, SaltFileError> {
        let avatar_salt = config.avatar_salt_file.as_deref().map(Salt::read).transpose()?;
        Ok(Self {
            external_host: config.external_host.clone().unwrap_or_default(),
            realm_hosts: config.realm_hosts.clone(),
            has_gravatar: config.gravatar,
            avatar_salt,
            user_agent: match &config.version {
                Some(version) => format!("ZulipOutgoingWebhook/{version}"),
                None => concat!("outhook/", env!("CARGO_PKG_VERSION")).to_owned(),
            },
        })
    }

    /// `User-Agent` of requests to endpoints.
    pub(crate) fn user_agent(&self) -> &str {
        &self.user_agent
    }

    /// The host of an organisation, by its subdomain.
    pub(crate) fn realm_host(&self, string_id: &str) -> String {
        match self.realm_hosts.get(string_id) {
            _ if string_id.is_empty() => self.external_host.clone(),
            Some(host) => host.clone(),
            None if self.external_host.is_empty() => string_id.to_owned(),
            None => format!("{string_id}.{}", self.external_host),
        }
    }

    /// The sender's avatar, computed as Zulip does; `None` if the event does not say enough, or the
    /// server's salt is not known.
    pub(crate) fn avatar_url(&self, message: &Fields<'_>) -> Option<String> {
        let version = message.integer("sender_avatar_version").unwrap_or(1);
        match message.text("sender_avatar_source")?.as_ref() {
            "U" => self.uploaded_avatar(message, version),
            "G" if self.has_gravatar => {
                let email = message.text("sender_delivery_email")?.to_lowercase();
                let hash = hex(&Md5::digest(email.as_bytes()));
                Some(format!("https://secure.gravatar.com/avatar/{hash}?d=identicon&version={version}"))
            }
            _ => Some(self.default_avatar(version)),
        }
    }

    /// Zulip's static files are at its external host, for all organizations.
    fn default_avatar(&self, version: i64) -> String {
        let path = format!("/static/images/default-avatar.png?version={version}");
        if self.external_host.is_empty() { path } else { format!("https://{}{path}", self.external_host) }
    }

    fn uploaded_avatar(&self, message: &Fields<'_>, version: i64) -> Option<String> {
        let salt = self.avatar_salt.as_ref()?.0.expose_secret();
        let (sender, realm) = (message.integer("sender_id")?, message.integer("sender_realm_id")?);
        let hash = hex(&Sha256::digest(format!("{sender}:{version}:{salt}")));
        Some(format!("/user_avatars/{realm}/{}.png", &hash[..40]))
    }
}

/// The salt in Zulip's `zulip-secrets.conf`, or in a file that holds nothing else.
fn salt_in(text: &str) -> Option<String> {
    let assigned = text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "avatar_salt").then(|| value.trim())
    });
    let alone =
        Some(text.trim()).filter(|word| !word.contains(char::is_whitespace) && !word.starts_with('['));
    assigned.or(alone).filter(|salt| !salt.is_empty()).map(str::to_owned)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::EventBody;

    fn site(gravatar: bool, salt: Option<&str>) -> Site {
        Site {
            external_host: "chat.example.org".into(),
            realm_hosts: [("corp".to_owned(), "corp.example.com".to_owned())].into(),
            has_gravatar: gravatar,
            avatar_salt: salt.map(|salt| Salt(salt.into())),
            user_agent: String::new(),
        }
    }

    fn avatar(site: &Site, message: &str) -> Option<String> {
        let payload = format!(r#"{{"message":{{{message}}}}}"#);
        let event = EventBody::read(payload.as_bytes()).expect("an event");
        site.avatar_url(&event.message)
    }

    #[test]
    fn an_organisation_has_its_own_host() {
        let site = site(true, None);
        assert_eq!(site.realm_host(""), "chat.example.org");
        assert_eq!(site.realm_host("acme"), "acme.chat.example.org");
        assert_eq!(site.realm_host("corp"), "corp.example.com");
    }

    #[test]
    fn an_avatar_is_computed_as_zulip_does() {
        let gravatar = r#""sender_avatar_source":"G","sender_avatar_version":2,"sender_delivery_email":"Rosa@Example.org""#;
        let url = avatar(&site(true, None), gravatar).expect("a URL");
        // md5("rosa@example.org")
        let hash = hex(&Md5::digest(b"rosa@example.org"));
        assert_eq!(url, format!("https://secure.gravatar.com/avatar/{hash}?d=identicon&version=2"));
        let without = avatar(&site(false, None), gravatar).expect("a URL");
        assert_eq!(without, "https://chat.example.org/static/images/default-avatar.png?version=2");

        let uploaded =
            r#""sender_avatar_source":"U","sender_avatar_version":3,"sender_id":31,"sender_realm_id":2"#;
        let url = avatar(&site(true, Some("salt")), uploaded).expect("a URL");
        let hash = hex(&Sha256::digest(b"31:3:salt"));
        assert_eq!(url, format!("/user_avatars/2/{}.png", &hash[..40]));
        assert_eq!(avatar(&site(true, None), uploaded), None);
        assert_eq!(avatar(&site(true, None), r#""id":1"#), None);
    }

    #[test]
    fn a_salt_is_found_in_zulips_secrets_file_or_alone() {
        let table = [
            ("[secrets]\nshared_secret = a\navatar_salt = b\n", Some("b")),
            ("[secrets]\r\navatar_salt=b\r\n", Some("b")),
            ("b\n", Some("b")),
            ("b=\n", Some("b=")),
            ("", None),
            ("\n", None),
            ("[secrets]\n", None),
            ("[secrets]\nshared_secret = a\n", None),
            ("[secrets]\navatar_salt =\n", None),
            ("[secrets]\n# avatar_salt = b\n", None),
        ];
        for (text, salt) in table {
            assert_eq!(salt_in(text).as_deref(), salt, "{text:?}");
        }
    }
}
