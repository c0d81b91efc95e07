//! A relay of TCP connections that can fall silent, as a network does that drops everything.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, JoinSet};

/// Listens on a free port, and passes everything on in both directions.
pub struct Relay {
    address: SocketAddr,
    silence: broadcast::Sender<()>,
    hang_up: broadcast::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// A relay to this address on 127.0.0.1.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self::on(listener, target)
    }

    /// A relay to this address on `::1`, unless this machine has no IPv6.
    pub async fn by_ipv6(target: SocketAddr) -> Option<Self> {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.ok()?;
        Some(Self::on(listener, target))
    }

    fn on(listener: TcpListener, target: SocketAddr) -> Self {
        let address = listener.local_addr().unwrap();
        let (silence, hang_up) = (broadcast::Sender::new(1), broadcast::Sender::new(1));
        let accepting = tokio::spawn(accept(listener, target, silence.clone(), hang_up.clone()));
        Self { address, silence, hang_up, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes nothing more on the connections that there are now, which stay open.
    pub fn silence(&self) {
        self.silence.send(()).ok();
    }

    /// Ends the connections that are silent.
    pub fn hang_up(&self) {
        self.hang_up.send(()).ok();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    silence: broadcast::Sender<()>,
    hang_up: broadcast::Sender<()>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(relay(stream, target, silence.subscribe(), hang_up.clone()));
    }
}

async fn relay(
    mut client: TcpStream,
    target: SocketAddr,
    mut silence: broadcast::Receiver<()>,
    hang_up: broadcast::Sender<()>,
) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = silence.recv() => {
            hang_up.subscribe().recv().await.ok();
        }
    }
}
