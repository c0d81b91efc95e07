//! A stream, above TLS, on which the heads of answers come to awc so that it reads what follows them as HTTP
//! means it.
//!
//! **Interim answers are passed over** (RFC 9110, 15.2). awc takes the first of them for the answer.
//!
//! **An answer that ends with its connection says HTTP/1.0** (RFC 9112, 6.3). awc reads such an answer to its
//! end, but one of HTTP/1.1 it takes to have no body.
//!
//! **An offer to change the protocol is passed over** (RFC 9110, 7.8). awc takes an answer that offers
//! WebSocket to have no body, whatever length it tells; the name of that field is misspelt for it.
//!
//! **Behind more than an answer no other request is written.** awc throws away what has come with an answer
//! and does not belong to it, and the rest of that would be taken for the next answer. Where chunks end is
//! not known here.
//!
//! A head is held back until it is whole, so awc parses it once. What can't be one is passed on: awc says
//! what is wrong.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use actix_rt::net::{ActixStream, Ready};
use actix_web::http::{StatusCode, Version, header::UPGRADE};
use httparse::{ParserConfig, Response, Status};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    framing::{Body, Field, Framing},
    socket::unsent,
};

/// awc takes no head that is larger.
pub(super) const HEAD_BYTES_MAX: usize = 131_072;
/// awc takes no head with more headers.
const HEADERS_MAX: usize = 96;
/// A head that is not larger is parsed whenever something of it arrives, so that what is none is soon known.
/// A larger one is parsed when it has doubled or may be whole: parsing it for each byte would take the time
/// of its square.
const SMALL_HEAD_BYTES: usize = 4096;
/// So many interim answers to a request are passed over; the next one is taken for the answer.
const INTERIM_ANSWERS_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Heads<S> {
    stream: S,
    head: Head,
}

/// The head of the answer to the last request.
#[derive(Debug, Default)]
struct Head {
    /// What has arrived and was not passed on.
    held: Vec<u8>,
    /// It is parsed when it has as many bytes, or before if it may be whole.
    parsed_at: usize,
    interim_answers: usize,
    /// Whether everything may be passed on.
    is_done: bool,
    /// How many bytes of the body are still to come, if that is known.
    missing: Option<u64>,
    /// Whether more has come than the body.
    has_excess: bool,
}

/// What the beginning of an answer is.
enum Start {
    /// A part of a head.
    Part,
    /// An interim answer of so many bytes.
    Interim(usize),
    /// The head of an answer.
    Final {
        /// Its bytes.
        length: usize,
        /// Those of the body, if that is known.
        body: Option<u64>,
        /// The answer ends with its connection, and awc would not know it.
        is_open_ended: bool,
        /// Where names of fields begin that offer another protocol.
        offers: Vec<usize>,
    },
    /// Anything else.
    Other,
}

impl<S> Heads<S> {
    /// A stream on which nothing was asked yet.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, head: Head::default() }
    }
}

impl Head {
    /// Takes what has arrived.
    fn take(&mut self, bytes: &[u8]) {
        let known = self.held.len();
        self.held.extend_from_slice(bytes);
        if self.held.len() < self.parsed_at.min(HEAD_BYTES_MAX) && !has_empty_line(&self.held, known) {
            return;
        }
        while !self.is_done {
            match Start::of(&self.held) {
                Start::Part if self.held.len() < HEAD_BYTES_MAX => break,
                Start::Interim(length) if self.interim_answers < INTERIM_ANSWERS_MAX => {
                    self.held.drain(..length);
                    self.interim_answers += 1;
                }
                Start::Final { length, body, is_open_ended, offers } => {
                    offers.into_iter().for_each(|at| self.held[at] = b'x');
                    if is_open_ended {
                        say_http_10(&mut self.held);
                    }
                    self.missing = body;
                    self.count(self.held.len() - length);
                    self.is_done = true;
                }
                _ => self.is_done = true,
            }
        }
        self.parsed_at = if self.held.len() < SMALL_HEAD_BYTES { 0 } else { 2 * self.held.len() };
    }

    /// Counts what has come behind the head.
    fn count(&mut self, bytes: usize) {
        let Some(missing) = self.missing else { return };
        self.has_excess |= bytes as u64 > missing;
        self.missing = Some(missing.saturating_sub(bytes as u64));
    }

    /// Passes on as much as there is room for.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = buffer.remaining().min(self.held.len());
        buffer.put_slice(&self.held[..count]);
        self.held.drain(..count);
        if self.held.is_empty() {
            // An idle connection holds no memory.
            self.held = Vec::new();
        }
    }
}

impl Start {
    /// Parses as awc does.
    fn of(bytes: &[u8]) -> Self {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = Response::new(&mut headers);
        let mut parser = ParserConfig::default();
        parser.allow_spaces_after_header_name_in_responses(true);
        let length = match parser.parse_response(&mut head, bytes) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return Self::Part,
            Err(_) => return Self::Other,
        };
        let Some(Ok(status)) = head.code.map(StatusCode::from_u16) else { return Self::Other };
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            return Self::Interim(length);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Self::Other;
        }
        let fields: Vec<Field<'_>> = head.headers.iter().map(|header| (header.name, header.value)).collect();
        let version = if head.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
        let body = Framing::of(status, version, &fields).body;
        let is_offer = |field: &&Field<'_>| field.0.eq_ignore_ascii_case(UPGRADE.as_str());
        let place = |field: &Field<'_>| field.0.as_ptr() as usize - bytes.as_ptr() as usize;
        Self::Final {
            length,
            body: body.length(),
            is_open_ended: version == Version::HTTP_11 && body == Body::Connection,
            offers: fields.iter().filter(is_offer).map(place).collect(),
        }
    }
}

/// Whether a line is empty that did not end within the first `known` bytes.
fn has_empty_line(head: &[u8], known: usize) -> bool {
    let new = &head[known.saturating_sub(2)..];
    let ends = |end: &[u8]| new.windows(end.len()).any(|bytes| bytes == end);
    ends(b"\n\n") || ends(b"\n\r\n")
}

/// Only line breaks can come before a head's `HTTP/1.1`, so its last digit is the second 1 that there is.
fn say_http_10(head: &mut [u8]) {
    if let Some(minor) = head.iter_mut().filter(|byte| **byte == b'1').nth(1) {
        *minor = b'0';
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, head } = self.get_mut();
        let before = buffer.filled().len();
        while !head.is_done {
            ready!(Pin::new(&mut *stream).poll_read(context, buffer))?;
            let arrived = &buffer.filled()[before..];
            if arrived.is_empty() {
                return Poll::Ready(Ok(()));
            }
            head.take(arrived);
            buffer.set_filled(before);
        }
        if head.held.is_empty() {
            ready!(Pin::new(stream).poll_read(context, buffer))?;
            head.count(buffer.filled().len() - before);
            return Poll::Ready(Ok(()));
        }
        head.give(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    /// awc reads nothing before it has written a whole request, so what comes after a write is another
    /// answer.
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, head } = self.get_mut();
        if head.has_excess {
            let why = "more than an answer has come on it";
            return Poll::Ready(Err(unsent(io::Error::new(io::ErrorKind::ConnectionAborted, why))));
        }
        *head = Head::default();
        Pin::new(stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl<S: ActixStream> ActixStream for Heads<S> {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.stream.poll_read_ready(context)
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.stream.poll_write_ready(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, duplex};

    use super::*;
    use crate::http::socket::is_unsent;

    const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\ncontent-length: 7\r\n\r\n";
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsoup";

    /// What awc reads of an answer that arrives a byte at a time.
    async fn read(answer: &str) -> String {
        let (stream, mut peer) = duplex(1);
        let (mut heads, mut read) = (Heads::new(stream), String::new());
        let write = async move {
            peer.write_all(answer.as_bytes()).await.expect("room");
            drop(peer);
        };
        let ((), result) = tokio::join!(write, heads.read_to_string(&mut read));
        result.expect("text");
        read
    }

    #[tokio::test]
    async fn interim_answers_are_passed_over() {
        assert_eq!(read(&format!("HTTP/1.1 100 Continue\r\n\r\n{INTERIM}{ANSWER}")).await, ANSWER);
        assert_eq!(read(&format!("\r\nHTTP/1.0 199\n\n{ANSWER}")).await, ANSWER);
        assert_eq!(read(INTERIM).await, "");
        let many = INTERIM.repeat(INTERIM_ANSWERS_MAX);
        assert_eq!(read(&format!("{many}{ANSWER}")).await, ANSWER);
        assert_eq!(read(&format!("{many}{INTERIM}{ANSWER}")).await, format!("{INTERIM}{ANSWER}"));
    }

    #[tokio::test]
    async fn an_answer_that_ends_with_its_connection_says_http_1_0() {
        for rest in [
            " 200 OK\r\n\r\nsoup",
            " 500\n\nsoup",
            " 411 1\r\nx: 1\r\nconnection: keep-alive\r\n\r\n",
            " 200 OK\r\nTransfer-Encoding : Identity\r\n\r\nsoup",
        ] {
            assert_eq!(read(&format!("HTTP/1.1{rest}")).await, format!("HTTP/1.0{rest}"));
            assert_eq!(
                read(&format!("{INTERIM}\r\n\nHTTP/1.1{rest}")).await,
                format!("\r\n\nHTTP/1.0{rest}")
            );
        }
    }

    #[tokio::test]
    async fn an_offer_to_change_the_protocol_is_passed_over() {
        let answer = "HTTP/1.1 200 OK\r\nUpgrade: websocket\r\ncontent-length: 4\r\n\r\nsoup";
        assert_eq!(read(answer).await, answer.replace("Upgrade", "xpgrade"));
    }

    #[tokio::test]
    async fn a_large_head_is_known_when_it_is_whole_however_it_arrives() {
        let field = format!("x: {}\r\n", "y".repeat(70));
        for fields in [1, SMALL_HEAD_BYTES / field.len(), SMALL_HEAD_BYTES / field.len() + 1, 700] {
            let rest = format!(" 200 OK\r\n{}\r\nsoup", field.repeat(fields.min(HEADERS_MAX)));
            assert_eq!(read(&format!("HTTP/1.1{rest}")).await, format!("HTTP/1.0{rest}"));
        }
    }

    #[test]
    fn an_empty_line_is_seen_wherever_the_bytes_were_cut() {
        for head in ["a: b\r\n\r\n", "a: b\n\n", "a: b\n\r\n"] {
            let seen = |known| has_empty_line(head.as_bytes(), known);
            assert!((0..head.len()).all(seen), "{head:?}");
            assert!(!has_empty_line(&head.as_bytes()[..head.len() - 1], 0));
        }
    }

    #[tokio::test]
    async fn everything_else_is_passed_on_as_it_is() {
        for answer in [
            ANSWER,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nsoup",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\nsoup",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\ntransfer-encoding: identity\r\n\r\nsoup",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nsoup",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "soup",
        ] {
            assert_eq!(read(answer).await, answer);
        }
    }

    #[tokio::test]
    async fn what_is_too_large_for_a_head_is_passed_on() {
        let endless = ["HTTP/1.1 200 OK\r\nx: ", &"x".repeat(2 * HEAD_BYTES_MAX)].concat();
        let mut read = String::new();
        BufReader::new(Heads::new(endless.as_bytes())).read_to_string(&mut read).await.expect("text");
        assert!(read == endless, "{} of {} bytes", read.len(), endless.len());
    }

    #[tokio::test]
    async fn behind_more_than_an_answer_no_other_request_is_written() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n";
        const NOTHING: &str = "HTTP/1.1 204 No Content\r\n\r\n";
        const JUNK: &str = "H";
        for (pieces, is_more) in [
            (vec![HEAD, "soup"], false),
            (vec![HEAD, "so", "up"], false),
            (vec![NOTHING], false),
            (vec![ANSWER, JUNK], true),
            (vec![HEAD, "soupH"], true),
            (vec![NOTHING, JUNK], true),
        ] {
            let at_once = pieces.concat();
            for pieces in [pieces, vec![at_once.as_str()]] {
                let (stream, mut peer) = duplex(1000);
                let mut heads = Heads::new(stream);
                heads.write_all(b"a request").await.expect("room");
                for piece in &pieces {
                    peer.write_all(piece.as_bytes()).await.expect("room");
                    let read = heads.read(&mut [0; 1000]).await.expect("a piece");
                    assert!(read > 0, "{pieces:?}");
                }
                let written = heads.write_all(b"another request").await;
                assert_eq!(written.is_err_and(|error| is_unsent(&error)), is_more, "{pieces:?}");
            }
        }
    }

    #[tokio::test]
    async fn each_request_has_an_answer_with_a_head_of_its_own() {
        let (stream, mut peer) = duplex(1000);
        let mut heads = Heads::new(stream);
        for _ in 0..2 {
            heads.write_all(b"a request").await.expect("room");
            peer.write_all([INTERIM, ANSWER].concat().as_bytes()).await.expect("room");
            let mut answer = vec![0; ANSWER.len()];
            heads.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(answer, ANSWER.as_bytes());
        }
    }
}
