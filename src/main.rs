//! outhook calls chat bots' webhooks, reliably and fast.

mod actors;
mod admin;
mod blame;
mod broker;
mod cli;
mod config;
mod daemon;
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
