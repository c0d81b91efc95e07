//! A TCP stream with four rules of its own, below TLS and awc.
//!
//! **Its end is an error.** awc ends the body of an answer in the same way when it is complete and when the
//! connection was closed in the middle of it. Below it, the two can be told apart: an answer that says where
//! it ends never needs the end of the connection. So that end is an error here, and whoever reads an answer
//! that only ends with its connection passes over it ([`is_end`]).
//!
//! **An answer is bounded.** awc reads trailers, the extensions of chunks and the like without end. Here no
//! more bytes are read after a request than an answer may need ([`is_excess`]). And each piece wakes every
//! layer above, so an answer in many small pieces is read with pauses.
//!
//! **A request that never left is known.** If nothing of a request could be written on a connection that has
//! carried an answer before, it was certainly not received ([`is_unsent`]).
//!
//! **An answer is read though its request was cut off.** An endpoint that answers a large request before it
//! has read it, and closes the connection, resets it; the answer has come before that, and the system still
//! gives it out. awc reads nothing if it can't write. So what can't be written is passed over, and the reason
//! is told when there is nothing more to read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_rt::net::{ActixStream, Ready, TcpStream};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::tally::Counted;

/// So many pieces of an answer are read without a pause, whatever their size.
const PIECES_FREE: usize = 64;
/// Beyond them, pieces that are this large on average are.
const PIECE_BYTES: usize = 512;
/// The pause before the next piece.
const PAUSE: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    answer_bytes_max: usize,
    /// What was read since the last write: an answer, or a part of TLS's handshake.
    answer: Pieces,
    pause: Option<Pin<Box<Sleep>>>,
    /// Why no more can be written.
    cut_off: Option<io::Error>,
    /// Counts it as open.
    _open: Counted,
}

/// Pieces of an answer.
#[derive(Debug, Default, Clone, Copy)]
struct Pieces {
    count: usize,
    bytes: usize,
}

/// The connection was closed by the other side.
#[derive(Debug, Error)]
#[error("the connection was closed")]
struct End;

/// More was sent than an answer may need.
#[derive(Debug, Error)]
#[error("the answer, with all that frames it, is longer than {0} bytes")]
struct Excess(usize);

/// Nothing of the request was written.
#[derive(Debug, Error)]
#[error("the connection is gone: {0}")]
struct Unsent(#[source] io::Error);

impl Socket {
    /// A stream on which so many bytes may be read after each request.
    pub(super) fn new(stream: TcpStream, answer_bytes_max: usize, open: Counted) -> Self {
        let answer = Pieces::default();
        Self { stream, answer_bytes_max, answer, pause: None, cut_off: None, _open: open }
    }

    fn has_read(&mut self, bytes: usize) -> io::Result<()> {
        self.answer.count += 1;
        self.answer.bytes = self.answer.bytes.saturating_add(bytes);
        if self.answer.bytes > self.answer_bytes_max {
            return Err(io::Error::other(Excess(self.answer_bytes_max)));
        }
        if self.answer.are_small() {
            self.pause = Some(Box::pin(sleep(PAUSE)));
        }
        Ok(())
    }

    /// What came of a write of so many bytes. The first one since something was read begins a request.
    fn has_written(&mut self, wanted: usize, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Err(error) if self.answer.count > 0 => Err(unsent(error)),
            Err(error) => {
                self.cut_off = Some(error);
                Ok(wanted)
            }
            Ok(bytes) => {
                self.answer = Pieces::default();
                Ok(bytes)
            }
        }
    }

    /// A connection that is in a pause can't be seen to be idle, and one that was cut off is over: neither
    /// carries another request.
    fn is_usable(&self) -> io::Result<()> {
        match (&self.cut_off, &self.pause) {
            (Some(error), _) => Err(same(error)),
            (None, Some(_)) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "its last answer came in drops"))
            }
            (None, None) => Ok(()),
        }
    }

    /// The end of the stream. Behind a reset that a write was told of, the system says nothing but this.
    fn end(&self) -> io::Error {
        self.cut_off.as_ref().map_or_else(end, same)
    }
}

impl Pieces {
    fn are_small(self) -> bool {
        self.count > PIECES_FREE + self.bytes / PIECE_BYTES
    }
}

/// The same error once more.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// An error that says that nothing of a request was sent.
pub(super) fn unsent(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Unsent(error))
}

/// The end of a connection as an error, for a layer above that has an end of its own.
pub(super) fn end() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, End)
}

/// Whether an error is the end of a connection and nothing else.
pub(super) fn is_end(error: &io::Error) -> bool {
    is::<End>(error)
}

/// Whether an error says that an answer is too long.
pub(super) fn is_excess(error: &io::Error) -> bool {
    is::<Excess>(error)
}

/// Whether an error says that nothing of a request was sent.
pub(super) fn is_unsent(error: &io::Error) -> bool {
    is::<Unsent>(error)
}

fn is<E: std::error::Error + 'static>(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<E>())
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let before = buffer.filled().len();
        let has_room = buffer.remaining() > 0;
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        match buffer.filled().len() - before {
            0 if has_room => Poll::Ready(Err(self.end())),
            bytes => Poll::Ready(self.has_read(bytes)),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = match self.is_usable() {
            Ok(()) => ready!(Pin::new(&mut self.stream).poll_write(context, bytes)),
            Err(error) => Err(error),
        };
        Poll::Ready(self.has_written(bytes.len(), result))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = match self.is_usable() {
            Ok(()) => ready!(Pin::new(&mut self.stream).poll_write_vectored(context, bytes)),
            Err(error) => Err(error),
        };
        let wanted: usize = bytes.iter().map(|slice| slice.len()).sum();
        Poll::Ready(self.has_written(wanted, result))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl ActixStream for Socket {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(&self.stream, context)
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(&self.stream, context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, Interest},
        net::TcpListener,
    };

    use super::*;
    use crate::http::tally::Tally;

    async fn connected(answer_bytes_max: usize) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await;
        let (peer, _) = listener.accept().await.expect("a connection");
        (Socket::new(stream.expect("a connection"), answer_bytes_max, Tally::default().add()), peer)
    }

    /// Reads until nothing more comes, and returns how much came and why it ended.
    async fn read_all(socket: &mut Socket) -> (usize, io::Error) {
        let (mut bytes, mut buffer) = (0, [0; 100]);
        loop {
            match socket.read(&mut buffer).await {
                Ok(count) => bytes += count,
                Err(error) => return (bytes, error),
            }
        }
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_an_error() {
        let (mut socket, mut peer) = connected(1000).await;
        peer.write_all(&[b'x'; 1000]).await.expect("room");
        drop(peer);
        let (bytes, error) = read_all(&mut socket).await;
        assert!(bytes == 1000 && is_end(&error) && !is_excess(&error), "{bytes}, {error}");
    }

    #[tokio::test]
    async fn no_more_is_read_after_a_request_than_an_answer_may_need() {
        let (mut socket, mut peer) = connected(1000).await;
        peer.write_all(&[b'x'; 1000]).await.expect("room");
        socket.read_exact(&mut [0; 1000]).await.expect("as much as allowed");
        socket.write_all(b"another request").await.expect("room");
        peer.write_all(&[b'x'; 1001]).await.expect("room");
        let (_, error) = read_all(&mut socket).await;
        assert!(is_excess(&error), "{error}");
    }

    #[tokio::test]
    async fn a_request_of_which_nothing_could_be_written_is_told_from_one_of_which_something_was() {
        let (mut socket, mut peer) = connected(1000).await;
        // A connection that is closed with something unread is reset.
        socket.write_all(b"a request").await.expect("room");
        peer.readable().await.expect("a request");
        peer.write_all(b"an answer").await.expect("room");
        socket.read_exact(&mut [0; 9]).await.expect("an answer");
        drop(peer);
        socket.stream.peek(&mut [0]).await.expect_err("a reset");
        let error = socket.write_all(b"another request").await.expect_err("the connection is reset");
        assert!(is_unsent(&error), "{error}");

        let (mut socket, peer) = connected(1000).await;
        socket.write_all(b"a request").await.expect("room");
        peer.readable().await.expect("a request");
        drop(peer);
        socket.stream.peek(&mut [0]).await.expect_err("a reset");
        socket.write_all(b"the rest of it").await.expect("what can't be written is passed over");
        let (bytes, error) = read_all(&mut socket).await;
        assert!(bytes == 0 && !is_unsent(&error) && !is_end(&error), "{bytes}, {error}");
    }

    #[tokio::test]
    async fn an_answer_is_read_though_the_rest_of_its_request_can_not_be_written() {
        let (mut socket, mut peer) = connected(1000).await;
        socket.write_all(b"a request").await.expect("room");
        peer.readable().await.expect("a request");
        peer.write_all(b"an answer").await.expect("room");
        drop(peer);
        socket.stream.ready(Interest::ERROR).await.expect("a reset");
        socket.write_all(b"the rest of it").await.expect("what can't be written is passed over");
        let (bytes, error) = read_all(&mut socket).await;
        let is_reset = matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
        assert!(bytes == 9 && is_reset && !is_end(&error), "{bytes}, {error}");
        let error = socket.write_all(b"another request").await.expect_err("the connection is gone");
        assert!(is_unsent(&error), "{error}");
    }

    #[test]
    fn only_many_small_pieces_are_read_with_pauses() {
        let are_small = |count, bytes| Pieces { count, bytes }.are_small();
        assert!(!are_small(PIECES_FREE, PIECES_FREE));
        assert!(are_small(PIECES_FREE + 1, PIECES_FREE + 1));
        assert!(!are_small(1000, 1000 * PIECE_BYTES));
    }

    #[tokio::test]
    async fn a_connection_whose_answer_came_in_drops_carries_no_other_request() {
        let (mut socket, mut peer) = connected(1000).await;
        for _ in 0..=PIECES_FREE {
            peer.write_all(b"x").await.expect("room");
            socket.read_exact(&mut [0]).await.expect("a byte");
        }
        let error = socket.write_all(b"another request").await.expect_err("a pause");
        assert!(is_unsent(&error), "{error}");
    }
}
