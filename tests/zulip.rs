//! With a Zulip: requests as its own worker makes them, its tables, its backup and its REST API.

mod backup;
mod check;
mod database;
mod deactivated;
mod refused;
mod requests;
mod send;
