//! `[egress]`: where calls to bots may go beyond the public Internet, and who looks their hosts up.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `allow` | `[]` | networks (CIDR), IP addresses and host names, each with a port or without |
//! | `ports` | `[]` = any | ports from 1 to 65535 |
//! | `resolver` | `"system"` | `"system"` or `[]`, or name servers with their ports |
//! | `proxy` | `""` = none | `http://[user:password@]host[:port]` |
//! | `ca_file` | `""` | the path of a PEM file |

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;
use outhook_core::egress::{Allowed, is_name};
use url::{Host, Url};

use super::{connection_url::ConnectionUrl, section::Section, written::Shown};

const TARGET: &str = "a network such as \"10.0.0.0/8\", an IP address or a host name, \
                      which may be followed by a port such as \"bot.internal:8080\" or \"[::1]:8080\"";
const RESOLVER: &str = "\"system\", or name servers with their ports such as [\"127.0.0.1:53\"]";

const PROXY: &str = "the http:// URL of a proxy, such as \"http://127.0.0.1:4750\" or \
    \"http://user:password@proxy.internal:3128\", without path or query and with a port other than 0 (80 if \
    none is given)";

/// `[egress]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Egress {
    /// Networks that may be called although they are not public.
    pub(crate) allow: Vec<Allowed<IpNet>>,
    /// Hosts, in lower case, that may be called whatever their addresses are.
    pub(crate) hosts: Vec<Allowed<String>>,
    /// The ports that may be called; empty = any.
    pub(crate) ports: Vec<u16>,
    /// Who looks host names up.
    pub(crate) resolver: NameServers,
    /// The proxy through which all calls to bots go.
    pub(crate) proxy: Option<ConnectionUrl>,
    /// A file of certificates of authorities that are trusted beside the system's.
    pub(crate) ca_file: Option<PathBuf>,
}

/// Who is asked for the addresses of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NameServers {
    /// `/etc/hosts`, and the servers of `/etc/resolv.conf`.
    System,
    /// These servers and nobody else.
    Listed(Vec<SocketAddr>),
}

/// An entry of `allow`.
enum Target {
    Network(Allowed<IpNet>),
    Host(Allowed<String>),
}

impl Egress {
    pub(super) fn read(section: &mut Section) -> Self {
        let (mut allow, mut hosts) = (Vec::new(), Vec::new());
        for target in section.explained_list("allow", TARGET, target) {
            match target {
                Target::Network(network) => allow.push(network),
                Target::Host(host) => hosts.push(host),
            }
        }
        Self {
            allow,
            hosts,
            ports: section.list("ports", "a port from 1 to 65535", port),
            resolver: NameServers::read(section),
            proxy: section.optional("proxy", None, PROXY, proxy),
            ca_file: section
                .optional("ca_file", None, "the path of a file", |text| Some(PathBuf::from(text))),
        }
    }

    /// What has no effect though it is set, as a sentence for an operator.
    pub(crate) fn without_effect(&self) -> Option<&'static str> {
        let allows = !self.allow.is_empty() || !self.hosts.is_empty();
        (allows && self.proxy.is_some()).then_some(
            "egress.allow has no effect beside egress.proxy: the proxy alone decides which addresses may be called",
        )
    }
}

impl NameServers {
    /// Either the one word, or addresses; none at all is the default.
    fn read(section: &mut Section) -> Self {
        let listed: Vec<Option<SocketAddr>> = section.list("resolver", RESOLVER, |text| match text {
            "system" => Some(None),
            text => name_server(text).map(Some),
        });
        let servers: Vec<SocketAddr> = listed.iter().copied().flatten().collect();
        if servers.is_empty() {
            section.note("resolver", Shown::quoted("system"));
            return Self::System;
        }
        if servers.len() < listed.len() {
            section.reject("resolver", "[…]", RESOLVER);
        }
        Self::Listed(servers)
    }
}

impl From<&Egress> for outhook_core::egress::Egress {
    fn from(egress: &Egress) -> Self {
        Self { allow: egress.allow.clone(), hosts: egress.hosts.clone(), ports: egress.ports.clone() }
    }
}

/// What stands as a whole is taken so, because an IPv6 address without brackets has colons of its own.
fn target(text: &str) -> Result<Target, String> {
    let whole = without_port(text, None);
    whole.or_else(|| with_port(text)).unwrap_or_else(|| Err(TARGET.to_owned()))
}

fn with_port(text: &str) -> Option<Result<Target, String>> {
    let (target, port_text) = text.rsplit_once(':')?;
    without_port(target, Some(port(port_text)?))
}

/// `None` if this is neither a network, an address nor a name; an error if it is a network that must be
/// written otherwise.
fn without_port(text: &str, port: Option<u16>) -> Option<Result<Target, String>> {
    let text = without_brackets(text);
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    match text.parse::<IpNet>().or_else(|_| address()) {
        Ok(written) => {
            let network = Allowed::network(written, port).map(Target::Network);
            Some(network.map_err(|fault| fault.to_string()))
        }
        Err(_) => host(text).map(|target| Ok(Target::Host(Allowed { target, port }))),
    }
}

/// IPv6 may stand in brackets, also where no port follows.
fn without_brackets(text: &str) -> &str {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bare.filter(|bare| bare.contains(':')).unwrap_or(text)
}

/// A name as it is looked up, which an address in another spelling (`127.1`, `0x7f.1`) is not.
fn host(text: &str) -> Option<String> {
    match Host::parse(text) {
        Ok(Host::Domain(name)) if is_name(&name) && !text.contains('%') => {
            Some(name.strip_suffix('.').unwrap_or(&name).to_owned())
        }
        _ => None,
    }
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

fn name_server(text: &str) -> Option<SocketAddr> {
    text.parse().ok().filter(|server: &SocketAddr| server.port() != 0)
}

fn proxy(text: &str) -> Option<ConnectionUrl> {
    let proxy = ConnectionUrl::parse(text, &["http://"])?;
    let url = Url::parse(text).ok()?;
    let has_extras = url.path() != "/" || url.query().is_some();
    (!has_extras && url.port() != Some(0)).then_some(proxy)
}
