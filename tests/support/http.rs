//! A client for the product's own HTTP server.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{PATIENCE, secrets};

/// Sends one request, and returns the status and the body of the response.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<(u16, String)> {
    let exchange = exchange(address, head(address, method, path, headers, body.len()), body);
    let response = tokio::time::timeout(PATIENCE, exchange).await??;
    let response = String::from_utf8_lossy(&response);
    secrets::assert_none("the admin server", &response);
    parse(&response).ok_or(io::ErrorKind::InvalidData.into())
}

/// Sends bytes, and returns everything that comes back until the connection ends.
pub async fn raw(address: SocketAddr, request: &[u8]) -> io::Result<String> {
    let exchange = exchange(address, String::new(), request);
    Ok(String::from_utf8_lossy(&tokio::time::timeout(PATIENCE, exchange).await??).into_owned())
}

/// HTTP/1.0, so that the end of the connection is the end of the body.
fn head(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
    let mut head = format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-length: {length}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\n"
}

async fn exchange(address: SocketAddr, head: String, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    let mut response = vec![];
    stream.read_to_end(&mut response).await?;
    Ok(response)
}

fn parse(response: &str) -> Option<(u16, String)> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
