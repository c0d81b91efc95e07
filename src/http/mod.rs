//! Calling endpoints over HTTP.
//!
//! | file | does |
//! | --- | --- |
//! | `client` | one POST under one deadline, its answer read up to a size |
//! | `dial` | the connector: every address is checked at the moment it is dialled |
//! | `socket` | a stream whose end is an error, so that a body that was cut short is noticed |
//! | `inflate` | decompression that stops at the same size |
//! | `faults` | what the libraries' errors mean |

mod client;
mod dial;
mod faults;
mod inflate;
mod socket;
mod tls;

pub(crate) use client::{KEEP_ALIVE, Outbound, WebhookClient, retry_after};
pub(crate) use tls::client_config;
