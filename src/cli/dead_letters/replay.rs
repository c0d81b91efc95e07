//! `outhook dead-letters replay`

use clap::Args;
use serde_json::json;

use super::{BODY_DROPPED, refuse_unless_open};
use crate::{
    actors::queue::read_delivery,
    cli::{
        open_store,
        output::{complain, say, say_json},
        pace::{Pace, RATE_DEFAULT, RATES, counted},
    },
    config::Config,
    exit::{Exit, Failed},
    store::{DeadLetter, DeadLetterRow, NewEvent, Replayed, Store, StoreError},
};

/// Puts dead letters into the inbox again, each as an event with a new replay number.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["ids", "all"])))]
pub(in crate::cli) struct Replay {
    /// Dead letters, by the ids that `outhook dead-letters list` shows.
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    /// All there are now.
    #[arg(long)]
    all: bool,
    /// Only those with this reason, such as unknown_bot.
    #[arg(long, value_name = "REASON", conflicts_with = "ids")]
    reason: Option<String>,
    /// Events a second, at most.
    #[arg(
        long,
        value_name = "N",
        default_value_t = RATE_DEFAULT,
        value_parser = clap::value_parser!(u32).range(RATES)
    )]
    rate: u32,
    /// Print each new event as a JSON object on a line of its own.
    #[arg(long)]
    json: bool,
}

/// What came of a dead letter.
enum Outcome {
    Replayed(Replayed),
    /// It stays, for this reason.
    Refused(String),
    /// Somebody else has replayed or dropped it.
    Gone,
}

/// How many were replayed, and how many could not be.
#[derive(Default)]
struct Tally {
    replayed: usize,
    refused: usize,
}

impl Replay {
    pub(super) async fn execute(self, config: Config) -> Result<Exit, Failed> {
        let store = open_store(&config).await?;
        let event_bytes_max = config.queue.max_event_bytes;
        let tally = if self.all {
            self.replay_all(&store, event_bytes_max).await?
        } else {
            self.replay_named(&store, event_bytes_max).await?
        };
        store.close().await;
        if !self.json {
            say(tally.told())?;
        }
        Ok(Exit::Success)
    }

    /// All are read before any is replayed, so that a wrong one changes nothing.
    async fn replay_named(&self, store: &Store, event_bytes_max: usize) -> Result<Tally, Failed> {
        let letters = refuse_unless_open(store, &self.ids, "replayed").await?;
        refuse_what_is_no_event(store, &letters, event_bytes_max).await?;
        let (mut pace, mut tally) = (Pace::new(self.rate, letters.len() as u64), Tally::default());
        for letter in letters {
            self.replay(store, letter, event_bytes_max, &mut pace, &mut tally).await?;
        }
        Ok(tally)
    }

    /// What becomes a dead letter meanwhile, and be it again, is left to the next time.
    async fn replay_all(&self, store: &Store, event_bytes_max: usize) -> Result<Tally, Failed> {
        let reason = self.reason.as_deref();
        let open = store.count_open_letters(reason).await?;
        let (mut pace, mut tally) = (Pace::new(self.rate, open.letters.unsigned_abs()), Tally::default());
        let mut after = 0;
        loop {
            let letters = store.open_letters_between(reason, (after, open.last), pace.batch()).await?;
            let Some(last) = letters.last().copied() else { return Ok(tally) };
            for letter in letters {
                self.replay(store, letter, event_bytes_max, &mut pace, &mut tally).await?;
            }
            after = last;
        }
    }

    async fn replay(
        &self,
        store: &Store,
        letter: i64,
        event_bytes_max: usize,
        pace: &mut Pace,
        tally: &mut Tally,
    ) -> Result<(), Failed> {
        pace.wait().await;
        let outcome = replay_letter(store, letter, event_bytes_max).await?;
        pace.advance(1);
        match outcome {
            Outcome::Replayed(replayed) => {
                tally.replayed += 1;
                if self.json {
                    pace.aside(|| say_json(&record(letter, &replayed)))?;
                }
            }
            Outcome::Refused(why) => {
                tally.refused += 1;
                pace.aside(|| complain(&format!("dead letter {letter} stays: {why}")));
            }
            Outcome::Gone => {}
        }
        Ok(())
    }
}

impl Tally {
    fn told(&self) -> String {
        let replayed = format!("{} replayed", counted(self.replayed, "dead letter", "dead letters"));
        match self.refused {
            0 => replayed,
            refused => format!("{replayed}; {refused} could not be and stay"),
        }
    }
}

async fn refuse_what_is_no_event(
    store: &Store,
    letters: &[i64],
    event_bytes_max: usize,
) -> Result<(), Failed> {
    let mut refusals = Vec::new();
    for id in letters {
        let Some(letter) = store.find_dead_letter(*id).await? else { continue };
        if let Err(refused) = read(&letter, event_bytes_max) {
            refusals.push(format!("dead letter {id} can't be replayed: {refused}"));
        }
    }
    if refusals.is_empty() {
        return Ok(());
    }
    Err(Failed::usage(format!("nothing was replayed: {}", refusals.join("; "))))
}

/// Each in a transaction of its own, because the database may refuse one of them again.
async fn replay_letter(store: &Store, id: i64, event_bytes_max: usize) -> Result<Outcome, Failed> {
    let letter = store.find_dead_letter(id).await?.filter(|letter| letter.replayed_by.is_none());
    let Some(letter) = letter else { return Ok(Outcome::Gone) };
    let event = match read(&letter, event_bytes_max) {
        Ok(event) => event,
        Err(refused) => return Ok(Outcome::Refused(refused)),
    };
    match store.replay_dead_letter(id, event).await {
        Ok(Some(replayed)) => Ok(Outcome::Replayed(replayed)),
        Ok(None) => Ok(Outcome::Gone),
        Err(StoreError::Refused(error)) => Ok(Outcome::Refused(format!("the database refuses it: {error}"))),
        Err(error) => Err(error.into()),
    }
}

/// Reads a dead letter as if it were delivered now. One of a bot that is known was an event already, and is
/// not measured again.
fn read(letter: &DeadLetterRow, event_bytes_max: usize) -> Result<NewEvent, String> {
    if letter.dropped_bytes.is_some() {
        return Err(BODY_DROPPED.to_owned());
    }
    let bytes_max = if letter.bot_id.is_some() { usize::MAX } else { event_bytes_max };
    let still =
        |refused: DeadLetter| format!("it is still no event ({}: {})", refused.reason, refused.detail);
    read_delivery(&letter.payload, bytes_max).map_err(still)
}

fn record(letter: i64, replayed: &Replayed) -> serde_json::Value {
    json!({
        "dead_letter_id": letter,
        "event_id": replayed.event_id,
        "replay_of": replayed.replay_of,
        "bot_id": replayed.bot_id,
        "message_id": replayed.message_id,
        "replay": replayed.replay,
    })
}
