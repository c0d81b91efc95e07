//! Zulip's REST API, as the bot. `[reply] site` is dialled; the organisation is told by `Host`.

use std::{sync::Arc, time::Duration};

use awc::{
    Client, ClientRequest, Connector,
    error::{ConnectError, SendRequestError},
};
use outhook_core::{excerpt::excerpt, identity::Millis};
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use url::{Url, form_urlencoded};

use super::Destination;
use crate::{
    http::retry_after,
    store::{Bot, Outgoing},
};

/// One deadline over a whole request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most that is read of an answer.
const ANSWER_BYTES_MAX: usize = 65_536;

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
    /// It is not there, and no further attempt would help.
    Refused {
        /// Why.
        detail: String,
    },
    /// It was to be logged, and the log could not take it.
    Dropped,
}

/// Posts messages. Belongs to the thread that made it.
#[derive(Clone)]
pub(crate) struct RestClient {
    client: Client,
    site: Url,
    timeout: Duration,
}

#[derive(Deserialize)]
struct ApiError {
    msg: Option<String>,
    code: Option<String>,
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
        let Some(form) = form(reply) else {
            return Posted::Refused { detail: "the event does not say where to reply".into() };
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
        read_answer(response.status().as_u16(), retry_after(response.headers()), &body, &secrets)
    }

    /// Asks the server for its version, without signing in.
    ///
    /// # Errors
    /// Why it could not be asked, or does not answer as Zulip does.
    pub(crate) async fn server_version(&self) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Settings {
            zulip_version: String,
        }
        let url = format!("{}/api/v1/server_settings", self.site.as_str().trim_end_matches('/'));
        let ask = async {
            let mut response = self.client.get(url).send().await.map_err(|error| error.to_string())?;
            let body = response.body().limit(ANSWER_BYTES_MAX).await.map_err(|error| error.to_string())?;
            let settings: Result<Settings, _> = serde_json::from_slice(&body);
            settings.map(|settings| settings.zulip_version).map_err(|_| {
                format!("it answers with status {}, but not as a Zulip server", response.status().as_u16())
            })
        };
        tokio::time::timeout(self.timeout, ask)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout)))
    }

    fn request(&self, bot: &Bot, host: &str) -> ClientRequest {
        let url = format!("{}/api/v1/messages", self.site.as_str().trim_end_matches('/'));
        let request = self
            .client
            .post(url)
            .basic_auth(&bot.delivery_email, bot.api_key.expose_secret())
            .insert_header(("content-type", "application/x-www-form-urlencoded"))
            .insert_header(("user-agent", concat!("outhook/", env!("CARGO_PKG_VERSION"))));
        if host.is_empty() { request } else { request.insert_header(("host", host)) }
    }
}

fn form(reply: &Outgoing) -> Option<String> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    match Destination::from_json(&reply.destination) {
        Destination::Stream { to, topic } => {
            form.append_pair("type", "stream")
                .append_pair("to", &to.to_string())
                .append_pair("topic", &topic);
        }
        Destination::Direct { to } => {
            let people = serde_json::to_string(&to).ok()?;
            form.append_pair("type", "private").append_pair("to", &people);
        }
        Destination::Unknown => return None,
    }
    form.append_pair("content", &String::from_utf8_lossy(&reply.content));
    if let Some(widget) = &reply.widget {
        form.append_pair("widget_content", &String::from_utf8_lossy(widget));
    }
    // Zulip then names the client as it does for its own worker.
    Some(form.append_pair("client", "OutgoingWebhookResponse").finish())
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

fn read_answer(status: u16, not_before: Option<Millis>, body: &[u8], secrets: &[&str]) -> Posted {
    let error: Option<ApiError> = serde_json::from_slice(body).ok();
    let said =
        error.map(|error| [error.code, error.msg].into_iter().flatten().collect::<Vec<_>>().join(": "));
    // Zulip, and what is in front of it, may give back what they were sent.
    let said = excerpt(said.unwrap_or_default().as_bytes(), secrets);
    let detail = format!("Zulip answered with status {status} {}", String::from_utf8_lossy(&said));
    match status {
        200..=299 => Posted::Done,
        429 => Posted::NotDone { detail, not_before },
        // A proxy in front answers so when the request may have got through.
        502 | 504 => Posted::Unknown { detail },
        500 | 503 | 408 => Posted::NotDone { detail, not_before },
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
        assert!(matches!(read_answer(400, None, b"", &[KEY]), Posted::Refused { .. }));
        assert!(matches!(read_answer(401, None, b"", &[KEY]), Posted::Refused { .. }));
        assert!(matches!(read_answer(504, None, b"", &[KEY]), Posted::Unknown { .. }));
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
