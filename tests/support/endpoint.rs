//! A bot's endpoint, or any other HTTP server: on a real socket, recording, as ill-behaved as a test likes.

mod answer;
mod request;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub use answer::{Answer, Gate};
pub use request::Request;

use super::{PATIENCE, eventually, within};

/// An HTTP/1.1 server on 127.0.0.1 that keeps every request; it and its connections end on drop.
pub struct Endpoint {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

/// What a request and its number are answered with.
type Behaviour = Box<dyn Fn(&Request, usize) -> Answer + Send + Sync>;

struct State {
    answer: Behaviour,
    requests: Mutex<Vec<Request>>,
    accepted: AtomicUsize,
    connections: AtomicUsize,
    in_flight: AtomicUsize,
    peak_in_flight: AtomicUsize,
}

impl Endpoint {
    /// Answers with what the closure returns for a request and its number, counted from 0.
    pub async fn start<F>(answer: F) -> Self
    where
        F: Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            answer: Box::new(answer),
            requests: Mutex::default(),
            accepted: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            peak_in_flight: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    /// Answers everything with 200 and this JSON.
    pub async fn json(value: serde_json::Value) -> Self {
        Self::start(move |_, _| Answer::Json(value.clone())).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path on it; paths begin with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// How many requests have arrived.
    pub fn count(&self) -> usize {
        self.state.requests.lock().unwrap().len()
    }

    /// Reads the requests from the one of this number on, where they are: a long test has many.
    pub fn read_from<T>(&self, number: usize, read: impl FnMut(&Request) -> T) -> Vec<T> {
        self.state.requests.lock().unwrap()[number..].iter().map(read).collect()
    }

    /// The `webhook-id` of every request so far, in the order of arrival.
    pub fn webhook_ids(&self) -> Vec<String> {
        let requests = self.state.requests.lock().unwrap();
        requests.iter().map(|request| request.header("webhook-id").unwrap().to_owned()).collect()
    }

    /// Waits until `n` requests have arrived, and returns all there are.
    pub async fn wait_for(&self, n: usize) -> Vec<Request> {
        let enough = || async { (self.count() >= n).then(|| self.requests()) };
        let found = within(PATIENCE, enough).await;
        found.unwrap_or_else(|| panic!("{} of {n} requests arrived", self.count()))
    }

    /// Waits until everything is recorded that its clients have sent; they must have ended.
    pub async fn deserted(&self) {
        // Connections are accepted in their order, so none is left to be accepted once this one was.
        let mut last = TcpStream::connect(self.address).await.unwrap();
        last.shutdown().await.unwrap();
        last.read_to_end(&mut vec![]).await.unwrap();
        self.closed().await;
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Waits until every connection is closed.
    pub async fn closed(&self) {
        let none = || async { (self.state.connections.load(Ordering::SeqCst) == 0).then_some(()) };
        eventually("an endpoint's connections to be closed", PATIENCE, none).await;
    }

    /// How many requests are being answered now.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::SeqCst)
    }

    /// How many requests were being answered at the same time at most.
    pub fn peak_in_flight(&self) -> usize {
        self.state.peak_in_flight.load(Ordering::SeqCst)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    fn enter(&self) -> InFlight<'_> {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak_in_flight.fetch_max(now, Ordering::SeqCst);
        InFlight(&self.in_flight)
    }

    fn record(&self, request: &Request) -> usize {
        let mut requests = self.requests.lock().unwrap();
        requests.push(request.clone());
        requests.len() - 1
    }
}

struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Counts a connection from the moment at which it is accepted.
struct Open(Arc<State>);

impl Open {
    fn new(state: &Arc<State>) -> Self {
        state.accepted.fetch_add(1, Ordering::SeqCst);
        state.connections.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Open::new(&state)));
    }
}

async fn serve(stream: TcpStream, open: Open) {
    let state = &open.0;
    stream.set_nodelay(true).unwrap();
    let mut connection = BufReader::new(stream);
    while let Ok(request) = Request::read(&mut connection).await {
        let _in_flight = state.enter();
        let number = state.record(&request);
        let answer = (state.answer)(&request, number);
        if !matches!(answer.write(connection.get_mut()).await, Ok(true)) || request.is_last() {
            return;
        }
    }
}
