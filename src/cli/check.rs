//! `outhook check`

mod backup;
mod files;
mod hosts;
mod own_addresses;

use std::sync::Arc;

use outhook_core::egress::Egress;

use super::output::say;
use crate::{
    broker,
    config::{Config, database::DatabaseUrl, queue::QueueUrl, reply::ReplyTo},
    exit::{Exit, Failed},
    http::{Dialler, FILES_BESIDE, FileShares, Interfaces, Resolver, Route},
    store::{self, FileState},
};

/// What there is to say of a part that works.
enum Found {
    Well(String),
    /// It works, but hardly as it is meant to; `run` warns of it too.
    Doubtful(String),
}

impl Found {
    /// It works, but there may be something to say.
    fn but(self, doubt: Option<String>) -> Self {
        match (self, doubt) {
            (Self::Well(said) | Self::Doubtful(said), Some(doubt)) => {
                Self::Doubtful(format!("{said}; {doubt}"))
            }
            (found, None) => found,
        }
    }
}

/// Looks at everything outhook depends on, and reports every fault in one run.
pub(super) async fn execute(config: Config) -> Result<Exit, Failed> {
    let results = [
        ("configuration", Ok(Found::Well("valid".into()))),
        ("database", check_database(&config).await),
        ("queue", check_queue(&config).await.map(Found::Well)),
        ("calls to bots", check_route(&config).await),
        ("calls to this machine", own_addresses::check(&config).await),
        ("replies", check_replies(&config).await),
        ("backup", backup::check(&config).await),
        ("files", files::check(&config)),
        ("open files", check_files(&config)),
    ];
    for (part, result) in &results {
        match result {
            Ok(Found::Well(detail)) => say(format!("ok     {part}: {detail}"))?,
            Ok(Found::Doubtful(detail)) => say(format!("warn   {part}: {detail}"))?,
            Err(fault) => say(format!("fault  {part}: {}", fault.message))?,
        }
    }
    let worst = results.into_iter().filter_map(|(_, result)| result.err()).next();
    Ok(worst.map_or(Exit::Success, |fault| fault.exit))
}

async fn check_database(config: &Config) -> Result<Found, Failed> {
    let database = &config.database;
    let DatabaseUrl::Sqlite(path) = &database.url else { return check_tables(config).await };
    if store::examine_file(path)? == FileState::Missing {
        return if database.auto_migrate {
            Ok(Found::Well(format!("{} does not exist yet: `outhook run` creates it", database.url)))
        } else {
            Err(Failed::unavailable(format!("{} does not exist: run `outhook migrate`", database.url)))
        };
    }
    let works = check_tables(config).await?;
    Ok(works.but(store::exposure(path)))
}

async fn check_tables(config: &Config) -> Result<Found, Failed> {
    let store = store::open(&config.database).await?;
    let pending = store.pending_migrations(&config.database).await?.names.len();
    if !config.database.auto_migrate {
        store.require_tables(&config.database).await?;
    }
    store.require_rights().await?;
    let kept = store.keeps_history().await?;
    store.close().await;
    let answers = format!("{} answers, {pending} migrations are pending", config.database.url);
    Ok(Found::Well(answers).but(kept))
}

async fn check_queue(config: &Config) -> Result<String, Failed> {
    match &config.queue.url {
        QueueUrl::Stored => Ok("stored: (the inbox is the queue)".into()),
        QueueUrl::Amqp(url) => match broker::check_queue(url, &config.queue.name).await {
            Ok(()) => Ok(format!("{url} answers, queue {} may be consumed from", config.queue.name)),
            Err(error) => Err(Failed::unavailable(format!("{url}: {error}"))),
        },
    }
}

async fn check_route(config: &Config) -> Result<Found, Failed> {
    let interfaces = Interfaces::for_calls(&config.egress).map_err(Failed::unavailable)?;
    let route = Route::new(&config.egress, interfaces).map_err(Failed::usage)?;
    let (Some(proxy), Some(url)) = (route.proxy, &config.egress.proxy) else {
        return Ok(Found::Well("straight".into()));
    };
    let connect_timeout = config.http.connect_timeout;
    let resolver = Resolver::new(&config.egress.resolver, connect_timeout);
    let dialler = Dialler::new(Arc::new(Egress::from(&config.egress)), resolver, route.interfaces);
    proxy.check(&dialler, connect_timeout).await.map_err(Failed::unavailable)?;
    let answers = format!("through the proxy {url}, which answers and asks for no other credentials");
    Ok(match config.egress.without_effect() {
        Some(sentence) => Found::Doubtful(format!("{answers}; {sentence}")),
        None => Found::Well(answers),
    })
}

async fn check_replies(config: &Config) -> Result<Found, Failed> {
    match &config.reply.to {
        ReplyTo::None => Ok(Found::Well("none".into())),
        ReplyTo::Log => Ok(Found::Well("to the log".into())),
        ReplyTo::Zulip { site } => hosts::check(config, site).await,
    }
}

/// What `run` will make of the limit. Not even a connection for each call is a fault.
fn check_files(config: &Config) -> Result<Found, Failed> {
    let (_, hard) =
        rlimit::getrlimit(rlimit::Resource::NOFILE).map_err(|error| Failed::new(Exit::Internal, error))?;
    let calls = config.http.max_calls;
    let needed = calls as u64 + FILES_BESIDE;
    if hard < needed {
        return Err(Failed::usage(format!(
            "at most {hard} files may be open, but http.max_calls = {calls} needs {needed}: raise the limit or lower max_calls"
        )));
    }
    let shares = FileShares::new(hard, calls);
    let enough = || format!("{hard} may be open; http.max_calls = {calls} needs at most {}", shares.wanted());
    let kind = if shares.are_far_too_few() { Found::Doubtful } else { Found::Well };
    Ok(kind(shares.shortage().unwrap_or_else(enough)))
}
