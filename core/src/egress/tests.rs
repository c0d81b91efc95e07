//! Addresses, networks and host names.

use super::*;

fn allowing(networks: &[&str]) -> Egress {
    let allow = |net: &&str| Allowed { target: net.parse().expect("a network"), port: None };
    Egress { allow: networks.iter().map(allow).collect(), ..Egress::default() }
}

fn hosting(name: &str, port: Option<u16>) -> Egress {
    Egress { hosts: vec![Allowed { target: name.into(), port }], ..Egress::default() }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// The first and the last address of what is denied by default.
const DENIED: [(&str, &str); 47] = [
    ("0.0.0.0", "0.255.255.255"),
    ("10.0.0.0", "10.255.255.255"),
    ("100.64.0.0", "100.127.255.255"),
    ("127.0.0.0", "127.255.255.255"),
    ("168.63.129.16", "168.63.129.16"),
    ("169.254.0.0", "169.254.255.255"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.0.0.0", "192.0.0.255"),
    ("192.0.2.0", "192.0.2.255"),
    ("192.31.196.0", "192.31.196.255"),
    ("192.52.193.0", "192.52.193.255"),
    ("192.88.99.0", "192.88.99.255"),
    ("192.168.0.0", "192.168.255.255"),
    ("192.175.48.0", "192.175.48.255"),
    ("198.18.0.0", "198.19.255.255"),
    ("198.51.100.0", "198.51.100.255"),
    ("203.0.113.0", "203.0.113.255"),
    ("224.0.0.0", "239.255.255.255"),
    ("240.0.0.0", "255.255.255.255"),
    ("::", "::1"),
    ("::127.0.0.1", "::8.8.8.8"),
    ("::ffff:10.0.0.0", "::ffff:10.255.255.255"),
    ("::ffff:127.0.0.1", "::ffff:169.254.169.254"),
    ("::ffff:0:7f00:1", "::ffff:0:808:808"),
    ("64:ff9b::", "64:ff9b::ffff:ffff"),
    ("64:ff9b::7f00:1", "64:ff9b::808:808"),
    ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"),
    ("100::", "100::ffff:ffff:ffff:ffff"),
    ("100:0:0:1::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:1::1", "2001:1::3"),
    ("2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff"),
    ("2001:3::", "2001:4:112:ffff:ffff:ffff:ffff:ffff"),
    ("2001:10::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2002:7f00:1::", "2002:808:808::"),
    ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"),
    ("2a00:1450::5efe:7f00:1", "2a00:1450::300:5efe:7f00:1"),
    ("3ffe::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("4000::", "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
];

/// Addresses right beside what is denied, and some that everybody knows.
const PUBLIC: [&str; 37] = [
    "1.0.0.0",
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.31.195.255",
    "192.31.197.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "::ffff:1.1.1.1",
    "2000::",
    "2001:200::",
    "2001:db7:ffff::",
    "2001:db9::",
    "2003::",
    "2606:4700::1111",
    "2620:4f:8001::",
    "2a00:1450::1:5efe:7f00:1",
    "3ffd:ffff::",
    "3fff:1000::",
];

#[test]
fn only_public_addresses_may_be_dialled() {
    let rules = Egress::default();
    for (first, last) in DENIED {
        for address in [first, last] {
            let blocked = rules.permit("h", at(address, 80), &OwnAddresses::NONE).expect_err(address);
            assert!(blocked.to_string().starts_with(&blocked.address.to_string()), "{blocked}");
            assert!(blocked.to_string().contains(blocked.rule), "{blocked}");
        }
    }
    for address in PUBLIC {
        assert_eq!(rules.permit("h", at(address, 80), &OwnAddresses::NONE), Ok(Permit::Public), "{address}");
    }
}

#[test]
fn the_machines_own_addresses_are_denied_in_every_form_unless_allowed() {
    let addresses = ["93.184.215.14", "2606:4700::1111", "::ffff:93.184.215.15", "10.0.0.1", "127.0.0.1"];
    let own: OwnAddresses = addresses.iter().map(|address| address.parse::<IpAddr>().expect("one")).collect();
    let rules = Egress::default();
    for address in ["93.184.215.14", "::ffff:93.184.215.14", "93.184.215.15", "2606:4700:0::1111"] {
        let blocked = rules.permit("h", at(address, 80), &own).expect_err(address);
        assert_eq!(blocked.rule, "an address of this machine", "{address}");
        assert_eq!(rules.permit("h", at(address, 80), &OwnAddresses::NONE), Ok(Permit::Public), "{address}");
    }
    for address in ["64:ff9b::5db8:d70e", "2002:5db8:d70e::", "::93.184.215.14", "2a00:1450::5efe:5db8:d70e"]
    {
        assert!(rules.permit("h", at(address, 80), &own).is_err(), "{address}");
    }
    assert_eq!(rules.permit("h", at("93.184.215.13", 80), &own), Ok(Permit::Public));
    let told = rules.permit("h", at("10.0.0.1", 80), &own).expect_err("private");
    assert_eq!(told.rule, "a private address");

    let rules = Egress { hosts: hosting("bot.example", Some(80)).hosts, ..allowing(&["93.184.215.14/32"]) };
    assert!(matches!(rules.permit("h", at("93.184.215.14", 80), &own), Ok(Permit::Network(_))));
    assert!(matches!(rules.permit("bot.example", at("93.184.215.15", 80), &own), Ok(Permit::Host(_))));
    assert!(rules.permit("bot.example", at("93.184.215.15", 81), &own).is_err());

    let public: Vec<String> = own.public().map(|address| address.to_string()).collect();
    assert_eq!(public, ["93.184.215.14", "93.184.215.15", "2606:4700::1111"]);
}

#[test]
fn an_allowed_network_opens_itself_and_nothing_else() {
    let rules = allowing(&["127.0.0.0/8", "fd00::/8"]);
    for open in ["127.0.0.1", "127.255.255.255", "::ffff:127.0.0.1", "fd12::1"] {
        assert!(
            matches!(rules.permit("h", at(open, 80), &OwnAddresses::NONE), Ok(Permit::Network(_))),
            "{open}"
        );
    }
    for closed in ["10.0.0.1", "::1", "fc00::1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"] {
        assert!(rules.permit("h", at(closed, 80), &OwnAddresses::NONE).is_err(), "{closed}");
    }
    assert_eq!(rules.permit("h", at("1.1.1.1", 80), &OwnAddresses::NONE), Ok(Permit::Public));
}

#[test]
fn a_mapped_network_opens_its_addresses_of_ipv4_in_both_their_forms() {
    let net = "::ffff:10.0.0.0/105".parse().expect("a network");
    let allowed = Allowed::network(net, None).expect("one of IPv4");
    let rules = Egress { allow: vec![allowed], ..Egress::default() };
    for open in ["10.0.0.0", "10.127.255.255", "::ffff:10.0.0.0", "::ffff:10.127.255.255"] {
        assert!(
            matches!(rules.permit("h", at(open, 80), &OwnAddresses::NONE), Ok(Permit::Network(_))),
            "{open}"
        );
    }
    for closed in ["10.128.0.0", "::ffff:10.128.0.0", "::10.0.0.1", "::ffff:0:a00:1", "127.0.0.1"] {
        assert!(rules.permit("h", at(closed, 80), &OwnAddresses::NONE).is_err(), "{closed}");
    }
}

#[test]
fn a_network_of_ipv6_that_is_wider_than_the_mapped_one_opens_no_address_of_ipv4() {
    let in_64 = ["::", "::1", "::127.0.0.1", "::ffff:0:7f00:1"];
    let beyond_64 = ["0:0:0:1::", "fd00::1", "fe80::1"];
    for (wide, open, closed) in [
        ("::/0", [&in_64[..], &beyond_64[..]].concat(), vec![]),
        ("::/64", in_64.to_vec(), beyond_64.to_vec()),
    ] {
        let rules = allowing(&[wide]);
        for address in open {
            assert!(rules.permit("h", at(address, 80), &OwnAddresses::NONE).is_ok(), "{wide} {address}");
        }
        let ipv4 = ["127.0.0.1", "10.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"];
        for address in closed.into_iter().chain(ipv4) {
            assert!(rules.permit("h", at(address, 80), &OwnAddresses::NONE).is_err(), "{wide} {address}");
        }
    }
}

#[test]
fn the_forms_that_hold_an_ipv4_address_can_be_allowed_as_networks_of_their_own() {
    let rules = allowing(&["64:ff9b::/96"]);
    assert!(rules.permit("h", at("64:ff9b::808:808", 80), &OwnAddresses::NONE).is_ok());
    assert!(rules.permit("h", at("127.0.0.1", 80), &OwnAddresses::NONE).is_err());
}

#[test]
fn a_network_with_a_port_is_open_on_that_port_only() {
    let only = |net: &str| Allowed { target: net.parse().expect("a network"), port: Some(8080) };
    let rules = Egress { allow: vec![only("10.0.0.5/32"), only("::1/128")], ..Egress::default() };
    for address in ["10.0.0.5", "::1"] {
        assert!(rules.permit("h", at(address, 8080), &OwnAddresses::NONE).is_ok(), "{address}");
        for port in [80, 443, 8079, 8081] {
            assert!(rules.permit("h", at(address, port), &OwnAddresses::NONE).is_err(), "{address} {port}");
        }
    }
    assert!(rules.permit("h", at("10.0.0.6", 8080), &OwnAddresses::NONE).is_err());
}

#[test]
fn an_allowed_host_is_that_name_and_no_other() {
    let rules = hosting("bot.internal", None);
    for same in ["bot.internal", "BOT.internal."] {
        assert!(
            matches!(rules.permit(same, at("10.0.0.1", 80), &OwnAddresses::NONE), Ok(Permit::Host(_))),
            "{same}"
        );
    }
    for other in
        ["internal", "a.bot.internal", "bot.internal.example.org", "bot.internal..", "xbot.internal", ""]
    {
        assert!(rules.permit(other, at("10.0.0.1", 80), &OwnAddresses::NONE).is_err(), "{other}");
    }
}

#[test]
fn a_host_with_a_port_is_open_on_that_port_only() {
    let rules = hosting("bot.internal", Some(8080));
    assert!(rules.permit("bot.internal", at("10.0.0.1", 8080), &OwnAddresses::NONE).is_ok());
    assert!(rules.permit("bot.internal", at("10.0.0.1", 80), &OwnAddresses::NONE).is_err());
    assert_eq!(rules.permit("bot.internal", at("1.1.1.1", 80), &OwnAddresses::NONE), Ok(Permit::Public));
}

#[test]
fn a_decision_names_its_rule() {
    let (network, host) = (allowing(&["10.0.0.0/8"]), hosting("bot.internal", Some(8080)));
    let told = |rules: &Egress, port| match rules.permit(
        "bot.internal",
        at("10.0.0.1", port),
        &OwnAddresses::NONE,
    ) {
        Ok(permit) => permit.to_string(),
        Err(blocked) => blocked.to_string(),
    };
    assert_eq!(told(&network, 80), "allowed by 10.0.0.0/8 in egress.allow");
    assert_eq!(told(&host, 8080), "allowed by the host bot.internal:8080 in egress.allow");
    assert_eq!(told(&host, 80), "10.0.0.1 is a private address, which egress.allow does not open");
}

#[test]
fn a_name_is_what_dns_can_hold() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    for good in ["a", "a.b-c.d_e", "a.", "xn--bcher-kva.example", &label, &longest, &format!("{longest}.")] {
        assert!(is_name(good), "{good}");
    }
    for bad in
        ["", ".", "a..", ".a", "a..b", "a b", "a*", "-a", "ü", &format!("{label}a"), &format!("{longest}a")]
    {
        assert!(!is_name(bad), "{bad}");
    }
}
