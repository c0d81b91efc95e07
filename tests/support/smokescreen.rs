//! A proxy that rules and answers as Smokescreen does: its own answers carry `X-Smokescreen-Error`, those of
//! endpoints never do.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::Request;

/// What the proxy does with a request.
pub enum Ruling {
    /// Passes it on to this address, whatever the request names.
    To(SocketAddr),
    /// Refuses it with this status, these words and these further headers.
    Refuse(u16, &'static str, &'static str),
    /// Answers with these bytes, and hangs up.
    Raw(&'static str),
}

type Rule = Box<dyn Fn(&Request, usize) -> Ruling + Send + Sync>;

/// A proxy on 127.0.0.1 that keeps every request; it and its connections end on drop.
pub struct Smokescreen {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    rule: Rule,
    requests: Mutex<Vec<Request>>,
}

impl Smokescreen {
    /// Rules by what the closure returns for a request and its number, counted from 0. The request's path is its
    /// target: `host:port` for CONNECT, else the whole URL.
    pub async fn start<F>(rule: F) -> Self
    where
        F: Fn(&Request, usize) -> Ruling + Send + Sync + 'static,
    {
        Self::start_on(0, rule).await
    }

    /// The same on a port of the test's choice.
    pub async fn start_on<F>(port: u16, rule: F) -> Self
    where
        F: Fn(&Request, usize) -> Ruling + Send + Sync + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { rule: Box::new(rule), requests: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    /// What `egress.proxy` is to be.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }
}

impl Drop for Smokescreen {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // A client or an endpoint that hangs up is none of the proxy's business.
            serve(stream, &state).await.ok();
        });
    }
}

/// One request for each connection.
async fn serve(stream: TcpStream, state: &State) -> io::Result<()> {
    let mut client = BufReader::new(stream);
    let request = Request::read(&mut client).await?;
    let number = {
        let mut requests = state.requests.lock().unwrap();
        requests.push(request.clone());
        requests.len() - 1
    };
    let mut client = client.into_inner();
    match (state.rule)(&request, number) {
        Ruling::To(endpoint) if request.method == "CONNECT" => tunnel(client, endpoint).await,
        Ruling::To(endpoint) => forward(client, &request, endpoint).await,
        Ruling::Refuse(status, words, headers) => {
            let length = words.len();
            let head = format!("HTTP/1.1 {status} Refused\r\nX-Smokescreen-Error: {words}\r\n{headers}");
            client.write_all(format!("{head}content-length: {length}\r\n\r\n{words}").as_bytes()).await
        }
        Ruling::Raw(answer) => client.write_all(answer.as_bytes()).await,
    }
}

async fn tunnel(mut client: TcpStream, endpoint: SocketAddr) -> io::Result<()> {
    let mut endpoint = TcpStream::connect(endpoint).await?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut endpoint).await.map(drop)
}

async fn forward(mut client: TcpStream, request: &Request, endpoint: SocketAddr) -> io::Result<()> {
    let url = url::Url::parse(&request.path).unwrap();
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, &url[url::Position::BeforePath..]);
    let is_own = |name: &str| matches!(name, "x-smokescreen-role" | "proxy-authorization" | "connection");
    for (name, value) in request.headers.iter().filter(|(name, _)| !is_own(name)) {
        head += &format!("{name}: {value}\r\n");
    }
    let mut endpoint = TcpStream::connect(endpoint).await?;
    endpoint.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await?;
    endpoint.write_all(&request.body).await?;
    let mut answer = vec![];
    endpoint.read_to_end(&mut answer).await?;
    client.write_all(unmarked(&String::from_utf8(answer).unwrap()).as_bytes()).await
}

/// An endpoint's answer without the header that is the proxy's.
fn unmarked(answer: &str) -> String {
    let is_mark = |line: &&str| line.to_ascii_lowercase().starts_with("x-smokescreen-error:");
    answer.split_inclusive("\r\n").filter(|line| !is_mark(line)).collect()
}
