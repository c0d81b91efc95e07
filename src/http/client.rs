//! One POST under one deadline.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actix_web::{
    error::PayloadError,
    http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, RETRY_AFTER, TRANSFER_ENCODING},
};
use awc::{Client, ClientResponse, Connector};
use futures_util::StreamExt;
use outhook_core::{
    identity::Millis,
    outcome::{Attempt, Fault},
};
use rustls::ClientConfig;
use standardwebhooks::Webhook;
use url::Url;

use super::{
    dial::Dialler,
    faults,
    inflate::{ENCODINGS, inflate},
    socket::is_end,
};
use crate::{config::http::Http, store::now};

/// How long a connection may have been unused and be used again; and how often those that nobody uses are
/// let go.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Calls endpoints; one for each thread, because its connections belong to the thread.
pub(crate) struct WebhookClient {
    client: RefCell<Client>,
    dialler: Dialler,
    tls: Arc<ClientConfig>,
    user_agent: String,
    connect_timeout: Duration,
    timeout: Duration,
    response_bytes_max: usize,
}

/// A request to an endpoint.
pub(crate) struct Outbound<'a> {
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
    /// The service's token, the key of the signature.
    pub(crate) token: &'a str,
}

impl WebhookClient {
    /// A client of the current thread.
    pub(crate) fn new(config: &Http, dialler: Dialler, tls: Arc<ClientConfig>, user_agent: &str) -> Self {
        Self {
            client: RefCell::new(client(&dialler, &tls, config.connect_timeout)),
            dialler,
            tls,
            user_agent: user_agent.to_owned(),
            connect_timeout: config.connect_timeout,
            timeout: config.timeout,
            response_bytes_max: config.max_response_bytes,
        }
    }

    /// Lets go of the connections that nobody uses. awc itself looks at those of a host only when the same
    /// host is called again; calls in flight keep the old client alive.
    pub(crate) fn renew(&self) {
        self.client.replace(client(&self.dialler, &self.tls, self.connect_timeout));
    }

    /// Makes one attempt. Everything that can happen is an [`Attempt`].
    pub(crate) async fn post(&self, outbound: Outbound<'_>) -> Attempt {
        match tokio::time::timeout(self.timeout, self.exchange(outbound)).await {
            Ok(attempt) => attempt,
            Err(_) => faults::timed_out(&format!("{:?} (http.timeout)", self.timeout)),
        }
    }

    async fn exchange(&self, outbound: Outbound<'_>) -> Attempt {
        let timestamp = now() / 1000;
        let signature = match sign(&outbound, timestamp) {
            Ok(signature) => signature,
            Err(detail) => return Attempt::Failed { fault: Fault::BadAnswer, detail },
        };
        let mut url = outbound.url;
        url.set_fragment(None);
        let request = self
            .client
            .borrow()
            .post(url.as_str())
            .insert_header(("content-type", outbound.content_type))
            .insert_header(("user-agent", self.user_agent.as_str()))
            .insert_header(("accept", "*/*"))
            .insert_header(("accept-encoding", ENCODINGS))
            .insert_header(("webhook-id", outbound.webhook_id))
            .insert_header(("webhook-timestamp", timestamp.to_string()))
            .insert_header(("webhook-signature", signature))
            .insert_header(("outhook-attempt", outbound.attempt.to_string()))
            .no_decompress();
        let mut response = match request.send_body(outbound.body).await {
            Ok(response) => response,
            Err(error) => return faults::no_answer(&error),
        };
        let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
        let encoding = text(response.headers(), CONTENT_ENCODING).unwrap_or_default().to_owned();
        let body = read_body(&mut response, self.response_bytes_max).await.and_then(|body| {
            inflate(body, &encoding, self.response_bytes_max).map_err(|error| faults::not_inflated(&error))
        });
        match body {
            Ok(body) => Attempt::Answered { status, retry_after, body },
            Err(fault) if (200..300).contains(&status) => fault,
            // The status says enough; what came with it is only for people to look at.
            Err(_) => Attempt::Answered { status, retry_after, body: Vec::new() },
        }
    }
}

fn client(dialler: &Dialler, tls: &Arc<ClientConfig>, connect_timeout: Duration) -> Client {
    let connector = Connector::new()
        .connector(dialler.clone())
        .rustls_0_23(Arc::clone(tls))
        .timeout(connect_timeout)
        .handshake_timeout(connect_timeout)
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

/// Reads a body up to a size.
async fn read_body(response: &mut ClientResponse, bytes_max: usize) -> Result<Vec<u8>, Attempt> {
    let announced = text(response.headers(), CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(faults::too_large());
    }
    let ends_with_connection = announced.is_none() && !response.headers().contains_key(TRANSFER_ENCODING);
    let mut body = Vec::new();
    while let Some(chunk) = response.next().await {
        match chunk {
            Ok(chunk) if body.len() + chunk.len() > bytes_max => return Err(faults::too_large()),
            Ok(chunk) => body.extend_from_slice(&chunk),
            Err(error) if ends_with_connection && faults::cause(&error).is_some_and(is_end) => break,
            Err(error) => return Err(faults::no_body(&error)),
        }
    }
    match announced {
        // A connection closed by TLS ends without an error.
        Some(length) if length > body.len() as u64 => Err(faults::no_body(&PayloadError::Incomplete(None))),
        _ => Ok(body),
    }
}

/// Signs as Standard Webhooks asks, with the UTF-8 bytes of the token as key.
fn sign(outbound: &Outbound<'_>, timestamp: i64) -> Result<String, String> {
    let signer =
        Webhook::from_bytes(outbound.token.as_bytes().to_vec()).map_err(|error| error.to_string())?;
    signer.sign(&outbound.webhook_id, timestamp, &outbound.body).map_err(|error| error.to_string())
}

/// `Retry-After` as a moment: seconds from now, or an HTTP date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Millis> {
    let value = text(headers, RETRY_AFTER)?.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(now().saturating_add(i64::from(seconds) * 1000));
    }
    let date: SystemTime = httpdate::parse_http_date(value).ok()?;
    Millis::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

fn text(headers: &HeaderMap, name: actix_web::http::header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn after(value: &'static str) -> Option<Millis> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        retry_after(&headers)
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let wait = after("120").expect("seconds") - now();
        assert!((119_000..=120_000).contains(&wait), "{wait}");
        assert_eq!(after("Fri, 31 Dec 1999 23:59:59 GMT"), Some(946_684_799_000));
        for nonsense in ["", "soon", "-1", "1.5"] {
            assert_eq!(after(nonsense), None, "{nonsense}");
        }
    }
}
