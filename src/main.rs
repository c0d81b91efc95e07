//! outhook calls chat bots' webhooks, reliably and fast.

mod actors;
mod admin;
mod broker;
mod cli;
mod config;
mod daemon;
mod directory;
mod exit;
mod handlers;
mod health;
mod http;
mod mailbox;
mod messages;
mod room;
mod store;
mod supervise;
mod zulip;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main().into()
}
