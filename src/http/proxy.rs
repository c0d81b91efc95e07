//! The operator's own proxy (`egress.proxy`): CONNECT for https, absolute-form for http.
//!
//! Smokescreen, which Zulip uses, puts `X-Smokescreen-Error` on every answer of its own and takes it from every
//! answer of an endpoint. By it, and because every answer to CONNECT but a 2xx is the proxy's, a refusal is
//! told from an answer of the bot.

use std::{borrow::Cow, io, time::Duration};

use actix_rt::net::TcpStream;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use base64::{Engine, prelude::BASE64_STANDARD};
use outhook_core::{
    excerpt,
    identity::Millis,
    outcome::{Attempt, Fault},
};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};
use url::Url;

use super::{
    client::retry_after_value,
    dial::{DialError, Dialler},
};
use crate::config::connection_url::ConnectionUrl;

/// What Smokescreen calls the kind of its clients; Zulip's own worker says the same.
const ROLE: (&str, &str) = ("x-smokescreen-role", "webhook");
/// The header of an answer that the proxy itself has given.
const ERROR: &str = "x-smokescreen-error";
const AUTHORIZATION: &str = "proxy-authorization";

/// The most that is read of the head of an answer to CONNECT.
const HEAD_BYTES_MAX: usize = 16_384;

/// A proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Without brackets.
    host: String,
    port: u16,
    /// `Proxy-Authorization`.
    authorization: Option<SecretString>,
    /// Its password, and the two together as they are sent.
    secrets: Vec<SecretString>,
    shown: String,
}

/// Why the proxy gave no connection.
#[derive(Debug, Clone, Error)]
#[error("{detail}")]
pub(crate) struct ProxyFault {
    fault: Fault,
    detail: String,
    retry_after: Option<Millis>,
}

impl Proxy {
    /// The proxy of a valid URL.
    pub(crate) fn new(url: &ConnectionUrl) -> Self {
        let parsed = Url::parse(url.expose()).ok();
        let parsed = parsed.as_ref();
        let host = parsed.and_then(Url::host_str).unwrap_or_default();
        let pair = parsed.and_then(basic);
        let password = parsed.and_then(Url::password);
        let password = password.map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned());
        Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: parsed.and_then(Url::port_or_known_default).unwrap_or(80),
            authorization: pair.as_ref().map(|pair| format!("Basic {pair}").into()),
            secrets: pair.into_iter().chain(password).map(SecretString::from).collect(),
            shown: url.to_string(),
        }
    }

    /// Whether the proxy can be reached within this time.
    pub(crate) async fn check(&self, dialler: &Dialler, timeout: Duration) -> Result<(), ProxyFault> {
        self.dial(dialler, Instant::now() + timeout).await.map(drop)
    }

    /// Connects to the proxy itself, whose address is the operator's and not subject to the egress rules.
    pub(super) async fn dial(&self, dialler: &Dialler, deadline: Instant) -> Result<TcpStream, ProxyFault> {
        let why = match timeout_at(deadline, dialler.dial_own(&self.host, self.port)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.is_for_want_of_files() => return Err(ProxyFault::no_files(&error)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no connection within http.connect_timeout".into(),
        };
        Err(self.fault(&format!("can't be reached: {why}")))
    }

    /// Has the proxy connect to an endpoint, and returns the connection with nothing read of it.
    pub(super) async fn tunnel(
        &self,
        dialler: &Dialler,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<TcpStream, ProxyFault> {
        let mut stream = self.dial(dialler, deadline).await?;
        let asked = async {
            stream.write_all(self.connect_request(host, port).as_bytes()).await?;
            read_head(&mut stream).await
        };
        let head = match timeout_at(deadline, asked).await {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => return Err(self.broke(&error)),
            Err(_) => return Err(self.late()),
        };
        let answer = Head::parse(&head).ok_or_else(|| self.fault("does not answer CONNECT in HTTP/1"))?;
        if (200..300).contains(&answer.status) { Ok(stream) } else { Err(self.refusal(&answer)) }
    }

    fn connect_request(&self, host: &str, port: u16) -> String {
        let (role, webhook) = ROLE;
        let mut request =
            format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n{role}: {webhook}\r\n");
        if let Some(value) = &self.authorization {
            request += &format!("{AUTHORIZATION}: {}\r\n", value.expose_secret());
        }
        request + "\r\n"
    }

    /// The headers with which a request for an http URL is sent to the proxy.
    pub(super) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let role = (HeaderName::from_static(ROLE.0), HeaderValue::from_static(ROLE.1));
        let authorization = self.authorization.as_ref().and_then(|value| {
            let value = HeaderValue::from_str(value.expose_secret()).ok()?;
            Some((HeaderName::from_static(AUTHORIZATION), value))
        });
        [Some(role), authorization].into_iter().flatten().collect()
    }

    /// What the answer to an http request means if the proxy itself has given it: it has Smokescreen's header, or
    /// asks for what only a proxy asks for.
    pub(super) fn own_answer(&self, status: u16, headers: &HeaderMap) -> Option<Attempt> {
        let header = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let answer = Head::new(status, "", header);
        let is_its_own = answer.is_marked || status == 407 && answer.wants_credentials;
        is_its_own.then(|| self.refusal(&answer).into())
    }

    fn refusal(&self, answer: &Head) -> ProxyFault {
        let Head { status, words, retry_after, .. } = answer;
        let (fault, means) = match status {
            407 if answer.wants_credentials && !answer.is_marked => {
                return self.fault("wants a user name and password, or others; egress.proxy can hold them");
            }
            403 | 407 => (Fault::Blocked, "does not let the endpoint be called"),
            502 => (Fault::Refused, "could not connect to the endpoint"),
            504 => (Fault::Timeout, "could not connect to the endpoint in time"),
            _ => (Fault::Proxy, "failed"),
        };
        let words =
            if self.is_quoted_in(words) { "(what it says holds what egress.proxy hides)" } else { words };
        let detail = format!("the proxy {means}: status {status} {words}");
        ProxyFault { fault, detail: detail.trim_end().to_owned(), retry_after: *retry_after }
    }

    fn is_quoted_in(&self, words: &str) -> bool {
        let secrets: Vec<&str> = self.secrets.iter().map(ExposeSecret::expose_secret).collect();
        excerpt::tells(words, &secrets)
    }

    fn fault(&self, what: &str) -> ProxyFault {
        let detail = format!("the proxy {} (egress.proxy) {what}", self.shown);
        ProxyFault { fault: Fault::Proxy, detail, retry_after: None }
    }

    fn broke(&self, error: &io::Error) -> ProxyFault {
        self.fault(&format!("broke the connection off: {error}"))
    }

    /// It is there, so that it has not answered lies most likely in the endpoint.
    fn late(&self) -> ProxyFault {
        let detail = "the proxy has not connected to the endpoint within http.connect_timeout".into();
        ProxyFault { fault: Fault::Timeout, detail, retry_after: None }
    }
}

impl ProxyFault {
    /// The proxy was not reached for: no file was left for a connection to it.
    fn no_files(error: &DialError) -> Self {
        Self { fault: Fault::NoFiles, detail: error.to_string(), retry_after: None }
    }
}

impl From<ProxyFault> for Attempt {
    fn from(ProxyFault { fault, detail, retry_after }: ProxyFault) -> Self {
        Self::Intercepted { fault, retry_after, detail }
    }
}

/// `Basic` credentials of a URL's user information.
fn basic(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    Some(BASE64_STANDARD.encode(pair))
}

/// Reads up to the empty line and no byte further: what follows belongs to the tunnel.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head of its answer is too large"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

/// An answer of the proxy's own.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// What it says about it.
    words: String,
    /// Whether it carries Smokescreen's header.
    is_marked: bool,
    wants_credentials: bool,
    retry_after: Option<Millis>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let status_line = lines.next()?.strip_prefix("HTTP/1.")?;
        let mut words = status_line.splitn(3, ' ');
        let (_minor, code, reason) = (words.next()?, words.next()?, words.next().unwrap_or_default());
        let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
        let status: u16 = code.parse().ok().filter(|_| is_code)?;
        let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
        let header = |name: &str| {
            let found = headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| Cow::from(value.trim()))
        };
        Some(Self::new(status, reason, header))
    }

    fn new<'a>(status: u16, reason: &str, header: impl Fn(&str) -> Option<Cow<'a, str>>) -> Self {
        let error = header(ERROR);
        Self {
            status,
            words: error.as_deref().unwrap_or(reason).trim().to_owned(),
            is_marked: error.is_some(),
            wants_credentials: header("proxy-authenticate").is_some(),
            retry_after: header("retry-after").and_then(|value| retry_after_value(&value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outhook_core::egress::Egress;
    use tokio::net::TcpListener;

    use super::*;
    use crate::http::resolve::tests::System;

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
            (
                "HTTP/1.1 407 Denied\nproxy-authenticate: Basic\nx-smokescreen-error: denied\n\n",
                Fault::Blocked,
            ),
            ("HTTP/1.1 407 Denied\n\n", Fault::Blocked),
            ("HTTP/1.0 403 Filtered\n\n", Fault::Blocked),
            ("HTTP/1.1 407 Denied\nProxy-Authenticate: Basic\n\n", Fault::Proxy),
            ("HTTP/1.1 502 Bad Gateway\nX-Smokescreen-Error: no such host\n\n", Fault::Refused),
            ("HTTP/1.1 504 Gateway Timeout\n\n", Fault::Timeout),
            ("HTTP/1.1 429 Too Many Requests\n\n", Fault::Proxy),
            ("HTTP/1.1 500 Internal Server Error\n\n", Fault::Proxy),
            ("HTTP/1.1 301 Moved\nlocation: http://elsewhere/\n\n", Fault::Proxy),
        ] {
            assert_eq!(answer(lines).fault, fault, "{lines}");
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
        assert!(matches!(
            own(407, "proxy-authenticate"),
            Some(Attempt::Intercepted { fault: Fault::Proxy, .. })
        ));
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
        let dialler = Dialler::new(Arc::new(Egress::default()), System::new().resolver());
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
}
