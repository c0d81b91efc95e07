//! `outhook dead-letters`

mod replay;

use clap::Subcommand;
use serde_json::json;

use super::{
    open_store,
    output::{escaped, escaped_body, moment, say, say_json, table},
    pace::counted,
};
use crate::{
    config::Config,
    exit::{Exit, Failed},
    store::{LetterSummary, Store},
};

/// Why a dead letter has no body.
const BODY_DROPPED: &str =
    "its body was dropped: only the newest dead letters of a bot keep theirs (queue.dead_letters_per_bot)";

/// Deliveries whose calls could not be made.
#[derive(Debug, Subcommand)]
pub(super) enum DeadLetters {
    /// Lists those that were not replayed, oldest first.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Shows one with its whole body; control characters but for line feeds and tabs by their numbers.
    Show {
        /// Its id.
        id: i64,
        /// A JSON object, whose `payload` is the body unchanged if that is UTF-8.
        #[arg(long)]
        json: bool,
    },
    /// Puts them into the inbox again, each as an event with a new replay number.
    Replay(replay::Replay),
    /// Deletes them for good.
    Drop {
        /// Their ids.
        #[arg(required = true, value_name = "ID")]
        ids: Vec<i64>,
    },
}

impl DeadLetters {
    pub(super) async fn execute(self, config: Config) -> Result<Exit, Failed> {
        match self {
            Self::List { json } => list(config, json).await,
            Self::Show { id, json } => show(config, id, json).await,
            Self::Replay(replay) => replay.execute(config).await,
            Self::Drop { ids } => drop_letters(config, &ids).await,
        }
    }
}

async fn list(config: Config, json: bool) -> Result<Exit, Failed> {
    let store = open_store(&config).await?;
    let letters = store.list_dead_letters().await?;
    store.close().await;
    let mut lines = table(["ID", "BOT", "MESSAGE", "REASON", "BYTES", "SINCE", "DETAIL"]);
    for letter in &letters {
        if json {
            say_json(&record(letter))?;
            continue;
        }
        lines.add_row([
            letter.id.to_string(),
            letter.bot_id.map(|id| id.to_string()).unwrap_or_default(),
            letter.message_id.map(|id| id.to_string()).unwrap_or_default(),
            letter.reason.clone(),
            match letter.dropped_bytes {
                Some(bytes) => format!("{bytes} (dropped)"),
                None => letter.bytes.to_string(),
            },
            moment(letter.created_at),
            letter.detail.clone(),
        ]);
    }
    if !json {
        say(lines.to_string())?;
    }
    Ok(Exit::Success)
}

async fn show(config: Config, id: i64, json: bool) -> Result<Exit, Failed> {
    let store = open_store(&config).await?;
    let letter = store.find_dead_letter(id).await?;
    store.close().await;
    let Some(letter) = letter else {
        return Err(Failed::usage(format!("there is no dead letter with the id {id}")));
    };
    if json {
        let mut shown = record(&LetterSummary::from(&letter));
        shown["payload"] = json!(String::from_utf8_lossy(&letter.payload));
        say_json(&shown)?;
        return Ok(Exit::Success);
    }
    say(format!("{}: {} ({})", letter.reason, escaped(&letter.detail), moment(letter.created_at)))?;
    match (letter.replayed_by, letter.dropped_bytes) {
        (Some(event), _) => say(format!("it was replayed as event {event}, which has its body"))?,
        (None, Some(_)) => say(BODY_DROPPED)?,
        (None, None) => say(escaped_body(&letter.payload))?,
    }
    Ok(Exit::Success)
}

async fn drop_letters(config: Config, ids: &[i64]) -> Result<Exit, Failed> {
    let store = open_store(&config).await?;
    let letters = refuse_unless_open(&store, ids, "dropped").await?;
    let dropped = store.drop_dead_letters(letters).await?;
    store.close().await;
    let dropped = usize::try_from(dropped).unwrap_or(usize::MAX);
    say(format!("{} dropped", counted(dropped, "dead letter", "dead letters")))?;
    Ok(Exit::Success)
}

/// The ids in order, each once; if one of them is of no dead letter that awaits an operator, none is `done`.
async fn refuse_unless_open(store: &Store, ids: &[i64], done: &str) -> Result<Vec<i64>, Failed> {
    let mut letters = ids.to_vec();
    letters.sort_unstable();
    letters.dedup();
    let refusals = store.refuse_letters(&letters).await?;
    if refusals.is_empty() {
        return Ok(letters);
    }
    let refusals: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    Err(Failed::usage(format!("nothing was {done}: {}", refusals.join("; "))))
}

fn record(letter: &LetterSummary) -> serde_json::Value {
    json!({
        "id": letter.id,
        "event_id": letter.event_id,
        "bot_id": letter.bot_id,
        "message_id": letter.message_id,
        "reason": letter.reason,
        "detail": letter.detail,
        "bytes": letter.bytes,
        "dropped_bytes": letter.dropped_bytes,
        "created_at": moment(letter.created_at),
        "replayed_by": letter.replayed_by,
    })
}
