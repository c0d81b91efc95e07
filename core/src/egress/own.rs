//! The machine's own addresses.

use std::net::IpAddr;

/// Addresses of this machine's network interfaces. Public ones are denied too: behind them may be services that
/// trust whoever reaches them from inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAddresses(Vec<IpAddr>);

impl OwnAddresses {
    /// None, as of a machine that has no network.
    pub const NONE: Self = Self(Vec::new());

    /// Whether this is one of them, also written as IPv4-mapped IPv6.
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        self.0.binary_search(&address.to_canonical()).is_ok()
    }

    /// Those that nothing else denies.
    pub fn public(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().copied().filter(|address| super::ranges::rule(*address).is_none())
    }
}

impl FromIterator<IpAddr> for OwnAddresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut own: Vec<IpAddr> = addresses.into_iter().map(|address| address.to_canonical()).collect();
        own.sort_unstable();
        own.dedup();
        Self(own)
    }
}
