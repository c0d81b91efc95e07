//! What is particular to Zulip: hosts of organisations, avatar URLs, where a reply goes, and the REST
//! API through which it gets there.

mod destination;
mod rest;
mod site;

pub(crate) use destination::Destination;
pub(crate) use rest::{Posted, RestClient};
pub(crate) use site::Site;
