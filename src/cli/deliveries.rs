//! `outhook deliveries`

mod replay;

use clap::{Args, Subcommand};
use entity::outhook::{call, event};
use outhook_core::identity::Millis;
use sea_orm::ActiveEnum;
use serde_json::json;

use super::{
    open_store,
    output::{moment, say, say_json, table},
};
use crate::{
    config::Config,
    exit::{Exit, Failed},
    store::{CallRow, DeliveryFilter, now},
};

/// The ledger.
#[derive(Debug, Args)]
pub(super) struct Deliveries {
    #[command(subcommand)]
    action: Option<Action>,
    /// Only this bot's.
    #[arg(long, value_name = "ID")]
    bot: Option<i64>,
    /// Only this message's.
    #[arg(long, value_name = "ID")]
    message: Option<i64>,
    /// Only calls that failed for good.
    #[arg(long)]
    failed: bool,
    /// Only events taken within this time, such as 1h.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    since: Option<std::time::Duration>,
    /// At most so many lines, the newest.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    limit: u64,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// What is done with the ledger beside showing it.
#[derive(Debug, Subcommand)]
enum Action {
    /// Makes the calls of finished events again that failed, under a new webhook-id.
    Replay(replay::Replay),
}

impl Deliveries {
    pub(super) async fn execute(mut self, config: Config) -> Result<Exit, Failed> {
        match self.action.take() {
            Some(Action::Replay(_)) if self.has_filter() => {
                Err(Failed::usage("options that choose events for a replay stand behind the word replay"))
            }
            Some(Action::Replay(replay)) => replay.execute(config, self.json).await,
            None => self.show(config).await,
        }
    }

    fn has_filter(&self) -> bool {
        self.failed || self.bot.is_some() || self.message.is_some() || self.since.is_some()
    }

    async fn show(self, config: Config) -> Result<Exit, Failed> {
        let since = self.since.map(ago);
        let filter = DeliveryFilter { bot: self.bot, message: self.message, failed: self.failed, since };
        let store = open_store(&config).await?;
        let calls = store.list_calls(&filter, self.limit).await?;
        store.close().await;
        let mut lines =
            table(["EVENT", "BOT", "MESSAGE", "SERVICE", "STATE", "ATTEMPTS", "TOOK", "TAKEN", "REASON"]);
        for call in &calls {
            if self.json {
                say_json(&record(call))?;
                continue;
            }
            lines.add_row([
                call.event_id.to_string(),
                call.bot_id.to_string(),
                message(call),
                call.service_name.clone().unwrap_or_default(),
                state(call).to_owned(),
                call.attempts.map(|attempts| attempts.to_string()).unwrap_or_default(),
                call.duration_ms.map(|millis| format!("{millis}ms")).unwrap_or_default(),
                moment(call.taken_at),
                reason(call),
            ]);
        }
        if !self.json {
            say(lines.to_string())?;
        }
        Ok(Exit::Success)
    }
}

/// The moment that was this time ago.
fn ago(time: std::time::Duration) -> Millis {
    now() - Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

fn message(row: &CallRow) -> String {
    match row.replay {
        0 => row.message_id.to_string(),
        replay => format!("{} replay {replay}", row.message_id),
    }
}

fn state(row: &CallRow) -> &'static str {
    let call = row.call_state.and_then(|state| call::State::try_from_value(&state).ok());
    let event = event::State::try_from_value(&row.event_state).unwrap_or(event::State::Unfinished);
    match (call, event) {
        (None | Some(call::State::Pending), event::State::Dead) => "dead-lettered",
        (Some(call::State::Succeeded), _) => "succeeded",
        (Some(call::State::Failed), _) => "failed",
        (Some(call::State::Removed), _) => "removed",
        (Some(call::State::Pending), _) => "waiting",
        (None, event::State::Finished) => "finished",
        (None, event::State::Unfinished) => "not started",
    }
}

fn reason(row: &CallRow) -> String {
    if row.call_state.is_none() && state(row) == "finished" {
        return "the bot had no services".into();
    }
    let next = row.due.map(|due| format!("next try at {}", moment(due)));
    [Some(why(row)), next]
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

fn why(row: &CallRow) -> String {
    match (&row.fault, &row.detail) {
        (Some(fault), Some(detail)) => format!("{fault}: {detail}"),
        (fault, detail) => fault.clone().or_else(|| detail.clone()).unwrap_or_default(),
    }
}

fn record(row: &CallRow) -> serde_json::Value {
    json!({
        "event_id": row.event_id,
        "bot_id": row.bot_id,
        "message_id": row.message_id,
        "replay": row.replay,
        "replay_of": row.replay_of,
        "service_id": row.service_id,
        "service_name": row.service_name,
        "state": state(row),
        "attempts": row.attempts,
        "reason": row.fault,
        "status": row.status,
        "detail": row.detail,
        "duration_ms": row.duration_ms,
        "taken_at": moment(row.taken_at),
        "ended_at": row.ended_at.map(moment),
        "due": row.due.map(moment),
    })
}
