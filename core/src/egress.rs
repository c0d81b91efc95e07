//! Which URLs and which addresses may be dialled.
//!
//! A URL is checked once for its shape ([`Egress::endpoint`]); every address that is about to be
//! dialled is checked by [`Egress::address`], whatever the URL looked like, because only that
//! check can't be talked around by spelling, DNS or redirects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;
use url::{Host, Url};

/// The operator's egress rules (`[egress]`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    /// Networks beyond the public Internet that may be dialled.
    pub allow: Vec<IpNet>,
    /// Host names, in lower case, that may be dialled whatever their addresses are.
    pub hosts: Vec<String>,
    /// Ports that may be dialled; empty = any.
    pub ports: Vec<u16>,
}

/// Why a URL can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UrlFault {
    /// It does not parse.
    #[error("the URL does not parse: {0}")]
    Syntax(String),
    /// Neither http nor https.
    #[error("the URL's scheme must be http or https, not {0}")]
    Scheme(String),
    /// It carries a user name or password.
    #[error("the URL must not contain a user name or password")]
    UserInfo,
    /// The port is 0, or not one of `egress.ports`.
    #[error("port {0} is not allowed by egress.ports")]
    Port(u16),
}

/// An address that may not be dialled, and the rule that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{address} is {rule} and no network in egress.allow contains it")]
pub struct Blocked {
    /// The address.
    pub address: IpAddr,
    /// What kind of address it is.
    pub rule: &'static str,
}

impl Egress {
    /// Parses an endpoint's URL. What comes back is what must be requested: the parser's own
    /// serialisation, in which hosts in decimal, octal, hexadecimal or full-width digits have
    /// become plain addresses.
    ///
    /// # Errors
    /// [`UrlFault`], also for shapes that a parser takes but a webhook has no use for.
    pub fn endpoint(&self, text: &str) -> Result<Url, UrlFault> {
        let url = Url::parse(text).map_err(|error| UrlFault::Syntax(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlFault::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlFault::UserInfo);
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if port == 0 || !(self.ports.is_empty() || self.ports.contains(&port)) {
            return Err(UrlFault::Port(port));
        }
        Ok(url)
    }

    /// Whether this address may be dialled.
    ///
    /// # Errors
    /// [`Blocked`] if it is not a public one and no allowed network contains it.
    pub fn address(&self, address: IpAddr) -> Result<(), Blocked> {
        let allowed = |address: IpAddr| self.allow.iter().any(|network| network.contains(&address));
        if allowed(address) || allowed(address.to_canonical()) {
            return Ok(());
        }
        match rule(address) {
            Some(rule) => Err(Blocked { address, rule }),
            None => Ok(()),
        }
    }
}

impl Egress {
    /// Whether a host may be dialled whatever its addresses are.
    pub fn host(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    }
}

/// The address that a URL's host spells out, if it does.
pub fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// What is not global unicast, by IANA's special-purpose registry for IPv4.
const DENIED_V4: [(Ipv4Net, &str); 15] = [
    (v4(0, 0, 0, 0, 8), "an address of \"this network\""),
    (v4(10, 0, 0, 0, 8), "a private address"),
    (v4(100, 64, 0, 0, 10), "a carrier-grade NAT address"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    (v4(169, 254, 0, 0, 16), "a link-local address (cloud metadata services are there)"),
    (v4(172, 16, 0, 0, 12), "a private address"),
    (v4(192, 0, 0, 0, 24), "an IETF protocol address"),
    (v4(192, 0, 2, 0, 24), "a documentation address"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay address"),
    (v4(192, 168, 0, 0, 16), "a private address"),
    (v4(198, 18, 0, 0, 15), "a benchmarking address"),
    (v4(198, 51, 100, 0, 24), "a documentation address"),
    (v4(203, 0, 113, 0, 24), "a documentation address"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address"),
];

/// The only part of IPv6 that IANA has given out as global unicast.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// What is not global unicast within [`GLOBAL_V6`], by IANA's registry.
const DENIED_V6: [(Ipv6Net, &str); 5] = [
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "an IETF protocol address (Teredo is there)"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "a documentation address"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "a 6to4 address"),
    (v6([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16), "an address of the closed 6bone"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "a documentation address"),
];

fn rule(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => rule_v4(address),
        IpAddr::V6(address) => rule_v6(address),
    }
}

fn rule_v4(address: Ipv4Addr) -> Option<&'static str> {
    DENIED_V4.iter().find(|(network, _)| network.contains(&address)).map(|(_, rule)| *rule)
}

fn rule_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(inner) = address.to_ipv4_mapped() {
        return rule_v4(inner);
    }
    if GLOBAL_V6.contains(&address) {
        return DENIED_V6.iter().find(|(network, _)| network.contains(&address)).map(|(_, rule)| *rule);
    }
    Some(match address.segments()[0] {
        0 if address.is_loopback() => "a loopback address",
        0 => "an IPv4-compatible or unspecified address",
        0x64 => "a NAT64 address",
        0xfc00..=0xfdff => "a unique local address",
        0xfe80..=0xfebf => "a link-local address",
        0xff00..=0xffff => "a multicast address",
        _ => "outside the global unicast range of IPv6",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str]) -> Egress {
        Egress {
            allow: allow.iter().map(|net| net.parse().expect("a network")).collect(),
            ..Egress::default()
        }
    }

    #[test]
    fn only_public_addresses_may_be_dialled() {
        for denied in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            let address = denied.parse().expect("an address");
            assert!(rules(&[]).address(address).is_err(), "{denied}");
        }
        for public in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
        ] {
            assert_eq!(rules(&[]).address(public.parse().expect("an address")), Ok(()), "{public}");
        }
    }

    #[test]
    fn an_allowed_network_opens_itself_and_nothing_else() {
        let rules = rules(&["127.0.0.1/32", "fd00::/8"]);
        for open in ["127.0.0.1", "::ffff:127.0.0.1", "fd12::1"] {
            assert_eq!(rules.address(open.parse().expect("an address")), Ok(()), "{open}");
        }
        for closed in ["127.0.0.2", "::1", "fc00::1", "::127.0.0.1"] {
            assert!(rules.address(closed.parse().expect("an address")).is_err(), "{closed}");
        }
    }

    #[test]
    fn an_allowed_host_is_that_name_and_no_other() {
        let rules = Egress { hosts: vec!["bot.internal".into()], ..Egress::default() };
        assert!(rules.host("bot.internal") && rules.host("BOT.internal."));
        for other in ["internal", "a.bot.internal", "bot.internal.example.org", ""] {
            assert!(!rules.host(other), "{other}");
        }
    }

    #[test]
    fn a_url_is_taken_apart_before_it_is_believed() {
        let rules = Egress { ports: vec![80, 443], ..Egress::default() };
        for good in ["http://bot.example.org/hook", "https://bot.example.org", "HTTP://bot.example.org"] {
            assert!(rules.endpoint(good).is_ok(), "{good}");
        }
        for (bad, fault) in [
            ("ftp://x.example.org", UrlFault::Scheme("ftp".into())),
            ("file:///etc/passwd", UrlFault::Scheme("file".into())),
            ("http://user@x.example.org", UrlFault::UserInfo),
            ("http://:pw@x.example.org", UrlFault::UserInfo),
            ("http://x.example.org:8080", UrlFault::Port(8080)),
            ("http://x.example.org:0", UrlFault::Port(0)),
        ] {
            assert_eq!(rules.endpoint(bad), Err(fault), "{bad}");
        }
        for bad in ["", "x.example.org", "//x.example.org", "http://", "http://[::1", "http://a b/"] {
            assert!(matches!(rules.endpoint(bad), Err(UrlFault::Syntax(_))), "{bad}");
        }
    }

    #[test]
    fn an_address_in_any_spelling_is_the_same_address() {
        for spelling in
            ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "１２７.0.0.1", "%31%32%37.0.0.1"]
        {
            let url = rules(&[]).endpoint(&format!("http://{spelling}/")).expect("a URL");
            assert_eq!(literal(&url), Some(Ipv4Addr::LOCALHOST.into()), "{spelling}");
        }
    }
}
