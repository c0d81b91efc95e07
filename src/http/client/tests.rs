use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, LazyLock},
};

use actix_rt::net::TcpStream;
use futures_util::future::join_all;
use outhook_core::egress::{Allowed, Egress};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    config::egress::NameServers,
    http::{Interfaces, Resolver, client_config},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const BODY: &[u8] = b"{\"data\":\"soup\"}";
const BOT: BotId = 1;
const KEPT_MAX: usize = 2;

static SIGNATURE: LazyLock<Signature> =
    LazyLock::new(|| Signature::new("token", "id", 0, BODY).expect("UTF-8"));

/// An endpoint on the client's own thread. It answers the first request of each connection, and then keeps
/// the connection until the test drops it, which the client's runtime can't hear of before the test waits.
struct Peer {
    url: Url,
    connections: Rc<Cell<usize>>,
    idle: Rc<RefCell<Vec<TcpStream>>>,
}

impl Peer {
    /// Reads requests whole, or leaves their bodies unread, so that a dropped connection is reset.
    async fn start(answer: &'static str, reads_bodies: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let (connections, idle) = (Rc::new(Cell::new(0)), Rc::<RefCell<Vec<TcpStream>>>::default());
        let peer = Self {
            url: url.parse().expect("a URL"),
            connections: Rc::clone(&connections),
            idle: Rc::clone(&idle),
        };
        actix_rt::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.set(connections.get() + 1);
                read_request(&mut stream, reads_bodies).await;
                stream.write_all(answer.as_bytes()).await.expect("room");
                idle.borrow_mut().push(stream);
            }
        });
        peer
    }

    fn outbound(&self) -> Outbound<'static> {
        outbound(self.url.clone())
    }

    fn close_idle(&self) {
        assert_eq!(self.idle.borrow_mut().drain(..).count(), 1, "connections that are idle");
    }
}

fn outbound(url: Url) -> Outbound<'static> {
    Outbound {
        bot: BOT,
        url,
        content_type: "application/json",
        body: BODY.to_vec(),
        webhook_id: "id".into(),
        attempt: 1,
        signature: &SIGNATURE,
    }
}

/// Waits until the client has let go of a connection.
async fn is_let_go(mut idle: TcpStream) {
    let end = tokio::time::timeout(Duration::from_secs(10), idle.read(&mut [0])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
}

async fn read_request(stream: &mut TcpStream, reads_body: bool) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.expect("a head"));
    }
    if reads_body {
        stream.read_exact(&mut [0; BODY.len()]).await.expect("a body");
    }
}

fn client() -> WebhookClient {
    let config = Http {
        timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        max_calls: 1,
        max_response_bytes: 1000,
    };
    let allow = vec![Allowed { target: "127.0.0.0/8".parse().expect("a network"), port: None }];
    let resolver = Resolver::new(&NameServers::System, config.connect_timeout);
    let interfaces = Interfaces::none();
    let egress = Arc::new(Egress { allow, ..Egress::default() });
    let dialler = Dialler::new(egress, resolver, interfaces.clone());
    let route = Route { proxy: None, tls: client_config(), interfaces };
    WebhookClient::new(&config, route, dialler, "outhook", KEPT_MAX)
}

fn status(attempt: &Attempt) -> Option<u16> {
    match attempt {
        Attempt::Answered { status, .. } => Some(*status),
        _ => None,
    }
}

#[actix::test]
async fn a_connection_that_was_closed_a_moment_ago_is_not_used() {
    for reads_bodies in [true, false] {
        let (peer, client) = (Peer::start(OK, reads_bodies).await, client());
        assert_eq!(status(&client.post(peer.outbound()).await), Some(200));
        peer.close_idle();
        let attempt = client.post(peer.outbound()).await;
        assert_eq!(status(&attempt), Some(200), "{attempt:?}");
        assert_eq!(peer.connections.get(), 2);
    }
}

#[actix::test]
async fn a_request_of_which_nothing_could_be_sent_is_sent_again_at_once() {
    let (peer, client) = (Peer::start(OK, false).await, client());
    assert_eq!(status(&client.post(peer.outbound()).await), Some(200));
    peer.close_idle();
    // Without the look at the runtime that `post` takes, the pool does not know of the reset.
    let attempt = client.exchange(peer.outbound()).await;
    assert_eq!(status(&attempt), Some(200), "{attempt:?}");
    assert_eq!(peer.connections.get(), 2);
}

#[actix::test]
async fn a_request_that_may_have_been_received_is_not_sent_again() {
    let (peer, client) = (Peer::start(OK, true).await, client());
    assert_eq!(status(&client.post(peer.outbound()).await), Some(200));
    peer.close_idle();
    // The peer has closed its side only, so the request is written.
    let attempt = client.exchange(peer.outbound()).await;
    assert!(matches!(attempt, Attempt::Failed { fault: Fault::Reset, .. }), "{attempt:?}");
    assert_eq!(peer.connections.get(), 1);
}

#[actix::test]
async fn an_answer_to_a_request_that_was_cut_off_is_read() {
    for (answer, is_answered) in
        [("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n", true), ("", false)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        actix_rt::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            read_request(&mut stream, false).await;
            stream.write_all(answer.as_bytes()).await.expect("room");
            // A connection that is closed with something unread is reset.
        });
        // More than the system holds for a connection.
        let body = vec![b'x'; 8 << 20];
        let attempt = client().post(Outbound { body, ..outbound(url.parse().expect("a URL")) }).await;
        let is_right = match &attempt {
            Attempt::Answered { status, .. } => is_answered && *status == 413,
            Attempt::Failed { fault, .. } => !is_answered && *fault == Fault::Reset,
            Attempt::Intercepted { .. } => false,
        };
        assert!(is_right, "{answer:?}: {attempt:?}");
    }
}

#[actix::test]
async fn behind_an_answer_that_may_go_on_its_connection_is_not_used_again() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ncontent-length: 7\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        // What comes later would be the rest of a head.
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 2",
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 2",
    ] {
        let (peer, client) = (Peer::start(answer, true).await, client());
        for connections in 1..=2 {
            assert!(status(&client.post(peer.outbound()).await).is_some(), "{answer}");
            assert_eq!(peer.connections.get(), connections, "{answer}");
        }
    }
}

#[actix::test]
async fn an_interim_answer_is_passed_over_and_its_connection_is_used_again() {
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let (peer, client) = (Peer::start(answer, true).await, client());
    assert_eq!(status(&client.post(peer.outbound()).await), Some(200));
    let mut idle = peer.idle.borrow_mut().pop().expect("a connection");
    actix_rt::spawn(async move {
        read_request(&mut idle, true).await;
        idle.write_all(answer.as_bytes()).await.expect("room");
    });
    assert_eq!(status(&client.post(peer.outbound()).await), Some(200));
    assert_eq!(peer.connections.get(), 1);
}

#[actix::test]
async fn what_comes_behind_an_answer_is_never_the_next_answer() {
    let (peer, client) = (Peer::start(OK, true).await, client());
    assert_eq!(status(&client.post(peer.outbound()).await), Some(200));
    let junk = b"HTTP/1.1 418 Teapot\r\ncontent-length: 0\r\n\r\n";
    peer.idle.borrow()[0].try_write(junk).expect("room");
    assert_eq!(status(&client.post(peer.outbound()).await), Some(200));
    assert_eq!(peer.connections.get(), 2);
}

#[actix::test]
async fn connections_of_bots_that_no_longer_call_are_let_go_and_no_others() {
    let (peer, client) = (Peer::start(OK, true).await, client());
    assert_eq!(status(&client.post(peer.outbound()).await), Some(200));
    let still_calls = Instant::now();
    assert_eq!(status(&client.post(Outbound { bot: BOT + 1, ..peer.outbound() }).await), Some(200));
    client.let_go_of_unused_since(still_calls);
    let idle = peer.idle.borrow_mut().remove(0);
    is_let_go(idle).await;
    assert_eq!(client.connections.count(), 1);
}

#[actix::test]
async fn no_bot_uses_a_connection_of_another() {
    let (peer, client) = (Peer::start(OK, true).await, client());
    for (bot, connections) in (BOT..).zip(1..=2) {
        let attempt = client.post(Outbound { bot, ..peer.outbound() }).await;
        assert_eq!(status(&attempt), Some(200), "{attempt:?}");
        assert_eq!(peer.connections.get(), connections);
    }
}

#[actix::test]
async fn so_many_connections_are_kept_and_not_one_more() {
    for calls in [KEPT_MAX, KEPT_MAX + 1] {
        let (peer, client) = (Peer::start(OK, true).await, client());
        let attempts = join_all((0..calls).map(|_| client.post(peer.outbound()))).await;
        assert!(attempts.iter().all(|attempt| status(attempt) == Some(200)), "{attempts:?}");
        assert_eq!(peer.connections.get(), calls);
        if calls == KEPT_MAX {
            assert_eq!(client.connections.count(), calls);
            continue;
        }
        for idle in peer.idle.take() {
            is_let_go(idle).await;
        }
    }
}

#[actix::test]
async fn no_more_is_kept_of_bots_that_can_not_be_reached_either() {
    let (peer, client) = (Peer::start(OK, true).await, client());
    let forbidden = Url::parse("http://10.0.0.1/").expect("a URL");
    for (bot, kept) in (BOT..).zip([1, 2, 0, 1]) {
        let outbound = Outbound { bot, url: forbidden.clone(), ..peer.outbound() };
        let attempt = client.post(outbound).await;
        assert!(matches!(attempt, Attempt::Failed { .. }), "{attempt:?}");
        assert_eq!(client.clients.borrow().len(), kept, "with bot {bot}");
    }
}

#[actix::test]
async fn a_header_name_of_any_length_is_passed_over() {
    let section = format!("HTTP/1.1 204 x\r\n{}: x\r\n\r\n", "x".repeat(70_000));
    let (peer, client) = (Peer::start(Box::leak(section.into_boxed_str()), true).await, client());
    assert_eq!(status(&client.post(peer.outbound()).await), Some(204));
}

#[actix::test]
async fn a_mended_response_leaves_no_connection() {
    for response in [
        "HTTP/1.1 200 OK\r\nnoise\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
    ] {
        let (peer, client) = (Peer::start(response, true).await, client());
        for connections in 1..=2 {
            assert_eq!(status(&client.post(peer.outbound()).await), Some(200), "{response}");
            assert_eq!(peer.connections.get(), connections, "{response}");
        }
    }
}

#[actix::test]
async fn a_redirect_says_where_it_leads() {
    let response = "HTTP/1.1 302 x\r\nlocation: /new?token=secret\r\ncontent-length: 0\r\n\r\n";
    let (peer, client) = (Peer::start(response, true).await, client());
    let Attempt::Answered { leads_to: Some(place), .. } = client.post(peer.outbound()).await else {
        panic!("it leads somewhere")
    };
    assert_eq!(place, peer.url.join("/new").expect("a URL").as_str());
}
