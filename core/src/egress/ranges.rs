//! What is not on the public Internet, by IANA's registries of special-purpose addresses
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>, `…/iana-ipv6-special-registry`).
//!
//! Denied beyond what the registries call not globally reachable:
//! - AS112, AMT and 6to4 relays: anycast services that a network may host itself; no bot lives there.
//! - IPv6 forms that hold an IPv4 address (NAT64, 6to4, Teredo, ISATAP), whatever that address is: where they
//!   lead depends on translators and tunnels that nobody here knows.
//! - Azure's platform address, a metadata service in a public range.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

const DENIED_V4: [(Ipv4Net, &str); 19] = [
    (v4(0, 0, 0, 0, 8), "an address of \"this network\""),
    (v4(10, 0, 0, 0, 8), "a private address"),
    (v4(100, 64, 0, 0, 10), "a carrier-grade NAT address"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    (v4(168, 63, 129, 16, 32), "the address of Azure's platform (a metadata service is there)"),
    (v4(169, 254, 0, 0, 16), "a link-local address (cloud metadata services are there)"),
    (v4(172, 16, 0, 0, 12), "a private address"),
    (v4(192, 0, 0, 0, 24), "an IETF protocol address"),
    (v4(192, 0, 2, 0, 24), "a documentation address"),
    (v4(192, 31, 196, 0, 24), "an AS112 address"),
    (v4(192, 52, 193, 0, 24), "an AMT relay address"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay address"),
    (v4(192, 168, 0, 0, 16), "a private address"),
    (v4(192, 175, 48, 0, 24), "an AS112 address"),
    (v4(198, 18, 0, 0, 15), "a benchmarking address"),
    (v4(198, 51, 100, 0, 24), "a documentation address"),
    (v4(203, 0, 113, 0, 24), "a documentation address"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address"),
];

/// The only part of IPv6 that IANA has given out as global unicast.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// What is not global unicast within [`GLOBAL_V6`].
const DENIED_V6: [(Ipv6Net, &str); 7] = [
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), "a Teredo address"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "an IETF protocol address"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "a documentation address"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "a 6to4 address"),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), "an AS112 address"),
    (v6([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16), "an address of the closed 6bone"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "a documentation address"),
];

/// What kind of address this is, if it is not a public one.
pub(super) fn rule(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => rule_v4(address),
        IpAddr::V6(address) => rule_v6(address),
    }
}

fn rule_v4(address: Ipv4Addr) -> Option<&'static str> {
    DENIED_V4.iter().find(|(network, _)| network.contains(&address)).map(|(_, rule)| *rule)
}

fn rule_v6(address: Ipv6Addr) -> Option<&'static str> {
    if !GLOBAL_V6.contains(&address) {
        return Some(outside_v6(address));
    }
    let denied = DENIED_V6.iter().find(|(network, _)| network.contains(&address)).map(|(_, rule)| *rule);
    denied.or(is_isatap(address).then_some("an ISATAP address"))
}

fn outside_v6(address: Ipv6Addr) -> &'static str {
    match address.segments()[0] {
        0 if address.is_loopback() => "a loopback address",
        0 if address.is_unspecified() => "the unspecified address",
        0 => "a reserved address (IPv4-compatible and IPv4-translated ones are there)",
        0x64 => "a NAT64 address",
        0x100 => "a discard-only address",
        0x5f00 => "a segment routing address",
        0xfc00..=0xfdff => "a unique local address",
        0xfe80..=0xfebf => "a link-local address",
        0xff00..=0xffff => "a multicast address",
        _ => "outside the global unicast range of IPv6",
    }
}

/// Whether the lower half is an ISATAP interface identifier (RFC 5214, section 6.1), of which two bits vary.
fn is_isatap(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    segments[4] & 0xfcff == 0 && segments[5] == 0x5efe
}
