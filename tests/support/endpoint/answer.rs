//! The ways, good and bad, in which an endpoint answers.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const JSON: (&str, &str) = ("content-type", "application/json");

/// What an endpoint does with a request.
pub enum Answer {
    /// 200 with this JSON.
    Json(serde_json::Value),
    /// Any response; `content-length` is added unless the headers frame the body themselves.
    Http { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// These bytes as they are, then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes as they are; the connection can carry another answer.
    Bytes(Vec<u8>),
    /// These bytes as they are, and more of them unasked: once the test lets them through the gate, or the
    /// client is heard of again.
    Unasked { bytes: Vec<u8>, gate: Gate, more: Vec<u8> },
    /// 200 with this JSON; after a while, unannounced, the end of the connection, or its reset.
    Leave { json: serde_json::Value, after: Duration, resets: bool },
    /// Nothing, for as long as the client keeps the connection.
    Hang,
    /// A reset of the connection.
    Reset,
    /// The end of the connection without a byte.
    Close,
    /// A good response, a byte at a time from the head on, or from the body on after a quick head.
    Drip { head: bool, every: Duration },
    /// The other answer, after a while.
    Late(Duration, Box<Answer>),
    /// The other answer, once the test lets it through the gate.
    Gated(Gate, Box<Answer>),
    /// The first 10 of 100 announced bytes, then the end of the connection.
    Truncated,
    /// A chunked body without end, as fast as the client takes it.
    EndlessBody,
}

impl Answer {
    /// A response with this status, no headers and no body.
    pub fn status(status: u16) -> Self {
        Self::Http { status, headers: vec![], body: vec![] }
    }

    /// 200 with this JSON text, compressed.
    pub fn gzipped(body: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(vec![], Compression::best());
        encoder.write_all(body).unwrap();
        let headers = owned(&[JSON, ("content-encoding", "gzip")]);
        Self::Http { status: 200, headers, body: encoder.finish().unwrap() }
    }

    /// Gives the answer; true if the connection can carry another one.
    pub(super) async fn write(self, stream: &mut TcpStream) -> io::Result<bool> {
        let Some(answer) = self.when_due(stream).await else {
            return Ok(false);
        };
        match answer {
            Self::Json(value) => stream.write_all(&ok(value.to_string().as_bytes())).await?,
            Self::Http { status, headers, body } => {
                stream.write_all(&response(status, &headers, &body)).await?;
            }
            Self::Bytes(bytes) => stream.write_all(&bytes).await?,
            Self::Unasked { bytes, gate, more } => {
                stream.write_all(&bytes).await?;
                tokio::select! {
                    () = gate.pass() => {}
                    () = heard_of(stream) => {}
                }
                stream.write_all(&more).await?;
            }
            Self::Drip { head, every } => drip(stream, head, every).await?,
            last => {
                last.write_last(stream).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Those after which the connection ends.
    async fn write_last(self, stream: &mut TcpStream) -> io::Result<()> {
        match self {
            Self::Raw(bytes) => stream.write_all(&bytes).await,
            Self::Leave { json, after, resets } => {
                stream.write_all(&ok(json.to_string().as_bytes())).await?;
                tokio::time::sleep(after).await;
                if resets { stream.set_zero_linger() } else { Ok(()) }
            }
            Self::Hang => {
                gone(stream).await;
                Ok(())
            }
            Self::Reset => stream.set_zero_linger(),
            Self::Truncated => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"content\"").await
            }
            Self::EndlessBody => write_endlessly(stream).await,
            _ => Ok(()),
        }
    }

    /// The answer behind all delays and gates; `None` if the client does not wait for it.
    async fn when_due(mut self, stream: &TcpStream) -> Option<Self> {
        loop {
            self = match self {
                Self::Late(delay, next) => tokio::select! {
                    () = tokio::time::sleep(delay) => *next,
                    () = gone(stream) => return None,
                },
                Self::Gated(gate, next) => tokio::select! {
                    () = gate.pass() => *next,
                    () = gone(stream) => return None,
                },
                due => return Some(due),
            }
        }
    }
}

/// Holds answers back until the test lets them through.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets everything through, now and later.
    pub fn open(&self) {
        // A closed semaphore turns nobody away but tells everybody at once: an open gate.
        self.0.close();
    }

    /// Lets the next `n` answers through.
    pub fn let_through(&self, n: usize) {
        self.0.add_permits(n);
    }

    async fn pass(&self) {
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

fn ok(body: &[u8]) -> Vec<u8> {
    response(200, &owned(&[JSON]), body)
}

fn response(status: u16, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Status\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let has_no_body = status == 204 || status == 304;
    if !has_no_body && !headers.iter().any(|(name, _)| frames_the_body(name)) {
        head += &format!("content-length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

fn frames_the_body(header: &str) -> bool {
    ["content-length", "transfer-encoding"].iter().any(|name| header.eq_ignore_ascii_case(name))
}

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn drip(stream: &mut TcpStream, head: bool, every: Duration) -> io::Result<()> {
    let body = br#"{"content": "drip"}"#;
    let whole = ok(body);
    let quick = if head { 0 } else { whole.len() - body.len() };
    stream.write_all(&whole[..quick]).await?;
    for byte in &whole[quick..] {
        tokio::time::sleep(every).await;
        stream.write_all(&[*byte]).await?;
    }
    Ok(())
}

async fn write_endlessly(stream: &mut TcpStream) -> io::Result<()> {
    const SIZE: usize = 0x4000;
    let chunk = [format!("{SIZE:x}\r\n").as_bytes(), &[b' '; SIZE], b"\r\n"].concat();
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    loop {
        stream.write_all(&chunk).await?;
    }
}

/// Returns when the client has sent something, or has closed the connection.
async fn heard_of(stream: &TcpStream) {
    let _ = stream.peek(&mut [0]).await;
}

/// Returns when the client has closed the connection.
async fn gone(stream: &TcpStream) {
    // Bytes instead of the end would be a pipelined request, which no client of ours sends.
    if let Ok(1..) = stream.peek(&mut [0]).await {
        std::future::pending::<()>().await;
    }
}
