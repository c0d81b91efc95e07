//! The whole product against real parts: one module for each promise or surface.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admin;
mod cli;
mod drain;
mod reconnect;
mod support;
