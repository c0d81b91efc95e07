//! `outhook demo`: the main job on an embedded database, with sample bots.

mod bots;
mod summary;

use std::{collections::HashMap, io::IsTerminal, path::Path, time::Duration};

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use outhook_core::identity::BotId;

use self::bots::SampleBot;
use super::{output::say, random_key, send::sample_event};
use crate::{
    config::Config,
    daemon::{self, Daemon, Signals},
    exit::{Exit, Failed},
    store::{BotSummary, NewBot, NewEvent, NewService},
};

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often progress is told where there is no terminal.
const TELL_EVERY: u32 = 20;

/// Shows the main job on an embedded database, with sample bots.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// End after the summary; otherwise go on until Ctrl-C.
    #[arg(long)]
    exit: bool,
}

/// A sample bot that is registered.
struct Registered {
    id: BotId,
    bot: &'static SampleBot,
}

impl Demo {
    pub(super) async fn execute(self) -> Result<Exit, Failed> {
        let mut signals = Signals::listen()?;
        let folder = tempfile::tempdir().map_err(|error| Failed::new(Exit::Internal, error))?;
        let endpoints = bots::Endpoints::start()?;
        let token = random_key()?;
        let config = config(folder.path(), &token)?;
        let live = daemon::live(&config)?;
        let daemon = Daemon::start(config, live).await?;
        let registered = register(&daemon, &endpoints).await?;
        let events = sample_events(&registered);
        say(format!(
            "{} events for {} bots; the database is in {}\n",
            events.len(),
            registered.len(),
            folder.path().display()
        ))?;
        daemon.submit(events).await?;
        tokio::select! {
            watched = watch(&daemon, &registered) => watched?,
            _ = signals.next() => return end(daemon, endpoints).await,
        }
        summary::print(&daemon, &registered).await?;
        if !self.exit {
            say(addresses(&daemon, &endpoints, &registered, &token))?;
            signals.next().await;
        }
        end(daemon, endpoints).await
    }
}

async fn end(daemon: Daemon, endpoints: bots::Endpoints) -> Result<Exit, Failed> {
    let exit = daemon.drain().await;
    endpoints.stop().await;
    Ok(exit)
}

/// Short times, so that even the hung bot is done with in seconds.
fn config(folder: &Path, token: &str) -> Result<Config, Failed> {
    let token_file = folder.join("token");
    std::fs::write(&token_file, token).map_err(|error| Failed::new(Exit::Internal, error))?;
    let toml = format!(
        r#"
        [database]
        url = "sqlite://{database}"
        [http]
        timeout = "1s"
        connect_timeout = "500ms"
        [retry]
        max_retries = 2
        initial_delay = "100ms"
        max_delay = "500ms"
        give_up_after = "10s"
        [breaker]
        open = "1s"
        max_open = "2s"
        [egress]
        allow = ["127.0.0.1/32"]
        [drain]
        deadline = "5s"
        [admin]
        listen = "127.0.0.1:0"
        token_file = "{token_file}"
        "#,
        database = folder.join("demo.db").display(),
        token_file = token_file.display(),
    );
    let source = ::config::Config::builder()
        .add_source(::config::File::from_str(&toml, ::config::FileFormat::Toml))
        .build()
        .map_err(|error| Failed::new(Exit::Internal, error))?;
    Config::read(source).map_err(|faults| Failed::new(Exit::Internal, faults))
}

async fn register(daemon: &Daemon, endpoints: &bots::Endpoints) -> Result<Vec<Registered>, Failed> {
    let store = daemon.store();
    let mut registered = Vec::new();
    for (bot, url) in endpoints.urls() {
        let new = NewBot {
            email: format!("{}-bot@demo.invalid", bot.name),
            name: format!("{} bot", bot.name),
            owner_email: None,
            api_keys: [random_key()?, random_key()?],
        };
        let id = store.add_bot(new).await?;
        let service = NewService {
            bot: id,
            name: bot.name.to_owned(),
            url,
            interface: bot.interface,
            token: random_key()?,
        };
        store.add_service(service).await?;
        registered.push(Registered { id, bot });
    }
    Ok(registered)
}

fn sample_events(registered: &[Registered]) -> Vec<NewEvent> {
    let mut events = Vec::new();
    for Registered { id, bot } in registered {
        for number in 0..bot.events {
            let topic = format!("topic {}", number % bot.topics);
            let message = id * 1_000_000 + i64::from(number);
            let body = sample_event(*id, message, "What is for lunch?", Some(("food", &topic))).to_string();
            events.extend(NewEvent::read(body.as_bytes()));
        }
    }
    events
}

/// Shows progress until every event is finished.
async fn watch(daemon: &Daemon, registered: &[Registered]) -> Result<(), Failed> {
    let is_terminal = std::io::stderr().is_terminal();
    let bars = Bars::new(registered);
    let total: u64 = registered.iter().map(|one| u64::from(one.bot.events)).sum();
    for look in 0_u32.. {
        let progress = daemon.store().summarise_bots().await?;
        let finished = bars.show(&progress);
        if !is_terminal && look % TELL_EVERY == 0 {
            say(format!("{finished} of {total} events are finished"))?;
        }
        if finished >= total {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bars.clear();
    Ok(())
}

/// One progress bar for each bot.
struct Bars {
    all: MultiProgress,
    of_bots: HashMap<BotId, ProgressBar>,
}

impl Bars {
    fn new(registered: &[Registered]) -> Self {
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix:>8} {bar:40} {pos:>3}/{len:<3} {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let of_bots = registered
            .iter()
            .map(|Registered { id, bot }| {
                let bar = all.add(ProgressBar::new(bot.events.into()));
                bar.set_style(style.clone());
                bar.set_prefix(bot.name);
                (*id, bar)
            })
            .collect();
        Self { all, of_bots }
    }

    /// Shows how far each bot is, and returns how many events are finished.
    fn show(&self, progress: &[BotSummary]) -> u64 {
        let mut finished = 0;
        for row in progress {
            let done = u64::try_from(row.finished).unwrap_or(0);
            finished += done;
            if let Some(bar) = self.of_bots.get(&row.bot_id) {
                bar.set_position(done);
                bar.set_message(format!("{} retries, {} failures", row.retries, row.failures));
            }
        }
        finished
    }

    fn clear(&self) {
        // A terminal that can't be written to is no reason to fail.
        let _ = self.all.clear();
    }
}

fn addresses(daemon: &Daemon, endpoints: &bots::Endpoints, registered: &[Registered], token: &str) -> String {
    let mut lines = vec!["\nouthook goes on running; Ctrl-C ends it.".to_owned()];
    for (bot, url) in endpoints.urls() {
        lines.push(format!("  {:>8} bot  {url}", bot.name));
    }
    if let (Some(address), Some(first)) = (daemon.admin_address(), registered.first()) {
        lines.push(format!("  metrics       http://{address}/metrics"));
        lines.push(format!("  health        http://{address}/health/ready"));
        lines.push("Send another event:".into());
        lines.push(format!(
            "  curl -H 'Authorization: Bearer {token}' http://{address}/v1/events \\\n       -d '{{\"message\": {{\"id\": 1, \"content\": \"soup?\"}}, \"user_profile_id\": {}}}'",
            first.id
        ));
    }
    lines.join("\n")
}
