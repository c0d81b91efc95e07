//! `outhook check`

mod own_addresses;

use std::sync::Arc;

use outhook_core::egress::Egress;

use super::output::say;
use crate::{
    broker::Publisher,
    config::{Config, queue::QueueUrl, reply::ReplyTo},
    exit::{Exit, Failed},
    http::{Dialler, FILES_BESIDE, FileShares, Interfaces, Resolver, Route, client_config},
    store,
    zulip::RestClient,
};

/// What there is to say of a part that works.
enum Found {
    Well(String),
    /// It works, but hardly as it is meant to; `run` warns of it too.
    Doubtful(String),
}

/// Looks at everything outhook depends on, and reports every fault in one run.
pub(super) async fn execute(config: Config) -> Result<Exit, Failed> {
    let results = [
        ("configuration", Ok(Found::Well("valid".into()))),
        ("database", check_database(&config).await.map(Found::Well)),
        ("queue", check_queue(&config).await.map(Found::Well)),
        ("calls to bots", check_route(&config).await),
        ("calls to this machine", own_addresses::check(&config).await),
        ("replies", check_replies(&config).await.map(Found::Well)),
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

async fn check_database(config: &Config) -> Result<String, Failed> {
    let store = store::open(&config.database).await?;
    let pending = store.pending_migrations(&config.database).await?;
    store.close().await;
    if pending > 0 && !config.database.auto_migrate {
        return Err(Failed::usage(format!("{pending} migrations are pending: run `outhook migrate`")));
    }
    Ok(format!("{} answers, {pending} migrations are pending", config.database.url))
}

async fn check_queue(config: &Config) -> Result<String, Failed> {
    match &config.queue.url {
        QueueUrl::Stored => Ok("stored: (the inbox is the queue)".into()),
        QueueUrl::Amqp(url) => match Publisher::connect(url, &config.queue.name).await {
            Ok(_) => Ok(format!("{url} answers, queue {} is as it should be", config.queue.name)),
            Err(error) => Err(Failed::unavailable(format!("{url}: {error}"))),
        },
    }
}

async fn check_route(config: &Config) -> Result<Found, Failed> {
    let interfaces = Interfaces::read().map_err(Failed::unavailable)?;
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

async fn check_replies(config: &Config) -> Result<String, Failed> {
    match &config.reply.to {
        ReplyTo::None => Ok("none".into()),
        ReplyTo::Log => Ok("to the log".into()),
        ReplyTo::Zulip { site } => {
            let rest = RestClient::new(site.clone(), client_config());
            match rest.server_version().await {
                Ok(version) => Ok(format!("{site} is Zulip {version}")),
                Err(fault) => Err(Failed::unavailable(format!("{site}: {fault}"))),
            }
        }
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
