//! Ports nobody else uses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::TcpSocket;

/// Below the range from which Linux takes the ports of outgoing connections, so that none of those
/// settles on the port of a server while a test has it stopped.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A port of 127.0.0.1 on which nothing listens, handed out once per test process.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id().wrapping_mul(101);
    let next = || {
        let offset = start.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed).into());
        FIRST + u16::try_from(offset % u32::from(COUNT)).unwrap()
    };
    (0..COUNT).map(|_| next()).find(|port| is_free(*port)).expect("a free port")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port that refuses connections for as long as this lives.
pub struct RefusedPort {
    /// Bound but never listening: connections are refused, and nobody else can take the port.
    _socket: TcpSocket,
    address: SocketAddr,
}

impl RefusedPort {
    /// Takes a port.
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        Self { _socket: socket, address }
    }

    /// Where nothing listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path behind which nothing listens.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}
