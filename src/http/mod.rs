//! Calling endpoints over HTTP.
//!
//! | file | does |
//! | --- | --- |
//! | `client` | one POST under one deadline, its answer read up to a size |
//! | `current` | the client of the settings as they are now |
//! | `connect` | the connector: straight or through the proxy, with TLS for https |
//! | `dial` | every address is checked at the moment it is dialled |
//! | `resolve` | the addresses of a host, without threads |
//! | `proxy` | the operator's proxy: tunnels, and its own answers told from those of endpoints |
//! | `tls` | TLS, always verified, and its errors in words |
//! | `signature` | what proves to an endpoint who calls it |
//! | `socket` | a stream whose end is an error, and on which an answer is bounded |
//! | `tally` | how many calls and connections there are |
//! | `heads` | interim answers are passed over, open-ended ones are marked for awc, what is behind them is noticed |
//! | `framing` | where an answer ends, and whether its connection is used again |
//! | `files` | how the files that may be open are shared out, and what it looks like when there are no more |
//! | `inflate` | decompression that stops at the same size |
//! | `faults` | what the libraries' errors mean |

mod client;
mod connect;
mod current;
mod dial;
mod faults;
mod files;
mod framing;
mod heads;
mod inflate;
mod proxy;
mod resolve;
mod signature;
mod socket;
mod tally;
mod tls;

pub(crate) use client::{KEEP_ALIVE, NO_FILES_PAUSE, Outbound, WebhookClient, retry_after};
pub(crate) use connect::Route;
pub(crate) use current::CurrentClient;
pub(crate) use dial::{ADDRESSES_MAX, Dialler, addresses_of};
pub(crate) use files::{BESIDE as FILES_BESIDE, Shares as FileShares};
pub(crate) use resolve::Resolver;
pub(crate) use signature::Signature;
pub(crate) use tls::{CaFileError, client_config};
