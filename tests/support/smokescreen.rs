//! A proxy that rules and answers as Smokescreen does: its own answers carry `X-Smokescreen-Error`, those of
//! endpoints never do.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::connections::{Connections, Entered};
use super::{Ending, Request};

/// What the proxy does with a request.
pub enum Ruling {
    /// Passes it on to this address, whatever the request names. An answer to http must tell its length.
    To(SocketAddr),
    /// Refuses it with this status, these words and these further headers.
    Refuse(u16, &'static str, &'static str),
    /// Answers with these bytes, and hangs up.
    Raw(&'static str),
    /// Answers with these bytes, and resets the connection.
    Reset(&'static str),
    /// Answers with these bytes, and then with nothing for as long as the client stays.
    Stay(&'static str),
    /// Answers with the first bytes, and then with the others again and again, so far apart.
    Drip(&'static str, &'static str, Duration),
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
    connections: Arc<Connections>,
}

impl Smokescreen {
    /// Rules by what the closure returns for a request and its number, counted from 0. The request's path is
    /// its target: `host:port` for CONNECT, else the whole URL.
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
        let state = Arc::new(State {
            rule: Box::new(rule),
            requests: Mutex::default(),
            connections: Connections::new(),
        });
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

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.state.connections.accepted()
    }

    /// Ends all connections in this way, and waits until they are closed.
    pub async fn hang_up(&self, ending: Ending) {
        self.state.connections.hang_up(ending).await;
    }

    /// Waits until no more than so many connections are open.
    pub async fn left(&self, n: usize) {
        self.state.connections.left(n).await;
    }
}

impl Drop for Smokescreen {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    fn rule_on(&self, request: &Request) -> Ruling {
        let number = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(request.clone());
            requests.len() - 1
        };
        (self.rule)(request, number)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (state, mut entered) = (Arc::clone(&state), state.connections.enter());
        connections.spawn(async move { attend(stream, &state, &mut entered).await });
    }
}

async fn attend(stream: TcpStream, state: &State, entered: &mut Entered) {
    let mut client = BufReader::new(stream);
    let ending = tokio::select! {
        // A client or an endpoint that hangs up is none of the proxy's business.
        ending = serve(&mut client, state) => ending.unwrap_or(Ending::Bare),
        ending = entered.hung_up() => ending,
    };
    if ending == Ending::Reset {
        client.get_ref().set_zero_linger().ok();
    }
}

/// Rules on one request after the other, until the connection is to end.
async fn serve(client: &mut BufReader<TcpStream>, state: &State) -> io::Result<Ending> {
    loop {
        let request = Request::read(client).await?;
        let (said, ending) = match state.rule_on(&request) {
            Ruling::To(endpoint) if request.method == "CONNECT" => {
                return tunnel(client.get_mut(), endpoint).await;
            }
            Ruling::To(endpoint) => {
                forward(client.get_mut(), &request, endpoint).await?;
                continue;
            }
            Ruling::Refuse(status, words, headers) => (refusal(status, words, headers), Ending::Bare),
            Ruling::Raw(answer) => (answer.to_owned(), Ending::Bare),
            Ruling::Reset(answer) => (answer.to_owned(), Ending::Reset),
            Ruling::Stay(answer) => {
                client.write_all(answer.as_bytes()).await?;
                copy(client, &mut sink()).await?;
                return Ok(Ending::Bare);
            }
            Ruling::Drip(first, again, every) => return drip(client.get_mut(), first, again, every).await,
        };
        client.write_all(said.as_bytes()).await?;
        return Ok(ending);
    }
}

fn refusal(status: u16, words: &str, headers: &str) -> String {
    let length = words.len();
    let head = format!("HTTP/1.1 {status} Refused\r\nX-Smokescreen-Error: {words}\r\n{headers}");
    format!("{head}content-length: {length}\r\n\r\n{words}")
}

async fn drip(client: &mut TcpStream, first: &str, again: &str, every: Duration) -> io::Result<Ending> {
    client.write_all(first.as_bytes()).await?;
    loop {
        tokio::time::sleep(every).await;
        client.write_all(again.as_bytes()).await?;
    }
}

/// Whoever ends first ends it for both.
async fn tunnel(client: &mut TcpStream, endpoint: SocketAddr) -> io::Result<Ending> {
    let mut endpoint = TcpStream::connect(endpoint).await?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_endpoint, mut to_endpoint) = endpoint.split();
    tokio::select! {
        _ = copy(&mut from_client, &mut to_endpoint) => {}
        _ = copy(&mut from_endpoint, &mut to_client) => {}
    }
    Ok(Ending::Bare)
}

async fn forward(client: &mut TcpStream, request: &Request, endpoint: SocketAddr) -> io::Result<()> {
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
