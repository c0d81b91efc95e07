//! The connector. Every address is checked at the moment it is dialled, after all name resolution, so
//! nothing that happened to the name before can matter.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use actix_rt::net::TcpStream;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use actix_web::{dev::Service, http::Uri};
use futures_util::future::LocalBoxFuture;
use outhook_core::egress::{Blocked, Egress};
use thiserror::Error;

use super::socket::Socket;

/// Resolves, checks and dials.
#[derive(Clone)]
pub(super) struct Dialler {
    egress: Arc<Egress>,
    answer_bytes_max: usize,
}

/// Why no connection was made, beside I/O.
#[derive(Debug, Error)]
pub(super) enum DialError {
    /// Every address of the host is forbidden.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// The name has no address.
    #[error("the name {0} can't be resolved: {1}")]
    Unresolved(String, String),
}

impl Dialler {
    /// A dialler that obeys these rules; on its connections so many bytes may be read after each request.
    pub(super) fn new(egress: Arc<Egress>, answer_bytes_max: usize) -> Self {
        Self { egress, answer_bytes_max }
    }

    async fn dial(self, uri: Uri, port: u16) -> Result<Connection<Uri, Socket>, ConnectError> {
        let addresses = resolve(uri.host().unwrap_or_default(), port).await.map_err(resolver_error)?;
        let allowed = if self.egress.host(uri.host().unwrap_or_default()) {
            addresses
        } else {
            self.allowed(addresses).map_err(resolver_error)?
        };
        let stream = dial_any(&allowed).await.map_err(ConnectError::Io)?;
        Ok(Connection::new(uri, Socket::new(stream, self.answer_bytes_max)))
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

fn resolver_error(error: DialError) -> ConnectError {
    ConnectError::Resolver(Box::new(error))
}

impl Service<ConnectInfo<Uri>> for Dialler {
    type Response = Connection<Uri, Socket>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&self, target: ConnectInfo<Uri>) -> Self::Future {
        let port = target.port();
        Box::pin(self.clone().dial(target.request().clone(), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ips: &[&str]) -> Vec<SocketAddr> {
        ips.iter().map(|ip| SocketAddr::new(ip.parse().expect("an address"), 80)).collect()
    }

    #[test]
    fn only_allowed_addresses_of_a_host_are_dialled() {
        let dialler = Dialler::new(Arc::new(Egress::default()), 1);
        let mixed = dialler.allowed(addresses(&["10.0.0.1", "1.1.1.1", "::1"])).expect("one is public");
        assert_eq!(mixed, addresses(&["1.1.1.1"]));
        assert!(matches!(dialler.allowed(addresses(&["10.0.0.1", "::1"])), Err(DialError::Blocked(_))));
    }
}
