//! What most likely has to be set right when Zulip refuses a request.

use outhook_core::excerpt::excerpt;
use serde_json::Value;
use url::Url;

/// What Zulip says of a bot of another organization.
const OTHER_ORGANIZATION: &str = "not associated with this subdomain";

const HOSTS: &str =
    "set zulip.external_host and zulip.realm_hosts as EXTERNAL_HOST and REALM_HOSTS are set in Zulip";

/// A request that Zulip, or what is in front of it, did not serve.
pub(super) struct Unserved<'a> {
    /// The status of the response.
    pub(super) status: u16,
    /// Its `Location`.
    pub(super) location: Option<&'a str>,
    /// Its body.
    pub(super) body: &'a [u8],
    /// The URL that was requested.
    pub(super) url: &'a Url,
    /// The `Host` that was asked for; empty = that of the URL.
    pub(super) host: &'a str,
    /// What must not be shown.
    pub(super) secrets: &'a [&'a str],
}

impl Unserved<'_> {
    /// What the operator should look at, if the response shows it.
    pub(super) fn advice(&self) -> Option<String> {
        let host = if self.host.is_empty() { self.url.host_str().unwrap_or_default() } else { self.host };
        let is_of_zulip = serde_json::from_slice::<Value>(self.body).is_ok_and(|body| body.is_object());
        let is_empty = self.body.trim_ascii().is_empty();
        match self.status {
            300..=399 => Some(self.redirect()),
            // Django's response to a Host that is not in ALLOWED_HOSTS; with DEBUG it has a body that says so.
            400 if is_empty || self.says("ALLOWED_HOSTS") => {
                Some(format!("Zulip most likely does not allow the host {host}: {HOSTS}"))
            }
            401 if self.says(OTHER_ORGANIZATION) => {
                Some(format!("{host} is not the host of the bot's organization: {HOSTS}"))
            }
            // nginx's.
            400 if self.says("sent to HTTPS port") => Some("set reply.site to the https:// URL".into()),
            400 | 401 | 403 | 404 | 405 | 421 if !is_of_zulip => {
                Some(format!("no Zulip API responds for the host {host}: check reply.site, and {HOSTS}"))
            }
            _ => None,
        }
    }

    fn says(&self, words: &str) -> bool {
        String::from_utf8_lossy(self.body).contains(words)
    }

    fn redirect(&self) -> String {
        let target = self.location.and_then(|location| self.url.join(location).ok());
        let Some(target) = target else { return "set reply.site to the URL of Zulip itself".into() };
        // A query may hold what was sent; a path behind /api is not part of the site.
        let origin = target.origin().ascii_serialization();
        let origin = excerpt(origin.as_bytes(), self.secrets);
        let origin = String::from_utf8_lossy(&origin);
        if target.path() == self.url.path() && target.origin() != self.url.origin() {
            return format!("it redirects to {origin}: set reply.site to that");
        }
        format!("it redirects to another page of {origin}: set reply.site to the URL of Zulip itself")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str = r#"{"result":"error","msg":"Invalid API key","code":"UNAUTHORIZED"}"#;
    const OTHER: &str = r#"{"msg":"Account is not associated with this subdomain","code":"UNAUTHORIZED"}"#;

    #[test]
    fn each_refusal_names_what_to_set() {
        let host = Some("acme.chat.example.org");
        let table: [(u16, Option<&str>, &str, Option<&str>); 17] = [
            (400, None, "", host),
            (400, None, " \r\n", host),
            (400, None, "<h1>DisallowedHost: you may need to add it to ALLOWED_HOSTS.</h1>", host),
            (400, None, "<html>The plain HTTP request was sent to HTTPS port</html>", Some("https://")),
            (400, None, "<html>", Some("reply.site")),
            (400, None, ERROR, None),
            (401, None, OTHER, Some("zulip.realm_hosts")),
            (401, None, ERROR, None),
            (401, None, "<html>", Some("reply.site")),
            (403, None, "<html>Forbidden</html>", Some("reply.site")),
            (404, None, "", Some("reply.site")),
            (404, None, ERROR, None),
            (301, Some("https://chat.example.org/api/v1/messages"), "", Some("set reply.site to that")),
            (
                301,
                Some("https://chat.example.org/api/v1/messages?key=k"),
                "",
                Some("to https://chat.example.org:"),
            ),
            (302, Some("/login?next=%2F"), "", Some("another page of http://chat.example.org:")),
            (307, None, "", Some("reply.site")),
            (500, None, "", None),
        ];
        for (status, location, body, expected) in table {
            let advice = advice(status, location, body);
            match expected {
                Some(part) => {
                    assert!(advice.as_ref().is_some_and(|advice| advice.contains(part)), "{advice:?}");
                }
                None => assert_eq!(advice, None, "{status} {body}"),
            }
        }
    }

    #[test]
    fn a_redirect_shows_no_secret() {
        let advice = advice(302, Some("https://a-key-of-a-bot.example/?k=a-key-of-a-bot"), "");
        assert!(advice.is_some_and(|advice| !advice.contains("a-key-of-a-bot")));
    }

    fn advice(status: u16, location: Option<&str>, body: &str) -> Option<String> {
        let url = "http://chat.example.org/api/v1/messages".parse().expect("a URL");
        let (host, secrets) = ("acme.chat.example.org", &["a-key-of-a-bot"]);
        Unserved { status, location, body: body.as_bytes(), url: &url, host, secrets }.advice()
    }
}
