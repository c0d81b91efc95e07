//! `outhook services list`

use entity::outhook::gate::Reason;
use outhook_core::identity::Millis;
use sea_orm::ActiveEnum;
use serde_json::json;

use crate::{
    cli::{
        open_store,
        output::{moment, say, say_json, table},
    },
    config::Config,
    exit::{Exit, Failed},
    handlers,
    store::{ServiceRow, now, reason_name},
};

pub(super) async fn execute(config: Config, json: bool) -> Result<Exit, Failed> {
    let store = open_store(&config).await?;
    let services = store.list_services().await?;
    store.close().await;
    let mut lines = table(["ID", "BOT", "NAME", "INTERFACE", "URL", "STATE", "WHY"]);
    for service in &services {
        if json {
            say_json(&record(service))?;
            continue;
        }
        lines.add_row([
            service.id.to_string(),
            service.bot_id.to_string(),
            service.name.clone(),
            interface(service).to_owned(),
            service.url.clone(),
            state(service, now()).to_owned(),
            why(service),
        ]);
    }
    if !json {
        say(lines.to_string())?;
    }
    Ok(Exit::Success)
}

fn record(service: &ServiceRow) -> serde_json::Value {
    json!({
        "id": service.id,
        "bot_id": service.bot_id,
        "name": service.name,
        "interface": interface(service),
        "url": service.url,
        "state": state(service, now()),
        "reason": reason(service).map(reason_name),
        "detail": service.detail,
        "since": service.since.map(moment),
        "until": service.closed_until.map(moment),
    })
}

fn interface(service: &ServiceRow) -> &'static str {
    handlers::of_interface(service.interface).map_or("unknown", |handler| handler.name())
}

fn reason(service: &ServiceRow) -> Option<Reason> {
    service.reason.and_then(|reason| Reason::try_from_value(&reason).ok())
}

/// As it is written down: a daemon writes when it closes a gate, and when it opens it again.
fn state(service: &ServiceRow, now: Millis) -> &'static str {
    match (reason(service), service.closed_until) {
        (None | Some(Reason::Resumed), _) => "open",
        (Some(Reason::Paused | Reason::Gone), _) => "paused",
        (Some(_), Some(until)) if until <= now => "probing",
        (Some(_), _) => "closed",
    }
}

fn why(service: &ServiceRow) -> String {
    let Some(reason) = reason(service).map(reason_name) else { return String::new() };
    let told = format!("{reason}: {}", service.detail.as_deref().unwrap_or_default());
    let since = service.since.map(|since| format!("since {}", moment(since)));
    let until = service.closed_until.map(|until| format!("until {}", moment(until)));
    [Some(told), since, until].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
