//! The whole product against real parts: one module for each promise or surface.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admin;
mod broker_faults;
mod cli;
mod daemons;
mod database_faults;
mod drain;
mod egress;
mod fail_points;
mod handlers;
mod kills;
mod main_job;
mod malformed;
mod order;
mod outcomes;
mod panics;
mod poison;
mod processed;
mod proxy;
mod reconnect;
mod replays;
mod replies;
mod support;
mod tls;
