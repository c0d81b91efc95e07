//! URLs that may hold a password, or a key instead of a user.

use std::{fmt, net::Ipv6Addr};

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Position, Url};

/// The URL of a server, whose password, or key, neither `Debug` nor `Display` shows.
#[derive(Clone)]
pub(crate) struct ConnectionUrl(SecretString);

impl ConnectionUrl {
    /// Takes `text` if it is a URL that begins with one of `prefixes` (such as `amqp://`).
    ///
    /// Whitespace, a fragment and an `@` after the host are refused: they are legal, and yet the sign of a
    /// password that should have been percent-encoded, without which a parser takes the user for the host.
    pub(crate) fn parse(text: &str, prefixes: &[&str]) -> Option<Self> {
        let url = Url::parse(&with_first_host(text)).ok()?;
        let known = prefixes.iter().any(|&prefix| text.starts_with(prefix));
        let has_blanks = text.chars().any(|c| c.is_whitespace() || c.is_control());
        let has_stray_parts = url.fragment().is_some() || url[Position::BeforePath..].contains('@');
        (known && !has_blanks && !has_stray_parts).then(|| Self(SecretString::from(text)))
    }

    /// Whether it names several hosts, as libpq allows: `postgres://one,two/database`.
    pub(crate) fn has_several_hosts(&self) -> bool {
        let text = self.expose();
        let in_query = |url: &Url| {
            url.query_pairs()
                .any(|(key, value)| ["host", "hostaddr", "port"].contains(&&*key) && value.contains(','))
        };
        with_first_host(text) != text || Url::parse(text).is_ok_and(|url| in_query(&url))
    }

    /// The URL with its password, for the one call that connects.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The host, if it is an address of IPv6, which libraries take with its brackets or not at all.
    pub(crate) fn ipv6(&self) -> Option<Ipv6Addr> {
        match Url::parse(self.expose()).ok()?.host()? {
            Host::Ipv6(address) => Some(address),
            Host::Ipv4(_) | Host::Domain(_) => None,
        }
    }
}

/// The text with the first of several hosts and its port only: no parser of URLs takes `one:5432,two:5432`.
fn with_first_host(text: &str) -> String {
    let start = authority_start(text);
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |length| start + length);
    let host = text[start..end].rfind('@').map_or(start, |at| start + at + 1);
    match text[host..end].find(',') {
        Some(first) => format!("{}{}", &text[..host + first], &text[end..]),
        None => text.to_owned(),
    }
}

impl PartialEq for ConnectionUrl {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for ConnectionUrl {}

impl fmt::Display for ConnectionUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(self.expose()))
    }
}

impl fmt::Debug for ConnectionUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionUrl({self})")
    }
}

/// `text` with every password in it replaced by `***`, also when it is no URL at all. In an http URL, a user
/// without a password is one, and so in a text without a scheme.
///
/// It looks at the text and not at a parsed URL: a password with an unescaped `/`, `?` or `#` is not where a
/// parser looks for it, and that is just when a fault is shown.
pub(super) fn masked(text: &str) -> String {
    mask_user_info(&mask_query(text))
}

/// Hides what stands between the first colon after the scheme and the last `@`, or all before that.
fn mask_user_info(text: &str) -> String {
    let start = authority_start(text);
    let rest = &text[start..];
    let Some(end) = rest.rfind('@') else { return mask_unreadable(text, start) };
    let (scheme, user_info, host) = (&text[..start], &rest[..end], &rest[end..]);
    let is_http = ["", "http://", "https://"].iter().any(|http| scheme.eq_ignore_ascii_case(http));
    match user_info.split_once(':') {
        Some((user, password)) if !is_http || !password.is_empty() => format!("{scheme}{user}:***{host}"),
        None if !is_http || user_info.is_empty() => text.to_owned(),
        _ => format!("{scheme}***{host}"),
    }
}

/// Hides all of a URL that cannot be parsed and has no `@`: `amqp://user:password` lacks its host.
fn mask_unreadable(text: &str, start: usize) -> String {
    let is_file = text.starts_with("sqlite:");
    if start == 0 || is_file || Url::parse(text).is_ok() {
        text.to_owned()
    } else {
        format!("{}***", &text[..start])
    }
}

fn authority_start(text: &str) -> usize {
    match text.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => scheme.len() + "://".len(),
        _ => 0,
    }
}

fn is_scheme(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Hides parameters such as `password=`, `sslpassword=` and the misspelt `passwd=`, which PostgreSQL URLs may
/// have.
fn mask_query(text: &str) -> String {
    const PART_OF_NAME: &str = "pass";
    // Lower case in ASCII only, so that offsets stay the same.
    let Some(at) = text.to_ascii_lowercase().find(PART_OF_NAME) else { return text.to_owned() };
    let after = |from: usize, is_end: fn(char) -> bool| {
        text[from..].find(is_end).map_or(text.len(), |length| from + length)
    };
    let name = after(at, |c| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
    if !text[name..].starts_with('=') {
        return format!("{}{}", &text[..name], mask_query(&text[name..]));
    }
    let value = name + 1;
    let end = after(value, |c| c == '&');
    format!("{}***{}", &text[..value], mask_query(&text[end..]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const AMQP: &[&str] = &["amqp://", "amqps://"];

    #[test]
    fn a_password_is_shown_neither_by_debug_nor_by_display() {
        let url = ConnectionUrl::parse("amqp://user:hunter2@broker:5672/vhost", AMQP).expect("a URL");
        assert_eq!(url.to_string(), "amqp://user:***@broker:5672/vhost");
        assert_eq!(format!("{url:?}"), "ConnectionUrl(amqp://user:***@broker:5672/vhost)");
        assert_eq!(url.expose(), "amqp://user:hunter2@broker:5672/vhost");
    }

    #[test]
    fn a_password_is_masked_however_badly_it_is_written() {
        for text in [
            "amqp://user:hunter2@host/vhost",
            "amqp://user:a/hunter2@host/vhost",
            "amqp://user:a?hunter2@host",
            "amqp://user:12#hunter2@host",
            "amqp://user:a@hunter2@host",
            "amqp://user:a://hunter2@host",
            "amqp://:hunter2@host",
            "amqp://user:hunter2",
            "user:hunter2@host",
            "user:a://hunter2@host",
            "mysql:user:hunter2@host",
            "postgres://host/db?password=hunter2",
            "postgres://host:5432/db?user=u&PASSWORD=a@hunter2&sslmode=require",
            "postgres://host:5432/db?passwd=hunter2",
            "postgres://host:5432/db?sslmode=require&ssl-passphrase=hunter2",
            "postgres://user:password=a&hunter2@host/db",
            "postgres://user:hunter2@host/db?sslpassword=hunter2&password=hunter2",
            "http://hunter2@proxy:3128",
            "http://hunter2:@proxy:3128",
            "HTTPS://hunter2@proxy",
            "hunter2@proxy:3128",
            "hunter2:@proxy:3128",
        ] {
            let shown = masked(text);
            assert!(!shown.contains("hunter2"), "{text} is shown as {shown}");
            assert!(shown.contains("***"), "{text} is shown as {shown}");
        }
    }

    #[test]
    fn a_text_without_a_password_is_shown_as_it_is() {
        for text in [
            "",
            "stored",
            "amqp://broker",
            "amqp://user@broker:5672/vhost",
            "amqp://[::1]:5672",
            "http://proxy:3128",
            "sqlite://:memory:",
            "postgres:///zulip?host=/var/run/postgresql",
            "10.0.0.0/8",
            "[::1]:9464",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn a_url_of_another_scheme_or_with_characters_to_escape_is_refused() {
        for text in [
            "http://broker",
            "AMQP://broker",
            "amqp:broker",
            "broker:5672",
            "amqp://user:pass word@broker",
            "amqp://user:pass\nword@broker",
            " amqp://broker",
            "amqp://user:12#34@broker",
            "amqp://user:12/34@broker",
            "amqp://user:12?34@broker",
            "amqp://broker:70000",
        ] {
            assert_eq!(ConnectionUrl::parse(text, AMQP), None, "{text}");
        }
    }

    #[test]
    fn several_hosts_are_noticed_wherever_they_stand() {
        for (text, are_several) in [
            ("postgres://user:pass@one:5432,two:5433/db", true),
            ("postgres://one,two/db", true),
            ("postgres://[::1],[::2]/db", true),
            ("postgres:///db?host=one,two", true),
            ("postgres:///db?host=one&port=5432,5433", true),
            ("postgres://user:a,b@one/db", false),
            ("postgres://one/a,b?options=x,y", false),
            ("postgres://[::1]:5432/db", false),
        ] {
            let url = ConnectionUrl::parse(text, &["postgres://"]).expect("a URL");
            assert_eq!(url.has_several_hosts(), are_several, "{text}");
        }
    }

    #[test]
    fn an_ipv6_host_is_known_without_its_brackets() {
        let parse = |text| ConnectionUrl::parse(text, &["amqp://", "postgres://"]).expect("a URL").ipv6();
        let loopback = Some(Ipv6Addr::LOCALHOST);
        assert_eq!(parse("amqp://user:pass@[::1]:5672/%2f"), loopback);
        assert_eq!(parse("postgres://user@[0:0:0:0:0:0:0:1]/database"), loopback);
        for url in ["amqp://127.0.0.1", "amqp://broker:5672", "postgres:///database?host=/run/postgresql"] {
            assert_eq!(parse(url), None, "{url}");
        }
    }

    #[test]
    fn urls_are_equal_only_with_equal_passwords() {
        let parse = |text| ConnectionUrl::parse(text, AMQP).expect("a URL");
        assert_eq!(parse("amqp://user:one@broker"), parse("amqp://user:one@broker"));
        assert_ne!(parse("amqp://user:one@broker"), parse("amqp://user:two@broker"));
    }
}
