//! Which URLs and which addresses may be dialled.
//!
//! A URL is checked once for its shape ([`Egress::endpoint`]); every address that is about to be
//! dialled is checked by [`Egress::permit`], whatever the URL looked like, because only that
//! check can't be talked around by spelling, DNS or redirects.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use thiserror::Error;
use url::{Host, ParseError, Url};

pub use network::NetworkFault;
pub use own::OwnAddresses;

mod network;
mod own;
mod ranges;
#[cfg(test)]
mod spellings;
#[cfg(test)]
mod tests;

/// The most bytes of a host name, without its last dot (RFC 1035).
const NAME_BYTES_MAX: usize = 253;

/// The most bytes of one label of a host name (RFC 1035).
const LABEL_BYTES_MAX: usize = 63;

/// The operator's egress rules (`[egress]`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    /// Networks beyond the public Internet that may be dialled.
    pub allow: Vec<Allowed<IpNet>>,
    /// Host names, in ASCII and lower case, that may be dialled whatever their addresses are.
    pub hosts: Vec<Allowed<String>>,
    /// Ports that may be dialled; empty = any.
    pub ports: Vec<u16>,
}

/// What `egress.allow` opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed<T> {
    /// The network or the host name.
    pub target: T,
    /// The only port on which it is open; `None` = any.
    pub port: Option<u16>,
}

impl<T> Allowed<T> {
    fn is_open_on(&self, port: u16) -> bool {
        self.port.is_none_or(|only| only == port)
    }
}

impl<T: fmt::Display> fmt::Display for Allowed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.target),
            None => self.target.fmt(f),
        }
    }
}

/// Why a URL can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UrlFault {
    /// It does not parse.
    #[error("the URL does not parse: {0}")]
    Syntax(String),
    /// It has no scheme.
    #[error("the URL must begin with http:// or https://")]
    NoScheme,
    /// Neither http nor https. What looks like a scheme may be a host: `localhost:8080`.
    #[error("the URL must begin with http:// or https://, not with {0}:")]
    Scheme(String),
    /// It carries a user name or password.
    #[error("the URL must not contain a user name or password")]
    UserInfo,
    /// Its host is neither an address nor a name that may be looked up.
    #[error(
        "the URL's host is no host name: each label must have 1 to {label} letters, digits, \"_\" or, \
         behind the first, \"-\", and all of it at most {whole} characters",
        label = LABEL_BYTES_MAX,
        whole = NAME_BYTES_MAX
    )]
    Host,
    /// The port is 0.
    #[error("the URL's port must be from 1 to 65535: nothing can be reached at port 0")]
    PortZero,
    /// The port is not one of `egress.ports`.
    #[error("port {0} is not allowed by egress.ports")]
    Port(u16),
}

/// Why an address may be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit<'a> {
    /// It is on the public Internet.
    Public,
    /// The operator allowed its network.
    Network(&'a Allowed<IpNet>),
    /// The operator allowed the host, wherever it is.
    Host(&'a Allowed<String>),
}

impl fmt::Display for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("a public address"),
            Self::Network(network) => write!(f, "allowed by {network} in egress.allow"),
            Self::Host(host) => write!(f, "allowed by the host {host} in egress.allow"),
        }
    }
}

/// An address that may not be dialled, and the rule that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{address} is {rule}, which egress.allow does not open")]
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
        let url = Url::parse(text).map_err(|error| match error {
            ParseError::RelativeUrlWithoutBase => UrlFault::NoScheme,
            error => UrlFault::Syntax(error.to_string()),
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlFault::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlFault::UserInfo);
        }
        if matches!(url.host(), Some(Host::Domain(name)) if !is_name(name)) {
            return Err(UrlFault::Host);
        }
        match url.port_or_known_default().unwrap_or(0) {
            0 => Err(UrlFault::PortZero),
            port if self.ports.is_empty() || self.ports.contains(&port) => Ok(url),
            port => Err(UrlFault::Port(port)),
        }
    }

    /// Whether this address of a host may be dialled, and why. An IPv4-mapped IPv6 address is the
    /// IPv4 address; all other forms that hold an IPv4 address are addresses of their own.
    ///
    /// # Errors
    /// [`Blocked`] if it is not a public one or one of the machine's `own`, and neither its network nor the host
    /// is allowed.
    pub fn permit(&self, host: &str, address: SocketAddr, own: &OwnAddresses) -> Result<Permit<'_>, Blocked> {
        if let Some(allowed) = self.host(host, address.port()) {
            return Ok(Permit::Host(allowed));
        }
        if let Some(allowed) = self.network(address) {
            return Ok(Permit::Network(allowed));
        }
        let rule = ranges::rule(address.ip());
        match rule.or_else(|| own.contain(address.ip()).then_some("an address of this machine")) {
            Some(rule) => Err(Blocked { address: address.ip(), rule }),
            None => Ok(Permit::Public),
        }
    }

    /// The entry that lets a host be dialled on this port whatever its addresses are. Names match
    /// as a whole, in any case, with or without a last dot.
    pub fn host(&self, name: &str, port: u16) -> Option<&Allowed<String>> {
        let name = name.strip_suffix('.').unwrap_or(name);
        self.hosts.iter().find(|host| host.target.eq_ignore_ascii_case(name) && host.is_open_on(port))
    }

    fn network(&self, address: SocketAddr) -> Option<&Allowed<IpNet>> {
        // As the address that it is, or else a network of IPv6 such as ::/0 would open IPv4.
        let (ip, port) = (address.ip().to_canonical(), address.port());
        self.allow.iter().find(|network| network.target.contains(&ip) && network.is_open_on(port))
    }
}

/// Whether this may be the name of a host: labels of letters, digits, `-` (neither first nor last) and `_`
/// that DNS can carry, with or without a last dot.
pub fn is_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !(label.starts_with('-') || label.ends_with('-'))
            && label.bytes().all(is_plain)
    };
    name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label)
}

/// The address that a URL's host spells out, if it does.
pub fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}
