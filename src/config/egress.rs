//! `[egress]`: where calls to bots may go beyond the public Internet.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `allow` | `[]` | networks (CIDR) and IP addresses |
//! | `ports` | `[]` = any | ports from 1 to 65535 |

use std::net::IpAddr;

use ipnet::IpNet;

use super::section::Section;

const NETWORK: &str =
    "a network such as \"10.0.0.0/8\" or an IP address; host names are not accepted in this version";

/// `[egress]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Egress {
    /// Networks that may be called although they are not public.
    pub(crate) allow: Vec<IpNet>,
    /// The ports that may be called; empty = any.
    pub(crate) ports: Vec<u16>,
}

impl Egress {
    pub(super) fn read(section: &mut Section) -> Self {
        Self {
            allow: section.list("allow", NETWORK, network),
            ports: section.list("ports", "a port from 1 to 65535", port),
        }
    }
}

impl From<&Egress> for outhook_core::egress::Egress {
    fn from(egress: &Egress) -> Self {
        Self { allow: egress.allow.clone(), ports: egress.ports.clone() }
    }
}

fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| address()).ok().map(|network| network.trunc())
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}
