//! URLs of endpoints, as anybody may write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use outhook_core::egress::{Egress, OwnAddresses, literal};
use url::{Host, Url};

pub fn hold(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for ports in [vec![], vec![80, 443]] {
        let rules = Egress { ports, ..Egress::default() };
        if let Ok(url) = rules.endpoint(text) {
            usable(&url, &rules);
            literally(&url, &rules);
        }
    }
}

/// What is requested is what was vetted, whoever parses it.
fn usable(url: &Url, rules: &Egress) {
    assert!(matches!(url.scheme(), "http" | "https"), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    assert!(url.host_str().is_some_and(|host| !host.is_empty()), "{url}");
    let port = url.port_or_known_default().unwrap();
    assert!(port != 0 && (rules.ports.is_empty() || rules.ports.contains(&port)), "{url}");
    assert!(url.as_str().bytes().all(|byte| byte.is_ascii_graphic()), "{url:?} would break a request");
    assert_eq!(rules.endpoint(url.as_str()).as_ref(), Ok(url), "its serialisation is another URL");
}

/// An address is seen as one, and refused if it must be.
fn literally(url: &Url, rules: &Egress) {
    match literal(url) {
        Some(address) if is_inside(address) => {
            let port = url.port_or_known_default().unwrap();
            let permit =
                rules.permit(url.host_str().unwrap(), SocketAddr::new(address, port), &OwnAddresses::NONE);
            assert!(permit.is_err(), "{url} may be dialled");
        }
        Some(_) => {}
        None => {
            let Some(Host::Domain(name)) = url.host() else { panic!("{url} hides its address") };
            let name = name.strip_suffix('.').unwrap_or(name);
            assert!(name.parse::<IpAddr>().is_err(), "{url} hides its address");
        }
    }
}

/// By the standard library, which knows fewer rules than ours.
fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_inside_v4(address),
        IpAddr::V6(address) => is_inside_v6(address),
    }
}

fn is_inside_v4(address: Ipv4Addr) -> bool {
    address.is_unspecified()
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
}

fn is_inside_v6(address: Ipv6Addr) -> bool {
    address.is_unspecified()
        || address.is_loopback()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || address.is_multicast()
        || address.to_ipv4().is_some_and(is_inside_v4)
}
