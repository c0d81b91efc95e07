//! One POST under one deadline.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    mem,
    time::{Duration, Instant},
};

use actix_web::{
    http::{
        Uri,
        header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderName, LOCATION},
    },
    web::Bytes,
};
use awc::{Client, ClientRequest, ClientResponse, Connector, error::SendRequestError};
use futures_util::StreamExt;
use outhook_core::{
    identity::BotId,
    outcome::{Attempt, Fault},
};
use tokio::time::timeout_at;
use url::{Position, Url};

use super::{
    connect::{EndpointConnector, Route},
    dial::Dialler,
    faults, header_section,
    inflate::{ENCODINGS, inflate},
    proxy::Proxy,
    redirect,
    reminder::Reminder,
    retry_after::retry_after,
    signature::Signature,
    socket::is_unsent,
    tally::Tally,
};
use crate::config::http::Http;

/// How long a connection may have been unused and be used again; and how often those of bots that were not
/// called for as long are let go.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long no call begins after one found no file: each that tried would be put off, and make way for the
/// next.
pub(crate) const NO_FILES_PAUSE: Duration = Duration::from_secs(1);

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
    no_files_told: Reminder,
    local_told: Reminder,
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
            no_files_told: Reminder::default(),
            local_told: Reminder::default(),
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
        if self.no_files_told.is_due() {
            log::warn!(
                "no file is left to open connections with, so calls are put off: raise the limit of open files \
                 (LimitNOFILE= of systemd, ulimit -n), or lower http.max_calls"
            );
        }
    }

    /// This machine could not open a connection for a call; an operator is told now and then.
    pub(crate) fn could_not_connect(&self, why: &str) {
        if self.local_told.is_due() {
            log::warn!(
                "this machine can't open a connection that a call needs, so the call is deferred: {why}"
            );
        }
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
        let attempt = exchange.await;
        drop(call);
        self.let_go_if_too_much_is_kept();
        attempt
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
        let forwarder = self.route.forwarder(&outbound.url);
        let intercepted = |proxy: &Proxy| proxy.own_answer(response.status().as_u16(), response.headers());
        match forwarder.and_then(intercepted) {
            Some(attempt) => attempt,
            None => self.read(response, &outbound.url, deadline).await,
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

    async fn read(
        &self,
        mut response: ClientResponse,
        called: &Url,
        deadline: tokio::time::Instant,
    ) -> Attempt {
        let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
        let location = text(&response, LOCATION).filter(|_| (300..400).contains(&status));
        let leads_to = location.map(|location| redirect::leads_to(called, &location));
        let encoding = text(&response, CONTENT_ENCODING).unwrap_or_default();
        let reading = read_body(&mut response, self.response_bytes_max);
        let body = timeout_at(deadline, reading).await.unwrap_or_else(|_| Err(self.timed_out()));
        let body = body.and_then(|body| {
            inflate(body, &encoding, self.response_bytes_max).map_err(|error| faults::not_inflated(&error))
        });
        match body {
            Ok(body) => Attempt::Answered { status, retry_after, leads_to, body },
            Err(fault) if (200..300).contains(&status) => fault,
            // The status says enough; what came with it is only for people to look at.
            Err(_) => Attempt::Answered { status, retry_after, leads_to, body: Vec::new() },
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
        let answer_bytes_max = self
            .response_bytes_max
            .saturating_mul(FRAMED_BYTES_PER_BYTE)
            .saturating_add(header_section::BYTES_MAX);
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

/// Reads a body up to a size. One that is not read takes its connection with it.
async fn read_body(response: &mut ClientResponse, bytes_max: usize) -> Result<Vec<u8>, Attempt> {
    let length: Option<u64> = text(response, CONTENT_LENGTH).and_then(|length| length.parse().ok());
    if length.is_some_and(|length| length > bytes_max as u64) {
        return Err(faults::too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.next().await {
        match chunk {
            Ok(chunk) if body.len() + chunk.len() > bytes_max => return Err(faults::too_large()),
            Ok(chunk) => body.extend_from_slice(&chunk),
            Err(error) => return Err(faults::no_body(&error)),
        }
    }
    Ok(body)
}

fn text(response: &ClientResponse, name: HeaderName) -> Option<String> {
    response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests;
