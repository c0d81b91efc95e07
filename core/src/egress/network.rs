//! Which network an entry of `egress.allow` means.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

use super::Allowed;

/// The prefix of all IPv4-mapped addresses, `::ffff:0:0/96` (RFC 4291, section 2.5.5.2).
const MAPPED_PREFIX: u8 = 96;

/// Why a network is not taken as it is written, as the end of a sentence that begins with "must be".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NetworkFault {
    /// Bits behind its prefix are set, so that it is either an address or a network.
    #[error("\"{alone}\" for that address alone, or \"{whole}\" for the whole network that it is in")]
    HostBits {
        /// What opens the address.
        alone: Allowed<IpNet>,
        /// What opens the network.
        whole: Allowed<IpNet>,
    },
    /// It is IPv4-mapped, but its prefix leaves more open than IPv4 has.
    #[error(
        "written as IPv4, such as \"{alone}\" for that address alone: the prefix of an IPv4-mapped network \
         is at least {prefix}",
        prefix = MAPPED_PREFIX
    )]
    Mapped {
        /// What opens the address.
        alone: Allowed<IpNet>,
    },
}

impl Allowed<IpNet> {
    /// What this network opens. An IPv4-mapped one is the network of IPv4, as its addresses are those of IPv4
    /// to [`permit`](super::Egress::permit); all others of IPv6, `::/0` too, open no address of IPv4.
    ///
    /// # Errors
    /// [`NetworkFault`] if it may be meant otherwise than it is written.
    pub fn network(written: IpNet, port: Option<u16>) -> Result<Self, NetworkFault> {
        let opens = |target| Self { target, port };
        let network = unmapped(written)
            .map_err(|address| NetworkFault::Mapped { alone: opens(Ipv4Net::from(address).into()) })?;
        let whole = network.trunc();
        if whole == network {
            return Ok(opens(network));
        }
        Err(NetworkFault::HostBits { alone: opens(network.addr().into()), whole: opens(whole) })
    }
}

/// An IPv4-mapped network as one of IPv4, any other as it is; the address if there is no such network.
fn unmapped(network: IpNet) -> Result<IpNet, Ipv4Addr> {
    let IpNet::V6(written) = network else { return Ok(network) };
    let Some(address) = written.addr().to_ipv4_mapped() else { return Ok(network) };
    let prefix = written.prefix_len().checked_sub(MAPPED_PREFIX);
    prefix.and_then(|prefix| Ipv4Net::new(address, prefix).ok()).map(IpNet::V4).ok_or(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an entry opens, or what it must be instead.
    fn read(text: &str, port: Option<u16>) -> Result<String, String> {
        let read = Allowed::network(text.parse().expect("a network"), port);
        read.map(|allowed| allowed.to_string()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_network_of_addresses_only_is_taken_as_it_is_written() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.7/32", "::/0", "::/64", "fd00::/8", "::1/128"] {
            assert_eq!(read(text, None), Ok(text.to_owned()));
        }
        assert_eq!(read("10.0.0.0/8", Some(8080)), Ok("10.0.0.0/8:8080".to_owned()));
    }

    #[test]
    fn a_network_with_an_address_in_it_is_refused_with_both_that_it_may_mean() {
        for (text, alone, whole) in [
            ("10.0.0.7/8", "10.0.0.7/32", "10.0.0.0/8"),
            ("10.0.0.1/31", "10.0.0.1/32", "10.0.0.0/31"),
            ("0.0.0.1/0", "0.0.0.1/32", "0.0.0.0/0"),
            ("fd00::1/8", "fd00::1/128", "fd00::/8"),
            ("::1/127", "::1/128", "::/127"),
            ("::ffff:10.0.0.7/104", "10.0.0.7/32", "10.0.0.0/8"),
        ] {
            let told = format!(
                "\"{alone}\" for that address alone, or \"{whole}\" for the whole network that it is in"
            );
            assert_eq!(read(text, None), Err(told), "{text}");
        }
        let told = read("10.0.0.7/8", Some(80)).expect_err("a port changes nothing");
        assert!(told.contains("\"10.0.0.7/32:80\"") && told.contains("\"10.0.0.0/8:80\""), "{told}");
    }

    #[test]
    fn a_mapped_network_is_the_one_of_ipv4() {
        for (text, opens) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
            ("::ffff:a01:203/128", "10.1.2.3/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(read(text, None), Ok(opens.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_mapped_network_that_is_wider_than_ipv4_is_refused_with_the_form_of_ipv4() {
        for text in ["::ffff:10.0.0.0/95", "::ffff:10.0.0.0/8", "::ffff:10.0.0.0/0"] {
            let told = read(text, None).expect_err(text);
            assert!(told.starts_with("written as IPv4, such as \"10.0.0.0/32\""), "{text}: {told}");
        }
    }
}
