//! What is particular to Zulip: hosts of organisations, avatar URLs, where a reply goes, and the REST
//! API through which it gets there.

mod advice;
mod destination;
mod rest;
mod site;

pub(crate) use destination::Destination;
pub(crate) use rest::{Posted, RestClient, Settings};
pub(crate) use site::Site;
