//! `outhook bots`

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    open_or_create, open_store,
    output::{say, say_json, table},
    random_key,
};
use crate::{
    config::{Config, database::Tables},
    exit::{Exit, Failed},
    store::NewBot,
};

/// Bots of outhook's own tables.
#[derive(Debug, Subcommand)]
pub(super) enum Bots {
    /// Creates a bot and prints its id.
    Add(Add),
    /// Lists the bots that are called by webhook.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Address of the bot; must be new.
    #[arg(long)]
    email: String,
    /// Display name.
    #[arg(long)]
    name: String,
    /// Address of its owner.
    #[arg(long, value_name = "EMAIL")]
    owner_email: Option<String>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

impl Bots {
    pub(super) async fn execute(self, config: Config) -> Result<Exit, Failed> {
        match self {
            Self::Add(add) => add.execute(config).await,
            Self::List { json } => list(config, json).await,
        }
    }
}

impl Add {
    async fn execute(self, config: Config) -> Result<Exit, Failed> {
        needs_own_tables(&config)?;
        if self.email.trim().is_empty() || self.name.trim().is_empty() {
            return Err(Failed::usage("a bot needs an email address and a name"));
        }
        let store = open_or_create(&config).await?;
        if store.knows_email(&self.email).await? {
            return Err(Failed::usage(format!(
                "there is an account with the address {} already",
                self.email
            )));
        }
        let bot = NewBot {
            email: self.email.clone(),
            name: self.name.clone(),
            owner_email: self.owner_email,
            api_keys: [random_key()?, random_key()?],
        };
        let id = store.add_bot(bot).await?;
        store.close().await;
        if self.json {
            say_json(&json!({ "id": id, "email": self.email, "name": self.name }))?;
        } else {
            say(id.to_string())?;
        }
        Ok(Exit::Success)
    }
}

async fn list(config: Config, json: bool) -> Result<Exit, Failed> {
    let store = open_store(&config).await?;
    let bots = store.list_bots().await?;
    store.close().await;
    let mut lines = table(["ID", "EMAIL", "NAME", "ACTIVE", "SERVICES"]);
    for bot in &bots {
        if json {
            say_json(bot)?;
        }
        let active = if bot.is_active { "yes" } else { "no" };
        lines.add_row([&bot.id.to_string(), &bot.email, &bot.full_name, active, &bot.services.to_string()]);
    }
    if !json {
        say(lines.to_string())?;
    }
    Ok(Exit::Success)
}

/// Zulip's own tables are never written by commands.
pub(super) fn needs_own_tables(config: &Config) -> Result<(), Failed> {
    match config.database.tables {
        Tables::Own => Ok(()),
        Tables::Zulip => Err(Failed::usage(
            "database.tables is \"zulip\": bots and services are changed in Zulip's own settings, not here",
        )),
    }
}
