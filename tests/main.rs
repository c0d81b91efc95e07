//! The whole product against real parts: one module for each promise or surface.

mod admin;
mod cli;
mod drain;
mod support;
