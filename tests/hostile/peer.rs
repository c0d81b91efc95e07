//! A server that keeps to no rule: on a real socket, each connection as the test likes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What is done with a connection, which ends with it.
pub(super) type Behaviour = Box<dyn Fn(TcpStream) -> BoxFuture<'static, io::Result<()>> + Send + Sync>;

/// A server; it and its connections end on drop.
pub(super) struct Peer {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Peer {
    /// Behaves so on every connection.
    pub(super) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&accepted);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                connections.spawn(behaviour(stream));
            }
        });
        Self { address, accepted, accepting }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were accepted so far.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Its URL.
    pub(super) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/", self.address)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Reads the request, says this and closes the connection.
pub(super) fn says(bytes: impl Into<Vec<u8>>) -> Behaviour {
    after_request(bytes.into(), |_| async { Ok(()) }.boxed())
}

/// Reads the request, says this a byte at a time, and closes the connection.
pub(super) fn spells(bytes: impl Into<Vec<u8>>) -> Behaviour {
    let bytes = bytes.into();
    after_request(vec![], move |stream| spell(stream, bytes.clone()).boxed())
}

/// Reads the request, says this and then nothing more, for as long as the client stays.
pub(super) fn stays(bytes: impl Into<Vec<u8>>) -> Behaviour {
    after_request(bytes.into(), |mut stream| {
        async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(|_| ()) }.boxed()
    })
}

/// Reads the request, says this and resets the connection.
pub(super) fn resets(bytes: impl Into<Vec<u8>>) -> Behaviour {
    after_request(bytes.into(), |stream| async move { stream.set_zero_linger() }.boxed())
}

/// Reads the request, says `first`, and then `again` for ever, as fast as it is taken.
pub(super) fn floods(first: impl Into<Vec<u8>>, again: impl Into<Vec<u8>>) -> Behaviour {
    let again = again.into();
    after_request(first.into(), move |stream| repeat(stream, again.clone(), Duration::ZERO).boxed())
}

/// Reads the request, says `first` at once, and then `again` for ever, with pauses.
pub(super) fn drips(first: impl Into<Vec<u8>>, again: &'static [u8], every: Duration) -> Behaviour {
    after_request(first.into(), move |stream| repeat(stream, again.to_vec(), every).boxed())
}

/// Says this as soon as the client is there, and never reads.
pub(super) fn says_unasked(bytes: impl Into<Vec<u8>>) -> Behaviour {
    let bytes = bytes.into();
    Box::new(move |stream: TcpStream| say_unasked(stream, bytes.clone()).boxed())
}

/// Resets the connection as soon as the client is there.
pub(super) fn resets_at_once() -> Behaviour {
    Box::new(|stream: TcpStream| async move { stream.set_zero_linger() }.boxed())
}

/// Reads so many bytes, and resets the connection.
pub(super) fn resets_after(bytes: usize) -> Behaviour {
    Box::new(move |mut stream: TcpStream| {
        async move {
            stream.read_exact(&mut vec![0; bytes]).await?;
            stream.set_zero_linger()
        }
        .boxed()
    })
}

async fn repeat(mut stream: TcpStream, bytes: Vec<u8>, every: Duration) -> io::Result<()> {
    loop {
        if !every.is_zero() {
            tokio::time::sleep(every).await;
        }
        stream.write_all(&bytes).await?;
    }
}

async fn spell(mut stream: TcpStream, bytes: Vec<u8>) -> io::Result<()> {
    for byte in bytes {
        tokio::time::sleep(Duration::from_millis(1)).await;
        stream.write_u8(byte).await?;
    }
    Ok(())
}

async fn say_unasked(mut stream: TcpStream, bytes: Vec<u8>) -> io::Result<()> {
    stream.write_all(&bytes).await?;
    std::future::pending().await
}

fn after_request<F>(bytes: Vec<u8>, then: F) -> Behaviour
where
    F: Fn(TcpStream) -> BoxFuture<'static, io::Result<()>> + Send + Sync + 'static,
{
    let then = Arc::new(then);
    Box::new(move |mut stream: TcpStream| {
        let (bytes, then) = (bytes.clone(), Arc::clone(&then));
        async move {
            read_request(&mut stream).await?;
            stream.write_all(&bytes).await?;
            then(stream).await
        }
        .boxed()
    })
}

/// Reads a request with a `content-length`, or whatever comes first from a client that speaks TLS.
async fn read_request(stream: &mut TcpStream) -> io::Result<()> {
    let mut read = Vec::with_capacity(0x4000);
    while missing(&read) > 0 {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// How many bytes of a request are missing at least.
fn missing(read: &[u8]) -> usize {
    const TLS_HANDSHAKE: u8 = 22;
    if read.first() == Some(&TLS_HANDSHAKE) {
        return 0;
    }
    let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else { return 1 };
    let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    (end + 4 + length).saturating_sub(read.len())
}

/// A port at which connections wait to be accepted for ever: its queue of them is full.
pub(super) struct FullPort {
    address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl FullPort {
    /// Takes a port and fills its queue.
    pub(super) async fn new() -> Self {
        const SOON: Duration = Duration::from_millis(200);
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let listener = socket.listen(1).unwrap();
        let mut waiting = vec![];
        while let Ok(stream) = tokio::time::timeout(SOON, TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
        }
        Self { address, _listener: listener, _waiting: waiting }
    }

    /// Its URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}
