//! The connector. Every address is checked at the moment it is dialled, after all name resolution, so
//! nothing that happened to the name before can matter.

use std::{
    cell::Cell,
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_rt::net::TcpStream;
use futures_util::future::{LocalBoxFuture, select_all};
use outhook_core::{
    egress::{Blocked, Egress},
    outcome::Fault,
};
use thiserror::Error;
use tokio::{
    net::TcpSocket,
    time::{Instant, timeout},
};

use super::{
    files,
    interfaces::Interfaces,
    local,
    resolve::{LookupError, Resolver},
};

/// Addresses of a host that are tried at most: the first ones of those that may be dialled.
pub(crate) const ADDRESSES_MAX: usize = 8;
/// Attempts of one call that are open at a time: each is a file, and there are many calls.
pub(super) const OPEN_MAX: usize = 2;
/// How long an address is tried alone, before the next one is tried beside it: an address that swallows
/// everything must not use up the time of the others (RFC 8305 asks for the same).
const HEAD_START: Duration = Duration::from_millis(250);

/// A connection that is being opened.
type Connecting = LocalBoxFuture<'static, io::Result<TcpStream>>;
/// Opens a connection to an address that may be dialled: [`connect`], except in tests that only want to know
/// what would be dialled.
type Dial = Rc<dyn Fn(SocketAddr) -> Connecting>;

/// Resolves, checks and dials. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialler {
    egress: Arc<Egress>,
    resolver: Resolver,
    interfaces: Interfaces,
    dial: Dial,
    /// Since the last look a socket was opened that is not for connections which nobody uses.
    is_crowded: Rc<Cell<bool>>,
}

/// Why no connection was made.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    /// Every address of the host is forbidden; this is the first.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// The name has no address.
    #[error("the name {0} can't be resolved: {1}")]
    Unresolved(String, LookupError),
    /// No address could be connected to.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl DialError {
    /// The fault, if it is one of this machine and says nothing of the host.
    pub(super) fn local_fault(&self) -> Option<Fault> {
        match self {
            Self::Unresolved(_, LookupError::NoFiles) => Some(Fault::NoFiles),
            Self::Unresolved(_, LookupError::Local(_)) => Some(Fault::Local),
            Self::Io(error) => local::fault(error),
            Self::Unresolved(..) | Self::Blocked(_) => None,
        }
    }
}

impl Dialler {
    /// A dialler of the current thread that obeys these rules.
    pub(crate) fn new(egress: Arc<Egress>, resolver: Resolver, interfaces: Interfaces) -> Self {
        let is_crowded = Rc::<Cell<bool>>::default();
        let seen = Rc::clone(&is_crowded);
        let dial = Rc::new(move |address: SocketAddr| -> Connecting {
            Box::pin(connect(address, Rc::clone(&seen)))
        });
        Self { egress, resolver, interfaces, dial, is_crowded }
    }

    /// Whether so few files are left since the last look that connections which nobody uses have to make way.
    pub(super) fn was_crowded(&self) -> bool {
        self.is_crowded.take()
    }

    /// Connects to a host, an IPv6 address in brackets or not.
    pub(super) async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let addresses = addresses_of(&self.resolver, host, port).await?;
        let allowed = self.allowed(host, addresses)?;
        self.open(&allowed).await
    }

    /// Connects to a host of the operator's own, wherever it is.
    pub(super) async fn dial_own(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let addresses = addresses_of(&self.resolver, host, port).await?;
        self.open(&addresses).await
    }

    async fn open(&self, addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
        let stream = self.dial_any(addresses).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The addresses that may be dialled; an error if there is none.
    fn allowed(&self, host: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Blocked> {
        let mut allowed = Vec::with_capacity(addresses.len());
        let mut blocked = None;
        let own = self.interfaces.own();
        for address in addresses {
            match self.egress.permit(host, address, &own) {
                Ok(_) => allowed.push(address),
                Err(rule) => blocked = blocked.or(Some(rule)),
            }
        }
        match blocked {
            Some(rule) if allowed.is_empty() => Err(rule),
            _ => Ok(allowed),
        }
    }

    /// Tries the addresses in their order and takes the first that answers: each has a head start alone or
    /// beside the one before it, and another beside the one behind it, until it makes way for a third; the
    /// last two have all the time that is left, and what fails makes way at once.
    async fn dial_any(&self, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
        let mut rest = addresses.iter().take(ADDRESSES_MAX);
        let mut open: VecDeque<(Instant, Connecting)> = VecDeque::with_capacity(OPEN_MAX);
        let mut failure = None;
        loop {
            if let Some(address) = rest.next() {
                if open.len() == OPEN_MAX {
                    open.pop_front();
                }
                open.push_back((Instant::now(), (self.dial)(*address)));
            }
            let Some((oldest, _)) = open.front() else {
                return Err(failure.unwrap_or_else(|| io::Error::other("the host has no addresses")));
            };
            let patience = match rest.len() {
                0 => Duration::MAX,
                _ => (HEAD_START * open.len() as u32).saturating_sub(oldest.elapsed()),
            };
            let attempts = open.iter_mut().map(|(_, connecting)| connecting);
            let ended = timeout(patience, select_all(attempts)).await;
            match ended.map(|(result, index, _)| (result, index)) {
                Ok((Ok(stream), _)) => return Ok(stream),
                // Another one could not be opened either; that is no fault of the host, whatever the others
                // do.
                Ok((Err(error), _)) if files::are_used_up(&error) => return Err(error),
                Ok((Err(error), index)) => {
                    open.remove(index);
                    failure = Some(weightier(failure, error));
                }
                Err(_) => {}
            }
        }
    }
}

/// Which of two failures to connect to a host tells more of it, the later one in doubt.
fn weightier(known: Option<io::Error>, new: io::Error) -> io::Error {
    // A refusal is the host's own; that this machine has no way to one address says nothing of the others.
    let weight = |error: &io::Error| match local::fault(error) {
        Some(_) => 0,
        None if error.kind() == io::ErrorKind::ConnectionRefused => 2,
        None => 1,
    };
    match known {
        Some(known) if weight(&known) > weight(&new) => known,
        _ => new,
    }
}

/// The addresses of a host as a URL writes it.
pub(crate) async fn addresses_of(
    resolver: &Resolver,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, DialError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let found = match bare.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => {
            resolver.addresses(bare).await.map_err(|error| DialError::Unresolved(bare.to_owned(), error))?
        }
    };
    Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

async fn connect(address: SocketAddr, is_crowded: Rc<Cell<bool>>) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    files::admit(&socket)?;
    if files::is_for_use_only(&socket) {
        is_crowded.set(true);
    }
    socket.connect(address).await
}

#[cfg(test)]
mod tests;
