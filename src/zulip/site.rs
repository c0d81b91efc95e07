//! What is known of the Zulip server from `[zulip]`.

use std::{collections::BTreeMap, fs, io};

use md5::Md5;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

impl Site {
    /// Reads the salt's file, if one is named.
    ///
    /// # Errors
    /// If that file can't be read.
    pub(crate) fn new(config: &Zulip) -> io::Result<Self> {
        let avatar_salt = match &config.avatar_salt_file {
            Some(path) => Some(Salt(salt_in(&fs::read_to_string(path)?).into())),
            None => None,
        };
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

    fn uploaded_avatar(&self, message: &Fields<'_>, version: i64) -> Option<String> {
        let salt = self.avatar_salt.as_ref()?.0.expose_secret();
        let (sender, realm) = (message.integer("sender_id")?, message.integer("sender_realm_id")?);
        let hash = hex(&Sha256::digest(format!("{sender}:{version}:{salt}")));
        Some(format!("/user_avatars/{realm}/{}.png", &hash[..40]))
    }
}

/// The salt in a file that holds nothing else, or in Zulip's `zulip-secrets.conf`.
fn salt_in(text: &str) -> String {
    let assigned = text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "avatar_salt").then(|| value.trim().to_owned())
    });
    assigned.unwrap_or_else(|| text.trim().to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
    /// Zulip's static files are at its external host, for all organizations.
    fn default_avatar(&self, version: i64) -> String {
        let path = format!("/static/images/default-avatar.png?version={version}");
        if self.external_host.is_empty() { path } else { format!("https://{}{path}", self.external_host) }
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
        assert_eq!(salt_in("[secrets]\nshared_secret = a\navatar_salt = b\n"), "b");
        assert_eq!(salt_in("b\n"), "b");
    }
}
