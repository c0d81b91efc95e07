//! The whole product against real parts: one module for each promise or surface.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admin;
mod cli;
mod drain;
mod egress;
mod handlers;
mod main_job;
mod malformed;
mod order;
mod outcomes;
mod processed;
mod reconnect;
mod replays;
mod replies;
mod support;
