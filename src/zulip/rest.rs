//! Zulip's REST API, as the bot. `[reply] site` is dialled; the organisation is told by `Host`.

use std::{sync::Arc, time::Duration};

use awc::{
    Client, ClientRequest, ClientResponse, Connector,
    error::{ConnectError, SendRequestError},
    http::header::LOCATION,
};
use outhook_core::{excerpt::excerpt, identity::Millis, outcome::is_retried};
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use url::{Url, form_urlencoded};

use super::{Destination, advice::Unserved};
use crate::{
    http::{retry_after, retry_after_value},
    store::{Bot, Outgoing},
};

/// One deadline over a whole request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most that is read of an answer.
const ANSWER_BYTES_MAX: usize = 65_536;

const MESSAGES: &str = "/api/v1/messages";
const SERVER_SETTINGS: &str = "/api/v1/server_settings";

/// What came of a post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Posted {
    /// The message is there.
    Done,
    /// It certainly is not; another attempt may succeed.
    NotDone {
        /// Why.
        detail: String,
        /// When the server wants to hear from us again.
        not_before: Option<Millis>,
    },
    /// It may be there or not.
    Unknown {
        /// Why.
        detail: String,
    },
    /// It is not there: the bot is not who it says. Its key may have been regenerated since it was read.
    Unauthorized {
        /// Why.
        detail: String,
    },
    /// It is not there, and no further attempt would help.
    Refused {
        /// Why.
        detail: String,
    },
    /// It was to be logged, and the log could not take it.
    Dropped,
}

impl Posted {
    /// The same, with what to set right if it was refused.
    fn advised(mut self, advice: Option<String>) -> Self {
        if let (Self::Refused { detail } | Self::Unauthorized { detail }, Some(advice)) = (&mut self, advice)
        {
            *detail = format!("{detail}: {advice}");
        }
        self
    }
}

/// Posts messages. Belongs to the thread that made it.
#[derive(Clone)]
pub(crate) struct RestClient {
    client: Client,
    site: Url,
    timeout: Duration,
}

/// What a Zulip server tells everybody of itself.
#[derive(Debug, Deserialize)]
pub(crate) struct Settings {
    /// Its version.
    pub(crate) zulip_version: String,
    /// The organization at the host that was asked for, if there is one.
    pub(crate) realm_name: Option<String>,
}

#[derive(Deserialize)]
struct ApiError {
    msg: Option<String>,
    code: Option<serde_json::Value>,
    /// Seconds, with a fraction: the same as in the header, which a proxy may take away.
    #[serde(rename = "retry-after")]
    retry_after: Option<serde_json::Value>,
}

impl ApiError {
    fn not_before(&self) -> Option<Millis> {
        let seconds = self.retry_after.as_ref()?;
        retry_after_value(&seconds.as_str().map_or_else(|| seconds.to_string(), str::to_owned))
    }
}

impl RestClient {
    /// A client of the server at `site`. It is the operator's own, so the egress rules don't apply.
    pub(crate) fn new(site: Url, tls: Arc<ClientConfig>) -> Self {
        let connector = Connector::new().rustls_0_23(tls).timeout(TIMEOUT).limit(0);
        let client = Client::builder().connector(connector).disable_timeout().disable_redirects().finish();
        Self { client, site, timeout: TIMEOUT }
    }

    /// Posts a reply as its bot.
    pub(crate) async fn post_message(&self, bot: &Bot, host: &str, reply: &Outgoing) -> Posted {
        let form = match form(reply) {
            Ok(form) => form,
            Err(detail) => return Posted::Refused { detail },
        };
        let deadline = Instant::now() + self.timeout;
        let mut response = match timeout_at(deadline, self.request(bot, host).send_body(form)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return unsent(&error),
            Err(_) => return Posted::Unknown { detail: format!("no answer within {:?}", self.timeout) },
        };
        // The status says what came of it, even if the rest does not come.
        let body = timeout_at(deadline, response.body().limit(ANSWER_BYTES_MAX)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let secrets: Vec<&str> = bot.secrets().collect();
        let status = response.status().as_u16();
        let location = location(&response);
        let unserved = Unserved {
            status,
            location: location.as_deref(),
            body: &body,
            url: &self.url(MESSAGES),
            host,
            secrets: &secrets,
        };
        read_answer(status, retry_after(response.headers()), &body, &secrets).advised(unserved.advice())
    }

    /// Asks the server what it is, as one of its hosts, without signing in.
    ///
    /// # Errors
    /// Why it could not be asked, or does not answer as Zulip does.
    pub(crate) async fn server_settings(&self, host: &str) -> Result<Settings, String> {
        let url = self.url(SERVER_SETTINGS);
        let request = with_host(self.client.get(url.as_str()), host);
        let ask = async {
            let mut response = request.send().await.map_err(|error| error.to_string())?;
            let body = response.body().limit(ANSWER_BYTES_MAX).await.map_err(|error| error.to_string())?;
            let (status, location) = (response.status().as_u16(), location(&response));
            serde_json::from_slice(&body).map_err(|_| {
                let location = location.as_deref();
                let advice =
                    Unserved { status, location, body: &body, url: &url, host, secrets: &[] }.advice();
                let advice = advice.map(|advice| format!(": {advice}")).unwrap_or_default();
                format!("it answers with status {status}, but not as a Zulip server{advice}")
            })
        };
        tokio::time::timeout(self.timeout, ask)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout)))
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.site.clone();
        url.set_path(&format!("{}{path}", self.site.path().trim_end_matches('/')));
        url
    }

    fn request(&self, bot: &Bot, host: &str) -> ClientRequest {
        let request = self
            .client
            .post(self.url(MESSAGES).as_str())
            .basic_auth(&bot.delivery_email, bot.api_key.expose_secret())
            .insert_header(("content-type", "application/x-www-form-urlencoded"))
            .insert_header(("user-agent", concat!("outhook/", env!("CARGO_PKG_VERSION"))));
        with_host(request, host)
    }
}

fn with_host(request: ClientRequest, host: &str) -> ClientRequest {
    if host.is_empty() { request } else { request.insert_header(("host", host)) }
}

fn location<S>(response: &ClientResponse<S>) -> Option<String> {
    response.headers().get(LOCATION)?.to_str().ok().map(str::to_owned)
}

/// The reply as a form; the reason if there is nowhere to post it.
fn form(reply: &Outgoing) -> Result<String, String> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    match Destination::from_json(&reply.destination) {
        Destination::Stream { to, topic } => {
            form.append_pair("type", "stream")
                .append_pair("to", &to.to_string())
                .append_pair("topic", &topic);
        }
        Destination::Direct { to } => {
            let people = serde_json::to_string(&to).map_err(|error| error.to_string())?;
            form.append_pair("type", "private").append_pair("to", &people);
        }
        Destination::Unknown { why } => return Err(format!("nobody can tell where to reply: {why}")),
    }
    form.append_pair("content", &String::from_utf8_lossy(&reply.content));
    if let Some(widget) = &reply.widget {
        form.append_pair("widget_content", &String::from_utf8_lossy(widget));
    }
    // Zulip then names the client as it does for its own worker.
    Ok(form.append_pair("client", "OutgoingWebhookResponse").finish())
}

/// A request that never left is certainly not done; after that nobody knows.
fn unsent(error: &SendRequestError) -> Posted {
    let detail = error.to_string();
    match error {
        SendRequestError::Connect(
            ConnectError::Timeout | ConnectError::Io(_) | ConnectError::Resolver(_),
        )
        | SendRequestError::Connect(ConnectError::NoRecords) => Posted::NotDone { detail, not_before: None },
        _ => Posted::Unknown { detail },
    }
}

fn shown(code: serde_json::Value) -> String {
    code.as_str().map_or_else(|| code.to_string(), str::to_owned)
}

fn read_answer(status: u16, not_before: Option<Millis>, body: &[u8], secrets: &[&str]) -> Posted {
    let error: Option<ApiError> = serde_json::from_slice(body).ok();
    let not_before = not_before.max(error.as_ref().and_then(ApiError::not_before));
    let said = error
        .map(|error| [error.code.map(shown), error.msg].into_iter().flatten().collect::<Vec<_>>().join(": "));
    // Zulip, and what is in front of it, may give back what they were sent.
    let said = excerpt(said.unwrap_or_default().as_bytes(), secrets);
    let detail = format!("Zulip answered with status {status} {}", String::from_utf8_lossy(&said));
    let detail = detail.trim_end().to_owned();
    match status {
        200..=299 => Posted::Done,
        429 => Posted::NotDone { detail, not_before },
        500 | 503 | 408 => Posted::NotDone { detail, not_before },
        // A proxy in front answers so, also with statuses of its own, when the request may have got through.
        500.. if is_retried(status) => Posted::Unknown { detail },
        401 => Posted::Unauthorized { detail },
        _ => Posted::Refused { detail },
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::http::client_config;

    const KEY: &str = "a-key-of-a-bot";

    #[actix::test]
    async fn the_status_counts_though_the_rest_of_the_answer_never_comes() {
        for (status, expected) in [(200, "Done"), (403, "Refused"), (503, "NotDone")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let site = format!("http://{}/", listener.local_addr().expect("an address"));
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: 50\r\n\r\n");
            let serving = actix_rt::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                stream.read_u8().await.expect("a request");
                stream.write_all(head.as_bytes()).await.expect("room");
                // Until the client leaves.
                while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
            });
            let rest = RestClient::new(site.parse().expect("a URL"), client_config());
            let rest = RestClient { timeout: Duration::from_secs(1), ..rest };
            let posted = rest.post_message(&bot(), "", &reply()).await;
            assert!(format!("{posted:?}").starts_with(expected), "{status}: {posted:?}");
            serving.abort();
        }
    }

    fn bot() -> Bot {
        Bot {
            id: 1,
            email: "bot@example.org".into(),
            delivery_email: "bot@example.org".into(),
            full_name: "Bot".into(),
            api_key: KEY.into(),
            recipient_id: None,
            realm_id: 1,
            realm_string_id: String::new(),
            services: Vec::new(),
        }
    }

    fn reply() -> Outgoing {
        Outgoing {
            id: 1,
            event_id: 1,
            bot_id: 1,
            conversation: 1,
            destination: Destination::Direct { to: vec![31] }.to_json(),
            content: b"soup".to_vec(),
            widget: None,
            attempts: 0,
            created_at: 0,
        }
    }

    #[test]
    fn only_a_certain_failure_is_called_one() {
        assert_eq!(read_answer(200, None, b"{}", &[KEY]), Posted::Done);
        let limited = read_answer(429, Some(7), br#"{"code":"RATE_LIMIT_HIT","msg":"slow down"}"#, &[KEY]);
        let Posted::NotDone { detail, not_before: Some(7) } = limited else { panic!("{limited:?}") };
        assert!(detail.contains("RATE_LIMIT_HIT: slow down"), "{detail}");
        for seconds in ["21.66437864303589", "\"21.66437864303589\""] {
            let body = format!(r#"{{"code":"RATE_LIMIT_HIT","msg":"slow down","retry-after":{seconds}}}"#);
            let earliest = crate::store::now() + 22_000;
            let limited = read_answer(429, None, body.as_bytes(), &[KEY]);
            let Posted::NotDone { detail, not_before: Some(until) } = limited else { panic!("{limited:?}") };
            assert!(until >= earliest && detail.contains("slow down"), "{until}: {detail}");
        }
        assert!(matches!(read_answer(400, None, b"", &[KEY]), Posted::Refused { .. }));
        assert!(matches!(read_answer(401, None, b"", &[KEY]), Posted::Unauthorized { .. }));
        for status in [502, 504, 520, 524, 529, 599] {
            assert!(matches!(read_answer(status, None, b"", &[KEY]), Posted::Unknown { .. }), "{status}");
        }
        assert!(matches!(read_answer(501, None, b"", &[KEY]), Posted::Refused { .. }));
    }

    #[test]
    fn a_refusal_that_quotes_the_request_is_told_without_the_key() {
        // "bot@x.org:a-key-of-a-bot"
        let body = br#"{"msg":"Basic Ym90QHgub3JnOmEta2V5LW9mLWEtYm90 is a-key-of-a-bot"}"#;
        let Posted::Refused { detail } = read_answer(400, None, body, &[KEY]) else {
            panic!("it is refused")
        };
        assert!(detail.contains("[hidden]"), "{detail}");
        assert!(!detail.contains("ta2V5LW9m") && !detail.contains(KEY), "{detail}");
    }
}
