//! `outhook deliveries replay`

use clap::Args;

use super::ago;
use crate::{
    cli::{
        open_store,
        output::{say, say_json},
        pace::{Pace, RATE_DEFAULT, RATES, counted},
    },
    config::Config,
    exit::{Exit, Failed},
    store::{CallsAgain, FailedFilter, ReplayedBefore, Store},
};

/// Makes the calls of finished events again that failed, under a new webhook-id.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["ids", "failed"])))]
pub(in crate::cli) struct Replay {
    /// Events, by the ids that `outhook deliveries` shows.
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    /// All events with failed calls that were not replayed yet.
    #[arg(long)]
    failed: bool,
    /// Only this bot's.
    #[arg(long, value_name = "ID", conflicts_with = "ids")]
    bot: Option<i64>,
    /// Only events taken within this time, such as 1h.
    #[arg(long, value_name = "TIME", conflicts_with = "ids", value_parser = humantime::parse_duration)]
    since: Option<std::time::Duration>,
    /// Make the calls of these events again that succeeded, too.
    #[arg(long)]
    all_services: bool,
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

impl Replay {
    pub(super) async fn execute(mut self, config: Config, json: bool) -> Result<Exit, Failed> {
        self.json |= json;
        let store = open_store(&config).await?;
        let told =
            if self.failed { self.replay_failed(&store).await? } else { self.replay_named(&store).await? };
        store.close().await;
        if !self.json {
            say(told)?;
        }
        Ok(Exit::Success)
    }

    /// All are looked at before any is replayed, so that a wrong id changes nothing. In order of their ids,
    /// so that conversations keep theirs.
    async fn replay_named(&self, store: &Store) -> Result<String, Failed> {
        let mut events = self.ids.clone();
        events.sort_unstable();
        events.dedup();
        let refusals = store.refuse_replays(&events, self.calls()).await?;
        if !refusals.is_empty() {
            let refusals: Vec<String> = refusals.iter().map(ToString::to_string).collect();
            return Err(Failed::usage(format!("nothing was replayed: {}", refusals.join("; "))));
        }
        let mut pace = Pace::new(self.rate, events.len() as u64);
        let mut replayed = 0;
        for batch in events.chunks(pace.batch()) {
            replayed += self.replay(store, batch.to_vec(), ReplayedBefore::Again, &mut pace).await?;
        }
        Ok(format!("{} replayed", counted(replayed, "event", "events")))
    }

    /// What fails meanwhile, and be it a replay, is left to the next time.
    async fn replay_failed(&self, store: &Store) -> Result<String, Failed> {
        let filter = FailedFilter { bot: self.bot, since: self.since.map(ago) };
        let found = store.count_failed_events(filter).await?;
        let mut pace = Pace::new(self.rate, found.replayable.unsigned_abs());
        let (mut after, mut replayed) = (0, 0);
        loop {
            let batch = store.failed_events_between(filter, (after, found.last), pace.batch()).await?;
            let Some(last) = batch.last().copied() else { break };
            replayed += self.replay(store, batch, ReplayedBefore::Skipped, &mut pace).await?;
            after = last;
        }
        let told = format!("{} replayed", counted(replayed, "event", "events"));
        match found.failed - found.replayable {
            0 => Ok(told),
            lost => Ok(format!("{told}; {lost} more failed before outhook kept the bodies of failed events")),
        }
    }

    fn calls(&self) -> CallsAgain {
        if self.all_services { CallsAgain::All } else { CallsAgain::Failed }
    }

    /// Replays a batch when it is its time, and says how many of it could be.
    async fn replay(
        &self,
        store: &Store,
        events: Vec<i64>,
        before: ReplayedBefore,
        pace: &mut Pace,
    ) -> Result<usize, Failed> {
        pace.wait().await;
        let count = events.len();
        let replayed = store.replay_events(events, self.calls(), before).await?;
        pace.advance(count);
        if self.json {
            pace.aside(|| replayed.iter().try_for_each(say_json))?;
        }
        Ok(replayed.len())
    }
}
