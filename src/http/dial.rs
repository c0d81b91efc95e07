//! The connector. Every address is checked at the moment it is dialled, after all name resolution, so
//! nothing that happened to the name before can matter.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use actix_rt::net::TcpStream;
use outhook_core::egress::{Blocked, Egress};
use thiserror::Error;

/// Resolves, checks and dials.
#[derive(Clone)]
pub(crate) struct Dialler {
    egress: Arc<Egress>,
}

/// Why no connection was made.
#[derive(Debug, Error)]
pub(super) enum DialError {
    /// Every address of the host is forbidden.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// The name has no address.
    #[error("the name {0} can't be resolved: {1}")]
    Unresolved(String, String),
    /// No address could be connected to.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Dialler {
    /// A dialler that obeys these rules.
    pub(crate) fn new(egress: Arc<Egress>) -> Self {
        Self { egress }
    }

    /// Connects to a host, an IPv6 address in brackets or not.
    pub(super) async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let addresses = resolve(host, port).await?;
        let allowed = if self.egress.host(host) { addresses } else { self.allowed(addresses)? };
        Ok(dial_any(&allowed).await?)
    }

    /// The addresses that may be dialled; an error if there is none.
    fn allowed(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, DialError> {
        let mut allowed = Vec::with_capacity(addresses.len());
        let mut blocked = None;
        for address in addresses {
            match self.egress.address(address.ip()) {
                Ok(()) => allowed.push(address),
                Err(rule) => blocked = Some(rule),
            }
        }
        match blocked {
            Some(rule) if allowed.is_empty() => Err(rule.into()),
            _ => Ok(allowed),
        }
    }
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found: Vec<SocketAddr> = match tokio::net::lookup_host((bare, port)).await {
        Ok(found) => found.collect(),
        Err(error) => return Err(DialError::Unresolved(bare.to_owned(), error.to_string())),
    };
    if found.is_empty() {
        return Err(DialError::Unresolved(bare.to_owned(), "it has no addresses".into()));
    }
    Ok(found)
}

/// Tries one address after the other.
async fn dial_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host has no addresses");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ips: &[&str]) -> Vec<SocketAddr> {
        ips.iter().map(|ip| SocketAddr::new(ip.parse().expect("an address"), 80)).collect()
    }

    #[test]
    fn only_allowed_addresses_of_a_host_are_dialled() {
        let dialler = Dialler::new(Arc::new(Egress::default()));
        let mixed = dialler.allowed(addresses(&["10.0.0.1", "1.1.1.1", "::1"])).expect("one is public");
        assert_eq!(mixed, addresses(&["1.1.1.1"]));
        assert!(matches!(dialler.allowed(addresses(&["10.0.0.1", "::1"])), Err(DialError::Blocked(_))));
    }
}
