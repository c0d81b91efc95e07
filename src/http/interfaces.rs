//! The addresses of this machine's network interfaces.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use outhook_core::egress::OwnAddresses;
use thiserror::Error;

use crate::config::egress::Egress;

/// How old what is known may be: addresses come and go while outhook runs.
const AGE_MAX: Duration = Duration::from_secs(5);

/// What asks the system.
type Read = fn() -> io::Result<OwnAddresses>;

/// The machine's own addresses, read again when they are old. Cheap to clone; a clone is the same.
#[derive(Debug, Clone)]
pub(crate) struct Interfaces(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    own: Arc<OwnAddresses>,
    read_at: Instant,
    read: Read,
}

/// Without the addresses, calls to them could not be refused.
#[derive(Debug, Error)]
#[error(
    "the addresses of this machine's network interfaces can't be read: {0}; if a sandbox restricts the kinds of \
     sockets, allow AF_NETLINK (RestrictAddressFamilies= of systemd)"
)]
pub(crate) struct InterfacesError(#[from] io::Error);

impl Interfaces {
    /// Asks the system.
    ///
    /// # Errors
    /// If it does not tell.
    pub(crate) fn read() -> Result<Self, InterfacesError> {
        Ok(Self::with(read)?)
    }

    /// The addresses that calls may not reach: none behind a proxy, which decides alone.
    ///
    /// # Errors
    /// As [`Interfaces::read`].
    pub(crate) fn for_calls(egress: &Egress) -> Result<Self, InterfacesError> {
        if egress.proxy.is_some() { Ok(Self::with(|| Ok(OwnAddresses::NONE))?) } else { Self::read() }
    }

    fn with(read: Read) -> io::Result<Self> {
        let known = Known { own: Arc::new(read()?), read_at: Instant::now(), read };
        Ok(Self(Arc::new(Mutex::new(known))))
    }

    /// The addresses now.
    pub(crate) fn own(&self) -> Arc<OwnAddresses> {
        self.own_at(Instant::now())
    }

    fn own_at(&self, now: Instant) -> Arc<OwnAddresses> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(known.read_at) >= AGE_MAX {
            known.read_at = now;
            match (known.read)() {
                Ok(own) => known.own = Arc::new(own),
                // They seldom change; what is known serves until the next look.
                Err(error) => log::warn!("{}; refusing those known before", InterfacesError(error)),
            }
        }
        Arc::clone(&known.own)
    }
}

fn read() -> io::Result<OwnAddresses> {
    Ok(getifaddrs()?.filter_map(|interface| address(&interface)).collect())
}

fn address(interface: &InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
}

#[cfg(test)]
impl Interfaces {
    /// Those of a machine that has these addresses.
    pub(super) fn of(read: fn() -> OwnAddresses) -> Self {
        let known = Known {
            own: Arc::new(read()),
            read_at: Instant::now(),
            read: || Err(io::ErrorKind::Other.into()),
        };
        Self(Arc::new(Mutex::new(known)))
    }

    /// Those of a machine without a network.
    pub(super) fn none() -> Self {
        Self::of(|| OwnAddresses::NONE)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

    use super::*;

    #[test]
    fn the_system_tells_its_addresses() {
        let own = read().expect("addresses");
        let loopback: OwnAddresses = [IpAddr::from([127, 0, 0, 1])].into_iter().collect();
        assert!(format!("{own:?}").contains("127.0.0.1"), "{own:?} has not {loopback:?}");
    }

    #[test]
    fn addresses_are_read_again_when_they_are_old_and_kept_if_that_fails() {
        static LAST: AtomicU8 = AtomicU8::new(1);
        fn read() -> io::Result<OwnAddresses> {
            match LAST.load(Relaxed) {
                0 => Err(io::ErrorKind::Other.into()),
                last => Ok([IpAddr::from([1, 1, 1, last])].into_iter().collect()),
            }
        }
        let is_last = |own: &OwnAddresses, last: u8| own.public().eq([IpAddr::from([1, 1, 1, last])]);
        let (interfaces, start) = (Interfaces::with(read).expect("addresses"), Instant::now());
        LAST.store(2, Relaxed);
        assert!(is_last(&interfaces.own_at(start), 1));
        assert!(is_last(&interfaces.own_at(start + AGE_MAX), 2));
        LAST.store(0, Relaxed);
        assert!(is_last(&interfaces.own_at(start + 2 * AGE_MAX), 2));
        LAST.store(3, Relaxed);
        assert!(is_last(&interfaces.own_at(start + 3 * AGE_MAX), 3));
    }
}
