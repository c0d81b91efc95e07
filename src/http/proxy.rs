//! The operator's own proxy (`egress.proxy`): CONNECT for https, absolute-form for http.
//!
//! Smokescreen, which Zulip uses, puts `X-Smokescreen-Error` on every answer of its own and takes it from
//! every answer of an endpoint. By it, and because every answer to CONNECT but a 2xx is the proxy's, a
//! refusal is told from an answer of the bot.

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
    dial::{DialError, Dialler},
    retry_after::retry_after_value,
};
use crate::config::connection_url::ConnectionUrl;

/// What Smokescreen calls the kind of its clients; Zulip's own worker says the same.
const ROLE: (&str, &str) = ("x-smokescreen-role", "webhook");
/// The header of an answer that the proxy itself has given.
const ERROR: &str = "x-smokescreen-error";
/// What Squid puts on an answer of its own, and what that begins with if it could not reach the endpoint: another
/// 503 is told of the proxy, or of a balancer before it.
const SQUID_ERROR: &str = "x-squid-error";
const SQUID_UNREACHED: [&str; 2] = ["ERR_CONNECT_FAIL", "ERR_DNS_FAIL"];
const AUTHORIZATION: &str = "proxy-authorization";

/// A name that is nobody's for ever (RFC 6761, 6.4): whoever is asked to connect to it calls nobody.
const NOBODY: &str = "check.outhook.invalid";

/// A shorter user without a password may be a name that stands in any text, and is then not looked for in
/// one.
const KEY_BYTES_MIN: usize = 8;

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
    /// Its password, or a long user if there is none, and the two together as they are sent.
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
        Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: parsed.and_then(Url::port_or_known_default).unwrap_or(80),
            authorization: pair.as_ref().map(|pair| format!("Basic {pair}").into()),
            secrets: pair.into_iter().chain(parsed.and_then(key)).map(SecretString::from).collect(),
            shown: url.to_string(),
        }
    }

    /// Whether the proxy answers within this time, and takes the credentials of its URL. It is asked for
    /// [`NOBODY`], so only what it says of them counts.
    pub(crate) async fn check(&self, dialler: &Dialler, timeout: Duration) -> Result<(), ProxyFault> {
        match self.ask(dialler, NOBODY, 443, Instant::now() + timeout).await {
            Ok((_, answer)) if answer.wants_credentials => Err(self.refusal(&answer)),
            Ok(_) => Ok(()),
            Err(fault) if fault.fault == Fault::Timeout => {
                Err(self.fault("has not answered within http.connect_timeout"))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Connects to the proxy itself, whose address is the operator's and not subject to the egress rules.
    pub(super) async fn dial(&self, dialler: &Dialler, deadline: Instant) -> Result<TcpStream, ProxyFault> {
        let why = match timeout_at(deadline, dialler.dial_own(&self.host, self.port)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => match error.local_fault() {
                Some(fault) => return Err(ProxyFault::local(fault, &error)),
                None => error.to_string(),
            },
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
        let (stream, answer) = self.ask(dialler, host, port, deadline).await?;
        if (200..300).contains(&answer.status) { Ok(stream) } else { Err(self.refusal(&answer)) }
    }

    /// Asks the proxy to connect to an endpoint.
    async fn ask(
        &self,
        dialler: &Dialler,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<(TcpStream, Head), ProxyFault> {
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
        Ok((stream, answer))
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

    /// What the answer to an http request means if the proxy itself has given it: it has Smokescreen's
    /// header, or asks for what only a proxy asks for.
    pub(super) fn own_answer(&self, status: u16, headers: &HeaderMap) -> Option<Attempt> {
        let header = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let answer = Head::new(status, "", header);
        let is_its_own = answer.is_marked || status == 407 && answer.wants_credentials;
        is_its_own.then(|| self.refusal(&answer).into())
    }

    fn refusal(&self, answer: &Head) -> ProxyFault {
        if answer.wants_credentials {
            return self.fault("wants a user name and password, or others; egress.proxy can hold them");
        }
        let Head { status, words, is_unreached, retry_after, .. } = answer;
        let (fault, means) = match status {
            403 | 407 => (Fault::Blocked, "does not let the endpoint be called"),
            502 => (Fault::Refused, "could not connect to the endpoint"),
            503 if *is_unreached => (Fault::Refused, "could not connect to the endpoint"),
            504 => (Fault::Timeout, "could not connect to the endpoint in time"),
            _ => (Fault::Proxy, "failed"),
        };
        let words =
            if self.is_quoted_in(words) { "(what it says holds what egress.proxy hides)" } else { words };
        let detail = format!("the proxy {means}: status {status} {words}");
        ProxyFault { fault, detail: detail.trim_end().to_owned(), retry_after: *retry_after }
    }

    /// What nobody may be shown of its URL.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(|secret| secret.expose_secret())
    }

    fn is_quoted_in(&self, words: &str) -> bool {
        let secrets: Vec<&str> = self.secrets().collect();
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
    /// The proxy was not reached for: this machine could not open a connection to it.
    fn local(fault: Fault, error: &DialError) -> Self {
        Self { fault, detail: error.to_string(), retry_after: None }
    }
}

impl From<ProxyFault> for Attempt {
    fn from(ProxyFault { fault, detail, retry_after }: ProxyFault) -> Self {
        Self::Intercepted { fault, retry_after, detail }
    }
}

/// The password of a URL; without one, its user is the key, if it is long enough for one.
fn key(url: &Url) -> Option<String> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let password = url.password().filter(|password| !password.is_empty()).map(decoded);
    password.or_else(|| Some(decoded(url.username())).filter(|user| user.len() >= KEY_BYTES_MIN))
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
    /// Whether it says in Squid's words that the endpoint could not be reached.
    is_unreached: bool,
    /// Whether it asks for credentials, or for others than it got; tinyproxy answers 401 to wrong ones.
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
        let asks = status == 401 || status == 407 && header("proxy-authenticate").is_some();
        Self {
            status,
            words: error.as_deref().unwrap_or(reason).trim().to_owned(),
            is_marked: error.is_some(),
            is_unreached: header(SQUID_ERROR)
                .is_some_and(|why| SQUID_UNREACHED.iter().any(|unreached| why.starts_with(unreached))),
            wants_credentials: asks && error.is_none(),
            retry_after: header("retry-after").and_then(|value| retry_after_value(&value)),
        }
    }
}

#[cfg(test)]
mod tests;
