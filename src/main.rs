//! outhook calls chat bots' webhooks, reliably and fast.

mod actors;
mod admin;
mod backoff;
mod blame;
mod broker;
mod cli;
mod clock;
mod config;
mod daemon;
mod database_job;
mod directory;
mod escape;
mod exit;
mod fail_points;
mod handlers;
mod health;
mod http;
mod logging;
mod mailbox;
mod messages;
mod moment;
mod room;
mod settings;
mod store;
mod supervise;
mod tenure;
mod trial;
mod zulip;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main().into()
}
