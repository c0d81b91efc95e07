//! The table at the end of a demonstration.

use std::collections::HashMap;

use hdrhistogram::Histogram;
use outhook_core::identity::BotId;

use super::{Registered, say};
use crate::{cli::output::table, daemon::Daemon, exit::Failed, mailbox::MailboxLog};

/// Prints a line for each bot, and one for each mailbox.
pub(super) async fn print(daemon: &Daemon, registered: &[Registered]) -> Result<(), Failed> {
    let latencies = latencies(daemon).await?;
    let mut lines = table(["BOT", "EVENTS", "CALLS", "RETRIES", "REPLIES", "FAILURES", "P50", "P99"]);
    for row in daemon.store().summarise_bots().await? {
        let name = registered.iter().find(|one| one.id == row.bot_id).map_or("?", |one| one.bot.name);
        let percentile =
            |share| latencies.get(&row.bot_id).map_or(0, |histogram| histogram.value_at_quantile(share));
        lines.add_row([
            name.to_owned(),
            row.events.to_string(),
            row.calls.to_string(),
            row.retries.to_string(),
            row.replies.to_string(),
            row.failures.to_string(),
            format!("{} ms", percentile(0.5)),
            format!("{} ms", percentile(0.99)),
        ]);
    }
    say(lines.to_string())?;
    say("\nP50 and P99 are the time from storing an event to committing its last outcome.\n")?;
    for line in MailboxLog::new(daemon.mailboxes()).lines() {
        say(line)?;
    }
    Ok(())
}

async fn latencies(daemon: &Daemon) -> Result<HashMap<BotId, Histogram<u64>>, Failed> {
    let mut histograms: HashMap<BotId, Histogram<u64>> = HashMap::new();
    for (bot, millis) in daemon.store().event_latencies().await? {
        let histogram = match histograms.entry(bot) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Histogram::new(3).map_err(Failed::internal)?)
            }
        };
        histogram.record(u64::try_from(millis).unwrap_or(0)).map_err(Failed::internal)?;
    }
    Ok(histograms)
}
