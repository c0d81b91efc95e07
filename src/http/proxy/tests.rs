use std::sync::Arc;

use outhook_core::egress::Egress;
use tokio::net::TcpListener;

use super::*;
use crate::http::{interfaces::Interfaces, resolve::tests::System};

const PATIENCE: Duration = Duration::from_secs(10);

fn proxy(url: &str) -> Proxy {
    Proxy::new(&ConnectionUrl::parse(url, &["http://"]).expect("a URL"))
}

fn answer(lines: &str) -> ProxyFault {
    let head = Head::parse(lines.replace('\n', "\r\n").as_bytes()).expect("a head");
    proxy("http://u:hunter2@proxy:4750").refusal(&head)
}

#[test]
fn each_answer_of_a_proxy_has_its_meaning() {
    for (lines, fault) in [
        ("HTTP/1.1 407 Request rejected by proxy\nX-Smokescreen-Error: denied\n\n", Fault::Blocked),
        ("HTTP/1.1 407 Denied\nproxy-authenticate: Basic\nx-smokescreen-error: denied\n\n", Fault::Blocked),
        ("HTTP/1.1 407 Denied\n\n", Fault::Blocked),
        ("HTTP/1.0 403 Filtered\n\n", Fault::Blocked),
        ("HTTP/1.1 407 Denied\nProxy-Authenticate: Basic\n\n", Fault::Proxy),
        ("HTTP/1.1 502 Bad Gateway\nX-Smokescreen-Error: no such host\n\n", Fault::Refused),
        ("HTTP/1.1 504 Gateway Timeout\n\n", Fault::Timeout),
        ("HTTP/1.1 503 Service Unavailable\nX-Squid-Error: ERR_CONNECT_FAIL 111\n\n", Fault::Refused),
        ("HTTP/1.1 503 Service Unavailable\nX-Squid-Error: ERR_CANNOT_FORWARD 0\n\n", Fault::Proxy),
        ("HTTP/1.1 503 Service Unavailable\nX-Smokescreen-Error: busy\n\n", Fault::Proxy),
        ("HTTP/1.1 503 Service Unavailable\nRetry-After: 5\n\n", Fault::Proxy),
        ("HTTP/1.1 429 Too Many Requests\n\n", Fault::Proxy),
        ("HTTP/1.1 500 Internal Server Error\n\n", Fault::Proxy),
        ("HTTP/1.1 301 Moved\nlocation: http://elsewhere/\n\n", Fault::Proxy),
    ] {
        assert_eq!(answer(lines).fault, fault, "{lines}");
    }
}

#[test]
fn a_proxy_that_wants_credentials_is_told_from_one_that_refuses() {
    for (lines, wants) in [
        ("HTTP/1.1 407 Denied\nProxy-Authenticate: Basic\n\n", true),
        ("HTTP/1.0 401 Unauthorized\nWWW-Authenticate: Basic\n\n", true),
        ("HTTP/1.1 407 Denied\n\n", false),
        ("HTTP/1.1 401 Denied\nx-smokescreen-error: denied\n\n", false),
        ("HTTP/1.0 403 Filtered\nProxy-Authenticate: Basic\n\n", false),
    ] {
        assert_eq!(answer(lines).detail.contains("wants a user name and password"), wants, "{lines}");
    }
}

#[test]
fn a_proxy_that_says_its_password_is_not_quoted() {
    let proxy = proxy("http://user:hunt%2Fer2@proxy");
    let pair = BASE64_STANDARD.encode("user:hunt/er2");
    for (words, is_quoted) in [("hunt/er2", false), (&pair, false), ("a hunter", true)] {
        let head = Head::parse(format!("HTTP/1.1 407 No {words}\r\n\r\n").as_bytes()).expect("a head");
        let detail = proxy.refusal(&head).detail;
        assert_eq!(detail.contains(words), is_quoted, "{detail}");
    }
}

#[test]
fn a_user_without_a_password_is_a_key_that_is_not_shown() {
    for url in ["http://hunt%2Fer2@proxy", "http://hunt%2Fer2:@proxy"] {
        let proxy = proxy(url);
        let pair = BASE64_STANDARD.encode("hunt/er2:");
        assert_eq!(proxy.secrets().collect::<Vec<_>>(), [pair.as_str(), "hunt/er2"]);
        assert_eq!(proxy.fault("failed").detail, "the proxy http://***@proxy (egress.proxy) failed");
    }
    let short = BASE64_STANDARD.encode("hunter2:");
    assert_eq!(
        proxy("http://hunter2@proxy").secrets().collect::<Vec<_>>(),
        [short.as_str()],
        "it may be a word"
    );
    assert_eq!(proxy("http://user:hunter2@proxy").secrets().last(), Some("hunter2"));
    assert_eq!(proxy("http://proxy").secrets().count(), 0);
}

#[test]
fn an_answer_to_an_http_request_is_the_bots_unless_it_says_otherwise() {
    let own = |status, name: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        proxy("http://proxy:4750").own_answer(status, &headers)
    };
    for status in [200, 403, 407, 502] {
        assert_eq!(own(status, "server"), None, "{status}");
    }
    assert!(matches!(own(407, ERROR), Some(Attempt::Intercepted { fault: Fault::Blocked, .. })));
    assert!(matches!(own(200, ERROR), Some(Attempt::Intercepted { fault: Fault::Proxy, .. })));
    assert!(matches!(own(407, "proxy-authenticate"), Some(Attempt::Intercepted { fault: Fault::Proxy, .. })));
    assert_eq!(own(401, "proxy-authenticate"), None);
}

#[test]
fn only_http_1_is_an_answer() {
    for head in
        ["", "\r\n\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1\r\n\r\n", "HTTP/1.1 +20 OK\r\n\r\n", "SSH-2.0-x"]
    {
        assert_eq!(Head::parse(head.as_bytes()), None, "{head:?}");
    }
    assert_eq!(
        Head::parse(b"HTTP/1.0 200 Connection established\r\n\r\n").map(|head| head.status),
        Some(200)
    );
}

#[test]
fn user_and_password_are_sent_as_they_were_before_they_were_encoded() {
    // "user:p@ss:w"
    assert_eq!(
        proxy("http://user:p%40ss:w@[::1]:3128").connect_request("[fd00::1]", 443),
        "CONNECT [fd00::1]:443 HTTP/1.1\r\nhost: [fd00::1]:443\r\nx-smokescreen-role: webhook\r\n\
         proxy-authorization: Basic dXNlcjpwQHNzOnc=\r\n\r\n"
    );
    assert_eq!(proxy("http://proxy").headers().len(), 1);
    assert_eq!(proxy("http://user@proxy").headers().len(), 2);
    assert!(!format!("{:?}", proxy("http://user:hunter2@proxy")).contains("hunter2"));
}

/// What `tunnel` does with an answer, and what it leaves unread.
async fn tunnelled(answer: &'static [u8]) -> Result<Vec<u8>, ProxyFault> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = proxy(&format!("http://{}", listener.local_addr().expect("an address")));
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        read_head(&mut stream).await.expect("a request");
        stream.write_all(answer).await.expect("room");
    });
    let dialler = Dialler::new(Arc::new(Egress::default()), System::new().resolver(), Interfaces::none());
    let mut stream = proxy.tunnel(&dialler, "bot.example", 443, Instant::now() + PATIENCE).await?;
    serving.await.expect("an answer");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("the end");
    Ok(rest)
}

#[tokio::test]
async fn nothing_of_a_tunnel_is_swallowed() {
    let rest = tunnelled(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n\r\nhello").await.expect("a tunnel");
    assert_eq!(rest, b"\r\nhello");
}

#[tokio::test]
async fn a_head_without_end_is_not_read_to_its_end() {
    let endless = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'y'; 20_000]].concat().leak();
    let fault = tunnelled(endless).await.expect_err("too large");
    assert!(fault.fault == Fault::Proxy && fault.detail.contains("too large"), "{fault}");
    let fault = tunnelled(b"HTTP/1.1 200 OK\r\n").await.expect_err("cut off");
    assert!(fault.fault == Fault::Proxy && fault.detail.contains("(egress.proxy)"), "{fault}");
}
