//! `outhook services`

use clap::{Args, Subcommand};
use outhook_core::egress::Egress;
use serde_json::json;

use super::{
    bots::needs_own_tables,
    open_store,
    output::{say, say_json, table},
    random_key,
};
use crate::{
    config::Config,
    exit::{Exit, Failed},
    handlers,
    store::NewService,
};

/// Services of bots of outhook's own tables.
#[derive(Debug, Subcommand)]
pub(super) enum Services {
    /// Creates a service and prints its id.
    Add(Add),
    /// Lists the services.
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
    /// Shared secret; a random one by default.
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
            Self::List { json } => list(config, json).await,
            Self::Remove { id } => remove(config, id).await,
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
        let store = open_store(&config).await?;
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

async fn list(config: Config, json: bool) -> Result<Exit, Failed> {
    let store = open_store(&config).await?;
    let services = store.list_services().await?;
    store.close().await;
    let mut lines = table(["ID", "BOT", "NAME", "INTERFACE", "URL"]);
    for service in &services {
        let name = handlers::of_interface(service.interface).map_or("unknown", |handler| handler.name());
        if json {
            say_json(&json!({
                "id": service.id, "bot_id": service.bot_id, "name": service.name,
                "interface": name, "url": service.url,
            }))?;
        }
        lines.add_row([
            &service.id.to_string(),
            &service.bot_id.to_string(),
            &service.name,
            name,
            &service.url,
        ]);
    }
    if !json {
        say(lines.to_string())?;
    }
    Ok(Exit::Success)
}

async fn remove(config: Config, id: i64) -> Result<Exit, Failed> {
    needs_own_tables(&config)?;
    let store = open_store(&config).await?;
    let is_removed = store.remove_service(id).await?;
    store.close().await;
    if is_removed {
        Ok(Exit::Success)
    } else {
        Err(Failed::usage(format!("there is no service with the id {id}")))
    }
}
