//! `[egress]`: where calls to bots may go beyond the public Internet.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `allow` | `[]` | networks (CIDR), IP addresses and host names |
//! | `ports` | `[]` = any | ports from 1 to 65535 |
//! | `proxy` | `""` = none | `http://[user:password@]host[:port]` |
//! | `ca_file` | `""` | the path of a PEM file |

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use url::{Host, Url};

use super::{connection_url::ConnectionUrl, section::Section};

const TARGET: &str = "a network such as \"10.0.0.0/8\", an IP address or a host name";

const PROXY: &str = "the http:// URL of a proxy, such as \"http://127.0.0.1:4750\" or \
    \"http://user:password@proxy.internal:3128\", without path or query and with a port other than 0 (80 if \
    none is given)";

/// `[egress]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Egress {
    /// Networks that may be called although they are not public.
    pub(crate) allow: Vec<IpNet>,
    /// Hosts, in lower case, that may be called whatever their addresses are.
    pub(crate) hosts: Vec<String>,
    /// The ports that may be called; empty = any.
    pub(crate) ports: Vec<u16>,
    /// The proxy through which all calls to bots go.
    pub(crate) proxy: Option<ConnectionUrl>,
    /// A file of certificates of authorities that are trusted beside the system's.
    pub(crate) ca_file: Option<PathBuf>,
}

/// An entry of `allow`.
enum Target {
    Network(IpNet),
    Host(String),
}

impl Egress {
    pub(super) fn read(section: &mut Section) -> Self {
        let (mut allow, mut hosts) = (Vec::new(), Vec::new());
        for target in section.list("allow", TARGET, target) {
            match target {
                Target::Network(network) => allow.push(network),
                Target::Host(host) => hosts.push(host),
            }
        }
        Self {
            allow,
            hosts,
            ports: section.list("ports", "a port from 1 to 65535", port),
            proxy: section.optional("proxy", None, PROXY, proxy),
            ca_file: section
                .optional("ca_file", None, "the path of a file", |text| Some(PathBuf::from(text))),
        }
    }
}

impl From<&Egress> for outhook_core::egress::Egress {
    fn from(egress: &Egress) -> Self {
        Self { allow: egress.allow.clone(), hosts: egress.hosts.clone(), ports: egress.ports.clone() }
    }
}

fn target(text: &str) -> Option<Target> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    match text.parse::<IpNet>().or_else(|_| address()) {
        Ok(network) => Some(Target::Network(network.trunc())),
        Err(_) => host(text).map(Target::Host),
    }
}

/// A name, which an address in another spelling (`127.1`, `0x7f.1`) is not.
fn host(text: &str) -> Option<String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    match Host::parse(text) {
        Ok(Host::Domain(name)) if is_plain => Some(name.trim_end_matches('.').to_owned()),
        _ => None,
    }
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

fn proxy(text: &str) -> Option<ConnectionUrl> {
    let proxy = ConnectionUrl::parse(text, &["http://"])?;
    let url = Url::parse(text).ok()?;
    let has_extras = url.path() != "/" || url.query().is_some();
    (!has_extras && url.port() != Some(0)).then_some(proxy)
}
