//! Calling endpoints over HTTP.
//!
//! | file | does |
//! | --- | --- |
//! | `client` | one POST under one deadline, its answer read up to a size |
//! | `current` | the client of the settings as they are now |
//! | `connect` | the connector: straight or through the proxy, with TLS for https |
//! | `dial` | every address is checked at the moment it is dialled |
//! | `interfaces` | the machine's own addresses |
//! | `resolve` | the addresses of a host, without threads |
//! | `proxy` | the operator's proxy: tunnels, and its own answers told from those of endpoints |
//! | `tls` | TLS, always verified, and its errors in words |
//! | `signature` | what proves to an endpoint who calls it |
//! | `socket` | a stream whose end is an error, and on which an answer is bounded |
//! | `tally` | how many calls and connections there are |
//! | `responses` | responses as the world sends them, written again as awc reads them |
//! | `header_section` | a status line and its headers, read leniently |
//! | `framing` | where a response ends, and whether its connection is used again |
//! | `chunks` | the chunked transfer coding |
//! | `redirect`, `retry_after` | where a redirect leads; when to call again |
//! | `files` | how the files that may be open are shared out, and what it looks like when there are no more |
//! | `inflate` | decompression that stops at the same size |
//! | `local` | faults of this machine |
//! | `reminder` | what is said once in a while |
//! | `faults` | what the libraries' errors mean |

mod chunks;
mod client;
mod connect;
mod current;
mod dial;
mod faults;
mod files;
mod framing;
mod header_section;
mod inflate;
mod interfaces;
mod local;
mod proxy;
mod redirect;
mod reminder;
mod resolve;
mod responses;
mod retry_after;
mod signature;
mod socket;
mod tally;
mod tls;

pub(crate) use client::{KEEP_ALIVE, NO_FILES_PAUSE, Outbound, WebhookClient};
pub(crate) use connect::Route;
pub(crate) use current::CurrentClient;
pub(crate) use dial::{ADDRESSES_MAX, Dialler, addresses_of};
pub(crate) use files::{BESIDE as FILES_BESIDE, Shares as FileShares};
pub(crate) use interfaces::Interfaces;
pub(crate) use resolve::Resolver;
pub(crate) use retry_after::{retry_after, retry_after_value};
pub(crate) use signature::Signature;
pub(crate) use tls::{CaFileError, client_config};
