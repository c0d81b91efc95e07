//! One POST under one deadline.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    mem,
    panic::AssertUnwindSafe,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use actix_web::{
    error::PayloadError,
    http::{
        Uri,
        header::{CONTENT_ENCODING, HeaderMap, HeaderName, RETRY_AFTER},
    },
    web::Bytes,
};
use awc::{Client, ClientRequest, ClientResponse, Connector, error::SendRequestError};
use futures_util::{FutureExt, StreamExt};
use outhook_core::{
    identity::{BotId, Millis},
    outcome::{Attempt, Fault},
};
use tokio::time::timeout_at;
use url::{Position, Url};

use super::{
    connect::{EndpointConnector, Route},
    dial::Dialler,
    faults,
    framing::{Body, Field, Framing},
    heads::HEAD_BYTES_MAX,
    inflate::{ENCODINGS, inflate},
    proxy::Proxy,
    signature::Signature,
    socket::{is_end, is_unsent},
    tally::Tally,
};
use crate::{clock::now, config::http::Http};

/// How long a connection may have been unused and be used again; and how often those of bots that were not
/// called for as long are let go.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long no call begins after one found no file: each that tried would be put off, and make way for the
/// next.
pub(crate) const NO_FILES_PAUSE: Duration = Duration::from_secs(1);
/// How often, at most, it is said that no file is left.
const NO_FILES_INTERVAL: Duration = Duration::from_secs(10);

/// How many bytes may be sent for a byte of a body: small chunks and TLS records have large frames.
const FRAMED_BYTES_PER_BYTE: usize = 4;

/// Who may use a connection: what comes late on it can't be told from the next answer, so no other bot may.
type Pool = (BotId, String);

/// Calls endpoints; one for each thread, because its connections belong to the thread.
pub(crate) struct WebhookClient {
    /// By bot, and by scheme, host and port; what they keep are idle connections.
    clients: RefCell<HashMap<Pool, Kept>>,
    /// Open ones, idle or not.
    connections: Tally,
    calls: Tally,
    kept_max: usize,
    route: Route,
    dialler: Dialler,
    user_agent: String,
    connect_timeout: Duration,
    timeout: Duration,
    response_bytes_max: usize,
    no_files_at: Cell<Option<Instant>>,
    /// When it was last said that no file is left.
    no_files_told: Cell<Option<Instant>>,
}

struct Kept {
    client: Client,
    used_at: Instant,
}

/// A request to an endpoint.
pub(crate) struct Outbound<'a> {
    /// Whose endpoint it is.
    pub(crate) bot: BotId,
    /// Where to.
    pub(crate) url: Url,
    /// `Content-Type`.
    pub(crate) content_type: &'static str,
    /// Body.
    pub(crate) body: Vec<u8>,
    /// `webhook-id`.
    pub(crate) webhook_id: String,
    /// Counted from 1.
    pub(crate) attempt: u32,
    /// Its signature.
    pub(crate) signature: &'a Signature,
}

impl WebhookClient {
    /// A client of the current thread. It keeps so many connections at most beside those of calls in flight,
    /// for as many hosts at most, each counted for each bot.
    pub(crate) fn new(
        config: &Http,
        route: Route,
        dialler: Dialler,
        user_agent: &str,
        kept_max: usize,
    ) -> Self {
        Self {
            clients: RefCell::default(),
            connections: Tally::default(),
            calls: Tally::default(),
            kept_max,
            route,
            dialler,
            user_agent: user_agent.to_owned(),
            connect_timeout: config.connect_timeout,
            timeout: config.timeout,
            response_bytes_max: config.max_response_bytes,
            no_files_at: Cell::default(),
            no_files_told: Cell::default(),
        }
    }

    /// Lets go of the connections of bots that have not called for [`KEEP_ALIVE`]: awc looks at those of a
    /// host only when the same bot calls it again. The others keep theirs: if all connected anew in the same
    /// moment, each would wait for all.
    pub(crate) fn let_go_of_unused(&self) {
        if let Some(moment) = Instant::now().checked_sub(KEEP_ALIVE) {
            self.let_go_of_unused_since(moment);
        }
    }

    fn let_go_of_unused_since(&self, moment: Instant) {
        self.clients.borrow_mut().retain(|_, kept| kept.used_at >= moment);
    }

    /// Lets go of all connections that nobody uses. Calls in flight keep their client alive.
    fn let_go_of_all(&self) {
        self.clients.borrow_mut().clear();
    }

    fn let_go_if_too_much_is_kept(&self) {
        // A call has one connection at most.
        let idle = self.connections.count().saturating_sub(self.calls.count());
        let clients = self.clients.borrow().len();
        if idle.max(clients) > self.kept_max {
            self.let_go_of_all();
        }
    }

    /// No file was left for a call. The connections that nobody uses are files too, so they make way each
    /// time; an operator is told now and then.
    pub(crate) fn ran_out_of_files(&self) {
        self.no_files_at.set(Some(Instant::now()));
        self.let_go_of_all();
        if self.no_files_told.get().is_some_and(|at| at.elapsed() < NO_FILES_INTERVAL) {
            return;
        }
        self.no_files_told.set(Some(Instant::now()));
        log::warn!(
            "no file is left to open connections with, so calls are put off: raise the limit of open files \
             (LimitNOFILE= of systemd, ulimit -n), or lower http.max_calls"
        );
    }

    /// Whether a call that began now would hardly find a file.
    pub(crate) fn lacks_files(&self) -> bool {
        self.no_files_at.get().is_some_and(|at| at.elapsed() < NO_FILES_PAUSE)
    }

    /// What every call may send along, and nobody may be shown.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.route.secrets()
    }

    /// Makes one attempt. Everything that can happen is an [`Attempt`].
    pub(crate) async fn post(&self, outbound: Outbound<'_>) -> Attempt {
        let exchange = async {
            // The runtime now hears of every connection that was closed by its peer, and awc, which asks the
            // runtime, does not use one of those.
            tokio::task::yield_now().await;
            self.exchange(outbound).await
        };
        let call = self.calls.add();
        let ended = AssertUnwindSafe(exchange).catch_unwind().await;
        drop(call);
        self.let_go_if_too_much_is_kept();
        ended.unwrap_or_else(|_| faults::unreadable())
    }

    async fn exchange(&self, mut outbound: Outbound<'_>) -> Attempt {
        let deadline = tokio::time::Instant::now() + self.timeout;
        outbound.url.set_fragment(None);
        let uri = match self.route.uri(&outbound.url) {
            Ok(uri) => uri,
            Err(detail) => return Attempt::Failed { fault: Fault::BadUrl, detail },
        };
        let pool = (outbound.bot, outbound.url.origin().ascii_serialization());
        let body = Bytes::from(mem::take(&mut outbound.body));
        let send = || {
            let client = self.client(&pool, &outbound.url);
            self.request(&client, &uri, &outbound).send_body(body.clone())
        };
        let sending = async {
            match send().await {
                // It was certainly not received, so it is sent again within the same attempt; once, because a
                // new connection is a good one.
                Err(SendRequestError::Send(error)) if is_unsent(&error) => {
                    self.let_go_of(&pool);
                    send().await
                }
                sent => sent,
            }
        };
        let sent = timeout_at(deadline, sending).await;
        if self.dialler.was_crowded() {
            self.let_go_of_all();
        }
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return faults::no_answer(&error),
            Err(_) => return self.timed_out(),
        };
        let framing = framing(&response);
        if !framing.is_safe {
            self.let_go_of(&pool);
        }
        let forwarder = self.route.forwarder(&outbound.url);
        let intercepted = |proxy: &Proxy| proxy.own_answer(response.status().as_u16(), response.headers());
        match forwarder.and_then(intercepted) {
            Some(attempt) => attempt,
            None => self.read(response, framing.body, deadline).await,
        }
    }

    fn request(&self, client: &Client, uri: &Uri, outbound: &Outbound<'_>) -> ClientRequest {
        let (url, signature) = (&outbound.url, outbound.signature);
        let mut request = client.post(uri.clone());
        for header in self.route.forwarder(url).map(Proxy::headers).unwrap_or_default() {
            request = request.insert_header(header);
        }
        request
            .insert_header(("host", &url[Position::BeforeHost..Position::AfterPort]))
            .insert_header(("content-type", outbound.content_type))
            .insert_header(("user-agent", self.user_agent.as_str()))
            .insert_header(("accept", "*/*"))
            .insert_header(("accept-encoding", ENCODINGS))
            .insert_header(("webhook-id", outbound.webhook_id.as_str()))
            .insert_header(("webhook-timestamp", signature.timestamp.to_string()))
            .insert_header(("webhook-signature", signature.header.as_str()))
            .insert_header(("outhook-attempt", outbound.attempt.to_string()))
            .no_decompress()
    }

    async fn read(&self, mut response: ClientResponse, end: Body, deadline: tokio::time::Instant) -> Attempt {
        let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
        let encoding = text(response.headers(), CONTENT_ENCODING).unwrap_or_default().to_owned();
        let reading = read_body(&mut response, end, self.response_bytes_max);
        let body = timeout_at(deadline, reading).await.unwrap_or_else(|_| Err(self.timed_out()));
        let body = body.and_then(|body| {
            inflate(body, &encoding, self.response_bytes_max).map_err(|error| faults::not_inflated(&error))
        });
        match body {
            Ok(body) => Attempt::Answered { status, retry_after, body },
            Err(fault) if (200..300).contains(&status) => fault,
            // The status says enough; what came with it is only for people to look at.
            Err(_) => Attempt::Answered { status, retry_after, body: Vec::new() },
        }
    }

    fn timed_out(&self) -> Attempt {
        faults::timed_out(&format!("{:?} (http.timeout)", self.timeout))
    }

    fn client(&self, pool: &Pool, url: &Url) -> Client {
        let (mut clients, now) = (self.clients.borrow_mut(), Instant::now());
        let kept = clients
            .entry(pool.clone())
            .or_insert_with(|| Kept { client: self.new_client(url), used_at: now });
        kept.used_at = now;
        kept.client.clone()
    }

    /// Lets go of a bot's connections to a host; those of calls in flight are closed at their end.
    fn let_go_of(&self, pool: &Pool) {
        self.clients.borrow_mut().remove(pool);
    }

    fn new_client(&self, url: &Url) -> Client {
        let answer_bytes_max =
            self.response_bytes_max.saturating_mul(FRAMED_BYTES_PER_BYTE).saturating_add(HEAD_BYTES_MAX);
        let endpoint = EndpointConnector::new(
            &self.route,
            self.dialler.clone(),
            url,
            self.connect_timeout,
            answer_bytes_max,
            self.connections.clone(),
        );
        let connector = Connector::new()
            .connector(endpoint)
            // The connector has a deadline of its own, and says what it was waiting for.
            .timeout(self.timeout)
            .conn_keep_alive(KEEP_ALIVE)
            // How many calls there may be is decided before they get here.
            .limit(0);
        Client::builder()
            .connector(connector)
            // The deadline here is one over head and body; awc's ends at the head.
            .disable_timeout()
            .disable_redirects()
            .no_default_headers()
            .finish()
    }
}

fn framing(response: &ClientResponse) -> Framing {
    let headers = response.headers().iter();
    let fields: Vec<Field<'_>> = headers.map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    Framing::of(response.status(), response.version(), &fields)
}

/// Reads a body up to a size. One that is not read takes its connection with it.
async fn read_body(response: &mut ClientResponse, end: Body, bytes_max: usize) -> Result<Vec<u8>, Attempt> {
    match end {
        Body::None => return Ok(Vec::new()),
        Body::Length(length) if length > bytes_max as u64 => return Err(faults::too_large()),
        _ => {}
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.next().await {
        match chunk {
            Ok(chunk) if body.len() + chunk.len() > bytes_max => return Err(faults::too_large()),
            Ok(chunk) => body.extend_from_slice(&chunk),
            Err(error) if end == Body::Connection && faults::cause(&error).is_some_and(is_end) => break,
            Err(error) => return Err(faults::no_body(&error)),
        }
    }
    match end {
        // However it came to that.
        Body::Length(length) if length > body.len() as u64 => {
            Err(faults::no_body(&PayloadError::Incomplete(None)))
        }
        _ => Ok(body),
    }
}

/// `Retry-After` as a moment: seconds from now, or an HTTP date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Millis> {
    retry_after_value(text(headers, RETRY_AFTER)?)
}

/// The same from the header's value.
pub(super) fn retry_after_value(value: &str) -> Option<Millis> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds: u32 = value.parse().unwrap_or(u32::MAX);
        return Some(now().saturating_add(i64::from(seconds) * 1000));
    }
    let date: SystemTime = httpdate::parse_http_date(value).ok()?;
    Millis::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests;
