//! Taking events over HTTP.

use std::{sync::OnceLock, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::RETRY_AFTER,
    web::{Bytes, Data, Payload},
};
use serde_json::json;
use tokio::{sync::Semaphore, time::timeout};

use super::auth::Token;
use crate::{
    actors::queue::{QueueActor, read_delivery},
    config::queue::PerBot,
    mailbox::Mailbox,
    messages::settled::DueAt,
    store::{Admission, Store, StoreError, now},
};

/// Requests in work at a time; each may hold `queue.max_event_bytes` in memory.
pub(super) const REQUESTS_MAX: usize = 16;

/// How long a client may take to send the body of its request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Seconds after which a client that was turned away may come again.
const RETRY_SECONDS: &str = "1";

/// Where events go.
pub(super) struct Intake {
    /// The inbox.
    pub(super) store: Store,
    /// Who works on it; told, because a database says nothing of what its own connection wrote.
    pub(super) inbox: Mailbox<QueueActor>,
    /// `queue.max_event_bytes`.
    pub(super) event_bytes_max: usize,
    /// What may be stored for one bot.
    pub(super) per_bot: PerBot,
    /// [`REQUESTS_MAX`].
    pub(super) permits: Semaphore,
}

/// Takes one event: 202 once it is stored, also if it was known before.
pub(super) async fn post(
    request: HttpRequest,
    payload: Payload,
    token: Data<Token>,
    intake: Data<OnceLock<Intake>>,
) -> HttpResponse {
    if let Some(refusal) = token.refuse(&request) {
        return refusal;
    }
    let Some(intake) = intake.get() else {
        return unavailable("the database is not connected yet");
    };
    let Ok(_permit) = intake.permits.try_acquire() else {
        return unavailable(&format!("{REQUESTS_MAX} requests are in work already"));
    };
    let body = match intake.read(payload).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    match intake.take(&body).await {
        Ok(response) => response,
        Err(error) if error.is_transient() => unavailable(&error.to_string()),
        Err(error) => HttpResponse::InternalServerError().body(format!("{error}\n")),
    }
}

fn unavailable(why: &str) -> HttpResponse {
    HttpResponse::ServiceUnavailable().insert_header((RETRY_AFTER, RETRY_SECONDS)).body(format!("{why}\n"))
}

impl Intake {
    async fn read(&self, payload: Payload) -> Result<Bytes, HttpResponse> {
        let limit = self.event_bytes_max;
        match timeout(BODY_TIMEOUT, payload.to_bytes_limited(limit)).await {
            Ok(Ok(Ok(body))) => Ok(body),
            Ok(Ok(Err(error))) => Err(HttpResponse::BadRequest().body(format!("{error}\n"))),
            Ok(Err(_)) => Err(HttpResponse::PayloadTooLarge()
                .body(format!("an event may have {limit} bytes (queue.max_event_bytes)\n"))),
            Err(_) => Err(HttpResponse::RequestTimeout()
                .body(format!("the body did not arrive within {BODY_TIMEOUT:?}\n"))),
        }
    }

    async fn take(&self, body: &[u8]) -> Result<HttpResponse, StoreError> {
        let event = match read_delivery(body, self.event_bytes_max) {
            Ok(event) => event,
            Err(letter) => return Ok(HttpResponse::BadRequest().body(letter.detail + "\n")),
        };
        let status = match self.store.admit_event(event, self.per_bot.events).await? {
            Admission::Stored => "stored",
            Admission::Known => "known",
            Admission::Full => {
                let body = "the bot has queue.stored_per_bot unfinished events already\n";
                return Ok(HttpResponse::TooManyRequests().body(body));
            }
        };
        if status == "stored" {
            metrics::counter!("outhook_events_taken_total").increment(1);
            self.inbox.send(DueAt(now()));
        }
        Ok(HttpResponse::Accepted().json(json!({ "status": status })))
    }
}
