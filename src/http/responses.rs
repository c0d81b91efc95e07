//! A stream, above TLS, on which responses come to awc in the one form that it reads without fault.
//!
//! awc refuses much that other clients read, takes an interim response (RFC 9110 §15.2) for the response, a body
//! of HTTP/1.1 that ends with its connection for none, and throws away what comes behind a body. So a response is
//! read here, as leniently as others do, and written again for awc: its status, the headers that we look at, and
//! a body of a length or in chunks.
//!
//! **Behind a response that did not end cleanly no other request is written**: what still comes would be taken
//! for the next response.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use actix_rt::net::{ActixStream, Ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    chunks::{self, Chunks},
    framing::{Body, Framing},
    header_section::{self, HeaderFault, HeaderSection},
    socket::{end, is_end, unsent},
};

/// Interim responses to a request that are passed over; the next one is taken for the response.
const INTERIM_RESPONSES_MAX: usize = 16;

/// The headers that somebody looks at. awc gets the first of each.
const PASSED_ON: [&str; 6] = [
    "content-encoding",
    "location",
    "proxy-authenticate",
    "retry-after",
    "x-smokescreen-error",
    "x-squid-error",
];

/// See the module.
#[derive(Debug)]
pub(super) struct Responses<S> {
    stream: S,
    response: Response,
}

/// The response to the last request.
#[derive(Debug, Default)]
struct Response {
    state: State,
    /// What awc has still to read.
    written: Vec<u8>,
    interim: usize,
}

#[derive(Debug)]
enum State {
    /// What has arrived of the header section.
    Header(Vec<u8>),
    /// So many bytes of the body are missing.
    Length(u64),
    Chunks(Chunks),
    /// The body ends with the connection.
    Connection,
    /// Nothing is missing, and nothing has come behind it.
    Over,
    /// What has come or may come belongs to no response, for this reason.
    Broken(io::Error),
}

impl Default for State {
    fn default() -> Self {
        Self::Header(Vec::new())
    }
}

impl<S> Responses<S> {
    /// A stream on which nothing was asked yet.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, response: Response::default() }
    }
}

impl Response {
    /// Takes what has arrived.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.state {
            State::Header(_) => self.take_header(bytes),
            State::Length(missing) => {
                let count = usize::try_from(*missing).unwrap_or(usize::MAX).min(bytes.len());
                self.written.extend_from_slice(&bytes[..count]);
                *missing -= count as u64;
                if *missing == 0 {
                    self.is_over(&bytes[count..]);
                }
                Ok(())
            }
            State::Chunks(_) => self.take_chunks(bytes),
            State::Connection => {
                chunks::write(bytes, &mut self.written);
                Ok(())
            }
            State::Over | State::Broken(_) => Err(not_clean()),
        }
    }

    fn take_header(&mut self, bytes: &[u8]) -> io::Result<()> {
        let State::Header(held) = &mut self.state else { return Ok(()) };
        let is_first = held.is_empty();
        // RFC 9112 §2.2: empty lines before a response are none of it.
        let blank = bytes.iter().take_while(|byte| is_first && matches!(byte, b'\r' | b'\n')).count();
        let known = held.len();
        held.extend_from_slice(&bytes[blank..]);
        if !header_section::may_begin(held) {
            return Err(invalid(HeaderFault::status_line(held)));
        }
        let Some(end) = header_section::end(held, known) else {
            let is_too_large = held.len() >= header_section::BYTES_MAX;
            return if is_too_large { Err(invalid(HeaderFault::TooManyBytes)) } else { Ok(()) };
        };
        let rest = held.split_off(end);
        let section = HeaderSection::read(held).map_err(invalid)?;
        self.state = State::default();
        if is_interim(section.status) && self.interim < INTERIM_RESPONSES_MAX {
            self.interim += 1;
        } else {
            self.begin(&section).map_err(invalid)?;
        }
        if rest.is_empty() { Ok(()) } else { self.take_rest(&rest) }
    }

    /// What comes with a response and does not belong to it is none of awc's business.
    fn take_rest(&mut self, rest: &[u8]) -> io::Result<()> {
        match self.state {
            State::Over => {
                self.is_over(rest);
                Ok(())
            }
            _ => self.take(rest),
        }
    }

    /// The header section is known.
    fn begin(&mut self, section: &HeaderSection) -> Result<(), HeaderFault> {
        let framing = Framing::of(section)?;
        self.write_header(section, &framing);
        self.state = match framing.body {
            Body::None => {
                self.written.extend_from_slice(chunks::LAST);
                State::Over
            }
            Body::Length(0) => State::Over,
            Body::Length(length) => State::Length(length),
            Body::Chunks => State::Chunks(Chunks::new()),
            Body::Connection => State::Connection,
        };
        Ok(())
    }

    fn write_header(&mut self, section: &HeaderSection, framing: &Framing) {
        self.written.extend_from_slice(format!("HTTP/1.1 {} x\r\n", section.status).as_bytes());
        let mut line = |name: &str, value: &[u8]| {
            self.written.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        };
        for name in PASSED_ON {
            if let Some(value) = section.values(name).next() {
                line(name, value);
            }
        }
        match framing.body {
            Body::Length(length) => line("content-length", length.to_string().as_bytes()),
            _ => line("transfer-encoding", b"chunked"),
        }
        if !framing.is_reusable {
            line("connection", b"close");
        }
        self.written.extend_from_slice(b"\r\n");
    }

    /// The body is whole with its last chunk, whatever becomes of the trailers.
    fn take_chunks(&mut self, bytes: &[u8]) -> io::Result<()> {
        let State::Chunks(chunks) = &mut self.state else { return Ok(()) };
        let (mut body, was_whole) = (Vec::new(), chunks.is_whole());
        let rest = chunks
            .take(bytes, &mut body)
            .map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
        let is_last = chunks.is_whole() && !was_whole;
        let (is_over, is_clean) = (chunks.is_over(), chunks.is_clean());
        chunks::write(&body, &mut self.written);
        if is_last {
            self.written.extend_from_slice(chunks::LAST);
        }
        if is_over && is_clean {
            self.is_over(rest);
        } else if is_over {
            self.state = State::Broken(not_clean());
        }
        Ok(())
    }

    /// Nothing is missing; this has come behind it.
    fn is_over(&mut self, rest: &[u8]) {
        self.state = if rest.is_empty() { State::Over } else { State::Broken(not_clean()) };
    }

    /// The connection has ended.
    fn ended(&mut self, error: io::Error) -> io::Result<()> {
        match self.state {
            State::Connection if is_end(&error) => {
                self.written.extend_from_slice(chunks::LAST);
                self.state = State::Broken(not_clean());
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Whether another request may be written, or the rest of the last one.
    fn is_writable(&self) -> bool {
        match &self.state {
            State::Header(held) => held.is_empty(),
            State::Over => true,
            _ => false,
        }
    }

    /// Passes on as much as there is room for.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = buffer.remaining().min(self.written.len());
        buffer.put_slice(&self.written[..count]);
        self.written.drain(..count);
        if self.written.is_empty() {
            // An idle connection holds no memory.
            self.written = Vec::new();
        }
    }
}

/// 101 is no interim response to those who ask for no other protocol.
fn is_interim(status: u16) -> bool {
    status < 200 && status != 101
}

fn invalid(fault: HeaderFault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

fn not_clean() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the last response on it did not end cleanly")
}

/// Why a header section could not be used, if that is what an error says.
pub(super) fn header_fault(error: &io::Error) -> Option<&HeaderFault> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

impl<S: AsyncRead + Unpin> AsyncRead for Responses<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, response } = self.get_mut();
        let before = buffer.filled().len();
        while response.written.is_empty() {
            // What was read before counts: a status says enough, whatever is wrong with the body behind it.
            if let State::Broken(why) = &mut response.state {
                return Poll::Ready(Err(mem::replace(why, not_clean())));
            }
            let result = ready!(Pin::new(&mut *stream).poll_read(context, buffer));
            let arrived = &buffer.filled()[before..];
            let taken = match result {
                Ok(()) if arrived.is_empty() => response.ended(end()),
                Ok(()) => response.take(arrived),
                Err(error) => response.ended(error),
            };
            buffer.set_filled(before);
            if let Err(error) = taken {
                response.state = State::Broken(error);
            }
        }
        response.give(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Responses<S> {
    /// awc reads nothing before it has written a whole request, so what comes after a write is another
    /// response.
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, response } = self.get_mut();
        if !response.is_writable() {
            return Poll::Ready(Err(unsent(not_clean())));
        }
        *response = Response::default();
        Pin::new(stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl<S: ActixStream> ActixStream for Responses<S> {
    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.stream.poll_read_ready(context)
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        self.stream.poll_write_ready(context)
    }
}

#[cfg(test)]
mod tests;
