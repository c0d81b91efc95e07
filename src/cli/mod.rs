//! The command line: one file per command.

mod bots;
mod check;
mod check_url;
mod dead_letters;
mod deliveries;
mod demo;
mod migrate;
mod output;
mod pace;
mod run;
mod send;
mod services;
mod trial;

use std::{future::Future, path::PathBuf};

use clap::{Parser, Subcommand};

use crate::{
    config::{Config, ConfigFile},
    exit::{Exit, Failed},
    fail_points,
    logging::{self, Writer},
    store::{self, Store},
    supervise,
};

/// Calls chat bots' webhooks, reliably and fast.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Configuration; without this option config.toml, if there is one.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon until SIGTERM or SIGINT.
    Run,
    /// Shows the main job on an embedded database, with sample bots.
    Demo(demo::Demo),
    /// Checks the configuration, then the broker, the database and Zulip.
    Check,
    /// Says whether a URL would be called, and which rule allows or blocks each of its addresses.
    CheckUrl(check_url::CheckUrl),
    /// Creates or upgrades outhook's tables.
    Migrate,
    /// Bots of outhook's own tables.
    #[command(subcommand)]
    Bots(bots::Bots),
    /// Services of bots of outhook's own tables.
    #[command(subcommand)]
    Services(services::Services),
    /// Puts events on the configured queue.
    Send(send::Send),
    /// The ledger: one line for each call, with its reason; and replays of what failed.
    Deliveries(deliveries::Deliveries),
    /// Deliveries whose calls could not be made.
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLetters),
    /// Tries the work on events for the daemon; not for people.
    #[command(hide = true)]
    Trial,
}

/// Parses, runs one command, and says how it ended.
pub(crate) fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            // Nothing can be said if this fails.
            let _ = error.print();
            return exit;
        }
    };
    let exit = execute(cli).unwrap_or_else(|Failed { exit, message }| {
        logging::complain(&message);
        exit
    });
    logging::flush();
    exit
}

fn execute(cli: Cli) -> Result<Exit, Failed> {
    if let Command::Demo(demo) = cli.command {
        start_logging("error", Writer::Caller)?;
        return block_on(demo.execute());
    }
    if matches!(cli.command, Command::Trial) {
        return trial::execute();
    }
    let file = ConfigFile::new(cli.config);
    if matches!(cli.command, Command::Run) {
        return block_on(run::execute(file));
    }
    let config = file.load().map_err(Failed::usage)?;
    fail_points::set_up();
    start_logging("warn", Writer::Caller)?;
    match cli.command {
        Command::Run | Command::Demo(_) | Command::Trial => Ok(Exit::Success),
        Command::Check => block_on(check::execute(config)),
        Command::CheckUrl(check) => block_on(check.execute(config)),
        Command::Migrate => block_on(migrate::execute(config)),
        Command::Bots(bots) => block_on(bots.execute(config)),
        Command::Services(services) => block_on(services.execute(config)),
        Command::Send(send) => block_on(send.execute(config)),
        Command::Deliveries(deliveries) => block_on(deliveries.execute(config)),
        Command::DeadLetters(letters) => block_on(letters.execute(config)),
    }
}

/// Logs to standard error, panics too.
fn start_logging(filter: &str, writer: Writer) -> Result<(), Failed> {
    logging::start(filter, writer).map_err(Failed::usage)?;
    supervise::log_panics();
    Ok(())
}

fn block_on(command: impl Future<Output = Result<Exit, Failed>>) -> Result<Exit, Failed> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        log::debug!("a crypto provider was installed before");
    }
    actix::System::new().block_on(command)
}

/// Opens the configured database as it is, for a command other than `run`.
async fn open_store(config: &Config) -> Result<Store, Failed> {
    let store = store::open(&config.database).await?;
    ready(store, config).await
}

/// The same for a command that adds rows, and so makes an SQLite database that is missing.
async fn open_or_create(config: &Config) -> Result<Store, Failed> {
    store::create_file(&config.database)?;
    let store = store::open(&config.database).await?;
    if store.make_tables_of_new_file(&config.database).await? {
        output::complain(&format!("created the database {}", config.database.url));
    }
    ready(store, config).await
}

async fn ready(store: Store, config: &Config) -> Result<Store, Failed> {
    store.require_tables(&config.database).await?;
    store.keep_its_time().await?;
    Ok(store)
}

/// A random key of 32 letters and digits, as Zulip makes them.
fn random_key() -> Result<String, Failed> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut key = String::with_capacity(32);
    while key.len() < 32 {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).map_err(|error| Failed::new(Exit::Internal, error))?;
        // Bytes beyond the last whole multiple are passed over, so that every letter is as likely.
        let letters = bytes.iter().filter(|byte| **byte < 248).map(|byte| LETTERS[usize::from(*byte) % 62]);
        key.extend(letters.take(32 - key.len()).map(char::from));
    }
    Ok(key)
}
