//! `outhook services`

mod list;

use clap::{Args, Subcommand};
use outhook_core::{egress::Egress, signing_key::signing_key};
use serde_json::json;

use super::{
    bots::needs_own_tables,
    open_or_create, open_store,
    output::{say, say_json},
    random_key,
};
use crate::{
    config::Config,
    exit::{Exit, Failed},
    handlers,
    store::{NewService, Pausing},
};

/// The endpoints of bots.
#[derive(Debug, Subcommand)]
pub(super) enum Services {
    /// Creates a service and prints its id.
    Add(Add),
    /// Lists the services, and whether they are called.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Removes a service. Its calls that are not finished count as finished.
    Remove {
        /// Its id.
        id: i64,
    },
    /// Calls a service no more until it is resumed: its calls fail at once.
    Pause {
        /// Its id.
        id: i64,
    },
    /// Calls a service again, whatever kept it from being called: a pause, an endpoint that said that it is
    /// gone or asked for no calls, or failures. What waits for it goes on at once.
    Resume {
        /// Its id.
        id: i64,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The bot's id.
    #[arg(long, value_name = "ID")]
    bot: i64,
    /// Name.
    #[arg(long)]
    name: String,
    /// URL to call.
    #[arg(long)]
    url: String,
    /// Format: generic or slack.
    #[arg(long, default_value = "generic", value_parser = interface)]
    interface: i16,
    /// Shared secret, also the key of signatures: what begins with whsec_ must go on in base64. A random one by
    /// default.
    #[arg(long)]
    token: Option<String>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

fn interface(name: &str) -> Result<i16, String> {
    handlers::of_name(name).map(|handler| handler.interface()).ok_or_else(|| {
        let names: Vec<&str> = handlers::HANDLERS.iter().map(|handler| handler.name()).collect();
        format!("must be one of {}", names.join(", "))
    })
}

impl Services {
    pub(super) async fn execute(self, config: Config) -> Result<Exit, Failed> {
        match self {
            Self::Add(add) => add.execute(config).await,
            Self::List { json } => list::execute(config, json).await,
            Self::Remove { id } => remove(config, id).await,
            Self::Pause { id } => pause(config, id).await,
            Self::Resume { id } => resume(config, id).await,
        }
    }
}

impl Add {
    async fn execute(self, config: Config) -> Result<Exit, Failed> {
        needs_own_tables(&config)?;
        Egress::from(&config.egress).endpoint(&self.url).map_err(Failed::usage)?;
        let token = match self.token {
            Some(token) => token,
            None => random_key()?,
        };
        signing_key(&token).map_err(Failed::usage)?;
        let store = open_or_create(&config).await?;
        let service = NewService {
            bot: self.bot,
            name: self.name.clone(),
            url: self.url,
            interface: self.interface,
            token,
        };
        let id = store.add_service(service).await?;
        store.close().await;
        let Some(id) = id else {
            return Err(Failed::usage(format!("there is no bot with the id {}", self.bot)));
        };
        if self.json {
            say_json(&json!({ "id": id, "bot_id": self.bot, "name": self.name }))?;
        } else {
            say(id.to_string())?;
        }
        Ok(Exit::Success)
    }
}

async fn remove(config: Config, id: i64) -> Result<Exit, Failed> {
    needs_own_tables(&config)?;
    let store = open_store(&config).await?;
    let is_removed = store.remove_service(id).await?;
    store.close().await;
    if is_removed { Ok(Exit::Success) } else { Err(unknown(id)) }
}

async fn pause(config: Config, id: i64) -> Result<Exit, Failed> {
    let store = open_store(&config).await?;
    let paused = store.pause_service(id).await?;
    store.close().await;
    match paused {
        Pausing::Unknown => return Err(unknown(id)),
        Pausing::Changed => say(format!("service {id} is paused"))?,
        Pausing::Unchanged => say(format!("service {id} was paused already"))?,
    }
    Ok(Exit::Success)
}

async fn resume(config: Config, id: i64) -> Result<Exit, Failed> {
    let store = open_store(&config).await?;
    let resumed = store.resume_service(id).await?;
    store.close().await;
    match resumed {
        Pausing::Unknown => return Err(unknown(id)),
        Pausing::Changed => say(format!("service {id} is called again"))?,
        Pausing::Unchanged => say(format!("service {id} was not paused"))?,
    }
    Ok(Exit::Success)
}

fn unknown(id: i64) -> Failed {
    Failed::usage(format!("there is no service with the id {id}"))
}
