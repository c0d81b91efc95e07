//! Taking events over HTTP.

use std::sync::OnceLock;

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Payload},
};
use serde_json::json;

use super::auth::Token;
use crate::{
    actors::queue::{QueueActor, read_delivery},
    config::queue::PerBot,
    mailbox::Mailbox,
    messages::settled::DueAt,
    store::{Store, StoreError, now},
};

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
        return HttpResponse::ServiceUnavailable().body("the database is not connected yet\n");
    };
    let body = match payload.to_bytes_limited(intake.event_bytes_max).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return HttpResponse::BadRequest().body(format!("{error}\n")),
        Err(_) => {
            let limit = intake.event_bytes_max;
            return HttpResponse::PayloadTooLarge()
                .body(format!("an event may have {limit} bytes (queue.max_event_bytes)\n"));
        }
    };
    match intake.take(&body).await {
        Ok(response) => response,
        Err(error) if error.is_transient() => HttpResponse::ServiceUnavailable().body(format!("{error}\n")),
        Err(error) => HttpResponse::InternalServerError().body(format!("{error}\n")),
    }
}

impl Intake {
    async fn take(&self, body: &[u8]) -> Result<HttpResponse, StoreError> {
        let event = match read_delivery(body, self.event_bytes_max) {
            Ok(event) => event,
            Err(letter) => return Ok(HttpResponse::BadRequest().body(letter.detail + "\n")),
        };
        let bot = event.header.bot;
        let counts = self.store.count_unfinished(vec![bot]).await?;
        if counts.get(&bot).is_some_and(|unfinished| *unfinished >= self.per_bot.events) {
            let body = "the bot has queue.stored_per_bot unfinished events already\n";
            return Ok(HttpResponse::TooManyRequests().body(body));
        }
        let stored = self.store.put_into_inbox(vec![event], self.per_bot).await?;
        metrics::counter!("outhook_events_taken_total").increment(stored as u64);
        self.inbox.send(DueAt(now()));
        let status = if stored > 0 { "stored" } else { "known" };
        Ok(HttpResponse::Accepted().json(json!({ "status": status })))
    }
}
